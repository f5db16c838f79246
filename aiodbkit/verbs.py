"""The verbs: the same on an engine, a connection and a session, written once.

Whoever has the verbs says where a statement runs: `_use` returns, without awaiting, a context
manager that yields the driver's connection for one statement, or None when there is something to
wait for, and then `_wait` waits, and says how much of the time is left. Two frames of ours stand
on the driver's call: a verb and the backend's method.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from aiodbkit import core_statements
from aiodbkit.core_statements import SQL, CoreMetaData, CoreTable
from aiodbkit.driver import DriverConnection, ExecuteResult, Fetched, Params
from aiodbkit.errors import ConnectionLostError, ProgrammingError, QueryTimeoutError
from aiodbkit.inserting import rows_in_order
from aiodbkit.options import count, seconds
from aiodbkit.rows import Row, column_values, converter, first_row, make_rows, value

if TYPE_CHECKING:
    from aiodbkit.stream import Stream

__all__ = ["Turn", "Verbs", "time_left", "waited"]

T = TypeVar("T")

Into = type[T] | Callable[[Row], T]

# What yields the driver's connection for one statement, and the seconds that are left for it.
Turn: TypeAlias = tuple[AbstractContextManager[DriverConnection], float | None]


class Verbs:
    """Statements. Every verb takes ``timeout`` in seconds; None is the engine's default.

    The time counts once: what a wait for the connection took is not there for the statement.

    Raises (all of them):
        QueryTimeoutError: past ``timeout``; the statement was cancelled at the server, or not sent.
        ProgrammingError: wrong SQL, missing or unused parameters.
        PoolTimeoutError: no connection within ``timeout`` or ``acquire_timeout``.
        InterfaceError: used before it was opened or after it was closed.
        Error: what the database said, see `aiodbkit.errors`.
    """

    __slots__ = ()

    _command_timeout: float | None

    def _use(self) -> AbstractContextManager[DriverConnection] | None:
        raise NotImplementedError

    async def _wait(self, limit: float | None) -> Turn:
        raise NotImplementedError

    def _stream(
        self, sql: str, params: Params, into: Any, batch_size: int, timeout: float | None
    ) -> Stream[Any]:
        raise NotImplementedError

    def _may_read_again(self, sql: str) -> bool:  # noqa: ARG002 - an engine may, see there
        """Whether ``sql``, whose connection was lost, may be sent once more, on another one."""
        return False

    async def _read_again(
        self, sql: str, params: Params, timeout: float | None, since: float, most: int = 0
    ) -> Fetched:
        """Read on another connection, in the time that is left."""
        limit = time_left(self._limit(timeout), since)
        if (turn := self._use()) is None:
            turn, limit = await self._wait(limit)
        with turn as driver:
            return await driver.fetch(sql, params, limit, most)

    def _limit(self, timeout: float | None) -> float | None:
        if timeout is None:
            return self._command_timeout
        seconds("timeout", timeout)
        return timeout

    async def execute(
        self, sql: SQL, params: Params = None, *, timeout: float | None = None
    ) -> ExecuteResult:
        """Run one statement and return what it did."""
        if type(sql) is not str:
            return await core_statements.run(self, "execute", sql, params, timeout=timeout)  # type: ignore[no-any-return]
        limit = self._limit(timeout)
        if (turn := self._use()) is None:
            turn, limit = await self._wait(limit)
        with turn as driver:
            return await driver.execute(sql, params, limit)

    async def execute_many(
        self,
        sql: SQL,
        rows: Iterable[Mapping[str, Any] | Sequence[Any]],
        *,
        timeout: float | None = None,
    ) -> ExecuteResult:
        """Run one statement for each of ``rows``: all of them take effect, or none.

        Raises:
            ProgrammingError: ``rows`` is empty.
        """
        if type(sql) is not str:
            return await core_statements.run(self, "execute_many", sql, rows, timeout=timeout)  # type: ignore[no-any-return]
        listed = list(rows)
        if not listed:
            raise ProgrammingError(
                "execute_many() was given no rows: skip the call when there is nothing to do",
                query=sql,
            )
        limit = self._limit(timeout)
        if (turn := self._use()) is None:
            turn, limit = await self._wait(limit)
        with turn as driver:
            return await driver.execute_many(sql, listed, limit)

    async def execute_script(self, sql: str, *, timeout: float | None = None) -> None:
        """Run several statements, without parameters."""
        if type(sql) is not str:
            sql = core_statements.script(sql)
        limit = self._limit(timeout)
        if (turn := self._use()) is None:
            turn, limit = await self._wait(limit)
        with turn as driver:
            await driver.execute_script(sql, limit)

    @overload
    async def fetch_all(
        self, sql: SQL, params: Params = None, *, into: None = None, timeout: float | None = None
    ) -> list[Row]: ...
    @overload
    async def fetch_all(
        self, sql: SQL, params: Params = None, *, into: type[T], timeout: float | None = None
    ) -> list[T]: ...
    @overload
    async def fetch_all(
        self,
        sql: SQL,
        params: Params = None,
        *,
        into: Callable[[Row], T],
        timeout: float | None = None,
    ) -> list[T]: ...
    async def fetch_all(
        self, sql: SQL, params: Params = None, *, into: Any = None, timeout: float | None = None
    ) -> Any:
        """Return all rows, as `Row` or as ``into`` makes them."""
        if type(sql) is not str:
            options = {"into": into, "timeout": timeout}
            return await core_statements.run(self, "fetch_all", sql, params, **options)
        limit = self._limit(timeout)
        since = 0.0 if limit is None else monotonic()
        try:
            if (turn := self._use()) is None:
                turn, limit = await self._wait(limit)
            with turn as driver:
                columns, rows = await driver.fetch(sql, params, limit)
        except ConnectionLostError:
            if not self._may_read_again(sql):
                raise
            columns, rows = await self._read_again(sql, params, timeout, since)
        if not rows:
            return []
        if into is None:
            return make_rows(columns, rows)
        return list(map(converter(into, columns), rows))

    @overload
    async def fetch_one(
        self, sql: SQL, params: Params = None, *, into: None = None, timeout: float | None = None
    ) -> Row | None: ...
    @overload
    async def fetch_one(
        self, sql: SQL, params: Params = None, *, into: type[T], timeout: float | None = None
    ) -> T | None: ...
    @overload
    async def fetch_one(
        self,
        sql: SQL,
        params: Params = None,
        *,
        into: Callable[[Row], T],
        timeout: float | None = None,
    ) -> T | None: ...
    async def fetch_one(
        self, sql: SQL, params: Params = None, *, into: Any = None, timeout: float | None = None
    ) -> Any:
        """Return the first row, or None when there is none."""
        if type(sql) is not str:
            options = {"into": into, "timeout": timeout}
            return await core_statements.run(self, "fetch_one", sql, params, **options)
        limit = self._limit(timeout)
        since = 0.0 if limit is None else monotonic()
        try:
            if (turn := self._use()) is None:
                turn, limit = await self._wait(limit)
            with turn as driver:
                columns, rows = await driver.fetch(sql, params, limit, 1)
        except ConnectionLostError:
            if not self._may_read_again(sql):
                raise
            columns, rows = await self._read_again(sql, params, timeout, since, 1)
        if not rows:
            return None
        if into is None:
            return first_row(columns, rows)
        return converter(into, columns)(rows[0])

    async def fetch_val(
        self,
        sql: SQL,
        params: Params = None,
        *,
        column: int | str = 0,
        timeout: float | None = None,
    ) -> Any:
        """Return one value of the first row, or None when there is no row."""
        if type(sql) is not str:
            options = {"column": column, "timeout": timeout}
            return await core_statements.run(self, "fetch_val", sql, params, **options)
        limit = self._limit(timeout)
        since = 0.0 if limit is None else monotonic()
        try:
            if (turn := self._use()) is None:
                turn, limit = await self._wait(limit)
            with turn as driver:
                columns, rows = await driver.fetch(sql, params, limit, 1)
        except ConnectionLostError:
            if not self._may_read_again(sql):
                raise
            columns, rows = await self._read_again(sql, params, timeout, since, 1)
        return value(columns, rows, column)

    async def fetch_column(
        self,
        sql: SQL,
        params: Params = None,
        *,
        column: int | str = 0,
        timeout: float | None = None,
    ) -> list[Any]:
        """Return the values of one column."""
        if type(sql) is not str:
            options = {"column": column, "timeout": timeout}
            return await core_statements.run(self, "fetch_column", sql, params, **options)  # type: ignore[no-any-return]
        limit = self._limit(timeout)
        since = 0.0 if limit is None else monotonic()
        try:
            if (turn := self._use()) is None:
                turn, limit = await self._wait(limit)
            with turn as driver:
                columns, rows = await driver.fetch(sql, params, limit)
        except ConnectionLostError:
            if not self._may_read_again(sql):
                raise
            columns, rows = await self._read_again(sql, params, timeout, since)
        return column_values(columns, rows, column)

    @overload
    def iterate(
        self,
        sql: SQL,
        params: Params = None,
        *,
        into: None = None,
        batch_size: int = 500,
        timeout: float | None = None,
    ) -> Stream[Row]: ...
    @overload
    def iterate(
        self,
        sql: SQL,
        params: Params = None,
        *,
        into: type[T],
        batch_size: int = 500,
        timeout: float | None = None,
    ) -> Stream[T]: ...
    @overload
    def iterate(
        self,
        sql: SQL,
        params: Params = None,
        *,
        into: Callable[[Row], T],
        batch_size: int = 500,
        timeout: float | None = None,
    ) -> Stream[T]: ...
    def iterate(
        self,
        sql: SQL,
        params: Params = None,
        *,
        into: Any = None,
        batch_size: int = 500,
        timeout: float | None = None,
    ) -> Stream[Any]:
        """Return an async iterator over a server-side cursor, in constant memory.

        ``async with db.iterate(...) as rows`` closes the cursor at the block's end; a plain
        ``async for`` closes it with the last row, or when the iterator is dropped.

        Args:
            batch_size: rows fetched at once.
            timeout: seconds for each batch.
        """
        if type(sql) is not str:
            options: dict[str, Any] = {"batch_size": batch_size, "timeout": timeout}
            return core_statements.iterate(self, sql, params, into, **options)
        count("batch_size", batch_size, least=1)
        return self._stream(sql, params, into, batch_size, self._limit(timeout))

    async def insert_many(
        self,
        table: str | CoreTable,
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        columns: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Insert rows by the backend's fastest safe way, all or none; return how many.

        Args:
            table: the name as it stands in the database, with its schema if need be; or a Table of
                SQLAlchemy, whose types and Python-side defaults are applied.
            rows: mappings, or sequences together with ``columns``; sync or async iterable.

        Raises:
            ProgrammingError: a row's columns are not those of the first one.
        """
        if type(table) is not str:
            return await core_statements.insert_into(self, table, rows, columns, timeout)
        names, values = await rows_in_order(table, rows, columns)
        if not names:
            return 0
        limit = self._limit(timeout)
        if (turn := self._use()) is None:
            turn, limit = await self._wait(limit)
        with turn as driver:
            driver.feeder = asyncio.current_task()
            try:
                return await driver.insert_many(table, names, values, limit)
            finally:
                driver.feeder = None

    async def create_all(
        self,
        metadata: CoreMetaData,
        *,
        checkfirst: bool = True,
        tables: Sequence[CoreTable] | None = None,
    ) -> None:
        """Create the tables of a MetaData of SQLAlchemy, with indexes, sequences and types.

        In one transaction, except on MySQL, whose DDL has none. Two at a time take turns.

        Args:
            checkfirst: leave what is there already as it is.
            tables: only these.

        Raises:
            NotSupportedError: in a transaction on MySQL, where DDL would commit it.
            LockTimeoutError: on MySQL, another one took longer than a minute.
        """
        await core_statements.schema(self, metadata, tables, create=True, checkfirst=checkfirst)

    async def drop_all(
        self,
        metadata: CoreMetaData,
        *,
        checkfirst: bool = True,
        tables: Sequence[CoreTable] | None = None,
    ) -> None:
        """Drop the tables of a MetaData of SQLAlchemy; as `create_all`.

        Args:
            checkfirst: pass over what is not there.
            tables: only these.
        """
        await core_statements.schema(self, metadata, tables, create=False, checkfirst=checkfirst)


class _Waited:
    """A turn that had to be waited for: a statement that then runs out of time tells of it."""

    __slots__ = ("_left", "_limit", "_turn")

    def __init__(
        self, turn: AbstractContextManager[DriverConnection], limit: float, left: float
    ) -> None:
        self._turn = turn
        self._limit = limit
        self._left = left

    def __enter__(self) -> DriverConnection:
        return self._turn.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc, QueryTimeoutError):
            took = self._limit - self._left
            exc.add_note(f"the wait for the connection took {took:.3f} s of the {self._limit:g} s")
        self._turn.__exit__(exc_type, exc, traceback)


def waited(
    turn: AbstractContextManager[DriverConnection], limit: float | None, left: float | None
) -> Turn:
    """Return what `_wait` returns: the turn, and the seconds that are left for its statement."""
    if limit is None or left is None:
        return turn, None
    return _Waited(turn, limit, left), left


def time_left(limit: float | None, since: float) -> float | None:
    """Return what a wait that began at ``since`` has left of ``limit``, rounded to be read.

    Raises:
        QueryTimeoutError: nothing.
    """
    if limit is None:
        return None
    left = round(limit - (monotonic() - since), 3)
    if left <= 0.0:
        raise QueryTimeoutError(
            f"the wait for the connection took all of the {limit:g} s: nothing was sent"
        )
    return left
