"""A connection belongs to one process and to one life of its engine: no other one gets it."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

import aiodbkit
from tests.forking import forks, in_a_child


async def hold(db: aiodbkit.Engine) -> aiodbkit.Connection:
    conn = await db.pool.acquire()
    assert await conn.fetch_val("select 1") == 1
    return conn


@forks
@pytest.mark.parametrize("how", ["used", "released"])
def test_a_connection_held_at_a_fork_is_lost_to_the_child_and_works_on_in_the_parent(
    url: str, how: str
) -> None:
    db = aiodbkit.create_engine(url, max_size=1)

    async def child() -> object:
        async with db:
            if how == "used":
                with pytest.raises(aiodbkit.InterfaceError, match="the process was forked"):
                    await conn.fetch_val("select 99")
            else:
                await db.pool.release(conn)
            return await db.fetch_val("select 42", timeout=5)

    async def parent() -> list[object]:
        async with db:
            answers = [await conn.fetch_val(f"select {n}", timeout=5) for n in range(3)]
            await db.pool.release(conn)
            return answers

    with asyncio.Runner() as runner:
        conn = runner.run(hold(db))
        assert in_a_child(child) == "42"
        assert runner.run(parent()) == [0, 1, 2]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the drivers' own, of what nobody closed
@pytest.mark.parametrize("how", ["released", "forgotten"])
def test_a_connection_of_an_ended_loop_does_not_enter_the_next_life_of_its_engine(
    url: str, how: str
) -> None:
    db = aiodbkit.create_engine(url, max_size=1, acquire_timeout=5)
    held = [asyncio.run(hold(db))]

    async def next_life() -> None:
        async with db:
            with pytest.raises(aiodbkit.InterfaceError, match="its event loop has ended"):
                await held[0].fetch_val("select 99")
            if how == "released":
                await db.pool.release(held.pop())
            else:
                forgotten = weakref.ref(held.pop())
                gc.collect()
                assert forgotten() is None
            for number in (1, 2):
                assert await db.fetch_val(f"select {number}") == number
            assert db.pool.stats().opened == 1

    asyncio.run(next_life())
    gc.collect()  # a driver may keep the socket of an ended loop until then
