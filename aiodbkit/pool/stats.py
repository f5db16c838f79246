"""Exact counters and percentiles in a fixed amount of memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp, ldexp

__all__ = ["Histogram", "Percentiles", "PoolStats"]

# Sixteen buckets for each power of two: a percentile is at most 6.25 % too high.
_STEPS = 16
_LOWEST = -20  # 2**-20 s is about a microsecond
_HIGHEST = 20  # 2**20 s is about twelve days


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """A distribution of times, in seconds."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


class Histogram:
    """Logarithmic buckets: adding is O(1), memory is fixed, zero has a bucket of its own."""

    __slots__ = ("_buckets", "_max", "_sum", "_zeros")

    def __init__(self) -> None:
        self._buckets = [0] * ((_HIGHEST - _LOWEST) * _STEPS)
        self._zeros = 0
        self._sum = 0.0
        self._max = 0.0

    def add(self, value: float) -> None:
        """Count one time, in seconds."""
        if value <= 0.0:
            self._zeros += 1
            return
        mantissa, exponent = frexp(value)  # 0.5 <= mantissa < 1
        place = (exponent - 1 - _LOWEST) * _STEPS + int((mantissa - 0.5) * 2 * _STEPS)
        self._buckets[min(max(place, 0), len(self._buckets) - 1)] += 1
        self._sum += value
        self._max = max(self._max, value)

    def percentiles(self) -> Percentiles:
        """Return the distribution so far."""
        total = self._zeros + sum(self._buckets)
        return Percentiles(
            count=total,
            mean=self._sum / total if total else 0.0,
            p50=self._at(total, 0.50),
            p95=self._at(total, 0.95),
            p99=self._at(total, 0.99),
            max=self._max,
        )

    def _at(self, total: int, share: float) -> float:
        wanted = total * share
        seen = self._zeros
        if seen >= wanted:
            return 0.0
        for place, number in enumerate(self._buckets):
            seen += number
            if seen >= wanted:
                return min(self._upper_edge(place), self._max)
        return self._max

    @staticmethod
    def _upper_edge(place: int) -> float:
        exponent, step = divmod(place, _STEPS)
        return ldexp(0.5 + (step + 1) / (2 * _STEPS), exponent + 1 + _LOWEST)


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
        wait_time, hold_time, connect_time: distributions, in seconds.
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
