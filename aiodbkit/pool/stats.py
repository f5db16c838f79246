"""Exact counters, and percentiles of the recent past in a fixed amount of memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["Percentiles", "PoolStats", "percentiles", "recent_times"]

_KEPT = 4096


def recent_times() -> deque[float]:
    """Return a window of times: appending costs nothing worth counting on the warm path."""
    return deque(maxlen=_KEPT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """The latest times of one kind, in seconds.

    Attributes:
        count: how many they are, 4096 at most.
    """

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


def percentiles(times: deque[float]) -> Percentiles:
    """Return the distribution of a window; all zeros when it is empty."""
    ordered = sorted(times) or [0.0]

    def at(share: float) -> float:
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]

    return Percentiles(
        count=len(times),
        mean=sum(ordered) / len(ordered),
        p50=at(0.50),
        p95=at(0.95),
        p99=at(0.99),
        max=ordered[-1],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStats:
    """A snapshot of a pool.

    Attributes:
        size: connections that count against ``max_size``: idle, in use, and those which the
            pool is opening, checking, cleaning or closing.
        idle, in_use: connections ready, and lent.
        waiting: callers in line.
        min_size, max_size: as the pool is set now.
        opened, closed: connections since the pool was opened.
        acquired: how often one was lent.
        timeouts, overloads: callers refused by ``acquire_timeout`` and ``max_waiting``.
        errors: failed connects, checks and cleanings.
        wait_time, hold_time, connect_time: the latest times, in seconds.
    """

    size: int
    idle: int
    in_use: int
    waiting: int
    min_size: int
    max_size: int
    opened: int
    closed: int
    acquired: int
    timeouts: int
    overloads: int
    errors: int
    wait_time: Percentiles
    hold_time: Percentiles
    connect_time: Percentiles
