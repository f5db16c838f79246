"""A connection of apsw with the methods of sqlite3's that the jobs on its thread use."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import get_ident
from typing import Any, cast

import apsw

from aiodbkit.backends.sqlite.apsw.cursor import APSWBlob, APSWCursor
from aiodbkit.backends.sqlite.apsw.errors import fail
from aiodbkit.backends.sqlite.apsw.functions import Group
from aiodbkit.backends.sqlite.apsw.values import plan_of, undecoded_plan_of

__all__ = ["APSWHandle", "open_handle"]

_OK, _BUSY, _LOCKED = 0, 5, 6


def open_handle(
    path: str, *, is_uri: bool, statements: int = 128, decodes: bool = True
) -> APSWHandle:
    """Open a database; ``statements`` are kept prepared. The errors are sqlite3's."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    if is_uri:
        flags |= apsw.SQLITE_OPEN_URI
    try:
        raw = apsw.Connection(path, flags=flags, statementcachesize=statements)
    except BaseException as error:  # noqa: BLE001 - raised as sqlite3's
        fail(error)
    return APSWHandle(raw, decodes=decodes)


class APSWHandle:
    """A connection of apsw as its worker thread uses it; the errors are sqlite3's.

    apsw lets one thread at a time use a connection, and a second one wait or fail: while a job
    runs, the event loop goes by what was known before.

    Args:
        raw: the connection.
        decodes: values, by their column's declared type.

    Attributes:
        is_busy: a job was sent and is not back.
        thread: that runs the jobs, by its `threading.get_ident`.
    """

    __slots__ = ("_exec_trace", "_known", "_plan_of", "is_busy", "isolation_level", "raw", "thread")

    def __init__(self, raw: apsw.Connection, *, decodes: bool) -> None:
        self.raw = raw
        self.thread = 0
        self.is_busy = False
        self.isolation_level: str | None = None  # apsw begins no transaction by itself
        self._known = False
        self._plan_of = plan_of if decodes else undecoded_plan_of
        self._exec_trace = raw.exec_trace
        raw.row_trace = None

    @property
    def as_sqlite3(self) -> sqlite3.Connection:
        """Itself, for those who know sqlite3's only."""
        return cast("sqlite3.Connection", self)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        if self.is_busy and get_ident() != self.thread:
            return self._known
        try:
            return self.raw.in_transaction
        except apsw.ThreadingViolationError:
            return self._known  # the next job has begun meanwhile
        except BaseException as error:  # noqa: BLE001 - raised as sqlite3's
            fail(error)

    def rest(self) -> None:
        """Note on the thread that a job is over."""
        try:
            self._known = self.raw.in_transaction
        except apsw.Error:
            self._known = False  # closed
        self.is_busy = False

    def forget_hooks(self) -> None:
        """Undo what a borrower has set on the connection itself."""
        self.raw.row_trace, self.raw.exec_trace = None, self._exec_trace
        self.raw.cursor_factory = apsw.Cursor

    def execute(self, sql: str, args: Sequence[Any] = ()) -> APSWCursor:
        """Start a statement."""
        try:
            return APSWCursor(self.raw, self._plan_of, self.raw.execute(sql, args), sql)
        except BaseException as error:  # noqa: BLE001 - raised as sqlite3's
            fail(error)

    def cursor(self) -> APSWCursor:
        """Return a cursor, for many rows."""
        return APSWCursor(self.raw, self._plan_of, self.raw.cursor())

    def interrupt(self) -> None:
        """Stop what runs, from any thread."""
        try:
            self.raw.interrupt()
        except BaseException as error:  # noqa: BLE001 - raised as sqlite3's
            fail(error)

    def close(self) -> None:
        """Close it, whatever is still open on it."""
        self.raw.close(True)  # noqa: FBT003 - its name is not part of the interface

    # Functions, extensions

    def create_function(
        self, name: str, number: int, call: Callable[..., Any], *, deterministic: bool
    ) -> None:
        """Let SQL call a function."""
        self._do(self.raw.create_scalar_function, name, call, number, deterministic=deterministic)

    def create_aggregate(self, name: str, number: int, cls: Callable[[], Any]) -> None:
        """Let SQL use a class as an aggregate."""
        self._do(self.raw.create_aggregate_function, name, partial(Group, cls), number)

    def create_window_function(self, name: str, number: int, cls: Callable[[], Any]) -> None:
        """Let SQL use a class as an aggregate that can have a window."""
        self._do(self.raw.create_window_function, name, partial(Group, cls), number)

    def create_collation(self, name: str, call: Callable[[str, str], int]) -> None:
        """Let SQL compare texts by a function."""
        self._do(self.raw.create_collation, name, call)

    def enable_load_extension(self, enable: bool, /) -> None:  # noqa: FBT001 - as sqlite3 has it
        """Allow extensions to be loaded, or forbid it again."""
        self._do(self.raw.enable_load_extension, enable)

    def load_extension(self, path: str) -> None:
        """Load an extension."""
        self._do(self.raw.load_extension, path)

    def _do(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return call(*args, **options)
        except BaseException as error:  # noqa: BLE001 - raised as sqlite3's
            fail(error)

    # Blobs, backups

    def blobopen(
        self, table: str, column: str, rowid: int, *, readonly: bool, name: str
    ) -> APSWBlob:
        """Open one value."""
        return APSWBlob(self._do(self.raw.blob_open, name, table, column, rowid, not readonly))

    def backup(
        self,
        into: APSWHandle,
        *,
        pages: int,
        progress: Callable[[int, int, int], None],
        sleep: float,
    ) -> None:
        """Copy into another database; ``progress(code, remaining, total)`` after each step."""
        copy: apsw.Backup = self._do(into.raw.backup, "main", self.raw, "main")
        try:
            while not copy.done:
                code = _step(copy, pages)
                progress(code, copy.remaining, copy.page_count)
                if code != _OK:
                    time.sleep(sleep)
        except BaseException:
            copy.close(True)  # noqa: FBT003 - its name is not part of the interface
            raise
        self._do(copy.finish)


def _step(copy: apsw.Backup, pages: int) -> int:
    """Copy some pages; return SQLite's code, OK or that somebody else has the lock."""
    try:
        copy.step(pages)
    except (apsw.BusyError, apsw.LockedError) as error:
        return _LOCKED if isinstance(error, apsw.LockedError) else _BUSY
    except BaseException as error:  # noqa: BLE001 - raised as sqlite3's
        fail(error)
    return _OK
