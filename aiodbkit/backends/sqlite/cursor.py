"""Rows of one statement in batches, over an open cursor of sqlite3."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from aiodbkit.backends.sqlite.thread import Until, until
from aiodbkit.backends.sqlite.worker import Job, Work, fetch_more
from aiodbkit.driver import DriverCursor, Fetched
from aiodbkit.errors import ConnectionLostError

__all__ = ["SQLiteCursor", "Started"]

_Run: TypeAlias = Callable[[Work, str, Until | None], Awaitable[Any]]


class Started(NamedTuple):
    """A statement after its first fetch; ``cursor`` is None if that has brought all rows."""

    cursor: sqlite3.Cursor | None
    columns: Sequence[str]
    rows: Sequence[Any]


class SQLiteCursor(DriverCursor):
    """Rows of one statement; the first of them have come with its start.

    Args:
        started: the statement.
        open_ones: the connection's cursors that are open; the end of a transaction closes them.
        run: does work on the connection's thread.
        sql, timeout: for each fetch, of ``size`` rows.
        batch_size: how many rows are given out at once, no more than ``size``.
    """

    def __init__(
        self,
        started: Started,
        open_ones: set[sqlite3.Cursor],
        run: _Run,
        *,
        sql: str,
        timeout: float | None,
        size: int,
        batch_size: int,
    ) -> None:
        self._cursor, self._columns, self._rows = started
        self._open_ones = open_ones
        self._run = run
        self._sql = sql
        self._timeout = timeout
        self._size = size
        self._batch_size = batch_size
        self._place = 0

    async def fetch(self) -> Fetched:
        if self._place == len(self._rows) and self._cursor is not None:
            self._rows = await self._fetch_more(self._cursor)
            self._place = 0
        batch = self._rows[self._place : self._place + self._batch_size]
        self._place += len(batch)
        return self._columns, batch

    async def _fetch_more(self, cursor: sqlite3.Cursor) -> list[Any]:
        work = partial(fetch_more, cursor=cursor, size=self._size, open_ones=self._open_ones)
        rows: list[Any] = await self._run(work, self._sql, until(self._timeout))
        if cursor not in self._open_ones:
            self._cursor = None
        return rows

    async def close(self) -> None:
        cursor, self._cursor = self._cursor, None
        self._rows = ()
        self._place = 0
        if cursor is None or cursor not in self._open_ones:
            return
        work = partial(_close, cursor=cursor, open_ones=self._open_ones)
        try:
            await self._run(work, self._sql, None)
        except ConnectionLostError:
            pass


def _close(
    _db: sqlite3.Connection, _job: Job, cursor: sqlite3.Cursor, open_ones: set[sqlite3.Cursor]
) -> None:
    # Only here is it taken from the open ones: a job that is stopped before leaves it to others.
    cursor.close()
    open_ones.discard(cursor)
