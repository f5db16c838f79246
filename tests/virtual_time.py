"""The clock of the tests: the one that users have, `aiodbkit.testing.clock`."""

from __future__ import annotations

from aiodbkit.testing.clock import (
    NothingLeft,
    VirtualTimeLoop,
    run_in_virtual_time,
    virtual_time,
    virtual_time_loop,
)

__all__ = [
    "NothingLeft",
    "VirtualTimeLoop",
    "run_in_virtual_time",
    "virtual_time",
    "virtual_time_loop",
]
