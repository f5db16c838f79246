"""SQLite: what an engine of it can do beyond what every engine can."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, TypeVar, overload

from aiodbkit.backends.sqlite.abilities import Place, SQLiteDriverBase, SQLiteDriverConnection
from aiodbkit.backends.sqlite.blob import Blob, opened_blob
from aiodbkit.backends.sqlite.definitions import Definitions, Kind, define
from aiodbkit.backends.sqlite.fts import FullText
from aiodbkit.connection import Connection
from aiodbkit.core_statements import SQL, bound
from aiodbkit.driver import Driver, DriverConnection, Params
from aiodbkit.engine import DriverSource, Engine
from aiodbkit.errors import InterfaceError, NotSupportedError
from aiodbkit.options import count, seconds

__all__ = ["SQLiteEngine"]

F = TypeVar("F", bound=Callable[..., Any])


class SQLiteEngine(Engine):
    """SQLite, through aiosqlite or, with ``driver="apsw"``, apsw.

    ``sqlite:///file.db`` is relative, ``sqlite:////folder/file.db`` absolute; ``sqlite://`` and
    ``sqlite:///:memory:`` are in memory. Options beyond those of `Engine`:

    - ``pragmas``: settings of each connection, verified after they are made. By default
      ``journal_mode`` is WAL, ``foreign_keys`` is on and ``busy_timeout`` 5000 ms; None leaves a
      setting as SQLite has it. In a URL: ``?pragma.cache_size=-64000``.
    - ``timeout``: the busy timeout in seconds: how long to wait for a lock of another process.
    - ``lock_timeout``: how long, in seconds, one connection of this process may hold up the other
      writers; by default the busy timeout.
    - ``mode`` (``"ro"``, ``"rw"``, ``"rwc"``), ``immutable``, ``vfs``: as in SQLite's URIs.
    - ``uri``: the database is such a URI itself, ``file:...``.
    - ``attach``: further databases of each connection, ``{"archive": "archive.db"}``.
    - ``extensions``: paths of extensions to load; none otherwise, and not by SQL.
    - ``cached_statements``, ``detect_types``: as `sqlite3.connect` has them; ``detect_types=0``
      leaves values as SQLite stores them.

    A ``connection_factory`` returns an `aiosqlite.Connection`; values are decoded if it was opened
    with ``detect_types=sqlite3.PARSE_DECLTYPES``. Over apsw it returns an `apsw.Connection`.
    """

    schemes: ClassVar[tuple[str, ...]] = ("sqlite", "sqlite+aiosqlite", "sqlite+apsw")

    drivers: ClassVar[Mapping[str, DriverSource | type[Driver]]] = {
        "aiosqlite": DriverSource(
            "aiodbkit.backends.sqlite.driver:SQLiteDriver", "aiosqlite", "aiosqlite"
        ),
        "apsw": DriverSource(
            "aiodbkit.backends.sqlite.apsw.driver:APSWDriver", "apsw", "aiodbkit[apsw]"
        ),
    }

    def __init__(self, url: str | None = "", **options: Any) -> None:
        self._definitions = Definitions()
        super().__init__(url, **options)

    def _create_driver(self, target: Mapping[str, Any], options: Mapping[str, Any]) -> Driver:
        driver = super()._create_driver(target, options)
        assert isinstance(driver, SQLiteDriverBase)
        driver.definitions = self._definitions
        return driver

    # Functions in SQL

    @overload
    def function(self, function: F, /) -> F: ...
    @overload
    def function(
        self,
        name: str | None = None,
        /,
        *,
        deterministic: bool = False,
        arguments: int | None = None,
    ) -> Callable[[F], F]: ...
    def function(
        self, name: Any = None, /, *, deterministic: bool = False, arguments: int | None = None
    ) -> Any:
        """Let SQL call a function: ``@db.function``, or ``@db.function("name")``.

        It is there on every connection before its next statement. It runs on the connection's
        thread; what it raises is the ``__cause__`` of the statement's OperationalError.

        Args:
            name: in SQL; by default the function's.
            deterministic: it gives the same result for the same arguments, so that SQLite may call
                it less often, and use it in an index.
            arguments: how many it takes, -1 for any number; by default what its signature says.

        Raises:
            TypeError: it is async, or its signature cannot be read.
            ValueError: a name or a number that cannot be.
        """
        return self._defining("function", name, arguments, deterministic=deterministic)

    @overload
    def aggregate(self, cls: F, /) -> F: ...
    @overload
    def aggregate(
        self, name: str | None = None, /, *, arguments: int | None = None
    ) -> Callable[[F], F]: ...
    def aggregate(self, name: Any = None, /, *, arguments: int | None = None) -> Any:
        """Let SQL use a class as an aggregate function, by its methods ``step`` and ``finalize``.

        SQLite makes an object for each group, calls ``step`` with each row's arguments, and
        ``finalize`` for the result. For no rows at all the result is NULL.

        Args, Raises: as `function`.
        """
        return self._defining("aggregate", name, arguments)

    @overload
    def window_function(self, cls: F, /) -> F: ...
    @overload
    def window_function(
        self, name: str | None = None, /, *, arguments: int | None = None
    ) -> Callable[[F], F]: ...
    def window_function(self, name: Any = None, /, *, arguments: int | None = None) -> Any:
        """Let SQL use a class as an aggregate that can have a window: ``total(x) over (...)``.

        Besides ``step`` and ``finalize`` it has ``inverse``, which takes a row out again, and
        ``value``, the result for the rows that are in.

        Args, Raises: as `function`.
        """
        return self._defining("window function", name, arguments)

    @overload
    def collation(self, function: F, /) -> F: ...
    @overload
    def collation(self, name: str | None = None, /) -> Callable[[F], F]: ...
    def collation(self, name: Any = None, /) -> Any:
        """Let SQL compare texts by a function of two: ``order by name collate natural``.

        It returns a number below, at or over 0, as the first text is less, equal or greater. If
        it raises, the statement fails and the transaction is rolled back.

        Raises:
            TypeError, ValueError: as `function`.
        """
        return self._defining("collation", name)

    def _defining(
        self,
        kind: Kind,
        given: Any,
        arguments: int | None = None,
        *,
        deterministic: bool = False,
    ) -> Any:
        def decorate(call: F, name: str | None = None) -> F:
            made = list(define(kind, call, name, arguments, deterministic=deterministic))
            for definition in made:
                self._definitions.add(definition)
            return call

        if given is None or isinstance(given, str):
            return lambda call: decorate(call, given)
        return decorate(given)

    # Search

    def fts(
        self,
        table: str,
        columns: Sequence[str],
        *,
        content: str | None = None,
        content_rowid: str = "rowid",
        tokenize: str | None = None,
        prefix: Sequence[int] = (),
    ) -> FullText:
        """Return a full-text index by its name, whether it exists already or not; see `FullText`.

        Raises:
            ProgrammingError: columns that cannot be.
        """
        return FullText(
            self,
            table,
            columns,
            content=content,
            content_rowid=content_rowid,
            tokenize=tokenize,
            prefix=prefix,
        )

    # Looking at statements, stopping them

    async def explain(self, sql: SQL, params: Params = None) -> str:
        """Return SQLite's plan for a statement, which is not run: one line for each step."""
        text, params, left = await bound(self, sql, params)
        rows = await self.fetch_all(f"explain query plan {text}", params, timeout=left)
        depth = {0: -1}
        lines = []
        for number, parent, _, text in rows:
            depth[number] = depth[parent] + 1
            lines.append("  " * depth[number] + text)
        return "\n".join(lines)

    def interrupt(self, connection: Connection | None = None) -> bool:
        """Stop the statement that runs on a connection, or those of all; False if none does.

        It has no effect, and fails with OperationalError, ``code`` 9; if it was writing in a
        transaction, SQLite rolls all of that back. COMMIT and ROLLBACK are never interrupted.
        Called from any task of the engine's event loop.
        """
        if connection is None:
            busy = [slot.resource for slot in self.pool.lent()]
        elif not isinstance(connection, Connection):
            raise InterfaceError(f"interrupt() takes a connection, not {connection!r}")
        elif connection.is_closed:
            return False
        else:
            busy = [connection._driver]
        stopped = [_beneath(each).interrupt() for each in busy]
        return any(stopped)

    # Blobs, backups

    def open_blob(
        self,
        table: str,
        column: str,
        rowid: int,
        *,
        read_only: bool = False,
        schema: str = "main",
    ) -> AbstractAsyncContextManager[Blob]:
        """One value, to be read and written piece by piece: ``async with db.open_blob(...)``.

        It runs on the task's connection, and in a transaction unless it only reads; its size
        cannot change: insert it as ``zeroblob(size)``.

        Raises:
            ProgrammingError: at the block's beginning: there is no such row, column or table, or
                the value is neither text nor a blob.
        """
        return opened_blob(self._target, table, column, rowid, schema, read_only=read_only)

    async def backup(
        self,
        target: str | os.PathLike[str] | SQLiteEngine | Connection,
        *,
        pages: int = 1000,
        progress: Callable[[int, int], Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Copy the whole database, as it is now, over another one: all of it, or nothing.

        Writers go on meanwhile, but not those of a database in memory or without WAL, and those of
        the target. The target keeps its journal mode.

        Args:
            target: a path, or the engine, or a connection, of the database that is replaced. So
                ``await other.backup(db)`` restores.
            pages: that are copied in one step; between two it can be cancelled.
            progress: called after each step with the pages that remain and their total; may be
                async. The copy waits for it; an exception of its own ends the copy.
            timeout: seconds for all of it.

        Raises:
            LockTimeoutError: somebody has kept the target locked for ``lock_timeout``.
            QueryTimeoutError: past ``timeout``; the target is as it was.
            InterfaceError: the target is this database, or is not known.
        """
        count("pages", pages, least=1)
        seconds("timeout", timeout, optional=True)
        if progress is not None and not callable(progress):
            raise InterfaceError(f"backup(): progress is called with two numbers, not {progress!r}")
        place = await self._place_of(target)
        # Not as this task's connection: `progress` may use the engine.
        async with self.pool.acquire() as connection:
            if (turn := connection._use()) is None:
                turn, timeout = await connection._wait(timeout)
            with turn as driver:
                await _beneath(driver).backup(
                    place, pages=pages, progress=progress, timeout=timeout
                )

    async def _place_of(self, target: object) -> Place:
        if isinstance(target, str | os.PathLike):
            place: Place | None = _place_of_file(target)
        else:
            engine = _engine_of(target)
            await engine.connect()
            place = engine._place
            self._refuse_another_library(engine)
        if place is None:
            raise InterfaceError(
                "backup(): the target is opened by a connection_factory, and where it is nobody "
                "else knows: give its path"
            )
        if self._place is not None and _is_same(place, self._place):
            raise InterfaceError(f"backup(): {place.shown_as} cannot be copied over itself")
        return place

    def _refuse_another_library(self, target: SQLiteEngine) -> None:
        ours, theirs = (_library(engine) for engine in (self, target))
        if ours != theirs:
            raise NotSupportedError(
                f"backup(): one of the engines is over {ours}, the other over {theirs}: each has "
                "an SQLite of its own, and they see neither each other's locks nor their memory"
            )

    @property
    def _place(self) -> Place | None:
        assert isinstance(self._driver, SQLiteDriverBase)
        return self._driver.place


def _is_same(first: Place, second: Place) -> bool:
    """Whether two places are one database, which may have several names in the file system."""
    if first.identity == second.identity:
        return True
    try:
        return Path(first.identity).samefile(second.identity)
    except OSError:
        return False  # there is no such file yet, or it is in memory


def _place_of_file(given: str | os.PathLike[str]) -> Place:
    name = os.fspath(given)
    if not name or name == ":memory:" or name.startswith("file:") or "\0" in name:
        raise InterfaceError(
            f"backup(): {name!r} is no path of a file: for a database in memory, or by URI, give "
            "the engine that has it open"
        )
    path = str(Path(given).absolute())
    return Place(path, is_uri=False, identity=os.path.realpath(path), shown_as=repr(path))


def _engine_of(target: object) -> SQLiteEngine:
    engine: object = target
    if isinstance(target, Connection):
        if target.in_transaction:
            raise InterfaceError(
                "backup(): the target's connection is in a transaction: end it before its "
                "database is replaced"
            )
        engine = target._engine
    elif isinstance(target, Engine):
        engine = target._target
    if not isinstance(engine, SQLiteEngine):
        raise InterfaceError(
            f"backup() copies into a path, an engine of SQLite or its connection, not {target!r}"
        )
    return engine


def _library(engine: SQLiteEngine) -> str:
    assert isinstance(engine._driver, SQLiteDriverBase)
    return engine._driver.library


def _beneath(driver: DriverConnection) -> SQLiteDriverConnection:
    """Return the driver's connection itself, also in a sandbox."""
    while not isinstance(driver, SQLiteDriverConnection):
        driver = driver.real  # type: ignore[attr-defined]
    return driver
