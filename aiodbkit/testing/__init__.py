"""For the tests of what is built on aiodbkit: sandboxes, counted queries, outages, a clock."""

from __future__ import annotations

from aiodbkit.testing.clock import (
    NothingLeft,
    VirtualTimeLoop,
    run_in_virtual_time,
    virtual_time,
    virtual_time_loop,
)
from aiodbkit.testing.counting import QueryCount, count_queries
from aiodbkit.testing.sandbox import Sandbox, sandbox
from aiodbkit.testing.scripted import HANG, LOSE, Script, ScriptedEngine

__all__ = [
    "HANG",
    "LOSE",
    "NothingLeft",
    "QueryCount",
    "Sandbox",
    "Script",
    "ScriptedEngine",
    "VirtualTimeLoop",
    "count_queries",
    "run_in_virtual_time",
    "sandbox",
    "virtual_time",
    "virtual_time_loop",
]
