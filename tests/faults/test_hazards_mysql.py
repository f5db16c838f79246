"""What bare aiomysql gets wrong silently, and what aiodbkit makes of it.

The tests come in pairs: the first half shows the hazard on a connection of aiomysql's, so that we
notice when it has gone; the second that aiodbkit's users do not meet it.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pymysql
import pytest

import aiodbkit

from .mysql_support import (
    ADD,
    MANY,
    SLOW_INSERT,
    Make,
    Proxies,
    a_lock_is_waited_for,
    bare,
    cancelled,
    ended,
    ids,
    run,
    started,
    until,
    works_on,
)

LATE = 350  # a row of the last of the statements that MANY makes


@pytest.fixture
async def db(mysql_engine: Make) -> aiodbkit.Engine:
    """An engine on a database with a table of notes."""
    db = await mysql_engine(acquire_timeout=20)
    await db.execute("create table notes (id integer primary key, body mediumtext)")
    return db


@pytest.fixture
async def witness(mysql_url: str) -> AsyncIterator[Any]:
    """A session that looks on."""
    async with bare(mysql_url) as connection:
        yield connection


# Two tasks on one connection


async def test_bare_two_tasks_get_each_others_rows_for_ever(mysql_url: str) -> None:
    async with bare(mysql_url) as connection:
        first = asyncio.create_task(run(connection, "select 1 from (select sleep(0.2)) waited"))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another coroutine"):
            await run(connection, "select 2")
        assert await first == ((1,),)
        assert await run(connection, "select 99") == ((2,),)


async def test_tasks_on_one_connection_take_turns(db: aiodbkit.Engine) -> None:
    async with db.connection() as conn:
        answers = await asyncio.gather(*(conn.fetch_val(f"select {n}") for n in range(20)))
    assert answers == list(range(20))


# Deadlock


@asynccontextmanager
async def deadlock_to_be(url: str, witness: Any) -> AsyncIterator[asyncio.Event]:
    """Another session has row 2 and wants row 1, once the event is set.

    It has changed more rows, so that the server ends the other transaction.
    """
    go = asyncio.Event()

    async def want(other: Any) -> None:
        await go.wait()
        await run(other, "update notes set body = 'w' where id = 1")

    async with bare(url) as other:
        await run(other, "begin")
        await run(other, "update notes set body = 'w' where id > 1")
        wanting = asyncio.create_task(want(other))
        yield go
        await wanting
        await run(other, "rollback")


async def test_bare_statements_after_a_deadlock_are_committed_one_by_one(
    db: aiodbkit.Engine, mysql_url: str, witness: Any
) -> None:
    await db.execute_many(ADD, MANY[:5])
    async with bare(mysql_url) as connection, deadlock_to_be(mysql_url, witness) as go:
        await connection.begin()
        await run(connection, "update notes set body = 'half' where id = 1")
        go.set()
        await a_lock_is_waited_for(witness)
        with pytest.raises(pymysql.err.OperationalError, match="Deadlock"):
            await run(connection, "update notes set body = 'half' where id = 2")
        assert connection.get_transaction_status()
        await run(connection, "insert into notes (id, body) values (0, 'other half')")
        await connection.rollback()
    assert 0 in await ids(db)


async def test_a_deadlock_ends_the_transaction_for_its_owner_too(
    db: aiodbkit.Engine, mysql_url: str, witness: Any
) -> None:
    await db.execute_many(ADD, MANY[:5])
    async with deadlock_to_be(mysql_url, witness) as go:
        with pytest.raises(aiodbkit.InternalError, match="Deadlock"):
            async with db.transaction():
                await db.execute("update notes set body = 'half' where id = 1")
                go.set()
                await a_lock_is_waited_for(witness)
                with pytest.raises(aiodbkit.DeadlockError) as caught:
                    await db.execute("update notes set body = 'half' where id = 2")
                await db.execute(ADD, {"id": 0, "body": "other half"})
    assert (caught.value.code, caught.value.is_transient) == (1213, True)
    assert await ids(db) == [1, 2, 3, 4, 5]
    assert not await db.fetch_val("select count(*) from notes where body = 'half'")


# Many rows


@asynccontextmanager
async def row_taken(url: str, number: int) -> AsyncIterator[None]:
    """Another session holds the key of a row, so that who inserts it has to wait."""
    async with bare(url) as other:
        await run(other, "begin")
        await run(other, "insert into notes (id) values (%s)", (number,))
        yield
        await run(other, "rollback")


async def test_bare_executemany_leaves_the_rows_sent_before_it_was_cancelled(
    db: aiodbkit.Engine, mysql_url: str, witness: Any
) -> None:
    async with bare(mysql_url) as connection, row_taken(mysql_url, LATE):
        cursor = await connection.cursor()
        rows = [(row["id"], row["body"]) for row in MANY]
        insert = "insert into notes (id, body) values (%s, %s)"
        adding = asyncio.create_task(cursor.executemany(insert, rows))
        await a_lock_is_waited_for(witness)
        await cancelled(adding)
        assert 0 < len(await ids(db)) < LATE


@pytest.mark.parametrize("verb", ["execute_many", "insert_many"])
@pytest.mark.parametrize("how", ["cancel", "timeout", "error"])
async def test_many_rows_are_kept_all_or_none(
    verb: str, how: str, db: aiodbkit.Engine, mysql_url: str, witness: Any
) -> None:
    what = ADD if verb == "execute_many" else "notes"
    rows = [*MANY, {"id": 1, "body": "twice"}] if how == "error" else MANY
    async with row_taken(mysql_url, 10_000 if how == "error" else LATE):
        timeout = 1.0 if how == "timeout" else None
        adding = asyncio.create_task(getattr(db, verb)(what, rows, timeout=timeout))
        if how == "cancel":
            await a_lock_is_waited_for(witness)
            await cancelled(adding)
        else:
            expected = {"timeout": "QueryTimeoutError", "error": "UniqueViolationError"}[how]
            with pytest.raises(getattr(aiodbkit, expected)):
                await adding
    await ended(witness, "insert into")
    assert await ids(db) == []


@pytest.mark.parametrize("verb", ["execute_many", "insert_many"])
async def test_many_rows_refused_in_a_transaction_leave_the_rest_of_it(
    verb: str, db: aiodbkit.Engine
) -> None:
    what = ADD if verb == "execute_many" else "notes"
    async with db.transaction():
        await db.execute(ADD, {"id": 399, "body": "before"})
        with pytest.raises(aiodbkit.UniqueViolationError):
            await getattr(db, verb)(what, MANY)
        assert await ids(db) == [399]
        assert await getattr(db, verb)(what, MANY[:300])
    assert len(await ids(db)) == 301


# Cancelled statements


async def test_bare_a_cancelled_statement_is_committed_later(
    db: aiodbkit.Engine, mysql_url: str, witness: Any
) -> None:
    async with bare(mysql_url) as connection:
        adding = asyncio.create_task(run(connection, SLOW_INSERT))
        await started(witness, "waited")
        await cancelled(adding)
        assert await ids(db) == []
        await ended(witness, "waited")
        assert await ids(db) == [1]


async def test_a_cancelled_statement_is_stopped_at_the_server(
    db: aiodbkit.Engine, witness: Any
) -> None:
    adding = asyncio.create_task(db.execute(SLOW_INSERT.replace("0.5", "30")))
    await started(witness, "waited")
    await cancelled(adding)
    await ended(witness, "waited")
    assert await ids(db) == []
    assert db.pool.stats().size == 1  # the other one was closed, this one opened


async def test_statements_cancelled_at_once_are_stopped_through_one_connection(
    mysql_engine: Make, mysql_url: str, wire_proxy: Proxies, witness: Any
) -> None:
    proxy = await wire_proxy(mysql_url)
    db = await mysql_engine(proxy.url, max_size=20)
    slow = [asyncio.create_task(db.fetch_val("select sleep(30) as waited")) for _ in range(20)]
    await until(lambda: all_of_them(witness))
    opened = proxy.accepted
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)
    await ended(witness, "waited")
    assert proxy.accepted - opened == 1


async def all_of_them(witness: Any) -> bool:
    return len(await works_on(witness, "waited")) == 20


# COMMIT


async def test_a_connection_lost_during_commit_leaves_the_outcome_unknown(
    db: aiodbkit.Engine, mysql_engine: Make, mysql_url: str, wire_proxy: Proxies
) -> None:
    proxy = await wire_proxy(mysql_url)
    lossy = await mysql_engine(proxy.url)
    with pytest.raises(aiodbkit.CommitUnknownError) as caught:
        async with lossy.transaction():
            await lossy.execute(ADD, MANY[0])
            proxy.hole("down")
            sent = asyncio.create_task(proxy.seen(b"COMMIT"))
            sent.add_done_callback(lambda _: proxy.cut())
    assert not caught.value.is_transient
    proxy.heal()


@pytest.mark.parametrize("statement", ["create table t (id int)", "begin", "COMMIT", "truncate t"])
async def test_bare_a_statement_commits_the_open_transaction(
    statement: str, db: aiodbkit.Engine, mysql_url: str
) -> None:
    await db.execute("create table if not exists t (id int)" if "truncate" in statement else "do 0")
    async with bare(mysql_url) as connection:
        await connection.begin()
        await run(connection, "insert into notes (id) values (1)")
        await run(connection, statement)
        await connection.rollback()
    assert await ids(db) == [1]


@pytest.mark.parametrize("statement", ["create table t (id int)", "begin", "COMMIT", "truncate t"])
@pytest.mark.parametrize("verb", ["execute", "fetch_all", "execute_script"])
async def test_a_statement_that_would_commit_the_transaction_is_not_sent(
    verb: str, statement: str, db: aiodbkit.Engine
) -> None:
    sql = f"insert into notes (id) values (2); /* ; */ {statement}" * (verb == "execute_script")
    with pytest.raises((aiodbkit.NotSupportedError, aiodbkit.TransactionScopeError), match="sent"):
        async with db.transaction():
            await db.execute("insert into notes (id) values (1)")
            await getattr(db, verb)(sql or statement)
    assert await ids(db) == []


async def test_bare_a_session_without_autocommit_comes_back_with_an_old_snapshot(
    db: aiodbkit.Engine, mysql_url: str
) -> None:
    async with bare(mysql_url, autocommit=False) as connection:
        assert await run(connection, "select count(*) from notes") == ((0,),)
        assert not connection.get_transaction_status()
        await db.execute(ADD, MANY[0])
        assert await run(connection, "select count(*) from notes") == ((0,),)


async def test_a_session_set_not_to_autocommit_is_reset(mysql_engine: Make) -> None:
    db = await mysql_engine(max_size=1)
    async with db.connection() as conn:
        await conn.execute("set autocommit = 0")
        assert conn.in_transaction
    assert await db.fetch_val("select @@autocommit") == 1
    assert db.pool.stats().opened == 1


# Values


@pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"ab")])
async def test_bare_bytes_like_values_are_stored_as_their_repr(value: Any, mysql_url: str) -> None:
    async with bare(mysql_url) as connection:
        ((stored,),) = await run(connection, "select %s", (value,))
    assert stored.startswith(("bytearray(", "<memory"))


@pytest.mark.parametrize("value", [b"ab", bytearray(b"ab"), memoryview(b"ab"), b"\x00'\\\xff"])
async def test_bytes_are_bytes(value: Any, db: aiodbkit.Engine) -> None:
    assert await db.fetch_val("select :value", {"value": value}) == bytes(value)


# What the last byte of the first character makes of the backslash before the quote in GBK.
HOSTILE = "\u4e01' or 1 = 1 -- "


async def test_bare_a_value_breaks_out_of_its_quotes(mysql_url: str) -> None:
    async with bare(mysql_url) as connection:
        await run(connection, "set names gbk")
        assert await run(connection, "select 1 from dual where 'x' = %s", (HOSTILE,)) == ((1,),)


@pytest.mark.parametrize(
    "setting", ["names gbk", "sql_mode = 'NO_BACKSLASH_ESCAPES'", "sql_mode = 'ANSI_QUOTES'"]
)
@pytest.mark.parametrize("value", [HOSTILE, "\\' or 1 = 1 -- "])
@pytest.mark.parametrize("kind", [str, str.encode])
async def test_no_value_breaks_out_of_its_quotes(
    value: str, kind: Any, setting: str, db: aiodbkit.Engine
) -> None:
    async with db.connection() as conn:
        await conn.execute(f"set {setting}")
        found = "select 1 from dual where 'x' = :value"
        assert await conn.fetch_val(found, {"value": kind(value)}) is None


async def test_bare_a_second_statement_is_run_too(db: aiodbkit.Engine, mysql_url: str) -> None:
    async with bare(mysql_url) as connection:
        await run(connection, "select 1; insert into notes (id) values (1)")
        await connection.ping(reconnect=False)
    assert await ids(db) == [1]


async def test_a_second_statement_is_refused_here_and_by_the_server(db: aiodbkit.Engine) -> None:
    with pytest.raises(aiodbkit.ProgrammingError, match="execute_script"):
        await db.execute("select 1; insert into notes (id) values (1)")
    async with db.connection() as conn:
        with pytest.raises(Exception, match="1064.*error in your SQL syntax"):
            await run(conn.raw, "select 1; insert into notes (id) values (1)")
    assert await ids(db) == []


async def test_bare_a_warning_is_raised_after_the_statement_took_effect(mysql_url: str) -> None:
    async with bare(mysql_url) as connection:
        await run(connection, "create temporary table t (id int)")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(pymysql.err.Warning):
                await run(connection, "insert ignore into t values ('1x')")
        assert await run(connection, "select id from t") == ((1,),)


async def test_a_warning_is_no_error_and_no_round_trip_where_none_is_logged(
    mysql_engine: Make, mysql_url: str, wire_proxy: Proxies
) -> None:
    proxy = await wire_proxy(mysql_url)
    db = await mysql_engine(proxy.url, log_warnings=False)
    asked = asyncio.create_task(proxy.seen(b"SHOW WARNINGS"))
    await db.execute("drop table if exists nowhere")
    assert not asked.done()
    asked.cancel()
