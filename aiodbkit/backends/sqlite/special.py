"""What takes a connection more than one job: many rows, blobs, a backup."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from aiodbkit.backends.sqlite.abilities import Place, SQLiteDriverConnection
from aiodbkit.backends.sqlite.blobwork import close_blob, open_blob, read_blob, write_blob
from aiodbkit.backends.sqlite.copying import Copy, Reports
from aiodbkit.backends.sqlite.opened import OpenCursors
from aiodbkit.backends.sqlite.rows import batches
from aiodbkit.backends.sqlite.session import Settings
from aiodbkit.backends.sqlite.statements import insert_statement
from aiodbkit.backends.sqlite.thread import Until, WorkerThread, until
from aiodbkit.backends.sqlite.turns import WriteTurn, write_turn
from aiodbkit.backends.sqlite.values import named, rows_to_sqlite
from aiodbkit.backends.sqlite.worker import (
    Work,
    change_many,
    decided,
    query,
    run_all,
    start_transaction,
)
from aiodbkit.errors import ConnectionLostError, InterfaceError

__all__ = ["SpecialWork"]

_INSERT_BATCH = 1000


class SpecialWork(SQLiteDriverConnection):
    """A part of `SQLiteConnection`, whose attributes it has."""

    __slots__ = ("_undo_to_savepoint",)

    _cursors: OpenCursors
    _settings: Settings
    _thread: WorkerThread
    _turn: WriteTurn
    _undo_to_savepoint: bool

    @abstractmethod
    async def _run(self, work: Work, sql: str | None = None, limit: Until | None = None) -> Any: ...
    @abstractmethod
    async def _continue(self, work: Work, sql: str, limit: Until | None) -> Any: ...
    @abstractmethod
    async def _take_turn(self, sql: str, limit: Until | None) -> None: ...
    @abstractmethod
    async def _undo(self) -> None: ...
    @abstractmethod
    def _settle(self) -> None: ...

    async def insert_many(
        self,
        table: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        timeout: float | None,
    ) -> int:
        limit = until(timeout)
        sql = insert_statement(table, columns)
        inside = self.in_transaction
        start: Work = partial(run_all, statements=["SAVEPOINT aiodbkit_rows"])
        if not inside:
            start = partial(start_transaction, statement="BEGIN IMMEDIATE", read_only=False)
        await self._take_turn(sql, limit)
        try:
            await self._run(start, sql, limit)
            self._undo_to_savepoint = inside
            done = await self._insert_all(sql, columns, rows, limit)
            keep = "RELEASE aiodbkit_rows" if inside else "COMMIT"
            await self._run(partial(decided, statement=keep), sql, limit)
            self._undo_to_savepoint = False
            return done
        except Exception:
            if not self.suspect:
                await self._undo()
            raise
        except BaseException:
            self.suspect = True  # also if it was the source of the rows that was cancelled
            raise
        finally:
            self._settle()

    async def _insert_all(
        self,
        sql: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        limit: Until | None,
    ) -> int:
        done = 0
        async for batch in batches(rows, _INSERT_BATCH, sql, limit):
            args = rows_to_sqlite(batch, partial(named, columns, batch), sql, done)
            work = partial(change_many, text=sql, rows=args, keyword="insert")
            done += await self._run(work, sql, limit)
        return done

    # Backups

    async def backup(
        self,
        target: Place,
        *,
        pages: int,
        progress: Callable[[int, int], Any] | None,
        timeout: float | None,
    ) -> None:
        limit, name = until(timeout), "backup()"
        if self.in_transaction:
            raise InterfaceError(
                "backup(): the connection is in a transaction, as in a sandbox, and SQLite would "
                "copy what may be rolled back"
            )
        look = partial(query, text="pragma journal_mode", args=(), limit=0)
        _, [(mode,)] = await self._run(look, name, limit)
        turn, holder = write_turn(target.identity, target.shown_as), object()
        deadline = None if limit is None else limit.at
        await turn.take(holder, self._settings.lock_timeout, deadline)
        try:
            if mode != "wal":  # without older states to read, writers would have to be refused
                await self._take_turn(name, limit)
            reports = None if progress is None else Reports(progress)
            copy = Copy(target, pages, self._settings, reports)
            await self._copy(copy, reports, limit)
        finally:
            self._settle()
            # Until the thread has put away what it was stopped in, nobody else may begin there.
            turn.forget_task(holder)
            self._thread.when_over(partial(turn.give_back, holder))

    async def _copy(self, copy: Copy, reports: Reports | None, limit: Until | None) -> None:
        work = self._run(copy, "backup()", limit)
        if reports is None:
            await work
            return
        copying = asyncio.ensure_future(work)
        try:
            await reports.tell(copying)
        except BaseException:
            if not copying.done():
                self.suspect = True  # the thread may be in the middle of a step
                self._thread.stop()
                copying.cancel()
            raise

    # Blobs

    async def open_blob(
        self, table: str, column: str, rowid: int, *, schema: str, read_only: bool
    ) -> tuple[Any, int]:
        work = partial(
            open_blob,
            where=(table, column, rowid, schema),
            read_only=read_only,
            open_ones=self._cursors,
        )
        if self._settings.in_memory or not read_only:
            await self._take_turn("open_blob()", None)
        opened: tuple[Any, int] = await self._continue(work, "open_blob()", None)
        return opened

    async def read_blob(self, handle: Any, start: int, size: int) -> bytes:
        work = partial(read_blob, blob=handle, start=start, size=size, open_ones=self._cursors)
        found: bytes = await self._continue(work, "read()", None)
        return found

    async def write_blob(self, handle: Any, start: int, data: bytes) -> None:
        work = partial(write_blob, blob=handle, start=start, data=data, open_ones=self._cursors)
        await self._continue(work, "write()", None)

    async def close_blob(self, handle: Any) -> None:
        if handle in self._cursors:
            work = partial(close_blob, blob=handle, open_ones=self._cursors)
            try:
                await self._continue(work, "close()", None)
            except ConnectionLostError:
                pass

    # Interrupts

    def interrupt(self) -> bool:
        return not self.is_closed and self._thread.interrupt()
