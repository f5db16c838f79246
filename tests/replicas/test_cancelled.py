"""Cancelled after every turn of the loop, once or until it ends: nothing stays lent, marks hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import anyio
import pytest

import aiodbkit
from aiodbkit.testing.scripted import LOSE
from tests.replicas.scripted import WHERE, of, where
from tests.virtual_time import virtual_time

Scenario = Callable[[aiodbkit.ReplicatedEngine], Awaitable[Any]]


async def statement(db: aiodbkit.ReplicatedEngine) -> None:
    await where(db)


async def stream(db: aiodbkit.ReplicatedEngine) -> None:
    async with db.iterate(WHERE) as rows:
        async for _ in rows:
            pass


async def transaction(db: aiodbkit.ReplicatedEngine) -> None:
    async with db.transaction(read_only=True):
        await where(db)


async def session(db: aiodbkit.ReplicatedEngine) -> None:
    async with db.session(read_only=True):
        await where(db)


async def write(db: aiodbkit.ReplicatedEngine) -> None:
    await db.execute("insert")


async def writing_session(db: aiodbkit.ReplicatedEngine) -> None:
    async with db.session() as session:
        await session.execute("insert")


async def writing_connection(db: aiodbkit.ReplicatedEngine) -> None:
    async with db.connection() as conn:
        await conn.execute("insert")


SCENARIOS = (statement, stream, transaction, session, write, writing_session, writing_connection)
MOST_TURNS = 300


def yielding(answer: Any) -> Any:
    """A server's answer takes turns of the loop, so that they are there to be cancelled in."""

    async def ask(said: str, params: Any, timeout: float | None = None) -> Any:
        await _turns(3)
        answered = await answer(said, params, timeout)
        await _turns(3)
        return answered

    return ask


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def made() -> aiodbkit.ReplicatedEngine:
    """An engine whose first replica loses the first two things that are said to it."""
    db = of(2, sticky_for=3600)
    db.replicas[0].script.on(f"{WHERE}|begin", fault=LOSE, times=2)  # type: ignore[attr-defined]
    for engine in (db.primary_engine, *db.replicas):
        script = engine.script  # type: ignore[attr-defined]
        script.ask = yielding(script.ask)
    return db


async def cut_short(
    db: aiodbkit.ReplicatedEngine, scenario: Scenario, turns: int, kind: str
) -> bool:
    """Cancel a scenario after so many turns; return whether it had come to its end before."""
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    assert me is not None
    with anyio.CancelScope() as scope:
        loop.call_soon(_after, turns, scope.cancel if kind == "level" else me.cancel)
        try:
            await scenario(db)
        except asyncio.CancelledError:
            if kind == "level":
                raise
            me.uncancel()
        else:
            return True
    if "insert" in db.primary_engine.script.said:  # type: ignore[attr-defined]
        assert await where(db) == "p"
    return False


@pytest.mark.parametrize("kind", ["edge", "level"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
@virtual_time
async def test_nothing_stays_lent_and_what_was_written_is_read(scenario: Scenario, kind: str):
    for turns in range(MOST_TURNS):
        db = made()
        work = cut_short(db, scenario, turns, kind)
        has_ended = await asyncio.create_task(work, context=Context())
        await asyncio.sleep(60)
        for engine in (db.primary_engine, *db.replicas):
            assert engine.pool.stats().in_use == 0
        assert await asyncio.create_task(where(db), context=Context()) in ("r1", "r2")
        await db.close()
        if has_ended:
            assert turns > 5
            return
    pytest.fail(f"the scenario does not end within {MOST_TURNS} turns")


def _after(turns: int, call: Callable[[], Any]) -> None:
    if turns:
        asyncio.get_running_loop().call_soon(_after, turns - 1, call)
    else:
        call()
