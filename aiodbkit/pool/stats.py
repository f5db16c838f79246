"""Exact counters, and percentiles of the recent past in a fixed amount of memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Measurement", "Percentiles", "PoolStats", "percentiles", "recent_times"]

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


class Measurement(NamedTuple):
    """One figure under a name that monitoring knows: see `PoolStats.measurements`."""

    name: str
    unit: str
    value: float
    attributes: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStats:
    """A snapshot of a pool.

    Attributes:
        name: the pool's name in messages.
        size: connections that count against ``max_size``: idle, in use, and those which the
            pool is opening, checking, cleaning or closing.
        idle, in_use: connections ready, and lent.
        waiting: callers in line.
        min_size, max_size: as the pool is set now.
        opened, closed: connections since the pool was opened.
        acquired: how often one was lent.
        timeouts, overloads: callers refused by ``acquire_timeout`` and ``max_waiting``.
        errors: failed connects, checks, cleanings and hooks.
        wait_time, hold_time, connect_time: the latest times, in seconds.
    """

    name: str
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

    def measurements(self) -> Iterator[Measurement]:
        """Yield the figures under OpenTelemetry's names for connection pools.

        They are those of its semantic conventions for database clients. A time comes once for
        each quantile, of the latest loans and connects; a loan without a wait is none of the
        waits.
        """
        for name, unit, value, state in (
            ("count", "{connection}", self.idle, "idle"),
            ("count", "{connection}", self.in_use, "used"),
            ("idle.max", "{connection}", self.max_size, None),
            ("idle.min", "{connection}", self.min_size, None),
            ("max", "{connection}", self.max_size, None),
            ("pending_requests", "{request}", self.waiting, None),
            ("timeouts", "{timeout}", self.timeouts, None),
        ):
            yield self._measurement(name, unit, value, "db.client.connection.state", state)
        for name, times in (
            ("create_time", self.connect_time),
            ("wait_time", self.wait_time),
            ("use_time", self.hold_time),
        ):
            for quantile, took in (("0.5", times.p50), ("0.95", times.p95), ("0.99", times.p99)):
                yield self._measurement(name, "s", took, "quantile", quantile)

    def _measurement(
        self, name: str, unit: str, value: float, attribute: str, text: str | None
    ) -> Measurement:
        attributes = {"db.client.connection.pool.name": self.name}
        if text is not None:
            attributes[attribute] = text
        return Measurement(f"db.client.connection.{name}", unit, value, attributes)
