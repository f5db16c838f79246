"""Statements stopped by somebody else than their caller."""

from __future__ import annotations

import asyncio
import threading

import pytest

import aiodbkit
from tests.sqlite.library import MEMORY

ENDLESS = (
    "with recursive n(x) as (select begun() union all select x + 1 from n) "
    "select x from n where x < 0"
)


@pytest.fixture(params=["file", "memory"])
async def db(request, sqlite_engine):
    db = await sqlite_engine(*([MEMORY] if request.param == "memory" else []))
    await db.execute("create table t (v)")
    db.begun = threading.Event()

    @db.function
    def begun():
        db.begun.set()
        return 1

    return db


async def running(db, work):
    """Start work, and return when its statement runs."""
    task = asyncio.create_task(work)
    await asyncio.to_thread(db.begun.wait, 10)
    return task


async def test_a_statement_is_interrupted_by_another_task(db):
    task = await running(db, db.fetch_all(ENDLESS))
    assert db.interrupt()
    with pytest.raises(aiodbkit.OperationalError, match="interrupt") as caught:
        await task
    assert (caught.value.code, caught.value.is_transient) == (9, False)
    assert caught.value.query == ENDLESS
    assert await db.fetch_val("select 1") == 1


async def test_only_the_connection_that_was_named_is_interrupted(sqlite_engine):
    db = await sqlite_engine()
    go_on, entered = threading.Event(), threading.Event()

    @db.function
    def wait():
        entered.set()
        return go_on.wait(10)

    async with db.pool.acquire() as one, db.pool.acquire() as other:
        task = asyncio.create_task(one.fetch_val("select wait()"))
        await asyncio.to_thread(entered.wait, 10)
        assert not db.interrupt(other)
        go_on.set()
        assert await task == 1
        assert not db.interrupt(one)
    assert not db.interrupt(one)
    assert not db.interrupt()


async def test_an_interrupted_write_has_not_happened_and_its_transaction_is_lost(db):
    async def work():
        async with db.transaction():
            await db.execute("insert into t (v) values (1)")
            await db.execute(f"insert into t (v) {ENDLESS}")

    task = await running(db, work())
    assert db.interrupt()
    with pytest.raises(aiodbkit.OperationalError, match="interrupt"):
        await task
    assert await db.fetch_column("select v from t") == []


async def test_a_write_of_its_own_has_not_happened(db):
    task = await running(db, db.execute(f"insert into t (v) {ENDLESS}"))
    assert db.interrupt()
    with pytest.raises(aiodbkit.OperationalError, match="interrupt"):
        await task
    assert await db.fetch_column("select v from t") == []
    await db.execute("insert into t (v) values (2)")


async def test_a_transaction_goes_on_after_an_interrupted_read(db):
    async with db.transaction():
        await db.execute("insert into t (v) values (1)")
        conn = db.current_connection()
        task = await running(db, conn.fetch_all(ENDLESS))
        assert db.interrupt(conn)
        with pytest.raises(aiodbkit.OperationalError, match="interrupt"):
            await task
        await db.execute("insert into t (v) values (2)")
    assert await db.fetch_column("select v from t") == [1, 2]


async def test_a_statement_that_waits_for_its_thread_is_interrupted_before_it_runs(db):
    async with db.connection() as conn:
        task = asyncio.create_task(conn.execute("insert into t (v) values (1)"))
        await asyncio.sleep(0)
        stopped = db.interrupt(conn)  # it may have been too quick, but never half
        try:
            await task
        except aiodbkit.OperationalError:
            assert stopped
    assert await db.fetch_val("select count(*) from t") == (0 if stopped else 1)


async def test_the_end_of_a_transaction_is_not_interrupted(db):
    async with db.connection() as conn:
        await conn.begin()
        await conn.execute("insert into t (v) values (1)")
        ending = asyncio.create_task(conn.rollback())
        for _ in range(20):
            db.interrupt(conn)
            await asyncio.sleep(0)
        await ending
        assert not conn.in_transaction
    assert await db.fetch_column("select v from t") == []


async def test_one_that_was_cancelled_already_is_not_interrupted_again(db):
    task = await running(db, db.fetch_all(ENDLESS))
    task.cancel()
    await asyncio.wait([task])
    db.interrupt()
    assert task.cancelled()
    assert await db.fetch_val("select 1") == 1
