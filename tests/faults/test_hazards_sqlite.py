"""What aiosqlite does silently wrong, and that aiodbkit does not.

Each test shows both: first the bare driver with the wrong result, then the engine with the right
one. Nothing waits for a time to pass: what has to be interrupted would run for ever.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiosqlite
import pytest

import aiodbkit
from tests.servers.environment import driver_of

pytestmark = pytest.mark.skipif(driver_of("sqlite") != "aiosqlite", reason="shown on aiosqlite")

# An INSERT that makes no row and never ends.
ENDLESS = (
    "insert into t (id) with recursive n(x) as (select 1 union all select x + 1 from n) "
    "select x from n where x < 0"
)
IDS = "select id from t order by id"
TABLE = "create table if not exists t (id integer primary key, text text)"

MakeEngine = Callable[..., Awaitable[aiodbkit.Engine]]


class WorkFailedError(Exception):
    """Leaves a transaction."""


@pytest.fixture
async def path(sqlite_url: str, sqlite_engine: MakeEngine) -> str:
    """A database in WAL mode with the empty table t."""
    db = await sqlite_engine()
    await db.execute(TABLE)
    return sqlite_url.removeprefix("sqlite:///")


@asynccontextmanager
async def bare(path: str, **options: Any) -> AsyncIterator[aiosqlite.Connection]:
    """The driver itself, and the table t emptied after it."""
    async with aiosqlite.connect(path, isolation_level=None, **options) as conn:
        yield conn
        if conn.in_transaction:
            await conn.execute("rollback")
    with sqlite3.connect(path) as cleaner:
        cleaner.execute("delete from t")
    cleaner.close()


async def ids(conn: aiosqlite.Connection) -> list[int]:
    return [row[0] for row in await conn.execute_fetchall(IDS)]


async def interrupted(conn: aiosqlite.Connection, sql: str) -> BaseException | None:
    """Run a statement, interrupting until it has ended; return its error."""
    begun = threading.Event()
    await conn.set_progress_handler(begun.set, 1000)
    task = asyncio.ensure_future(conn.execute_fetchall(sql))
    await asyncio.to_thread(begun.wait, 20)  # interrupted while it is compiled, it undoes nothing
    while not task.done():
        await conn.interrupt()
        await asyncio.sleep(0)
    return task.exception()


async def turns(count: int = 20) -> None:
    """Let the event loop turn, so that whatever can begin has begun."""
    for _ in range(count):
        await asyncio.sleep(0)


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Row 6: SQLite rolls a whole transaction back by itself, and the driver goes on in autocommit mode.


async def test_after_an_interrupted_write_nothing_runs_outside_the_lost_transaction(
    path: str, sqlite_engine: MakeEngine
) -> None:
    async with bare(path) as conn:
        await conn.execute("begin")
        await conn.execute("insert into t (id) values (1)")
        assert "interrupted" in str(await interrupted(conn, ENDLESS))
        await conn.execute("insert into t (id) values (2)")
        assert not conn.in_transaction
        assert await ids(conn) == [2]  # half a transaction, and committed at that

    db = await sqlite_engine(max_size=1)
    with pytest.raises(aiodbkit.InternalError, match="the transaction is gone"):
        async with db.transaction():
            await db.execute("insert into t (id) values (1)")
            with pytest.raises(aiodbkit.QueryTimeoutError):
                await db.execute(ENDLESS, timeout=0.01)
            await db.execute("insert into t (id) values (2)")
    assert await db.fetch_column(IDS) == []


async def test_after_a_full_disk_nothing_runs_outside_the_lost_transaction(
    path: str, sqlite_engine: MakeEngine
) -> None:
    async with bare(path) as conn:
        await conn.execute_fetchall("pragma max_page_count = 5")
        await conn.execute("begin")
        await conn.execute("insert into t (id) values (1)")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            await conn.execute("insert into t (id, text) values (2, zeroblob(100000))")
        await conn.execute("insert into t (id) values (3)")
        assert await ids(conn) == [3]

    db = await sqlite_engine(max_size=1, pragmas={"max_page_count": 5})
    with pytest.raises(aiodbkit.InternalError, match="the transaction is gone"):
        async with db.transaction():
            await db.execute("insert into t (id) values (1)")
            with pytest.raises(aiodbkit.OperationalError, match="full"):
                await db.execute("insert into t (id, text) values (2, zeroblob(100000))")
            await db.execute("insert into t (id) values (3)")
    assert await db.fetch_column(IDS) == []


async def test_a_lost_transaction_that_nobody_looks_at_is_not_reported_as_committed(
    path: str, sqlite_engine: MakeEngine
) -> None:
    db = await sqlite_engine()
    with pytest.raises(aiodbkit.InternalError, match="nothing was committed"):
        async with db.transaction():
            await db.execute("insert into t (id) values (1)")
            with pytest.raises(aiodbkit.QueryTimeoutError):
                await db.execute(ENDLESS, timeout=0.01)
    assert await db.fetch_column(IDS) == []


# Row 7: executemany commits row by row.


async def test_many_rows_are_written_all_or_none(path: str, sqlite_engine: MakeEngine) -> None:
    insert = "insert into t (id) values (?)"
    rows = [(number,) for number in [*range(1, 2001), 1]]
    async with bare(path) as conn:
        with pytest.raises(sqlite3.IntegrityError):
            await conn.executemany(insert, rows)
        assert await ids(conn) == [*range(1, 2001)]

    db = await sqlite_engine()
    with pytest.raises(aiodbkit.UniqueViolationError):
        await db.execute_many(insert, rows)
    with pytest.raises(aiodbkit.UniqueViolationError):
        await db.insert_many("t", rows, columns=["id"])
    assert await db.fetch_column(IDS) == []


@pytest.mark.parametrize("verb", ["execute_many", "insert_many"])
async def test_cancelled_many_rows_are_all_there_or_none(
    verb: str, path: str, sqlite_engine: MakeEngine
) -> None:
    """The last row is refused, so that "all" cannot be the outcome."""
    insert = "insert into t (id) values (?)"
    rows = [(number,) for number in [*range(20_000), 1]]
    async with bare(path) as conn:
        await conn.execute("pragma synchronous = off")
        task = asyncio.create_task(conn.executemany(insert, rows))
        await turns(3)
        await cancel(task)
        assert len(await ids(conn)) == 20_000  # cancelled, and nearly done all the same

    db = await sqlite_engine(max_size=1)
    if verb == "insert_many":
        work: Any = db.insert_many("t", rows, columns=["id"])
    else:
        work = db.execute_many(insert, rows)
    task = asyncio.create_task(work)
    await turns(3)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or isinstance(task.exception(), aiodbkit.UniqueViolationError)
    assert await db.fetch_val("select count(*) from t") == 0


async def test_rows_of_a_cancelled_insert_many_do_not_stay_in_the_transaction_around_it(
    path: str, sqlite_engine: MakeEngine
) -> None:
    db = await sqlite_engine()
    half_way = asyncio.Event()

    async def source() -> AsyncIterator[tuple[int]]:
        for number in range(100, 5000):
            yield (number,)
        half_way.set()
        await asyncio.Event().wait()

    async with db.transaction(), asyncio.timeout(30) as limit:
        await db.execute("insert into t (id) values (1)")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as inner:
                waiter = asyncio.ensure_future(half_way.wait())
                waiter.add_done_callback(lambda _: inner.reschedule(0))
                await db.insert_many("t", source(), columns=["id"])
        assert not limit.expired()
        await db.execute("insert into t (id) values (2)")
    assert await db.fetch_column(IDS) == [1, 2]


# Row 8: a cancelled statement still runs, and commits.


async def test_a_cancelled_write_has_not_happened(path: str, sqlite_engine: MakeEngine) -> None:
    insert = "insert into t (id) values (1)"
    async with bare(path) as holder:
        async with bare(path) as conn:
            await holder.execute("begin immediate")
            task = asyncio.ensure_future(conn.execute_fetchall(insert))
            await turns()
            await cancel(task)
            await holder.execute("commit")
            assert await ids(conn) == [1]  # written after the cancellation

        db = await sqlite_engine(max_size=1)
        await holder.execute("begin immediate")
        task = asyncio.create_task(db.execute(insert))
        await turns()
        await cancel(task)
        await holder.execute("commit")
        assert await db.fetch_column(IDS) == []


async def test_a_cancelled_write_is_stopped_in_its_middle(
    path: str, sqlite_engine: MakeEngine
) -> None:
    db = await sqlite_engine(max_size=1)
    task = asyncio.create_task(db.execute(ENDLESS))
    await turns()
    await cancel(task)
    assert await db.fetch_column(IDS) == []
    assert (await db.execute("insert into t (id) values (1)")).rows_affected == 1


async def test_a_cancelled_transaction_is_committed_as_a_whole_or_not_at_all(
    path: str, sqlite_engine: MakeEngine
) -> None:
    db = await sqlite_engine(max_size=1)

    async def work() -> None:
        async with db.transaction():
            await db.execute("insert into t (id) values (1)")
            await db.execute("insert into t (id) values (2)")

    outcomes = set()
    for patience in range(60):
        task = asyncio.create_task(work())
        await turns(patience)
        task.cancel()
        await asyncio.wait([task])
        outcomes.add(tuple(await db.fetch_column(IDS)))
        await db.execute("delete from t")
    assert outcomes <= {(), (1, 2)}
    assert () in outcomes


# Row 9: what was cancelled in the queue is done later, a BEGIN for nobody.


async def test_a_cancelled_statement_that_had_not_begun_never_runs(
    path: str, sqlite_engine: MakeEngine
) -> None:
    async with bare(path) as conn:
        stop = threading.Event()  # stops one statement, as an interrupt might stop the next too
        await conn.set_progress_handler(lambda: stop.is_set() and stop.clear() is None, 1000)
        running = asyncio.ensure_future(conn.execute_fetchall(ENDLESS))
        queued = asyncio.ensure_future(conn.execute_fetchall("insert into t (id) values (1)"))
        await turns()
        await cancel(queued)
        stop.set()
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            await running
        assert await ids(conn) == [1]

    db = await sqlite_engine(max_size=1)
    async with db.connection() as conn:
        running = asyncio.create_task(conn.execute(ENDLESS))
        await turns()
        queued = asyncio.create_task(conn.execute("insert into t (id) values (1)"))
        await turns()
        await cancel(queued)
        await cancel(running)
    assert await db.fetch_column(IDS) == []


async def test_a_cancelled_begin_does_not_get_the_lock_later(
    path: str, sqlite_engine: MakeEngine
) -> None:
    async with bare(path) as holder, bare(path, timeout=0) as other:
        async with bare(path) as conn:
            await holder.execute("begin immediate")
            begin = asyncio.ensure_future(conn.execute_fetchall("begin immediate"))
            await turns()
            await cancel(begin)
            assert not conn.in_transaction
            await holder.execute("commit")
            await ids(conn)  # the next statement, after which the thread is known to be idle
            assert conn.in_transaction  # nobody's
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                await other.execute("begin immediate")
            await conn.execute("rollback")

        db = await sqlite_engine(max_size=1)

        async def work() -> None:
            async with db.transaction():
                await asyncio.Event().wait()

        await holder.execute("begin immediate")
        task = asyncio.create_task(work())
        await turns()
        await cancel(task)
        await holder.execute("commit")
        assert await db.fetch_column(IDS) == []
        await other.execute("begin immediate")


# Row 10: two tasks on one connection share one transaction.


async def test_what_one_task_has_committed_is_not_undone_by_another(
    path: str, sqlite_engine: MakeEngine
) -> None:
    first_wrote, second_done = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def transaction(conn: aiosqlite.Connection) -> AsyncIterator[None]:
        """What programs write around the driver: begin unless begun, commit what was begun."""
        begun = not conn.in_transaction
        await conn.execute("begin" if begun else "savepoint s")
        try:
            yield
        except BaseException:
            await conn.execute("rollback" if begun else "rollback to s")
            raise
        await conn.execute("commit" if begun else "release s")

    async def first(scope: Any, execute: Any) -> None:
        async with scope:
            await execute("insert into t (id) values (1)")
            first_wrote.set()
            await second_done.wait()
            raise WorkFailedError

    async def second(scope: Any, execute: Any) -> None:
        await first_wrote.wait()
        async with scope:
            await execute("insert into t (id) values (2)")
        second_done.set()

    async with bare(path) as conn:
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(first(transaction(conn), conn.execute))
                group.create_task(second(transaction(conn), conn.execute))
        assert await ids(conn) == []  # the second one's commit has vanished

    db = await sqlite_engine()
    first_wrote.clear()
    second_done.set()  # writers take turns: the first one's end is not to wait for the second's
    results = await asyncio.gather(
        first(db.transaction(), db.execute),
        second(db.transaction(), db.execute),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [WorkFailedError, type(None)]
    assert await db.fetch_column(IDS) == [2]


# Row 14: INSERT ... RETURNING that is not read to its end is not committed.


@pytest.mark.skipif(sqlite3.sqlite_version_info < (3, 35), reason="RETURNING needs SQLite 3.35")
async def test_a_write_whose_rows_nobody_reads_is_complete(
    path: str, sqlite_engine: MakeEngine
) -> None:
    insert = "insert into t (id) values (1), (2), (3) returning id"
    async with bare(path) as conn, bare(path, timeout=0) as other:
        cursor = await conn.execute(insert)
        assert await cursor.fetchone() == (1,)
        assert not conn.in_transaction  # it says
        assert await ids(other) == []  # but nothing is committed
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await other.execute("insert into t (id) values (4)")
        await cursor.close()

    db = await sqlite_engine()
    async with bare(path, timeout=0) as other:
        for read in (db.fetch_val, db.fetch_one, db.execute):
            await read(insert)
            assert await ids(other) == [1, 2, 3]
            await other.execute("delete from t")
        async with db.iterate(insert, batch_size=1) as rows:
            async for row in rows:
                assert row.id == 1
                break
            assert await ids(other) == [1, 2, 3]
            await other.execute("insert into t (id) values (4)")


# Row 15: executescript commits the open transaction.


async def test_a_script_does_not_commit_the_open_transaction(
    path: str, sqlite_engine: MakeEngine
) -> None:
    script = "insert into t (id) values (2); insert into t (id) values (3);"
    async with bare(path) as conn:
        await conn.execute("begin")
        await conn.execute("insert into t (id) values (1)")
        await conn.executescript(script)
        assert not conn.in_transaction
        assert await ids(conn) == [1, 2, 3]

    db = await sqlite_engine()
    with pytest.raises(WorkFailedError):
        async with db.transaction():
            await db.execute("insert into t (id) values (1)")
            await db.execute_script(script)
            assert await db.fetch_column(IDS) == [1, 2, 3]
            raise WorkFailedError
    assert await db.fetch_column(IDS) == []


@pytest.mark.parametrize(
    "control",
    [
        *("begin", "commit", "end", "rollback"),
        "/* rollback to s */ commit",
        "rollback -- and not rollback to s",
        "rollback /* to s */ transaction",
    ],
)
async def test_a_script_that_would_end_the_open_transaction_is_refused_before_it_runs(
    control: str, path: str, sqlite_engine: MakeEngine
) -> None:
    db = await sqlite_engine()
    async with db.transaction():
        await db.execute("insert into t (id) values (1)")
        for call in (
            db.execute_script(f"insert into t (id) values (2); {control}\n;"),
            db.execute_script(f"savepoint s; {control}\n; insert into t (id) values (2)"),
            db.execute(control),
            db.fetch_all(control),
        ):
            with pytest.raises(aiodbkit.TransactionScopeError, match="(?i)transaction") as caught:
                await call
            assert caught.value.query is not None
            assert control in caught.value.query
        await db.execute("insert into t (id) values (3)")
    assert await db.fetch_column(IDS) == [1, 3]


async def test_a_script_may_undo_its_own_savepoint_in_the_open_transaction(
    path: str, sqlite_engine: MakeEngine
) -> None:
    db = await sqlite_engine()
    async with db.transaction():
        await db.execute_script(
            "savepoint s; insert into t (id) values (1); /* commit; */ rollback /* all */ to s;"
            "rollback transaction to savepoint s; insert into t (id) values (2); release s"
        )
    assert await db.fetch_column(IDS) == [2]


# What cannot be stopped at all.


async def test_a_statement_that_cannot_be_stopped_is_left_behind_and_not_waited_for(
    path: str, sqlite_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiodbkit.backends.sqlite.thread._GRACE", 0.02)
    go_on = threading.Event()
    db = await sqlite_engine(max_size=1, acquire_timeout=20)
    async with db.connection() as conn:
        await conn.raw.create_function("wait", 0, lambda: go_on.wait(20) and 1)
        with pytest.raises(aiodbkit.QueryTimeoutError, match=r"timeout=0\.01 s"):
            await conn.execute("insert into t (id) values (wait())", timeout=0.01)
        reader = asyncio.create_task(conn.fetch_column(IDS))
        await turns()
        assert not reader.done()
        go_on.set()
        assert await reader == []
        await conn.execute("insert into t (id) values (2)")
    assert await db.fetch_column(IDS) == [2]
    assert db.pool.stats().opened == 1
