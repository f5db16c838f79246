"""Rows of one statement, one at a time, over a server-side cursor: constant memory.

Where nothing else can run while the cursor is open (an unbuffered MySQL result, or a cursor that
has to keep a transaction of its own open), the stream keeps its connection's turn until it is
closed; elsewhere it takes a turn for each batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from enum import Enum, auto
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiodbkit.driver import DriverConnection, DriverCursor, Fetched, Params
from aiodbkit.errors import Error, InterfaceError, QueryTimeoutError
from aiodbkit.options import TransactionOptions
from aiodbkit.rows import converter, make_rows

if TYPE_CHECKING:
    from aiodbkit.connection import Connection
    from aiodbkit.engine import Engine
    from aiodbkit.session import Session
    from aiodbkit.shared import SharedConnection

__all__ = ["Stream"]

T = TypeVar("T")
V = TypeVar("V")


class StreamState(Enum):
    NEW = auto()
    OPEN = auto()
    CLOSED = auto()


class Stream(Generic[T]):
    """What `iterate` returns: an async iterator, and a context manager that closes it.

    An `async for` that is left early closes the stream when it is dropped; in an `async with`
    the end of the block does.
    """

    def __init__(  # noqa: PLR0917 - made by iterate() alone
        self,
        source: Engine | Connection | Session | SharedConnection,
        sql: str,
        params: Params,
        into: Any,
        batch_size: int,
        timeout: float | None,
    ) -> None:
        self._source = source
        self._sql = sql
        self._params = params
        self._into = into
        self._batch_size = batch_size
        self._timeout = timeout
        self._state = StreamState.NEW
        self._rows: Iterator[T] = iter(())
        self._connection: Connection | None = None
        self._owned = False  # taken from the pool for this stream alone
        self._keeps_turn = False
        self._closing = _Closing()
        self._fetching = False
        self._is_cut = False
        self._has_failed = False
        self._deadline: float | None = None  # of a batch that had to wait for its connection
        self._loop: asyncio.AbstractEventLoop | None = None

    def __aiter__(self) -> Stream[T]:
        return self

    async def __anext__(self) -> T:
        for row in self._rows:
            return row
        await self._fetch()
        for row in self._rows:
            return row
        await self.aclose()
        raise StopAsyncIteration

    async def __aenter__(self) -> Stream[T]:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.aclose()
        except Error as failure:
            if exc is None:
                raise
            exc.add_note(f"and then its iterate() could not be closed: {failure}")

    async def aclose(self) -> None:
        """Close the cursor and give the connection back. Safe to call again."""
        connection = self._connection
        if self._fetching:  # by another task: it lets go when it has its rows
            self.cut()
            return
        if self._state is not StreamState.OPEN or connection is None:
            self._state = StreamState.CLOSED
            return
        self._state = StreamState.CLOSED
        self._rows = iter(())
        try:
            if self._keeps_turn:
                await self._close_in_time(connection)
            else:
                if (turn := connection._use()) is None:
                    turn, _ = await connection._wait(None)
                with turn:
                    await self._close_in_time(connection)
        except BaseException as error:
            connection._note_failure(error)
            if self._closing.has_work:
                connection._litter.append(self._closing)
            raise
        finally:
            self._let_go()

    async def _close_in_time(self, connection: Connection) -> None:
        """Close the cursor; a server that does not answer that ends the connection."""
        limit = connection._pool.options.reset_timeout
        if self._closing.ends_transaction and self._timeout is not None:
            limit = self._timeout
        try:
            async with asyncio.timeout(limit):
                await self._closing()
        except TimeoutError as error:
            if isinstance(error, Error):
                raise
            self._closing.abort()
            raise QueryTimeoutError(
                f"the end of the iteration was not answered within {limit:g} s, and its "
                "connection was closed",
                query=self._sql,
            ) from error

    # Fetching

    async def _fetch(self) -> None:
        if self._fetching:
            raise InterfaceError(
                "this result is being read by another task: read it in one task, or give each "
                "its own iterate()"
            )
        if self._has_failed:
            raise InterfaceError(
                "this result was ended by an error before its last row: call iterate() again"
            )
        if self._is_cut:
            raise InterfaceError(
                "this result can no longer be read: the transaction or the connection block "
                "that it belongs to has ended; read it to its end inside the block"
            )
        if self._state is StreamState.CLOSED:
            return
        self._fetching = True
        try:
            if self._state is StreamState.NEW:
                await self._open()
            columns, rows = await self._next_batch()
        except BaseException:
            self._has_failed = True
            self._abandon()
            raise
        finally:
            self._fetching = False
            self._deadline = None
            if self._is_cut:
                self._abandon()
        if not rows:
            self._rows = iter(())
        elif self._into is None:
            self._rows = iter(make_rows(columns, rows))  # type: ignore[arg-type]
        else:
            self._rows = map(converter(self._into, columns), rows)

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        connection, self._owned, left = await self._source._connection_for_stream(self._timeout)
        self._note_wait(left)
        self._connection = connection
        self._state = StreamState.OPEN
        can = connection._capabilities
        closing = self._closing
        if (turn := connection._use()) is None:
            turn, left = await connection._wait(self._limit)
            self._note_wait(left)
        with turn as driver:
            closing.driver = driver
            if can.cursor_needs_transaction and not driver.in_transaction:
                await self._begin(driver)
                closing.ends_transaction = True
            opening = driver.open_cursor(self._sql, self._params, self._timeout, self._batch_size)
            closing.cursor = await (self._in_time(opening) if self._deadline else opening)
            if self._owned or closing.ends_transaction or can.cursor_is_exclusive:
                connection._keep_turn(self)
                self._keeps_turn = True

    async def _begin(self, driver: DriverConnection) -> None:
        limit, began = self._limit, asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(limit):
                await driver.begin(TransactionOptions())
        except TimeoutError as error:
            if isinstance(error, Error):
                raise
            driver.suspect = True
            raise QueryTimeoutError(
                f"the transaction for the cursor did not begin within {self._timeout} s",
                query=self._sql,
            ) from error
        if limit is not None:
            self._deadline = began + limit  # opening and the first batch have what is left

    async def _next_batch(self) -> Fetched:
        connection, cursor = self._connection, self._closing.cursor
        assert connection is not None
        assert cursor is not None
        if not self._keeps_turn:
            if (turn := connection._use()) is None:
                turn, left = await connection._wait(self._limit)
                self._note_wait(left)
            with turn:
                return await (self._in_time(cursor.fetch()) if self._deadline else cursor.fetch())
        if connection._has_ended:
            raise connection._refusal("used")
        try:
            return await (self._in_time(cursor.fetch()) if self._deadline else cursor.fetch())
        except BaseException as error:
            connection._note_failure(error)
            raise

    # The driver gives each of its calls the time of a whole batch. A batch that had to wait for its
    # connection has less, and only then a deadline of its own.

    @property
    def _limit(self) -> float | None:
        """Seconds that are left for the batch."""
        if self._deadline is None:
            return self._timeout
        return max(self._deadline - asyncio.get_running_loop().time(), 0.0)

    def _note_wait(self, left: float | None) -> None:
        if left is not None and left != self._timeout:
            self._deadline = asyncio.get_running_loop().time() + left

    async def _in_time(self, work: Awaitable[V]) -> V:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await work
        except TimeoutError as error:
            if isinstance(error, Error):
                raise
            assert self._closing.driver is not None
            self._closing.driver.suspect = True
            raise QueryTimeoutError(
                f"the statement did not finish within timeout={self._timeout} s, of which the wait "
                "for its connection or its BEGIN took a part",
                query=self._sql,
            ) from error

    # Letting go

    def _let_go(self) -> None:
        """Give back turn and connection, without awaiting."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._keeps_turn:
            self._keeps_turn = False
            connection._return_turn()
        if self._owned:
            connection._leave()

    def _abandon(self) -> None:
        """Let go of an open cursor without awaiting: the connection's next user closes it."""
        self._state = StreamState.CLOSED
        self._rows = iter(())
        if self._connection is not None and self._closing.has_work:
            self._connection._litter.append(self._closing)
        self._let_go()

    def cut(self) -> None:
        """The connection is needed: its transaction, or its block, ends while rows are left."""
        self._is_cut = True
        if not self._fetching:
            self._abandon()

    def __del__(self) -> None:
        if getattr(self, "_state", None) is not StreamState.OPEN or self._loop is None:
            return
        if asyncio._get_running_loop() is self._loop:
            self._abandon()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._abandon)


class _Closing:
    """What ends a cursor at the server. Kept apart from the stream, which may be dropped first."""

    __slots__ = ("cursor", "driver", "ends_transaction")

    def __init__(self) -> None:
        self.driver: DriverConnection | None = None
        self.cursor: DriverCursor | None = None
        self.ends_transaction = False

    @property
    def has_work(self) -> bool:
        return self.cursor is not None or self.ends_transaction

    def abort(self) -> None:
        """Give up the connection: that ends the cursor, and its transaction, as well."""
        self.cursor, self.ends_transaction = None, False
        if self.driver is not None:
            self.driver.abort()

    async def __call__(self) -> None:
        if self.cursor is not None:
            await self.cursor.close()
            self.cursor = None
        if self.ends_transaction and self.driver is not None:
            await self.driver.commit()
            self.ends_transaction = False
