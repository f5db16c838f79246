"""Statements and blobs of apsw with the methods of sqlite3's that are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NoReturn

import apsw

from aiodbkit.backends.sqlite.apsw.errors import fail, not_text
from aiodbkit.backends.sqlite.apsw.values import Plan, decoded
from aiodbkit.backends.sqlite.worker import first_word
from aiodbkit.errors import Error

__all__ = ["APSWBlob", "APSWCursor"]

_COUNTED = frozenset(("insert", "update", "delete", "replace"))
_NOTHING = Plan((), ())


class APSWCursor:
    """A statement and its rows.

    apsw tells of the columns until the last row is fetched only, and nothing where there is none.
    """

    __slots__ = ("_connection", "_cursor", "_done", "_plan", "_plan_of", "_text")

    def __init__(
        self,
        connection: apsw.Connection,
        plan_of: Callable[[Any], Plan],
        cursor: apsw.Cursor,
        text: str = "",
    ) -> None:
        self._connection = connection
        self._plan_of = plan_of
        self._cursor = cursor
        self._text = text
        self._done: int | None = None
        self._plan: Plan | None = None

    @property
    def description(self) -> tuple[tuple[str], ...]:
        """The columns' names, one tuple each; none if there were no rows."""
        return self._columns().description

    @property
    def rowcount(self) -> int:
        """The rows that were changed; -1 for what is neither INSERT, UPDATE nor DELETE."""
        if self._done is not None:
            return self._done
        return self._connection.changes() if first_word(self._text) in _COUNTED else -1

    @property
    def lastrowid(self) -> int:
        """The key of the row that was inserted last."""
        return self._connection.last_insert_rowid()

    def fetchall(self) -> list[Any]:
        """Return all rows."""
        plan = self._columns()
        try:
            rows = self._cursor.fetchall()
            return [decoded(row, plan) for row in rows] if plan.decoders else rows
        except BaseException as error:  # noqa: BLE001 - raised as sqlite3's
            self._fail(error)

    def fetchmany(self, size: int) -> list[Any]:
        """Return ``size`` rows, or those that there are."""
        return list(islice(self, size))

    def fetchone(self) -> Any:
        """Return the next row, None after the last."""
        return next(iter(self), None)

    def __iter__(self) -> Iterator[Any]:
        plan = self._columns()
        try:
            for row in self._cursor:
                yield decoded(row, plan) if plan.decoders else row
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - raised as sqlite3's
            self._fail(error)

    def executemany(self, text: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement that returns nothing once for each of ``rows``."""
        execute, changes = self._cursor.execute, self._connection.changes
        done = 0
        try:
            for row in rows:
                execute(text, row)
                done += changes()
        except BaseException as error:  # noqa: BLE001 - raised as sqlite3's
            fail(error)
        self._done = done

    def close(self) -> None:
        """Let go of the statement."""
        self._cursor.close(True)  # noqa: FBT003 - its name is not part of the interface

    def _columns(self) -> Plan:
        if self._plan is None:
            try:
                self._plan = self._plan_of(self._cursor.get_description())
            except apsw.ExecutionCompleteError:
                self._plan = _NOTHING
        return self._plan

    def _fail(self, error: BaseException) -> NoReturn:
        if isinstance(error, Error):
            raise error  # of a value that could not be decoded
        if isinstance(error, UnicodeDecodeError):
            raise not_text(tuple(name for (name,) in self.description)) from None
        fail(error)


class APSWBlob:
    """One value that is open."""

    __slots__ = ("_blob",)

    def __init__(self, blob: apsw.Blob) -> None:
        self._blob = blob

    def __len__(self) -> int:
        return self._blob.length()

    def __bool__(self) -> bool:
        return True

    def seek(self, place: int) -> None:
        """Go to a byte."""
        self._do(self._blob.seek, place)

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes."""
        found: bytes = self._do(self._blob.read, size)
        return found

    def write(self, data: bytes) -> None:
        """Write bytes."""
        self._do(self._blob.write, data)

    def close(self) -> None:
        """Close it."""
        self._blob.close(True)  # noqa: FBT003 - its name is not part of the interface

    def _do(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except BaseException as error:  # noqa: BLE001 - raised as sqlite3's
            fail(error)
