"""An awaitable pool over any async resource: the one place where tasks compete."""

from aiodbkit.pool.lease import Acquire, Lease, LooseLease
from aiodbkit.pool.pool import Pool
from aiodbkit.pool.slot import Slot
from aiodbkit.pool.stats import Percentiles, PoolStats

__all__ = ["Acquire", "Lease", "LooseLease", "Percentiles", "Pool", "PoolStats", "Slot"]
