"""Timeouts, cancellation at each step, connections that break: on DB-API modules."""

from __future__ import annotations

import asyncio
import contextlib
import select
import sqlite3
import threading
from urllib.parse import urlsplit

import pytest

import aiodbkit
from aiodbkit import DBAPIEngine
from tests.contract.support import assert_whole

from .conftest import workers


@pytest.fixture
def slow(sql):
    """A statement that runs for long, but not for ever: PyMySQL's cannot be stopped."""
    return sql.slow(1.5 if sql.name == "mysql" else 30)


@pytest.mark.leaves_sessions  # the server notices a closed connection when the statement ends
async def test_past_its_timeout_a_statement_is_given_up_and_the_pool_stays_whole(make_dbapi, slow):
    db = await make_dbapi(max_size=2, min_size=1)
    with pytest.raises(aiodbkit.QueryTimeoutError, match=r"timeout=0\.\d+ s"):
        await db.fetch_val(slow, timeout=0.1)
    await assert_whole(db)


@pytest.mark.leaves_sessions
async def test_a_transaction_goes_on_or_says_that_it_cannot_after_a_timeout(
    make_dbapi, people, slow
):
    db = await make_dbapi(max_size=1)
    ends = contextlib.nullcontext()
    expected = ["x", "y"]
    if db.capabilities.error_aborts_transaction:
        ends = pytest.raises(aiodbkit.InternalError)
        expected = ["Ann", "Bob"]
    with ends:
        async with db.transaction():
            await db.execute("update people set name = 'x' where id = 1")
            with pytest.raises(aiodbkit.QueryTimeoutError):
                await db.fetch_val(slow, timeout=0.1)
            await db.execute("update people set name = 'y' where id = 2")
    names = await db.fetch_column("select name from people where id < 3 order by id")
    assert names == expected
    await assert_whole(db)


@pytest.fixture
def sent(module):
    """An event that is set when the module is given a slow statement, and options that tell it."""
    loop, event = asyncio.get_event_loop(), asyncio.Event()

    def telling(base):
        class Telling(base):
            def execute(self, query, *args):
                self._tell(query)
                return super().execute(query, *args)

            def executemany(self, query, rows):
                self._tell(query)
                return super().executemany(query, rows)

            def _tell(self, query):
                if "waited" in query:
                    loop.call_soon_threadsafe(event.set)

        return Telling

    if module.__name__ == "sqlite3":
        cursor = telling(module.Cursor)

        class Connection(module.Connection):
            def cursor(self):
                return super().cursor(cursor)

        return event, {"factory": Connection}
    if module.__name__ == "psycopg2":
        return event, {"cursor_factory": telling(module.extensions.cursor)}
    return event, {"cursorclass": telling(module.cursors.Cursor)}


@pytest.mark.leaves_sessions
@pytest.mark.parametrize("verb", ["execute", "execute_many", "insert_many", "iterate", "script"])
async def test_any_verb_can_be_cancelled_while_its_statement_runs(
    make_dbapi, people, sql, sent, verb
):
    started, options = sent
    db = await make_dbapi(max_size=1, **options)
    query = sql.slow_insert("people", 0.5).replace("(id) select 1", "(id, name) select 77, 'x'")

    async def rows():
        yield 77, "x"
        started.set()
        await asyncio.Event().wait()

    async def work():
        if verb == "execute":
            await db.execute(query)
        elif verb == "execute_many":
            many = query.replace("select 77", "select 77 + :i")
            await db.execute_many(many, [{"i": 0}, {"i": 1}])
        elif verb == "insert_many":
            async with contextlib.aclosing(rows()) as source:
                await db.insert_many("people", source, columns=["id", "name"])
        elif verb == "script":
            await db.execute_script(f"insert into people values (77, 'x'); {sql.slow(0.5)}")
        else:
            async for _ in db.iterate(sql.slow(0.5)):
                await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Scripts of MySQL run statement by statement: the first one has been done.
    done = 1 if (verb, sql.name) == ("script", "mysql") else 0
    assert await db.fetch_val("select count(*) from people where id >= 77") == done
    await assert_whole(db)


@pytest.mark.leaves_sessions
async def test_a_write_that_was_given_up_has_not_happened_even_if_it_could_not_be_stopped(
    make_dbapi, people, sql
):
    db = await make_dbapi(max_size=1)
    query = sql.slow_insert("people", 1.5).replace("(id) select 1", "(id, name) select 77, 'x'")
    with pytest.raises(aiodbkit.QueryTimeoutError):
        await db.execute(query, timeout=0.1)
    assert await db.fetch_val("select count(*) from people where id = 77") == 0


async def test_a_connection_that_the_server_closed_is_replaced_unnoticed(make_dbapi, sql):
    if sql.name == "sqlite":
        pytest.skip("SQLite has no server")
    db, other = await make_dbapi(max_size=1), await make_dbapi(max_size=1)
    own = "pg_backend_pid()" if sql.name == "postgres" else "connection_id()"
    victim = await db.fetch_val(f"select {own}")
    kill = "select pg_terminate_backend(:v)" if sql.name == "postgres" else "kill :v"
    hangs_up = select.poll()
    hangs_up.register(_idle(db)._socket.fileno(), select.POLLRDHUP)
    await other.execute(kill, {"v": victim})
    assert await asyncio.to_thread(hangs_up.poll, 10_000)
    assert await db.fetch_val(f"select {own}") != victim


def _idle(db):
    (slot,) = db.pool._keeper.slots
    return slot.resource


async def test_a_connection_lost_in_a_transaction_says_so_and_the_pool_goes_on(
    make_dbapi, sql, people, wire_proxy, connect_args
):
    if sql.name == "sqlite":
        pytest.skip("SQLite has no server")
    proxy = await wire_proxy(_url(sql, connect_args))
    db = await make_dbapi(**_by_way_of(proxy, sql), max_size=1)
    with pytest.raises(aiodbkit.ConnectionLostError):
        async with db.transaction():
            await db.execute("update people set name = 'x' where id = 1")
            proxy.cut()
            await db.execute("update people set name = 'y' where id = 1")
    assert await db.fetch_val("select name from people where id = 1") == "Ann"


@pytest.mark.leaves_sessions
@pytest.mark.parametrize(("lost", "kept"), [("up", "Ann"), ("down", "x")])
async def test_a_connection_lost_while_commit_is_on_its_way_leaves_the_outcome_unknown(
    make_dbapi, sql, people, wire_proxy, connect_args, *, lost, kept
):
    """Whether COMMIT or its answer was lost is all one to the caller, but not to the data."""
    if sql.name == "sqlite":
        pytest.skip("SQLite has no server")
    proxy = await wire_proxy(_url(sql, connect_args))
    db = await make_dbapi(**_by_way_of(proxy, sql), max_size=1)
    other = await make_dbapi(max_size=1)
    conn = await db.pool.acquire()
    await conn.begin()
    await conn.execute("update people set name = 'x' where id = 1")
    sent = asyncio.create_task(proxy.seen(b"COMMIT"))
    proxy.hole(lost)
    commit = asyncio.create_task(conn.commit())
    await sent
    if lost == "down":
        await other.fetch_val(_LOCKED)  # returns when the transaction has ended
    proxy.cut()
    with pytest.raises(aiodbkit.CommitUnknownError) as caught:
        await commit
    assert not caught.value.is_transient
    proxy.heal()
    await db.pool.release(conn)
    assert await other.fetch_val(_LOCKED) == kept
    await assert_whole(db)


_LOCKED = "select name from people where id = 1 for update"


@pytest.mark.leaves_sessions
async def test_a_commit_without_an_answer_ends_with_its_deadline(
    make_dbapi, sql, people, wire_proxy, connect_args
):
    if sql.name == "sqlite":
        pytest.skip("SQLite has no server")
    proxy = await wire_proxy(_url(sql, connect_args))
    limits = {"command_timeout": 0.5, "reset_timeout": 0.2}
    db = await make_dbapi(**_by_way_of(proxy, sql), max_size=1, **limits)
    with pytest.raises(aiodbkit.CommitUnknownError, match=r"command_timeout=0\.5 s"):
        async with db.transaction():
            await db.execute("update people set name = 'x' where id = 1")
            proxy.hole("down")
    proxy.heal()
    await assert_whole(db)


@pytest.mark.leaves_sessions
async def test_a_server_that_answers_no_more_does_not_keep_thread_or_pool(
    make_dbapi, sql, wire_proxy, connect_args
):
    if sql.name == "sqlite":
        pytest.skip("SQLite has no server")
    proxy = await wire_proxy(_url(sql, connect_args))
    db = await make_dbapi(**_by_way_of(proxy, sql), max_size=1, reset_timeout=0.2)
    await db.fetch_val("select 1")
    closed = asyncio.Event()

    class Listener(aiodbkit.Listener):
        def on_pool(self, event):
            if event.kind == "closed":
                closed.set()

    db.add_listener(Listener())
    proxy.hole()
    with pytest.raises(aiodbkit.QueryTimeoutError):
        await db.fetch_val("select 1", timeout=0.1)
    await closed.wait()
    assert db.pool.stats().size == 0
    for thread in workers():
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()
    proxy.heal()
    assert await db.fetch_val("select 1") == 1


def _url(sql, connect_args):
    scheme = "postgresql" if sql.name == "postgres" else "mysql"
    return f"{scheme}://u@{connect_args['host']}:{connect_args['port']}/x"


def _by_way_of(proxy, sql):
    """Without TLS, which PyMySQL uses where it can: the proxy is to see what is sent."""
    parts = urlsplit(proxy.url)
    plain = {"ssl_disabled": True} if sql.name == "mysql" else {}
    return {"host": parts.hostname, "port": parts.port, **plain}


async def test_a_connection_lost_during_commit_leaves_the_outcome_unknown(tmp_path):
    class Breaking(sqlite3.Connection):
        """Commits, and is gone before it can say so."""

        def commit(self):
            super().commit()
            self.close()
            raise sqlite3.OperationalError("gone")

    # Not recognised, so that transactions are ended by commit().
    plain = _Module("plain")
    path = tmp_path / "test.db"
    db = DBAPIEngine(lambda: sqlite3.connect(path, factory=Breaking), dbapi=plain)
    with sqlite3.connect(path) as setup:
        setup.execute("create table t (id int)")
    setup.close()
    async with db:
        with pytest.raises(aiodbkit.CommitUnknownError) as caught:
            async with db.transaction():
                await db.execute("insert into t values (1)")
        assert not caught.value.is_transient
        with pytest.raises(aiodbkit.CommitUnknownError):
            await db.execute("insert into t values (2)")
        assert db.pool.stats().in_use == 0


class _Module:
    """sqlite3 under another name: all that is known of it is PEP 249."""

    def __init__(self, name):
        self.__name__ = name

    def __getattr__(self, name):
        return getattr(sqlite3, name)


async def test_a_module_of_which_nothing_is_known_has_transactions_too(tmp_path):
    async with DBAPIEngine(_Module("plain"), tmp_path / "test.db", max_size=2) as db:
        await db.execute("create table t (id int primary key)")
        await db.insert_many("t", [{"id": 1}, {"id": 2}])
        with pytest.raises(aiodbkit.IntegrityError):
            await db.execute_many("insert into t values (:i)", [{"i": 3}, {"i": 1}])
        async with db.transaction():
            await db.execute("insert into t values (3)")
            with pytest.raises(ZeroDivisionError):
                async with db.transaction():
                    await db.execute("insert into t values (4)")
                    raise ZeroDivisionError
        async with db.transaction(force_rollback=True):
            await db.execute("delete from t")
        assert [row.id async for row in db.iterate("select id from t order by id")] == [1, 2, 3]
        with pytest.raises(aiodbkit.NotSupportedError, match="isolation"):
            await db.transaction(isolation="serializable").__aenter__()
        await assert_whole(db)


async def test_no_two_threads_are_ever_on_one_connection(tmp_path):
    inside, most = 0, 0
    lock = threading.Lock()

    class Watched(sqlite3.Connection):
        def cursor(self, *args, **kwargs):
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            try:
                return super().cursor(*args, **kwargs)
            finally:
                with lock:
                    inside -= 1

    async with DBAPIEngine(sqlite3, tmp_path / "t.db", factory=Watched, max_size=1) as db:
        async with db.connection() as conn:
            await asyncio.gather(*(conn.fetch_val("select 1") for _ in range(50)))
        with pytest.raises(aiodbkit.QueryTimeoutError):
            await db.fetch_val(_FOREVER, timeout=0.05)
        assert await db.fetch_val("select 1") == 1
    assert most == 1


_FOREVER = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"


async def test_a_thread_that_cannot_be_stopped_is_left_behind_and_ends_by_itself(tmp_path):
    go_on, begun = threading.Event(), threading.Event()

    def connect():
        db = sqlite3.connect(tmp_path / "test.db")
        db.create_function("wait", 0, lambda: (begun.set(), go_on.wait(20))[1])
        return db

    async with DBAPIEngine(connect, max_size=1, reset_timeout=0.05) as db:
        with pytest.raises(aiodbkit.QueryTimeoutError):
            await db.fetch_val("select wait()", timeout=0.05)
        assert begun.is_set()
        assert await db.fetch_val("select 1") == 1  # on another connection
        go_on.set()
    for thread in workers():
        thread.join(5)
        assert not thread.is_alive()


async def test_a_connection_that_comes_too_late_is_closed(tmp_path):
    go_on, closed = threading.Event(), threading.Event()

    class Late(sqlite3.Connection):
        def close(self):
            super().close()
            closed.set()

    def connect():
        go_on.wait(20)
        return sqlite3.connect(tmp_path / "test.db", factory=Late)

    db = DBAPIEngine(connect, min_size=1, connect_timeout=0.05)
    with pytest.raises(aiodbkit.CannotConnectError, match="connect_timeout"):
        await db.connect()
    go_on.set()
    assert await asyncio.to_thread(closed.wait, 5)
    await db.close()
