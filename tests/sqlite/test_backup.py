"""Backups: a whole copy of one moment, or nothing, wherever it is stopped."""

from __future__ import annotations

import asyncio
import sqlite3

import anyio
import pytest

import aiodbkit
from aiodbkit.testing import sandbox
from tests.sqlite.library import MEMORY, SCHEME, opened

ROWS = 300


@pytest.fixture(params=["wal", "delete", "memory"])
async def db(request, sqlite_url, sqlite_engine):
    """A database of many pages, in each way of keeping older states."""
    if request.param == "memory":
        db = await sqlite_engine(MEMORY)
    else:
        db = await sqlite_engine(pragmas={"journal_mode": request.param})
    await fill(db, ROWS)
    return db


async def fill(db, rows):
    await db.execute("create table t (id integer primary key, v)")
    await db.insert_many("t", [{"v": "x" * 500} for _ in range(rows)])


@pytest.fixture
def target(tmp_path):
    return tmp_path / "copy.db"


def rows_in(path):
    db = opened(path)
    try:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        return db.execute("select count(*) from t").fetchone()[0]
    finally:
        db.close()


def left_by(target):
    return [each.name for each in target.parent.glob(f"{target.name}*")]


async def test_a_copy_in_a_file_has_everything_and_is_told_step_by_step(db, target):
    told = []
    await db.backup(target, pages=10, progress=lambda *figures: told.append(figures))
    assert rows_in(target) == ROWS
    total = told[0][1]
    assert total > 10
    assert [remaining for remaining, _ in told] == [*range(total - 10, 0, -10), 0]
    await db.execute("delete from t")  # the source is as usable as before


async def test_an_async_progress_is_waited_for(db, target):
    at_work = 0

    async def progress(remaining, total):
        nonlocal at_work
        at_work += 1
        await asyncio.sleep(0)
        assert at_work == 1
        at_work -= 1

    await db.backup(str(target), pages=10, progress=progress)
    assert rows_in(target) == ROWS


async def test_a_backup_is_restored_into_an_engine_and_through_a_connection(db, target, tmp_path):
    await db.backup(target)
    await db.execute("delete from t")
    async with aiodbkit.SQLiteEngine(f"{SCHEME}:///{target}") as saved:
        await saved.backup(db)
        assert await db.fetch_val("select count(*) from t") == ROWS
        await db.execute("delete from t")
        async with db.connection() as conn:
            await saved.backup(conn)
            assert await conn.fetch_val("select count(*) from t") == ROWS
    await db.execute("insert into t (v) values (1)")
    assert await db.fetch_val("select count(*) from t") == ROWS + 1


async def test_a_file_becomes_a_database_in_memory_and_stays_one_for_all_connections(db):
    async with aiodbkit.create_engine(MEMORY) as memory:
        await memory.execute("create table old (v)")
        await db.backup(memory)
        async with memory.pool.acquire() as one, memory.pool.acquire() as other:
            assert await one.fetch_val("select count(*) from t") == ROWS
            await one.execute("delete from t where id > 1")
            assert await other.fetch_val("select count(*) from t") == 1
            with pytest.raises(aiodbkit.ProgrammingError, match="no such table"):
                await other.fetch_val("select * from old")


async def test_a_copy_replaces_what_was_there(db, target):
    async with aiodbkit.SQLiteEngine(f"{SCHEME}:///{target}") as other:
        await other.execute("create table old (v)")
    await db.backup(target)
    assert rows_in(target) == ROWS


async def test_writers_go_on_beside_a_backup_and_are_not_in_it(sqlite_engine, target):
    db = await sqlite_engine()
    await fill(db, ROWS)

    async def write_meanwhile(remaining, total):
        await db.execute("insert into t (v) values (1)")
        await db.execute("update t set v = 'new' where id = :id", {"id": 1 + remaining % ROWS})

    await db.backup(target, pages=5, progress=write_meanwhile)
    assert rows_in(target) == ROWS
    assert await db.fetch_val("select count(*) from t") > ROWS
    with sqlite3.connect(target) as copy:
        assert copy.execute("select count(*) from t where v = 'new'").fetchone() == (0,)
    copy.close()


@pytest.mark.parametrize("scope", ["asyncio", "anyio"])
async def test_cancelled_between_two_steps_it_leaves_nothing(scope, db, target):
    told = []

    async def stop(remaining, total):
        told.append(remaining)
        if len(told) == 2:
            task.cancel() if scope == "asyncio" else limit.cancel()
            await asyncio.sleep(10)

    async def copy():
        nonlocal limit
        with anyio.CancelScope() as limit:
            await db.backup(target, pages=5, progress=stop)
        return limit.cancelled_caught

    limit = None
    task = asyncio.create_task(copy())
    await asyncio.wait([task])
    assert task.cancelled() if scope == "asyncio" else task.result()
    await db.close()  # waits until the thread has come to its end
    assert len(told) == 2
    assert left_by(target) == []


async def test_cancelled_it_leaves_an_older_copy_as_it_was(sqlite_engine, target):
    db = await sqlite_engine()
    await fill(db, ROWS)
    await db.backup(target)
    await db.execute("delete from t")

    async def stop(remaining, total):
        task.cancel()
        await asyncio.sleep(10)

    task = asyncio.create_task(db.backup(target, pages=1, progress=stop))
    await asyncio.wait([task])
    assert task.cancelled()
    await db.close()
    assert rows_in(target) == ROWS


async def test_cancelled_a_copy_leaves_an_engine_as_it_was(db):
    async with aiodbkit.create_engine(MEMORY) as memory:
        await memory.execute("create table old (v)")

        async def stop(remaining, total):
            task.cancel()
            await asyncio.sleep(10)

        task = asyncio.create_task(db.backup(memory, pages=1, progress=stop))
        await asyncio.wait([task])
        await db.close()
        assert await memory.fetch_column("select name from sqlite_master") == ["old"]
        await memory.execute("insert into old values (1)")


async def test_an_error_of_progress_ends_the_copy_and_is_raised_as_it_is(db, target):
    for error in (ValueError("mine"), aiodbkit.DataError("mine")):

        def fail(remaining, total, error=error):
            raise error

        with pytest.raises(type(error), match="mine"):
            await db.backup(target, pages=5, progress=fail)
        assert await db.fetch_val("select count(*) from t") == ROWS
    await db.close()
    assert left_by(target) == []


async def test_past_its_timeout_it_ends_and_leaves_nothing(db, target):
    async def dawdle(remaining, total):
        await asyncio.sleep(0.02)

    with pytest.raises(aiodbkit.QueryTimeoutError, match=r"timeout=0\.1"):
        await db.backup(target, pages=1, progress=dawdle, timeout=0.1)
    await db.close()
    assert left_by(target) == []


@pytest.mark.parametrize("how", ["timeout", "interrupt"])
async def test_one_that_is_stopped_does_not_wait_for_a_progress_that_does_not_come_back(
    how, db, target
):
    async def never(remaining, total):
        if how == "interrupt":
            assert db.interrupt()
        await asyncio.Event().wait()

    timeout = 0.1 if how == "timeout" else None
    expected = aiodbkit.QueryTimeoutError if timeout else aiodbkit.OperationalError
    with pytest.raises(expected):
        await db.backup(target, pages=5, progress=never, timeout=timeout)
    assert left_by(target) == []


async def test_in_a_sandbox_there_is_nothing_to_back_up(db, target):
    async with sandbox(db):
        with pytest.raises(aiodbkit.InterfaceError, match="in a transaction"):
            await db.backup(target)


async def test_a_backup_beside_the_tasks_own_transaction_has_what_was_committed(
    sqlite_engine, target
):
    db = await sqlite_engine()
    await fill(db, 3)
    async with db.transaction(force_rollback=True):
        await db.execute("delete from t")
        await db.backup(target)
    assert rows_in(target) == 3


async def test_it_is_interrupted_like_a_statement(db, target):
    def stop(remaining, total):
        assert db.interrupt()

    with pytest.raises(aiodbkit.OperationalError, match="interrupt"):
        await db.backup(target, pages=1, progress=stop)
    assert left_by(target) == []


async def test_a_locked_target_is_waited_for_and_then_told(sqlite_engine, target):
    db = await sqlite_engine(lock_timeout=0.2)
    await fill(db, 1)
    other = opened(target)
    other.execute("create table kept (v)")
    other.execute("begin exclusive")
    with pytest.raises(aiodbkit.LockTimeoutError, match=r"copy\.db.*0\.2 s"):
        await db.backup(target)
    other.execute("commit")
    await db.backup(target)
    other.close()
    assert rows_in(target) == 1


async def test_writers_of_the_target_wait_in_line(db, sqlite_engine, target):
    other = await sqlite_engine(f"{SCHEME}:///{target}")
    await other.execute("create table old (v)")
    write = None

    async def progress(remaining, total):
        nonlocal write
        write = write or asyncio.create_task(other.execute("insert into t (v) values ('late')"))

    await db.backup(other, pages=10, progress=progress)
    await write
    assert await other.fetch_val("select count(*) from t") == ROWS + 1


async def test_what_cannot_be_a_target_is_refused(db, tmp_path, postgres_dummy):
    with pytest.raises(aiodbkit.InterfaceError, match="a path, an engine of SQLite"):
        await db.backup(postgres_dummy)
    with pytest.raises(aiodbkit.InterfaceError, match="a path, an engine of SQLite"):
        await db.backup(7)
    with pytest.raises(aiodbkit.InterfaceError, match="over itself"):
        await db.backup(db)
    with pytest.raises(aiodbkit.InterfaceError, match="two numbers"):
        await db.backup(tmp_path / "x.db", progress=3)
    with pytest.raises(aiodbkit.ConfigurationError, match="pages"):
        await db.backup(tmp_path / "x.db", pages=0)
    with pytest.raises(aiodbkit.Error, match="unable to open"):
        await db.backup(tmp_path / "missing" / "x.db")


@pytest.fixture
def postgres_dummy():
    pytest.importorskip("asyncpg")
    return aiodbkit.PostgresEngine(database="app")


async def test_a_target_in_a_transaction_is_refused(db, sqlite_engine, target):
    other = await sqlite_engine(f"{SCHEME}:///{target}")
    async with other.connection() as conn, conn.transaction():
        with pytest.raises(aiodbkit.InterfaceError, match="in a transaction"):
            await db.backup(conn)


async def test_a_target_that_only_its_factory_knows_is_refused(db):
    async def connect():
        raise AssertionError("never called")

    other = aiodbkit.create_engine(MEMORY, connection_factory=connect)
    async with other:
        with pytest.raises(aiodbkit.InterfaceError, match="give its path"):
            await db.backup(other)


async def test_a_new_backup_begins_when_a_cancelled_one_has_put_its_file_away(db, target):
    for _ in range(5):
        told = asyncio.Event()

        async def stop(remaining, total, told=told):
            told.set()
            await asyncio.sleep(10)

        task = asyncio.create_task(db.backup(target, pages=5, progress=stop))
        await told.wait()
        task.cancel()
        await asyncio.wait([task])
        await db.backup(target)
        assert rows_in(target) == ROWS
        target.unlink()
