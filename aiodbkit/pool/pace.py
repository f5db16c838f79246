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


class Pace:
    """What the pool has learnt about its connects, and what follows for the next ones.

    Times are monotonic, in seconds. Nothing here waits or starts anything.
    """

    def __init__(self, policy: RetryPolicy | None) -> None:
        self.policy = policy or RetryPolicy(max_retries=0)
        self._connect_time = 0.0
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
        known = self._connect_time
        self._connect_time = known + _SMOOTHING * (took - known) if known else took
        self._pause_until = now + max(0.005, self._connect_time / 10)
        self.ever_connected = True
        if self.failures:
            self.failures = 0
            self._ramp = 1
        elif self._ramp is not None:
            self._ramp = self._ramp * 2 if self._ramp < 64 else None

    def failed(self, now: float) -> None:
        """A connect failed: the next one, a single prober, comes after a pause."""
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
        self, now: float, *, waiting: int, lent: int, connecting: int
    ) -> tuple[int, float | None]:
        """Return how many connects may begin now, and when to ask again (None: on events)."""
        if self.failures and connecting:
            return 0, None
        if self.failures:
            return (1, None) if now >= self._pause_until else (0, self._pause_until)
        if self._ramp is not None or not lent or not waiting:
            return max(0, (self._ramp or _FIRST_WAVE) - connecting), None
        if now < self._pause_until:
            return 0, self._pause_until
        drained = self._seconds_to_serve(now, waiting, lent)
        if drained < self._connect_time:
            return 0, now + drained
        return waiting, None

    def _seconds_to_serve(self, now: float, waiting: int, lent: int) -> float:
        """Return in what time those who hold connections will have served the line."""
        if self._hold_time is None:
            return float("inf")
        held = max(self._hold_time, now - self._last_release)
        return waiting * held / lent
