"""What a sandbox keeps of real life: read only, all rows or none, the hooks of connections."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from aiodbkit import (
    InterfaceError,
    PoolClosedError,
    ReadOnlyError,
    UniqueViolationError,
    create_engine,
)
from aiodbkit.testing import sandbox

IDS = "select id from people order by id"
INSERT = "insert into people values (:id)"


@pytest.fixture
async def db(make_engine):
    engine = await make_engine(max_size=3, acquire_timeout=5)
    await engine.execute("create table people (id integer primary key)")
    return engine


# Read only

WRITES = {
    "execute": lambda db: db.execute("insert into people values (2)"),
    "execute_many": lambda db: db.execute_many(INSERT, [{"id": 2}]),
    "execute_script": lambda db: db.execute_script("select 1; delete from people"),
    "insert_many": lambda db: db.insert_many("people", [{"id": 2}]),
    "fetch": lambda db: db.fetch_all("/* it */ delete from people"),
    "update": lambda db: db.execute("-- it\nupdate people set id = 3"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("block", ["transaction", "session"])
async def test_a_read_only_block_refuses_to_write_as_it_does_outside(db, block, write):
    async with sandbox(db):
        await db.execute(INSERT, {"id": 1})
        with pytest.raises(ReadOnlyError):
            async with getattr(db, block)(read_only=True):
                assert await db.fetch_column(IDS) == [1]
                await write(db)
        assert await db.fetch_column(IDS) == [1]
        await db.execute(INSERT, {"id": 2})
        assert await db.fetch_column(IDS) == [1, 2]


async def test_the_words_of_a_write_are_read_where_they_are_no_write(db):
    async with sandbox(db), db.transaction(read_only=True):
        assert await db.fetch_val("select 'delete from people'") == "delete from people"
        assert await db.fetch_val("with t as (select 'update' as x) select x from t") == "update"
        assert [row async for row in db.iterate(IDS)] == []


async def test_a_nested_transaction_of_a_read_only_one_is_read_only(db):
    async with sandbox(db):
        with pytest.raises(ReadOnlyError, match=r"read_only.*delete"):
            async with db.transaction(read_only=True), db.transaction():
                await db.execute("delete from people")


# All or none


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("verb", ["execute_many", "insert_many"])
async def test_many_rows_are_all_or_none(db, verb, within):
    rows = [{"id": 1}, {"id": 2}, {"id": 1}]

    async def write():
        if verb == "execute_many":
            await db.execute_many(INSERT, rows)
        else:
            await db.insert_many("people", rows)

    async with sandbox(db):
        with pytest.raises(UniqueViolationError):
            if within:
                async with db.transaction():
                    await write()
            else:
                await write()
        assert await db.fetch_column(IDS) == []


# The hooks of connections


async def test_the_hooks_of_connections_run_and_what_they_do_is_undone(make_engine):
    heard = []

    async def opened(conn):
        heard.append("connect")
        assert await conn.fetch_val("select 1") == 1

    async def taken(conn):
        heard.append("acquire")
        assert await conn.fetch_val("select 1") == 1

    async def given_back(conn):
        heard.append("release")
        assert await conn.fetch_val("select 1") == 1

    db = await make_engine(on_connect=opened, on_acquire=taken, on_release=given_back, max_size=1)
    await db.execute("create table people (id integer primary key)")
    heard.clear()
    async with sandbox(db):
        heard.clear()
        async with db.connection() as conn:
            assert heard == ["acquire"]
            await conn.execute(INSERT, {"id": 1})
        async with db.transaction():
            await db.execute(INSERT, {"id": 2})
        assert heard.count("acquire") == 2
        assert heard.count("release") >= 1
        assert "connect" not in heard, "the one connection was open already"
        assert await db.fetch_column(IDS) == [1, 2]
    assert await db.fetch_column(IDS) == []


# Cancelled by a scope that cancels again and again


@pytest.mark.parametrize("turns", range(0, 24, 3))
async def test_a_cancelled_scope_around_it_leaves_nothing_at_any_point(db, turns):
    async def work():
        async with sandbox(db):
            await db.execute(INSERT, {"id": 1})
            async with db.transaction():
                await db.execute(INSERT, {"id": 2})

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        for _ in range(turns):
            await asyncio.sleep(0)
        group.cancel_scope.cancel()
    assert not db.pool.is_sandbox
    assert await db.fetch_column(IDS) == []
    # The rollback of one that was cut short goes on in a task of the pool: then all can be had.
    async with db.pool.acquire(), db.pool.acquire(), db.pool.acquire():
        assert db.pool.stats().in_use == 3


# What is refused


async def test_a_closed_engine_and_a_sandbox_entered_twice_are_told_apart(sqlite_url):
    db = create_engine(sqlite_url)
    await db.connect()
    box = sandbox(db)
    async with box:
        with pytest.raises(InterfaceError, match=r"call sandbox\(db\) for each block"):
            await box.__aenter__()
    await db.close()
    with pytest.raises(PoolClosedError, match="connect"):
        await sandbox(db).__aenter__()


def test_a_deferred_engine_is_told_to_be_given_its_url():
    from aiodbkit import SQLiteEngine

    with pytest.raises(InterfaceError, match=r"call init"):
        sandbox(SQLiteEngine(None)).__aenter__().send(None)
