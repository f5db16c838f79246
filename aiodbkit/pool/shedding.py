"""When to refuse those who have waited too long, so that those behind them need not.

The idea is CoDel's (Nichols and Jacobson, "Controlling Queue Delay", 2012), as Elixir's
db_connection applies it to pools: a queue that was short for a moment in every interval only
absorbs bursts and is left alone. One whose shortest wait of a whole interval was above the
target stands, and the longer it gets the later everyone is: then those who have waited more
than twice the target are refused, from the front, until an interval goes well again.
"""

from __future__ import annotations

__all__ = ["Shedder"]

_INTERVALS_PER_TARGET = 10
_SHORTEST_INTERVAL = 0.1


class Shedder:
    """Watches the waits of one pool; says which wait is too long to be served.

    Args:
        target: seconds of waiting that are fine; None never sheds.
    """

    __slots__ = ("_ends", "_interval", "_is_shedding", "_shortest", "_target")

    def __init__(self, target: float | None) -> None:
        self._target = target
        self._interval = max((target or 0.0) * _INTERVALS_PER_TARGET, _SHORTEST_INTERVAL)
        self._ends = 0.0
        self._shortest: float | None = None  # of this interval
        self._is_shedding = False

    @property
    def interval(self) -> float:
        """Seconds over which waits are judged together."""
        return self._interval

    def longest_wait(self, now: float, waited: float) -> float | None:
        """Take note of the wait of the first in line; return what is too long now, or None."""
        if self._target is None:
            return None
        if now >= self._ends:
            is_recent = now < self._ends + self._interval
            stood = self._shortest is not None and self._shortest > self._target
            self._is_shedding = is_recent and stood
            self._shortest = None
            self._ends = now + self._interval
        if self._shortest is None or waited < self._shortest:
            self._shortest = waited
        return 2 * self._target if self._is_shedding else None

    def nobody_waits(self) -> None:
        """A slot was lent without a wait: the queue does not stand."""
        self._shortest = 0.0
