"""`count_queries(db)`: what reaches the driver, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import ConfigurationError, InterfaceError
from aiodbkit.testing import ScriptedEngine, count_queries, sandbox


@pytest.fixture
async def db(make_engine):
    engine = await make_engine(max_size=3)
    await engine.execute("create table people (id integer primary key)")
    return engine


async def test_every_verb_is_counted_once_with_its_sql(db):
    with count_queries(db) as queries:
        await db.execute("insert into people values (:n)", {"n": 1})
        await db.execute_many("insert into people values (:n)", [{"n": 2}, {"n": 3}])
        await db.insert_many("people", [{"id": 4}, {"id": 5}])
        await db.execute_script("delete from people; delete from people")
        await db.fetch_all("select 1")
        assert [row async for row in db.iterate("select id from people")] == []
    assert queries.statements == [
        "insert into people values (:n)",
        "insert into people values (:n)",
        "insert_many: people",
        "delete from people; delete from people",
        "select 1",
        "select id from people",
    ]
    assert queries.count == len(queries) == len(list(queries)) == 6


async def test_the_statements_of_transactions_are_counted_without_begin_commit_or_savepoint(db):
    with count_queries(db, exactly=2):
        async with db.transaction():
            await db.fetch_val("select 1")
            async with db.transaction():
                await db.fetch_val("select 2")
        async with db.session():
            pass


async def test_a_wrong_number_fails_with_the_statements_listed(db):
    with pytest.raises(AssertionError) as failure, count_queries(db, exactly=1):
        await db.fetch_val("select 1")
        await db.fetch_val("select 2")
    assert str(failure.value) == "2 statements were sent, not 1:\n  1. select 1\n  2. select 2"
    zero = pytest.raises(AssertionError, match="0 statements were sent, not 1$")
    with zero, count_queries(db, exactly=1):
        pass


async def test_an_error_of_the_block_is_not_hidden_by_the_count(db):
    with pytest.raises(ZeroDivisionError), count_queries(db, exactly=1):
        raise ZeroDivisionError


async def test_statements_of_other_tasks_and_new_connections_are_counted(db):
    with count_queries(db, exactly=6):
        async with db.connection() as conn:
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(db.fetch_val("select 1"))
            await conn.fetch_val("select 1")


async def test_nothing_is_counted_or_left_behind_after_the_block(db):
    plain = {type(slot.resource) for slot in db.pool._keeper.slots}
    with count_queries(db) as outer:
        with count_queries(db) as inner:
            await db.fetch_val("select 1")
        await db.fetch_val("select 2")
    await db.fetch_val("select 3")
    assert inner.statements == ["select 1"]
    assert outer.statements == ["select 1", "select 2"]
    assert {type(slot.resource) for slot in db.pool._keeper.slots} == plain


async def test_a_sandbox_adds_nothing_to_the_count(db):
    async with sandbox(db):
        with count_queries(db, exactly=2):
            await db.fetch_val("select 1")
            async with db.transaction():
                await db.fetch_val("select 1")
    with count_queries(db, exactly=1):
        async with sandbox(db):
            await db.fetch_val("select 1")


async def test_a_count_that_began_in_a_sandbox_and_ends_after_it_is_harmless(db):
    async with sandbox(db):
        counting = count_queries(db)
        queries = counting.__enter__()
        await db.fetch_val("select 1")
    counting.__exit__(None, None, None)
    assert queries.count == 1
    assert await db.fetch_val("select 1") == 1


async def test_as_a_decorator_it_counts_the_statements_of_each_call(db):
    @count_queries(db, exactly=2)
    async def work(more):
        for _ in range(1 + more):
            await db.fetch_val("select 1")
        return "done"

    assert await work(1) == "done"
    with pytest.raises(AssertionError, match="1 statement was sent, not 2:"):
        await work(0)
    assert await work(1) == "done", "each call has a count of its own"


def test_a_sync_function_is_refused_by_its_name():
    def work(): ...

    with pytest.raises(TypeError, match="wraps async functions; .*work is not one"):
        count_queries(ScriptedEngine())(work)


def test_a_count_used_twice_is_refused_with_the_cure():
    counting = count_queries(ScriptedEngine())
    again = pytest.raises(InterfaceError, match=r"call count_queries\(db\) for each block")
    with counting, again:
        counting.__enter__()
    with pytest.raises(InterfaceError, match=r"call count_queries\(db\) for each block"):
        counting.__enter__()


def test_what_is_no_engine_or_no_number_is_refused_at_once():
    with pytest.raises(InterfaceError, match="takes an engine, not str"):
        count_queries("sqlite://")
    with pytest.raises(ConfigurationError, match="exactly must be a whole number"):
        count_queries(ScriptedEngine(), exactly=-1)
