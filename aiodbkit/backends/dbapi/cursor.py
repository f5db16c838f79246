"""Rows of one statement in batches, over a cursor of the module."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from aiodbkit.backends.dbapi.thread import Deadline, Work, deadline
from aiodbkit.backends.dbapi.worker import Worker
from aiodbkit.driver import DriverCursor, Fetched
from aiodbkit.errors import ConnectionLostError

__all__ = ["BufferedCursor", "DBAPICursor", "NamedCursor"]

Run: TypeAlias = Callable[[Work, str, Deadline | None], Awaitable[Any]]


class DBAPICursor(DriverCursor):
    """``fetchmany`` on a cursor; whether the module holds all of its rows is the module's choice.

    Args:
        cursor: None if the first rows are all there are.
        first: they have come with its start.
        run: does work on the connection's thread.
        sql, timeout: for each fetch of ``size`` rows.
    """

    def __init__(
        self,
        worker: Worker,
        run: Run,
        cursor: Any,
        first: Fetched,
        *,
        sql: str,
        timeout: float | None,
        size: int,
    ) -> None:
        self._worker, self._run, self._cursor = worker, run, cursor
        self._first: Fetched | None = first
        self._sql, self._timeout, self._size = sql, timeout, size

    async def fetch(self) -> Fetched:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._cursor is None:
            return (), ()
        work = partial(self._worker.fetch_more, cursor=self._cursor, size=self._size)
        fetched: Fetched = await self._run(work, self._sql, deadline(self._timeout))
        if len(fetched[1]) < self._size:
            self._cursor = None
        return fetched

    async def close(self) -> None:
        cursor = self._cursor
        if cursor is None or cursor not in self._worker.cursors:
            return
        work = partial(self._worker.close_cursor, cursor=cursor)
        with suppress(ConnectionLostError):  # its cursors are gone with it
            await self._run(work, self._sql, deadline(self._timeout))
        self._cursor = None


class NamedCursor(DriverCursor):
    """A cursor that was DECLAREd in the open transaction: the server keeps the rows."""

    def __init__(
        self,
        worker: Worker,
        run: Run,
        name: str,
        *,
        sql: str,
        timeout: float | None,
        first_by: Deadline | None,
        size: int,
    ) -> None:
        self._worker, self._run, self._name = worker, run, name
        self._sql, self._timeout, self._size = sql, timeout, size
        self._first_by = first_by
        self._open = True
        self._ended = worker.ended

    async def fetch(self) -> Fetched:
        by, self._first_by = self._first_by or deadline(self._timeout), None
        text = f"FETCH FORWARD {self._size} FROM {self._name}"
        work = partial(self._worker.fetch, text=text, args=None, limit=0, in_unit=False)
        fetched: Fetched = await self._run(work, self._sql, by)
        return fetched

    async def close(self) -> None:
        """Close it; it ends with its transaction in any case."""
        worker = self._worker
        if not self._open or not worker.in_transaction or worker.ended != self._ended:
            return
        work = partial(self._worker.close_named, name=self._name)
        with suppress(ConnectionLostError):
            await self._run(work, self._sql, deadline(self._timeout))
        self._open = False


class BufferedCursor(DriverCursor):
    """Rows of a statement that changes something: half read, it would be half done."""

    def __init__(self, fetched: Fetched, size: int) -> None:
        self._columns, self._rows = fetched
        self._size = size
        self._place = 0

    async def fetch(self) -> Fetched:
        start, self._place = self._place, self._place + self._size
        return self._columns, self._rows[start : self._place]

    async def close(self) -> None:
        self._rows = ()
