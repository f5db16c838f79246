"""Engines whose servers do as a test says, and which know what reads: ``select ...``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import Context
from typing import Any

import aiodbkit
from aiodbkit.driver import Driver
from aiodbkit.testing.scripted import Script, ScriptedEngine, _ScriptedDriver

__all__ = ["Script", "member", "of", "where"]

WHERE = "select where"


class _ReadingDriver(_ScriptedDriver):
    def only_reads(self, sql: str) -> bool:
        return sql.startswith("select")


class _Engine(ScriptedEngine):
    def _create_driver(self, target: Mapping[str, Any], options: Mapping[str, Any]) -> Driver:
        return _ReadingDriver(self.script)


def member(name: str, **options: Any) -> _Engine:
    """Return an engine that answers ``select where`` with its name."""
    engine = _Engine(**options)
    engine.script.on(WHERE, rows=[{"name": name}])
    return engine


def of(count: int = 2, **options: Any) -> aiodbkit.ReplicatedEngine:
    """Return an engine of a primary ``p`` and so many replicas, ``r1`` and on."""
    replicas = [member(f"r{number}") for number in range(1, count + 1)]
    return aiodbkit.ReplicatedEngine(member("p"), replicas, **options)


async def where(db: aiodbkit.Engine) -> str:
    """Return who answers a read of this task."""
    name: str = await db.fetch_val(WHERE)
    return name


async def elsewhere(db: aiodbkit.Engine) -> str:
    """Return who answers a read of a task that has written nothing."""
    return await asyncio.create_task(where(db), context=Context())
