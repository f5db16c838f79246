"""Listeners: what they are told of statements, transactions and the pool, on every backend."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import aiodbkit
from aiodbkit.testing import count_queries, sandbox

from .support import assert_whole

pytestmark = pytest.mark.usefixtures("people")


class Ear:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.queries: list[aiodbkit.QueryEvent] = []
        self.steps: list[aiodbkit.TransactionEvent] = []

    def on_query(self, event: aiodbkit.QueryEvent) -> None:
        self.queries.append(event)

    def on_transaction(self, event: aiodbkit.TransactionEvent) -> None:
        self.steps.append(event)

    @property
    def told(self) -> list[tuple[str, str, int]]:
        return [(event.verb, event.sql, event.rows) for event in self.queries]

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.steps]


class PoolEar:
    def __init__(self) -> None:
        self.events: list[aiodbkit.PoolEvent] = []
        self.told = asyncio.Event()

    def on_pool(self, event: aiodbkit.PoolEvent) -> None:
        self.events.append(event)
        self.told.set()

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@pytest.fixture
def ear(db):
    listener = Ear()
    db.add_listener(listener)
    return listener


# Statements.


async def test_every_verb_is_one_event_with_its_sql_and_rows(db, ear, can):
    await db.execute("update people set team = :t where id < :i", {"t": 9, "i": 3})
    await db.execute_many("update people set team = 1 where id = :i", [{"i": 1}, {"i": 2}])
    await db.insert_many("people", [{"id": n, "name": "x"} for n in range(10, 15)])
    await db.execute_script("delete from people where id = 10; delete from people where id = 11")
    await db.fetch_all("select * from people where id < 10")
    await db.fetch_val("select 1")
    of_many = 2 if can.rows_affected_of_many else -1
    assert ear.told == [
        ("execute", "update people set team = :t where id < :i", 2),
        ("execute_many", "update people set team = 1 where id = :i", of_many),
        ("insert_many", "insert_many: people", 5),
        (
            "execute_script",
            "delete from people where id = 10; delete from people where id = 11",
            -1,
        ),
        ("fetch", "select * from people where id < 10", 4),
        ("fetch", "select 1", 1),
    ]
    assert all(event.engine is db and event.duration > 0 for event in ear.queries)
    assert not any(event.error or event.in_transaction or event.params for event in ear.queries)
    assert ear.kinds == []  # what the backends wrap many rows in is a part of the statement


async def test_an_iteration_is_one_event_at_its_end_with_all_its_rows(db, ear):
    async with db.iterate("select id from people", batch_size=2) as rows:
        assert len([row async for row in rows]) == 4
        in_block = len(ear.queries)
    assert in_block == 1
    assert ear.told == [("iterate", "select id from people", 4)]


async def test_an_iteration_that_is_left_early_is_one_event_with_the_rows_that_came(db, ear):
    async with db.iterate("select id from people", batch_size=2) as rows:
        await anext(rows)
    assert ear.told == [("iterate", "select id from people", 2)]


async def test_an_iteration_that_is_dropped_is_told_when_its_connection_is_used_again(db, ear):
    async with db.connection() as conn:
        rows = conn.iterate("select id from people", batch_size=2)
        await anext(rows)
        del rows
        assert await conn.fetch_val("select 1") == 1
    assert sorted(ear.told) == [
        ("fetch", "select 1", 1),
        ("iterate", "select id from people", 2),
    ]


async def test_an_error_is_told_as_the_caller_gets_it(db, ear):
    with pytest.raises(aiodbkit.UniqueViolationError) as caught:
        await db.execute("insert into people (id, name) values (1, 'Ann')")
    (event,) = ear.queries
    assert event.error is caught.value
    assert event.rows == -1


async def test_a_statement_that_cannot_be_compiled_is_told(db, ear):
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.fetch_val("select :a", {"b": 1})
    assert [type(event.error) for event in ear.queries] == [aiodbkit.ProgrammingError]


async def test_a_timeout_is_told(db, ear, sql):
    with pytest.raises(aiodbkit.QueryTimeoutError):
        await db.fetch_val(sql.slow(10), timeout=0.05)
    assert [type(event.error) for event in ear.queries] == [aiodbkit.QueryTimeoutError]


async def test_a_cancelled_statement_is_told_once(db, ear, sql):
    pool_ear = PoolEar()
    db.add_listener(pool_ear)
    task = asyncio.create_task(db.fetch_val(sql.slow(10)))
    await pool_ear.told.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [type(event.error) for event in ear.queries] == [asyncio.CancelledError]
    await assert_whole(db)


async def test_parameters_are_told_only_where_the_engine_says_so(make_engine):
    for log_params in (False, True):
        db, ear = await make_engine(log_params=log_params), Ear()
        db.add_listener(ear)
        await db.fetch_val("select name from people where id = :id", {"id": 1})
        await db.execute_many("update people set team = 1 where id = :i", [{"i": 1}])
        told = [{"id": 1}, [{"i": 1}]] if log_params else [None, None]
        assert [event.params for event in ear.queries] == told


async def test_waiting_for_a_connection_is_told_apart_from_the_statement(one):
    ear = Ear()
    one.add_listener(ear)
    async with one.connection():
        waiting = asyncio.create_task(one.fetch_val("select 1"))
        while not one.pool.stats().waiting:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
    await waiting
    await one.fetch_val("select 2")
    first, second = ear.queries
    assert first.wait >= 0.04 > first.duration
    assert second.wait == 0.0


async def test_many_tasks_at_once_are_told_each_once(make_engine):
    db, ear = await make_engine(max_size=3), Ear()
    db.add_listener(ear)
    await asyncio.gather(*(db.fetch_val(f"select {n}") for n in range(40)))
    assert sorted(event.sql for event in ear.queries) == sorted(f"select {n}" for n in range(40))


async def test_listeners_that_come_and_go_while_queries_run_disturb_none(make_engine):
    db, running = await make_engine(max_size=3), True

    async def query(number: int) -> None:
        while running:
            assert await db.fetch_val(f"select {number}") == number

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(query(number))
        for _ in range(30):
            ear, pool_ear = Ear(), PoolEar()
            db.add_listener(ear)
            db.add_listener(pool_ear)
            await db.fetch_val("select 99")
            db.remove_listener(ear)
            db.remove_listener(pool_ear)
            told = len(ear.queries), len(pool_ear.events)
            assert [event.sql for event in ear.queries].count("select 99") == 1
            await db.fetch_val("select 98")
            assert (len(ear.queries), len(pool_ear.events)) == told
        running = False
    await assert_whole(db)


# Transactions.


async def test_the_steps_of_a_transaction_are_told(db, ear):
    async with db.transaction():
        await db.fetch_val("select 1")
        async with db.transaction():
            pass
        async with db.transaction() as inner:
            await inner.rollback()
    with pytest.raises(ZeroDivisionError):
        async with db.transaction():
            await db.execute("update people set team = 1")
            raise ZeroDivisionError
    assert ear.kinds == [
        "begin",
        *("savepoint", "release", "savepoint", "rollback to"),
        "commit",
        *("begin", "rollback"),
    ]
    assert [event.in_transaction for event in ear.queries] == [True, True]
    assert all(step.engine is db and step.error is None for step in ear.steps)


async def test_a_session_tells_of_its_transaction_and_an_unused_one_of_nothing(db, ear):
    async with db.session():
        pass
    assert (ear.kinds, ear.told) == ([], [])
    async with db.session() as session:
        await session.fetch_val("select 1")
        await session.commit()
        await session.fetch_val("select 2")
    assert ear.kinds == ["begin", "commit", "begin", "commit"]


async def test_each_try_of_a_retried_transaction_is_told(db, ear):
    tries = 0

    @db.transaction(retry=aiodbkit.RetryPolicy(max_retries=2, backoff=0.0))
    async def work() -> None:
        nonlocal tries
        tries += 1
        await db.fetch_val("select 1")
        if tries == 1:
            raise aiodbkit.SerializationError("once more", is_transient=True)

    await work()
    assert ear.kinds == ["begin", "rollback", "begin", "commit"]
    assert len(ear.queries) == 2


async def test_what_nobody_ended_is_told_as_rolled_back_by_the_pool(one):
    ear = Ear()
    one.add_listener(ear)
    async with one.pool.acquire() as conn:
        await conn.begin()
        await conn.execute("update people set team = 1")
    await one.fetch_val("select 1")
    assert ear.kinds == ["begin", "rollback"]


async def test_a_refused_commit_is_told_with_its_error(db, ear, sql, can):
    if not can.deferred_constraints or sql.deferred_key is None:
        pytest.skip("no constraint of this backend is checked at COMMIT")
    await db.execute(
        f"create table pets (id integer primary key, owner integer references people (id) "
        f"{sql.deferred_key})"
    )
    with pytest.raises(aiodbkit.ForeignKeyViolationError):
        async with db.transaction():
            await db.execute("insert into pets values (1, 99)")
    commit = next(step for step in ear.steps if step.kind == "commit")
    assert isinstance(commit.error, aiodbkit.ForeignKeyViolationError)


# The pool.


async def test_the_pool_tells_of_its_connections_and_their_loans(make_engine):
    db, ear = await make_engine(max_size=1), PoolEar()
    db.add_listener(ear)
    await db.fetch_val("select 1")
    await db.fetch_val("select 1")
    await db.close()
    loans = ["acquired", "released"]
    assert ear.kinds == ["opened", *loans, *loans, "closed"]
    opened, first, *_ = ear.events
    assert opened.duration > 0
    assert (opened.engine, opened.size) == (db, 1)
    assert (first.in_use, first.idle, first.waiting) == (1, 0, 0)


async def test_a_caller_that_is_refused_is_told(one):
    ear = PoolEar()
    one.add_listener(ear)
    async with one.connection():
        with pytest.raises(aiodbkit.PoolTimeoutError) as caught:
            await asyncio.create_task(_acquire(one))
    (event,) = [event for event in ear.events if event.kind == "timeout"]
    assert event.error is caught.value
    assert event.duration >= 0.01
    assert event.in_use == 1


async def _acquire(db: aiodbkit.Engine) -> None:
    async with db.pool.acquire(timeout=0.01):
        pass


async def test_lost_and_expired_connections_are_told(one):
    ear = PoolEar()
    one.add_listener(ear)
    async with one.connection() as conn:
        conn._driver.abort()
    await one.fetch_val("select 1")
    await one.pool.drain()
    kinds = [kind for kind in ear.kinds if kind in ("lost", "expired", "closed")]
    assert kinds == ["lost", "closed", "expired", "closed"]


# Together with the tools for tests.


async def test_in_a_sandbox_an_app_is_told_what_it_would_be_without(db):
    async def app() -> None:
        await db.fetch_val("select 1")
        async with db.transaction():
            await db.insert_many("people", [{"id": 20, "name": "x"}])
        async with db.iterate("select id from people") as rows:
            assert len([row async for row in rows]) == 5

    outside, inside, last = Ear(), Ear(), Ear()
    db.add_listener(outside)
    async with sandbox(db):
        db.add_listener(inside)
        with count_queries(db, exactly=3):
            await app()
        db.remove_listener(inside)
    db.remove_listener(outside)
    db.add_listener(last)
    await app()
    assert inside.told == outside.told == last.told
    started, *steps, undone = outside.kinds
    assert (started, undone) == ("begin", "rollback")
    assert steps[:2] == inside.kinds[:2] == last.kinds[:2] == ["begin", "commit"]


async def test_the_loans_of_a_sandbox_are_told_and_those_after_it(db):
    ear = PoolEar()
    db.add_listener(ear)
    async with sandbox(db):
        await db.fetch_val("select 1")
        told = [event.pool for event in ear.events if event.kind == "acquired"]
        assert told == [db.pool.outer.name, db.pool.name]
    db.remove_listener(ear)
    told_so_far = len(ear.events)
    await db.fetch_val("select 1")
    assert len(ear.events) == told_so_far


async def test_a_count_does_not_end_what_a_listener_is_told(db, ear):
    with count_queries(db, exactly=1):
        await db.fetch_val("select 1")
    await db.fetch_val("select 2")
    db.remove_listener(ear)
    with count_queries(db, exactly=1):
        await db.fetch_val("select 3")
    assert [event.sql for event in ear.queries] == ["select 1", "select 2"]


# The log.


async def test_the_level_of_the_log_may_change_at_any_time(db, caplog):
    async with db.connection() as conn:
        for place in (db, conn):
            await place.fetch_val("select 1")
            assert caplog.records == []
            with caplog.at_level(logging.DEBUG, logger="aiodbkit.query"):
                await place.fetch_val("select 2")
            await place.fetch_val("select 3")
            (record,) = caplog.records
            assert (record.name, record.levelname) == ("aiodbkit.query", "DEBUG")
            assert record.getMessage().endswith(" ms, 1 row: select 2")
            caplog.clear()


async def test_nothing_is_left_behind_when_nobody_watches(make_engine, caplog):
    db = await make_engine(min_size=2)
    plain = _classes(db)
    ear, pool_ear = Ear(), PoolEar()
    with caplog.at_level(logging.DEBUG, logger="aiodbkit.query"):
        db.add_listener(ear)
        db.add_listener(pool_ear)
        await db.fetch_val("select 1")
        assert _classes(db).isdisjoint(plain)
    db.remove_listener(ear)
    db.remove_listener(pool_ear)
    await db.fetch_val("select 1")
    assert _classes(db) == plain


def _classes(db: aiodbkit.Engine) -> set[type[Any]]:
    return {type(db.pool), *(type(slot.resource) for slot in db.pool._keeper.slots)}


async def test_a_slow_statement_is_a_warning_that_names_the_option(make_engine, sql, caplog):
    db = await make_engine(slow_query=0.05)
    await db.fetch_val("select 1")
    assert caplog.records == []
    with pytest.raises(aiodbkit.QueryTimeoutError):
        await db.fetch_val(sql.slow(10), timeout=0.1)
    (record,) = [record for record in caplog.records if record.name == "aiodbkit.query"]
    assert record.levelname == "WARNING"
    for said in ("slow query: ", "QueryTimeoutError", "raise slow_query", "slow_query=0.05 s"):
        assert said in record.getMessage()


async def test_no_value_is_in_the_log_unless_asked_for(make_engine, caplog):
    caplog.set_level(logging.DEBUG)
    for log_params in (False, True):
        db = await make_engine(log_params=log_params, slow_query=0)
        row = {"id": 77001, "name": "hunter2"}
        statement = "insert into people (id, name) values (:id, :name)"
        with pytest.raises(aiodbkit.UniqueViolationError):
            await db.execute_many(statement, [row, row])
        with pytest.raises(aiodbkit.UniqueViolationError):
            await db.execute(statement, {**row, "id": 1})
        ours = [record for record in caplog.records if record.name.startswith("aiodbkit")]
        lines = "\n".join(record.getMessage() for record in ours)
        assert "failed with UniqueViolationError" in lines
        assert ("hunter2" in lines) is ("77001" in lines) is log_params
        caplog.clear()


async def test_a_wait_is_told_of_the_statement_of_the_task_that_waited(make_engine):
    db = await make_engine(max_size=1)
    listener = Ear()
    db.add_listener(listener)
    waits = asyncio.Event()

    async def waiter():
        waits.set()
        async with db.connection():
            pass  # it sends nothing

    async with db.connection():
        task = asyncio.create_task(waiter())
        await waits.wait()
        await asyncio.sleep(0)
    await task
    await db.fetch_val("select 1")
    assert listener.queries[-1].wait == 0.0
