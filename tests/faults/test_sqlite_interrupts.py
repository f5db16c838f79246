"""What is stopped beside an open result: SQLite's interrupt lasts until no statement is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import aiodbkit
from tests.sqlite.library import MEMORY, on_raw

ENDLESS = (
    "with recursive n(x) as (select 1 union all select x + 1 from n) select x from n where x < 0"
)
MANY = "select t.id from t, t as u"  # more than is read ahead
ADD = "insert into log (v) values (:v)"

MakeEngine = Callable[..., Awaitable[aiodbkit.Engine]]


@pytest.fixture(params=["file", "memory"])
async def db(request: pytest.FixtureRequest, sqlite_engine: MakeEngine) -> aiodbkit.Engine:
    db = await sqlite_engine(*([MEMORY] if request.param == "memory" else []))
    await db.execute("create table t (id integer primary key)")
    await db.execute("create table log (v integer)")
    await db.insert_many("t", [{"id": n} for n in range(200)])
    return db


async def logged(db: aiodbkit.Engine) -> list[Any]:
    return await db.fetch_column("select v from log order by v")


async def test_cancelled_while_a_result_is_closed_the_transaction_is_rolled_back(
    db: aiodbkit.Engine,
) -> None:
    async def work() -> None:
        async with db.transaction():
            await db.execute(ADD, {"v": 1})
            async with db.iterate(MANY, batch_size=10) as rows:
                await anext(rows)
                task.cancel()

    task = asyncio.create_task(work())
    await asyncio.wait([task], timeout=20)
    assert task.cancelled()
    await db.execute(ADD, {"v": 2})
    assert await logged(db) == [2]


async def test_a_close_that_was_cancelled_leaves_no_open_result_in_the_block(
    db: aiodbkit.Engine,
) -> None:
    async with db.transaction():
        await db.execute(ADD, {"v": 1})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                async with db.iterate(MANY, batch_size=10) as rows:
                    await anext(rows)
                    limit.reschedule(0)
        await db.execute(ADD, {"v": 2})
    assert await logged(db) == [1, 2]


@pytest.mark.parametrize("read_on", ["at once", "later"])
async def test_a_statement_that_timed_out_beside_a_result_does_not_interrupt_the_next(
    read_on: str, db: aiodbkit.Engine
) -> None:
    async with db.transaction():
        await db.execute(ADD, {"v": 1})
        async with db.iterate(MANY, batch_size=10) as rows:
            await anext(rows)
            with pytest.raises(aiodbkit.QueryTimeoutError):
                await db.fetch_all(ENDLESS, timeout=0.05)
            if read_on == "later":
                await db.execute(ADD, {"v": 2})
            with pytest.raises(aiodbkit.InterfaceError, match=r"has ended.*interrupted"):
                async for _ in rows:
                    pass
        if read_on == "at once":
            await db.execute(ADD, {"v": 2})
    assert await logged(db) == [1, 2]


async def test_many_statements_that_timed_out_beside_a_result_are_undone(
    db: aiodbkit.Engine,
) -> None:
    async with db.transaction():
        await db.execute(ADD, {"v": 1})
        async with db.iterate(MANY, batch_size=10) as rows:
            await anext(rows)
            with pytest.raises(aiodbkit.QueryTimeoutError):
                await db.execute_many(f"{ENDLESS} and x < :v", [{"v": 1}], timeout=0.05)
    assert await logged(db) == [1]


async def test_what_cannot_be_undone_beside_a_raw_cursor_costs_the_connection(
    db: aiodbkit.Engine,
) -> None:
    with pytest.raises(aiodbkit.Error):
        async with db.connection() as conn, conn.transaction():
            await conn.execute(ADD, {"v": 1})
            cursor = await on_raw(conn.raw.execute, MANY)
            await on_raw(cursor.fetchone)
            with pytest.raises(aiodbkit.ConnectionLostError):
                await conn.execute_many(f"{ENDLESS} and x < :v", [{"v": 1}], timeout=0.05)
    del cursor
    await db.execute(ADD, {"v": 2})
    assert await logged(db) == [2]


@pytest.mark.parametrize("inside", [False, True])
async def test_the_timeout_of_insert_many_covers_the_source_of_its_rows(
    inside: bool, db: aiodbkit.Engine
) -> None:
    async def rows() -> AsyncIterator[dict[str, int]]:
        for v in range(1500):
            yield {"v": v}
        await asyncio.Event().wait()

    async def insert() -> None:
        with pytest.raises(aiodbkit.QueryTimeoutError, match=r"timeout=0\.1 s.*source") as caught:
            await db.insert_many("log", rows(), timeout=0.1)
        assert caught.value.query

    async with asyncio.timeout(20):
        if inside:
            async with db.transaction():
                await db.execute(ADD, {"v": -1})
                await insert()
        else:
            await insert()
        await db.execute(ADD, {"v": -2})
    assert await logged(db) == ([-2, -1] if inside else [-2])


async def test_a_timeout_of_the_source_itself_is_not_taken_for_that_of_insert_many(
    db: aiodbkit.Engine,
) -> None:
    async def rows() -> AsyncIterator[dict[str, int]]:
        yield {"v": 1}
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await db.insert_many("log", rows(), timeout=60)
    assert await logged(db) == []
