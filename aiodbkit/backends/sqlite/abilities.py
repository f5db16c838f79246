"""What an engine of SQLite asks of its driver, beyond `Driver` and `DriverConnection`.

A driver implements these; `driver` does it over aiosqlite.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from aiodbkit.backends.sqlite.definitions import Definitions
from aiodbkit.driver import Driver, DriverConnection
from aiodbkit.sql import Dialect, compile_sql

__all__ = ["Place", "SQLiteDriverBase", "SQLiteDriverConnection"]


class Place(NamedTuple):
    """Where a database is, for a backup into it.

    Attributes:
        path: or a URI.
        identity: the real path, or a name that is no path for one in memory.
        shown_as: in messages.
        pragmas: without which it cannot be read: its key.
    """

    path: str
    is_uri: bool
    identity: str
    shown_as: str
    pragmas: Mapping[str, Any] = {}


class SQLiteDriverBase(Driver):
    """A driver of SQLite.

    Attributes:
        library: the module that brings SQLite: two of them share neither memory nor locks.
        definitions: what every connection has to be given before it runs SQL, and whenever more
            is defined; set by the engine right after the driver was built.
    """

    library: ClassVar[str]
    definitions: Definitions

    @property
    @abstractmethod
    def place(self) -> Place | None:
        """Where the database is; None if only a ``connection_factory`` knows."""

    def only_reads(self, sql: str) -> bool:
        """Whether a statement surely changes nothing."""
        return compile_sql(sql, Dialect.SQLITE).is_read


class SQLiteDriverConnection(DriverConnection):
    """A connection of one of SQLite's drivers."""

    __slots__ = ()

    @abstractmethod
    def interrupt(self) -> bool:
        """Stop the statement that runs now; it has no effect, and fails with OperationalError.

        Called in the event loop from any task. False if none runs, or it is too late for that;
        a transaction's end is never interrupted.
        """

    @abstractmethod
    async def backup(
        self,
        target: Place,
        *,
        pages: int,
        progress: Callable[[int, int], Any] | None,
        timeout: float | None,
    ) -> None:
        """Copy the whole database as it is now; all of it or nothing.

        Args:
            pages: that are copied in one step, between which it can be stopped.
            progress: called in the caller's task, and awaited if need be, after each step, with
                the pages that remain and their total.
        """

    @abstractmethod
    async def open_blob(
        self, table: str, column: str, rowid: int, *, schema: str, read_only: bool
    ) -> tuple[Any, int]:
        """Open one value for reading and writing in place; return a handle and its size in bytes.

        One that writes is opened in a transaction only, whose end closes it.
        """

    @abstractmethod
    async def read_blob(self, handle: Any, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start``; both are within the value."""

    @abstractmethod
    async def write_blob(self, handle: Any, start: int, data: bytes) -> None:
        """Write bytes at ``start``; all of them are within the value."""

    @abstractmethod
    async def close_blob(self, handle: Any) -> None:
        """Close it. Safe to call twice, and on a lost connection."""
