"""A backend in one file: SQLite by the standard library, each connection on a thread of its own.

Run as a script, it puts itself to the test:

    python examples/04_a_backend_in_one_file.py

`docs/backends-of-your-own.md` explains it. Values are those that SQLite itself has: numbers, text,
bytes. `insert_many` holds all of its rows in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
import tempfile
import unittest
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import aiodbkit
from aiodbkit.driver import (
    Capabilities,
    Driver,
    DriverConnection,
    DriverCursor,
    ExecuteResult,
    Fetched,
    Params,
)
from aiodbkit.options import TransactionOptions
from aiodbkit.sql import Dialect, Statement, compile_sql, split
from aiodbkit.testing.conformance import ConformanceSuite

T = TypeVar("T")

# The driver: opens connections.


class TinyDriver(Driver):
    capabilities = Capabilities(
        isolation_levels=frozenset({"serializable"}),
        lock_modes=True,
        ddl_is_transactional=True,
        concurrent_writers=False,
    )

    def __init__(
        self,
        target: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        connection_factory: Any,
        reset: str,
        **_unused: Any,  # connect_timeout: whoever calls connect() cancels it
    ) -> None:
        if connection_factory is not None:
            raise aiodbkit.ConfigurationError("TinyEngine opens its connections itself")
        self._path = str(target.get("database") or ":memory:")
        self._lock_timeout = float(options.get("lock_timeout", 5.0))
        self._reset = reset

    @classmethod
    def options(cls) -> Mapping[str, Any]:
        return {"lock_timeout": float}

    async def connect(self) -> TinyConnection:
        thread = ThreadPoolExecutor(1, thread_name_prefix="tiny")
        opening = thread.submit(self._open)
        try:
            return TinyConnection(await asyncio.wrap_future(opening), thread, self._reset)
        except sqlite3.Error as error:
            thread.shutdown(wait=False)
            raise aiodbkit.CannotConnectError(
                f"cannot open {self._path}: {error}",
                is_transient=code_of(error) == sqlite3.SQLITE_BUSY,
            ) from error
        except BaseException:  # cancelled: what the thread still opens, it closes again
            opening.add_done_callback(close_opened)
            thread.shutdown(wait=False)
            raise

    def _open(self) -> sqlite3.Connection:
        # isolation_level=None: no BEGIN but ours. Only one thread runs statements on it, but
        # interrupt() comes from the loop's.
        return sqlite3.connect(
            self._path, timeout=self._lock_timeout, isolation_level=None, check_same_thread=False
        )

    def quote(self, identifier: str) -> str:
        return quoted(identifier)


def close_opened(opening: Future[sqlite3.Connection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


# The connection.


class TinyConnection(DriverConnection):
    def __init__(self, raw: sqlite3.Connection, thread: ThreadPoolExecutor, reset: str) -> None:
        super().__init__(raw)
        self._thread = thread
        self._reset = reset
        self._touched = reset == "always"
        self._closed = self._began = False
        self._cursors: set[sqlite3.Cursor] = set()

    @property
    def is_closed(self) -> bool:
        return self._closed

    @property
    def in_transaction(self) -> bool:
        return not self._closed and self.raw.in_transaction

    @property
    def is_dirty(self) -> bool:
        return self.suspect or self._touched or self.in_transaction or bool(self._cursors)

    def expose(self) -> Any:
        self._touched = self._reset != "never"
        return self.raw

    def keep_session(self) -> None:
        self._touched = self._reset == "always"

    async def _run(
        self, work: Callable[[], T], sql: str | None = None, timeout: float | None = None
    ) -> T:
        if self._closed:
            raise aiodbkit.ConnectionLostError(
                "the connection was closed: nothing was sent", query=sql, is_transient=True
            )
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(self._thread.submit(self._start, work))
        except TimeoutError as error:
            self._interrupt()
            raise timed_out(timeout, sql) from error
        except Exception as error:
            raise self._ours(error, sql) from error
        except BaseException:  # cancelled
            self._interrupt()
            raise

    def _start(self, work: Callable[[], T]) -> T:
        """On the thread."""
        if self._closed:
            raise sqlite3.ProgrammingError("nothing was sent")
        return work()

    def _interrupt(self) -> None:
        """Stop what runs. Whether it has done anything is for `recover` to find out."""
        self.suspect = True
        with contextlib.suppress(sqlite3.ProgrammingError):  # it is closed
            self.raw.interrupt()

    def _ours(self, error: Exception, sql: str | None) -> aiodbkit.Error:
        if isinstance(error, aiodbkit.Error):
            return error
        if self._closed:
            return aiodbkit.ConnectionLostError(f"the connection was closed: {error}", query=sql)
        ours = translated(error, sql)
        self._note_end(ours)
        return ours

    def _note_end(self, reason: aiodbkit.Error) -> None:
        """SQLite rolls back by itself after some errors, a full disk or an interrupted write."""
        if self._began and not self.raw.in_transaction:
            self._began, self.transaction_lost = False, reason

    def _prepared(self, sql: str) -> Statement:
        statement = compile_sql(sql, Dialect.SQLITE)
        if statement.count != 1:
            raise aiodbkit.ProgrammingError(
                f"one statement is expected, not {statement.count}", query=sql
            )
        if statement.keyword in {"pragma", "attach", "detach"} or "temp" in sql.lower():
            self._touched = self._reset != "never"
        return statement

    async def execute(self, sql: str, params: Params, timeout: float | None) -> ExecuteResult:
        statement = self._prepared(sql)
        text, args = statement.bind(params)

        def work() -> ExecuteResult:
            cursor = self.raw.execute(text, args)
            if cursor.description is not None:
                cursor.fetchall()  # SQLite is not done before
            inserts = statement.keyword in ("insert", "replace") and cursor.rowcount > 0
            return ExecuteResult(cursor.rowcount, cursor.lastrowid if inserts else None)

        return await self._run(work, sql, timeout)

    async def fetch(
        self, sql: str, params: Params, timeout: float | None, limit: int = 0
    ) -> Fetched:
        statement = self._prepared(sql)
        text, args = statement.bind(params)
        if not statement.is_read:
            limit = 0  # half read, it would be half done

        def work() -> Fetched:
            cursor = self.raw.execute(text, args)
            rows = cursor.fetchmany(limit) if limit else cursor.fetchall()
            cursor.close()
            return columns_of(cursor), rows

        return await self._run(work, sql, timeout)

    async def execute_many(
        self, sql: str, rows: Sequence[Params], timeout: float | None
    ) -> ExecuteResult:
        text, bound = self._prepared(sql).bind_many(rows)
        work = self._whole(lambda: self.raw.executemany(text, bound).rowcount)
        return ExecuteResult(await self._run(work, sql, timeout))

    async def execute_script(self, sql: str, timeout: float | None) -> None:
        # Not by executescript(), which commits an open transaction first.
        statements = split(sql, Dialect.SQLITE)
        for statement in statements:
            if self._prepared(statement).keyword in {"begin", "commit", "end", "rollback"}:
                raise aiodbkit.TransactionScopeError(
                    "leave BEGIN, COMMIT and ROLLBACK out of a script. Nothing was sent", query=sql
                )

        def work() -> None:
            for statement in statements:
                self.raw.execute(statement).fetchall()

        await self._run(self._whole(work), sql, timeout)

    async def insert_many(
        self,
        table: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        timeout: float | None,
    ) -> int:
        names, holes = ", ".join(map(quoted, columns)), ", ".join("?" * len(columns))
        place = ".".join(map(quoted, table.split(".")))
        sql = f"insert into {place} ({names}) values ({holes})"
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                listed = await listed_from(rows)
                work = self._whole(lambda: self.raw.executemany(sql, listed))
                await self._run(work, sql)
        except TimeoutError as error:
            if not limit.expired():
                raise  # of the caller's own rows
            raise timed_out(timeout, sql) from error
        return len(listed)

    def _whole(self, work: Callable[[], T]) -> Callable[[], T]:
        """All of it or nothing: in a savepoint, which where none is open begins a transaction."""

        def whole() -> T:
            self.raw.execute("savepoint tiny_whole")
            try:
                result = work()
                self.raw.execute("release tiny_whole")
            except BaseException:
                if self.raw.in_transaction:  # SQLite may have rolled back all of it
                    self.raw.execute("rollback to tiny_whole")
                    self.raw.execute("release tiny_whole")
                raise
            return result

        return whole

    async def open_cursor(
        self, sql: str, params: Params, timeout: float | None, batch_size: int
    ) -> TinyCursor:
        statement = self._prepared(sql)
        if not statement.is_read:  # half read, it would be half done
            columns, rows = await self.fetch(sql, params, timeout)
            return TinyCursor(self, (sql, timeout, batch_size), columns, None, rows)
        text, args = statement.bind(params)

        def work() -> sqlite3.Cursor:
            cursor: sqlite3.Cursor = self.raw.execute(text, args)
            self._cursors.add(cursor)
            return cursor

        cursor = await self._run(work, sql, timeout)
        return TinyCursor(self, (sql, timeout, batch_size), columns_of(cursor), cursor)

    async def begin(self, options: TransactionOptions) -> None:
        is_serializable = options.isolation in (None, "serializable")
        if not is_serializable or options.deferrable or options.read_only:
            raise aiodbkit.NotSupportedError("its transactions are serializable, and can write")
        begin = f"begin {options.mode or 'immediate'}"
        await self._run(lambda: self.raw.execute(begin), "BEGIN")
        self._began, self.transaction_lost = True, None

    async def commit(self) -> None:
        if self.transaction_lost is not None:
            raise aiodbkit.InternalError(
                f"nothing was committed: {self.transaction_lost}"
            ) from self.transaction_lost
        self._began = False
        await self._run(lambda: self._end("commit"), "COMMIT")

    async def rollback(self) -> None:
        self._began = False
        if self.in_transaction:
            await self._run(lambda: self._end("rollback"), "ROLLBACK")

    def _end(self, how: str) -> None:
        """On the thread."""
        self._close_cursors()
        if self.raw.in_transaction:
            self.raw.execute(how)

    async def ping(self) -> None:
        await self._run(lambda: self.raw.execute("select 1").fetchall(), "ping")

    async def recover(self) -> None:
        if self._closed:
            raise aiodbkit.ConnectionLostError("the connection was closed")
        # The thread comes to this when the interrupted statement has ended. One that had not begun
        # when it was interrupted knows nothing of that, and is interrupted again.
        ended = asyncio.wrap_future(self._thread.submit(int))
        while not (await asyncio.wait({ended}, timeout=0.02))[0]:
            self._interrupt()
        # SQLite forgets an interrupt when nothing runs any more: not while a cursor is open. And a
        # transaction that nobody has begun is what an interrupted execute_many() has left.
        await self._run(self._close_cursors if self._began else lambda: self._end("rollback"))
        self.suspect = False
        self._note_end(aiodbkit.InternalError("an interrupted statement rolled it back"))

    def _close_cursors(self) -> None:
        """On the thread. An open one keeps a lock, even of a connection that was closed."""
        while self._cursors:
            self._cursors.pop().close()

    async def clean(self) -> None:
        self._began = False
        if self.suspect:
            await self.recover()
        if self._touched:
            raise aiodbkit.InterfaceError("the session may have been changed: it is replaced")
        await self._run(lambda: self._end("rollback"), "ROLLBACK")
        self.transaction_lost = None

    async def close(self) -> None:
        if self._closed:
            return
        ended = asyncio.wrap_future(self._leave())
        try:
            await asyncio.shield(ended)
        except BaseException:
            self._interrupt()  # what it waits for
            raise

    def abort(self) -> None:
        if not self._closed:
            self._interrupt()
            self._leave()

    def _leave(self) -> Future[None]:
        self._closed = True
        ended = self._thread.submit(self._shut)
        self._thread.shutdown(wait=False)
        return ended

    def _shut(self) -> None:
        self._close_cursors()
        self.raw.close()


class TinyCursor(DriverCursor):
    """Rows in batches: of a cursor on the thread, or those that are here already."""

    def __init__(
        self,
        connection: TinyConnection,
        how: tuple[str, float | None, int],
        columns: Sequence[str],
        cursor: sqlite3.Cursor | None,
        rows: Sequence[Any] = (),
    ) -> None:
        self._connection, self._columns = connection, columns
        self._sql, self._timeout, self._size = how
        self._cursor, self._rows = cursor, rows

    async def fetch(self) -> Fetched:
        cursor = self._cursor
        if cursor is None:
            batch, self._rows = self._rows[: self._size], self._rows[self._size :]
            return self._columns, batch
        rows = await self._connection._run(
            lambda: cursor.fetchmany(self._size), self._sql, self._timeout
        )
        return self._columns, rows

    async def close(self) -> None:
        connection, cursor = self._connection, self._cursor
        if cursor in connection._cursors and not connection.is_closed:
            await connection._run(cursor.close, self._sql)
            connection._cursors.discard(cursor)


# Errors and names.

KINDS: Mapping[int, type[aiodbkit.Error]] = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: aiodbkit.UniqueViolationError,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: aiodbkit.UniqueViolationError,
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: aiodbkit.NotNullViolationError,
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: aiodbkit.ForeignKeyViolationError,
    sqlite3.SQLITE_CONSTRAINT_CHECK: aiodbkit.CheckViolationError,
    sqlite3.SQLITE_CONSTRAINT: aiodbkit.IntegrityError,
    sqlite3.SQLITE_BUSY: aiodbkit.LockTimeoutError,
    sqlite3.SQLITE_TOOBIG: aiodbkit.DataError,
    sqlite3.SQLITE_ERROR: aiodbkit.ProgrammingError,
}


def timed_out(timeout: float | None, sql: str | None) -> aiodbkit.QueryTimeoutError:
    return aiodbkit.QueryTimeoutError(f"timeout={timeout} s has passed", query=sql)


def translated(error: Exception, sql: str | None) -> aiodbkit.Error:
    if isinstance(error, sqlite3.Error | sqlite3.Warning):
        code = code_of(error)
        default = aiodbkit.OperationalError if code else aiodbkit.ProgrammingError
        kind = KINDS.get(code) or KINDS.get(code & 0xFF, default)
        return kind(str(error), code=code or None, query=sql)
    # A number too large, text that is no UTF-8: of Python's error no more than its name is told,
    # because its text may hold the value.
    return aiodbkit.DataError(f"sqlite3 raised {type(error).__name__} for a value", query=sql)


def code_of(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0)


def columns_of(cursor: sqlite3.Cursor) -> list[str]:
    return [column[0] for column in cursor.description or ()]


async def listed_from(rows: Iterable[T] | AsyncIterable[T]) -> list[T]:
    return [row async for row in rows] if isinstance(rows, AsyncIterable) else list(rows)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# The engine: which URLs, and which driver.


class TinyEngine(aiodbkit.Engine):
    schemes = ("tiny",)
    drivers: ClassVar = {"sqlite3": TinyDriver}


aiodbkit.register_backend("tiny", TinyEngine)


# The test.


class TestTiny(ConformanceSuite, unittest.TestCase):
    session = "pragma cache_size = 7", "pragma cache_size"

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "tiny.db")

    def create_engine(self, **options: Any) -> aiodbkit.Engine:
        return aiodbkit.create_engine(f"tiny:///{self.path}", **options)

    def slow(self, seconds: float) -> str:
        rows = int(seconds * 3_000_000)
        numbers = f"select 1 union all select i + 1 from n limit {rows}"
        return f"with recursive n(i) as ({numbers}) select count(*) from n"


if __name__ == "__main__":
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(TestTiny).run(result)
    for test, told in [*result.failures, *result.errors]:
        print(f"{test.id()} failed:\n{told}")
    for test, why in result.skipped:
        print(f"{test.id().rpartition('.')[2]} was skipped: {why}")
    if not result.wasSuccessful():
        sys.exit(1)
    print("TinyEngine passes the conformance suite")
