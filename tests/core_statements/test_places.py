"""Statements run wherever text does: connections, transactions, sessions, proxies, sandboxes."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys

import pytest
from sqlalchemy import func, insert, literal, select

from aiodbkit import EngineProxy, InterfaceError, NotSupportedError, QueryTimeoutError, SQLiteEngine
from aiodbkit.backends.dbapi import DBAPIEngine
from aiodbkit.testing import count_queries, sandbox
from tests.core_statements.tables import Color, metadata, people

COUNT = select(func.count()).select_from(people)
COLOR = select(people.c.color)


async def write_and_read(place):
    await place.execute(insert(people).values(name="Ann", color=Color.RED))
    assert await place.insert_many(people, [{"name": "Bob", "color": Color.RED}]) == 1
    assert await place.fetch_val(COLOR) is Color.RED
    assert [row.color async for row in place.iterate(COLOR)] == [Color.RED, Color.RED]


async def test_on_a_connection(db):
    async with db.connection() as connection:
        await write_and_read(connection)


async def test_on_a_shared_connection(db):
    async with db.connection(shared=True) as connection:
        await write_and_read(connection)


async def test_in_a_transaction_that_is_rolled_back(db):
    async with db.transaction(force_rollback=True):
        await write_and_read(db)
    assert await db.fetch_val(COUNT) == 0


async def test_in_a_session(db):
    async with db.session() as session:
        await write_and_read(session)
    assert await db.fetch_val(COUNT) == 2


async def test_as_the_first_statement_of_a_new_engine(db, make_engine):
    for use in ("session", "connection", "transaction"):
        other = await make_engine(max_size=1)
        async with getattr(other, use)():
            assert await other.fetch_val(COUNT) == 0


async def test_on_a_proxy(db):
    proxy = EngineProxy()
    proxy.initialize(db)
    await write_and_read(proxy)


async def test_in_a_sandbox(db):
    async with sandbox(db):
        await write_and_read(db)
        async with db.transaction():
            assert await db.fetch_val(COUNT) == 2
    assert await db.fetch_val(COUNT) == 0


async def test_queries_are_counted_as_text_and_once(db):
    with count_queries(db) as queries:
        await db.fetch_all(select(people.c.id).where(people.c.id == 1))
        await db.execute(insert(people).values(name="Ann"))
        await db.insert_many(people, [{"name": "Bob"}])
    first, second, third = queries.statements
    assert first.startswith("SELECT people.id")
    assert second.startswith("INSERT INTO people")
    assert third == "insert_many: people"


async def test_nothing_is_sent_to_learn_what_the_database_is(make_engine):
    db = await make_engine()
    with count_queries(db, exactly=1):
        await db.fetch_val(select(1))


async def test_a_timeout_holds_for_a_statement(db, backend):
    endless = select(literal(1).label("n")).cte("endless", recursive=True)
    endless = endless.union_all(select(endless.c.n + 1))
    slow = {
        "postgres": select(func.pg_sleep(30)),
        "mysql": select(func.sleep(30)),
        "sqlite": select(func.count()).select_from(endless),
    }[backend]
    with pytest.raises(QueryTimeoutError):
        await db.fetch_val(slow, timeout=0.2)
    assert await db.fetch_val(COUNT) == 0


async def test_a_cancelled_create_all_lets_the_next_one_in(make_engine, backend):
    db, other = await make_engine(max_size=1), await make_engine()
    async with other.transaction(**({"mode": "immediate"} if backend == "sqlite" else {})):
        if backend == "postgres":
            await other.execute("create table people (id int)")
        creating = asyncio.create_task(db.create_all(metadata))
        while not db.pool.stats().in_use:
            await asyncio.sleep(0)
        creating.cancel()
        await asyncio.wait([creating])
        if backend == "postgres":
            await other.execute("drop table people")
    await asyncio.wait_for(other.create_all(metadata), 20)
    assert await db.fetch_val(COUNT) == 0


async def test_an_engine_of_another_database_takes_text_only():
    db = DBAPIEngine(sqlite3, ":memory:")
    with pytest.raises(NotSupportedError, match="a DBAPIEngine takes SQL text"):
        await db.fetch_val(COUNT)


async def test_a_deferred_engine_says_so():
    with pytest.raises(InterfaceError, match="deferred"):
        await SQLiteEngine(None).fetch_val(COUNT)


def test_without_sqlalchemy_the_extra_is_named():
    code = """if True:
        import asyncio, sys
        sys.modules["sqlalchemy"] = None
        import aiodbkit

        async def main():
            async with aiodbkit.create_engine("sqlite://") as db:
                try:
                    await db.fetch_all(object())
                except aiodbkit.ProgrammingError as error:
                    print(error)

        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs the extra aiodbkit[sqlalchemy]" in done.stdout


def test_text_does_not_import_sqlalchemy():
    code = """if True:
        import asyncio, sys
        import aiodbkit

        async def main():
            async with aiodbkit.create_engine("sqlite://") as db:
                await db.fetch_all("select 1")

        asyncio.run(main())
        print("sqlalchemy" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
