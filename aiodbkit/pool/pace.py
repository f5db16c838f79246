"""How many connections to open now: enough for the demand, gently after an outage."""

from __future__ import annotations

import random

from aiodbkit.options import RetryPolicy

__all__ = ["Pace"]

# Connects begun at once before anything is known about how long connections are held: few enough
# that a burst of short jobs opens no more than this, many enough that a burst of long ones is
# served within three connect times.
_FIRST_WAVE = 6
_SMOOTHING = 0.2
_FULL_SPEED = 16


class Pace:
    """What the pool has learnt about its connects, and what follows for the next ones.

    Times are monotonic, in seconds. Nothing here waits or starts anything.

    Attributes:
        connect_time: how long a connect takes, smoothed; 0.0 until one has succeeded.
        failures: how many have failed in a row.
    """

    def __init__(self, policy: RetryPolicy | None) -> None:
        self.policy = policy or RetryPolicy(max_retries=0)
        self.connect_time = 0.0
        self._hold_time: float | None = None
        self._last_release = 0.0
        self._pause_until = 0.0
        self._ramp: int | None = None  # allowed at once while recovering from an outage
        self.failures = 0  # in a row
        self._failing_since = 0.0
        self.ever_connected = False

    def released(self, now: float, held: float) -> None:
        """A caller gave a connection back after ``held`` seconds."""
        known = self._hold_time
        self._hold_time = held if known is None else known + _SMOOTHING * (held - known)
        self._last_release = now

    def connected(self, now: float, took: float) -> None:
        """A connect succeeded. The next wave waits a moment to see what this one changes."""
        known = self.connect_time
        self.connect_time = known + _SMOOTHING * (took - known) if known else took
        self._pause_until = now + max(0.005, self.connect_time / 10)
        self.ever_connected = True
        if self.failures:
            self.failures = 0
            self._ramp = 2
        elif self._ramp is not None:
            # Each success makes room for one more: one, then two, then four at a time.
            self._ramp = self._ramp + 1 if self._ramp < _FULL_SPEED else None

    def died(self) -> None:
        """A connection proved dead: all may be, so no more than a first wave finds it out."""
        if self._ramp is None:
            self._ramp = _FIRST_WAVE

    def failed(self, now: float) -> None:
        """A connect failed: the next one, a single prober, comes after a pause."""
        if self.failures and now < self._pause_until:
            return  # begun beside the one that failed before it: they are one failure
        if not self.failures:
            self._failing_since = now
        step = self.policy.backoff * 2 ** min(self.failures, 30)
        pause = min(step, self.policy.max_backoff)
        # At least half of it: a bound on the attempts that an outage can cause.
        self._pause_until = now + pause * (random.uniform(0.5, 1.0) if self.policy.jitter else 1.0)
        self.failures += 1

    @property
    def gives_up(self) -> bool:
        """Whether callers should see the failure rather than wait for the server to come back.

        A pool that never had a connection is more likely set up wrongly than hit by an outage.
        """
        if self.ever_connected:
            return False
        limit = self.policy.max_elapsed
        late = limit is not None and self._pause_until > self._failing_since + limit
        return late or self.failures > self.policy.max_retries

    def allowance(
        self, now: float, *, waiting: int, lent: int, connecting: int, waited: float
    ) -> tuple[int, float | None]:
        """Return how many connects may begin now, and when to ask again (None: on events)."""
        if self.failures and connecting:
            return 0, None
        if self.failures:
            return (1, None) if now >= self._pause_until else (0, self._pause_until)
        at_once = max(0, (self._ramp or _FIRST_WAVE) - connecting)
        if not lent or not waiting:
            return at_once, None
        if self._ramp is None and now < self._pause_until:
            return 0, self._pause_until
        drained = self._seconds_to_serve(now, waiting, lent, waited)
        if drained < self.connect_time:
            return 0, now + max(drained, self.connect_time / 10)
        return waiting if self._ramp is None else at_once, None

    def expected_wait(self, waiting: int, lent: int) -> float | None:
        """Return how long a line of ``waiting`` takes if things go on as lately, or None."""
        if self._hold_time is None or not lent:
            return None
        return waiting * self._hold_time / lent

    def _seconds_to_serve(self, now: float, waiting: int, lent: int, waited: float) -> float:
        """Return in what time those who hold connections will have served the line."""
        if self._hold_time is None:
            return float("inf")
        held = max(self._hold_time, min(now - self._last_release, waited))
        return waiting * held / lent
