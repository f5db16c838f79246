"""The rows of an answer, and the cursor that streams."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from aiodbkit.backends.mysql.protocol import Status
from aiodbkit.backends.mysql.values import booleans
from aiodbkit.driver import DriverCursor, Fetched
from aiodbkit.errors import Error

if TYPE_CHECKING:
    from aiodbkit.backends.mysql.wire import MySQLWire

__all__ = ["MySQLCursor", "fetched"]

T = TypeVar("T")

# Seconds that the rest of a result is read for; then its statement is stopped at the server.
_DRAIN = 0.1

_EOF = 0xFE
_ERROR = 0xFF
_FULL_PACKET = 0xFFFFFF


def fetched(description: Sequence[Sequence[Any]] | None, rows: Sequence[Sequence[Any]]) -> Fetched:
    """Return names and rows of a result."""
    if description is None:
        return (), ()
    return [column[0] for column in description], booleans(description, rows)


class _Tail:
    """Finds the end of a result without decoding its rows, much faster than drivers do.

    A statement that is stopped may have filled the sockets' buffers with a million small rows.
    """

    def __init__(self, short_end: int = 9) -> None:
        self._short_end = short_end  # see `Link`
        self._data = b""
        self._next = 0  # where the next packet begins, which may be beyond the data
        self._continues = False

    def feed(self, data: bytes) -> bytes | None:
        """Take what came; return the packet that ends the result once it is there."""
        data = self._data + data
        at, size = self._next, len(data)
        while at + 5 <= size:
            length = int.from_bytes(data[at : at + 3], "little")
            if not self._continues and self._ends(data[at + 4], length):
                if at + 4 + length > size:
                    break
                return data[at + 4 : at + 4 + length]
            self._continues = length == _FULL_PACKET
            at += 4 + length
        kept = min(at, size)
        self._data, self._next = data[kept:], at - kept
        return None

    def _ends(self, first: int, length: int) -> bool:
        return first == _ERROR or (first == _EOF and length < self._short_end)


class MySQLCursor(DriverCursor):
    """Rows read from the socket as they are asked for; the connection takes nothing else.

    The drivers' own cursors are not used: when a read was cancelled, their exit raises another
    error in place of CancelledError.
    """

    def __init__(
        self, connection: MySQLWire, sql: str, timeout: float | None, batch_size: int
    ) -> None:
        self._connection = connection
        self._sql = sql
        self._timeout = timeout
        self._batch_size = batch_size
        self._link = connection.link
        self._result: Any = None

    async def open(self, text: bytes) -> None:
        """Send the statement."""
        if self._connection.is_dead:
            raise self._connection.died(self._sql)
        self._connection.stream = self
        await self._bounded(self._execute(text))

    async def _execute(self, text: bytes) -> None:
        await self._link.raw.query(text, unbuffered=True)
        self._result = self._link.raw._result

    async def fetch(self) -> Fetched:
        """Return the next batch; no rows when there are no more."""
        description: Sequence[Sequence[Any]] | None = self._result.description
        rows: Sequence[Sequence[Any]] = ()
        if self._is_open:
            if description is not None:
                rows = await self._bounded(self._link.read_rows(self._result, self._batch_size))
            if len(rows) < self._batch_size:
                await self._bounded(self._read_other_results())
                self._detach()
        return fetched(description, rows)

    async def _read_other_results(self) -> None:
        """Only errors matter of them."""
        raw = self._link.raw
        await self._result._finish_unbuffered_query()
        while raw._result.has_next:
            await raw.next_result()

    async def close(self) -> None:
        """Read the rest for a moment, else stop the statement; its transaction lives on."""
        connection = self._connection
        if not self._is_open:
            return
        if self._link.is_closed:
            self._detach()
            return
        watch = connection.watch(_DRAIN)
        # Lost: the next statement will be told.
        with contextlib.suppress(Error):
            try:
                await connection.call(self._skip_rows(), self._sql, watch)
            finally:
                self._detach()
                if watch is not None:
                    watch.cancel()
        await connection.end_watch(watch)

    async def _skip_rows(self) -> None:
        connection, result = self._connection, self._result
        if result is None or not result.unbuffered_active:
            if result is not None:
                await self._read_other_results()
            return
        tail, last = _Tail(self._link.short_end), None
        while last is None:
            data = await self._link.read_some()
            if not data:
                raise EOFError("the server closed the connection in the middle of a result")
            last = tail.feed(data)
        result.unbuffered_active = False
        result.connection = None
        if last[0] == _ERROR:
            if connection.in_transaction:
                await connection.ask_status()
        elif last[3] & Status.MORE_RESULTS:
            connection.abandon()

    @property
    def _is_open(self) -> bool:
        return self._connection.stream is self

    def _detach(self) -> None:
        if self._is_open:
            self._connection.stream = None

    async def _bounded(self, work: Awaitable[T]) -> T:
        connection = self._connection
        watch = connection.watch(self._timeout)
        try:
            result = await connection.call(work, self._sql, watch)
        except BaseException:
            self._detach()
            raise
        if watch is not None:
            watch.cancel()
            if watch.expired:
                await self.close()
                await connection.end_watch(watch)
                raise connection.too_late(self._sql, watch)
        return result
