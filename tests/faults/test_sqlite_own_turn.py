"""A task that would wait for a write turn which it has itself, and one that only seems to."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import aiodbkit
from tests.sqlite.library import MEMORY, call_with_each_statement

ENDLESS = (
    "with recursive n(x) as (select 1 union all select x + 1 from n) select x from n where x < 0"
)
COUNT = "select count(*) from t"
ADD = "insert into t (who) values (:who)"

MakeEngine = Callable[..., Awaitable[aiodbkit.Engine]]


async def new(sqlite_engine: MakeEngine, *url: str, **options: Any) -> aiodbkit.Engine:
    """An engine on a database with the empty table t."""
    db = await sqlite_engine(*url, **options)
    await db.execute("create table t (id integer primary key, who integer)")
    return db


@pytest.fixture(params=["file", "memory"])
async def db(request: pytest.FixtureRequest, sqlite_engine: MakeEngine) -> aiodbkit.Engine:
    return await new(sqlite_engine, *([MEMORY] if request.param == "memory" else []))


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("how", ["execute", "transaction", "script", "insert_many", "nested"])
async def test_who_writes_beside_its_own_transaction_is_told_so_at_once(
    how: str, db: aiodbkit.Engine
) -> None:
    async with db.transaction():
        await db.execute(ADD, {"who": 1})
        with pytest.raises(aiodbkit.LockTimeoutError) as caught:
            async with db.execution_context(transaction=how == "nested") as other:
                if how == "execute":
                    await other.execute(ADD, {"who": 2})
                elif how == "transaction":
                    await other.begin()
                elif how == "script":
                    await other.execute_script("insert into t (who) values (2)")
                else:
                    await other.insert_many("t", [{"who": 2}])
        for word in ("this task holds the write turn of", "itself", "through another connection"):
            assert word in str(caught.value)
        assert caught.value.query
        assert not caught.value.is_transient
        await db.execute(ADD, {"who": 3})
    assert await db.fetch_column("select who from t order by id") == [1, 3]


async def test_in_memory_that_holds_for_who_reads_beside_its_own_transaction() -> None:
    async with aiodbkit.create_engine(MEMORY) as db:
        async with db.transaction(), db.execution_context(transaction=False) as other:
            with pytest.raises(aiodbkit.LockTimeoutError, match="this task") as caught:
                await other.fetch_val("select 1")
        assert not caught.value.is_transient


async def test_the_next_write_waits_for_the_cleaning_of_what_its_task_gave_back(
    db: aiodbkit.Engine,
) -> None:
    """The task had the turn, but nothing that it could do would end it sooner."""
    async with db.pool.acquire(), db.pool.acquire():
        pass  # so that the pool has another connection to lend
    async with db.connection() as conn:
        await conn.begin()
        await conn.execute(ADD, {"who": 1})
    await db.execute(ADD, {"who": 2})
    await db.execute("begin immediate")
    await db.execute(ADD, {"who": 3})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await db.execute(f"insert into t (who) {ENDLESS}")
    await db.execute(ADD, {"who": 4})
    assert await db.fetch_column("select who from t order by id") == [2, 3, 4]


@pytest.mark.filterwarnings("ignore:a connection of .* was never released:ResourceWarning")
async def test_the_next_write_waits_for_the_cleaning_of_what_its_task_forgot(
    db: aiodbkit.Engine,
) -> None:
    conn = await db.pool.acquire()
    await conn.begin()
    del conn
    gc.collect()
    await db.execute(ADD, {"who": 1})
    assert await db.fetch_val(COUNT) == 1


async def test_the_next_write_waits_for_the_end_of_rows_that_its_task_dropped(
    sqlite_engine: MakeEngine,
) -> None:
    db = await new(sqlite_engine, MEMORY)
    await db.insert_many("t", [{"who": n} for n in range(20_000)])
    async for _ in db.iterate("select id from t"):
        break
    await db.execute(ADD, {"who": -1})
    assert await db.fetch_val(COUNT) == 20_001


@pytest.mark.parametrize("passes", range(8))
async def test_the_next_write_waits_for_a_rollback_that_its_task_was_cancelled_out_of(
    passes: int, sqlite_engine: MakeEngine
) -> None:
    db = await new(sqlite_engine)

    async def work() -> None:
        try:
            async with db.transaction():
                await db.execute(ADD, {"who": 1})
                inside.set()
                await db.fetch_val(ENDLESS)
        except asyncio.CancelledError:
            await db.execute(ADD, {"who": 2})

    inside = asyncio.Event()
    task = asyncio.create_task(work())
    await inside.wait()
    await turns(3)
    task.cancel()
    await turns(passes)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None
    assert await db.fetch_column("select who from t") in ([], [2])


async def test_who_goes_on_after_a_cancelled_statement_still_holds_its_turn(
    sqlite_engine: MakeEngine,
) -> None:
    db = await new(sqlite_engine, lock_timeout=600)
    async with db.transaction():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await db.fetch_val(ENDLESS)
        await db.execute(ADD, {"who": 1})
        with pytest.raises(aiodbkit.LockTimeoutError, match="this task"):
            async with db.execution_context(transaction=False) as other:
                await other.execute(ADD, {"who": 2})
    assert await db.fetch_column("select who from t") == [1]


async def test_the_next_write_waits_for_a_commit_that_its_task_was_cancelled_out_of(
    sqlite_engine: MakeEngine,
) -> None:
    db = await new(sqlite_engine)
    async with db.pool.acquire(), db.pool.acquire():
        pass  # so that the pool has another connection to lend
    committing, go_on = threading.Event(), threading.Event()

    def hold_up(statement: str) -> None:
        if statement == "COMMIT":
            committing.set()
            go_on.wait(20)

    async def work() -> None:
        try:
            async with db.connection() as conn, conn.transaction():
                await call_with_each_statement(conn.raw, hold_up)
                await conn.execute(ADD, {"who": 1})
        except asyncio.CancelledError:
            await db.execute(ADD, {"who": 2})

    task = asyncio.create_task(work())
    await asyncio.to_thread(committing.wait, 20)
    task.cancel()
    await turns()
    assert not task.done()
    go_on.set()
    await task
    assert await db.fetch_column("select who from t order by id") == [1, 2]
