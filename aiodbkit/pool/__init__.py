"""An awaitable pool over any async resource: the one place where tasks compete."""

from aiodbkit.pool.lease import Acquire, Lease, LooseLease
from aiodbkit.pool.pool import Pool
from aiodbkit.pool.slot import Slot
from aiodbkit.pool.stats import Measurement, Percentiles, PoolStats

__all__ = [
    "Acquire",
    "Lease",
    "LooseLease",
    "Measurement",
    "Percentiles",
    "Pool",
    "PoolStats",
    "Slot",
]
