"""SQLite, over aiosqlite.

- A statement is one hop to the connection's worker thread and back, whatever it needs: a BEGIN
  and COMMIT of its own, the rows, their number. The thread is a daemon: a connection that nobody
  closes does not keep the interpreter from exiting.
- The writers of a file take turns, in the order in which they asked; in WAL mode, the default,
  readers run beside them. Other processes are waited for as long as ``busy_timeout`` says.
- A write outside of a transaction gets one of its own: cancelled, it has either taken effect or
  not happened.
- ``:memory:`` is one database for all connections of the engine. SQLite keeps no older state of it
  for readers to see, so there readers take turns with writers.
- ``last_insert_id`` means nothing for a table WITHOUT ROWID.

The rooms: `connection` (what a statement needs, and what is known of the connection),
`turns` (who may write), `thread` (jobs, seen from the loop), `worker` and
`session` (jobs, seen from the thread), `values`, `errors`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlencode, urlsplit
from uuid import uuid4

import aiosqlite

from aiodbkit.backends.sqlite.abilities import Place, SQLiteDriverBase
from aiodbkit.backends.sqlite.connection import SQLiteConnection
from aiodbkit.backends.sqlite.definitions import Definitions
from aiodbkit.backends.sqlite.errors import BUSY, cause_of, primary_code
from aiodbkit.backends.sqlite.functions import Functions
from aiodbkit.backends.sqlite.libraries import Use, use_of
from aiodbkit.backends.sqlite.names import quoted_name
from aiodbkit.backends.sqlite.pragmas import FILE_PRAGMAS, SESSION_PRAGMAS, keys_among
from aiodbkit.backends.sqlite.session import Settings, SetUp, with_look
from aiodbkit.backends.sqlite.thread import WorkerThread
from aiodbkit.backends.sqlite.turns import write_turn
from aiodbkit.backends.sqlite.worker import Job, SQLite3Connection
from aiodbkit.driver import Capabilities
from aiodbkit.errors import CannotConnectError, ConfigurationError
from aiodbkit.options import choice, seconds

__all__ = ["SQLiteConnection", "SQLiteDriver", "end_of"]

_DEFAULT_TIMEOUT = 5.0

# Parameters of a file: URI, https://www.sqlite.org/uri.html
_URI_OPTIONS = ("mode", "vfs", "immutable")

_OPTIONS: dict[str, Any] = {
    "timeout": float,
    "lock_timeout": float,
    "uri": bool,
    "mode": str,
    "vfs": str,
    "immutable": bool,
    "cached_statements": int,
    "detect_types": int,
    "pragmas": object,
    "extensions": object,
    "attach": object,
    **{f"pragma.{name}": str for name in (*FILE_PRAGMAS, *SESSION_PRAGMAS)},
}


class SQLiteDriver(SQLiteDriverBase):
    """Opens the connections of a `SQLiteEngine`, whose docstring has the options."""

    library: ClassVar[str] = "sqlite3"
    capabilities = Capabilities(
        isolation_levels=frozenset({"serializable"}),
        lock_modes=True,
        ddl_is_transactional=True,
        concurrent_writers=False,
        returning=sqlite3.sqlite_version_info >= (3, 35),
    )

    def __init__(
        self,
        target: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        connect_timeout: float = 10.0,  # noqa: ARG002 - the caller cancels
        reset: str = "auto",
        connection_factory: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        for name in target:
            if name != "database":
                raise ConfigurationError(f"{name}: SQLite has a database= and nothing else")
        path = os.fspath(target.get("database") or ":memory:")
        self._in_memory = path == ":memory:" and connection_factory is None
        self._options = dict(options)
        self._factory = connection_factory
        self.definitions = Definitions()
        pragmas = _pragmas(self._options, in_memory=self._in_memory)
        extensions = _extensions(self._options.pop("extensions", ()))
        attach = _attached(self._options.pop("attach", None), in_memory=self._in_memory)
        self._set_up = SetUp(pragmas, extensions, attach)
        busy = pragmas["busy_timeout"]
        lock_timeout = self._options.pop("lock_timeout", None)
        seconds("lock_timeout", lock_timeout, optional=True)
        if lock_timeout is None:
            lock_timeout = _DEFAULT_TIMEOUT if busy is None else float(busy) / 1000
        self._settings = Settings(
            in_memory=self._in_memory,
            lock_timeout=lock_timeout,
            reset=reset,
            connect=self._connect_plainly,
        )
        self._is_uri = bool(self._options.pop("uri", False)) and path.startswith("file:")
        self._path = path if self._in_memory or self._is_uri else str(Path(path).absolute())
        self._uri_options = _uri_options(self._options)
        self._keeper: sqlite3.Connection | None = None
        self._use: Use | None = None

    @classmethod
    def options(cls) -> Mapping[str, Any]:
        """The options of aiosqlite that are the user's to set, and ours."""
        return _OPTIONS

    async def start(self) -> None:
        if not self._in_memory or self._keeper is not None:
            return
        if self.library == "sqlite3" and sqlite3.sqlite_version_info < (3, 36):
            raise ConfigurationError(
                f"a database in memory needs SQLite 3.36, this is {sqlite3.sqlite_version}: "
                "use a file"
            )
        self._path = f"file:/aiodbkit-{uuid4().hex}?vfs=memdb"
        # The database lives as long as one connection to it, on which nothing more is run.
        keeper = self._connect_plainly(self._path, is_uri=True)
        try:
            # A look needs a read lock, for which a new connection might have to wait.
            look = partial(with_look, work=SetUp(self._set_up.pragmas_of_its_own))
            _, session = Job(look).run(keeper).result
            databases = session.databases | self._set_up.attach.keys()
            self._settings.session = session._replace(databases=databases)
        except BaseException as error:
            keeper.close()
            if isinstance(error, sqlite3.Error):
                raise self._cannot_connect(error) from cause_of(error)
            raise
        self._keeper = keeper

    async def stop(self) -> None:
        keeper, self._keeper = self._keeper, None
        self._use = None
        if keeper is not None:
            keeper.close()

    async def connect(self) -> SQLiteConnection:
        factory = self._factory
        if factory is None and self._use is None:
            self._use = use_of(self._identity, self._shown_as, self.library)
        raw, thread = await (self._open() if factory is None else self._adopt(factory))
        connection = SQLiteConnection(
            raw, thread, write_turn(self._identity, self._shown_as), self._settings
        )
        try:
            await connection.open(self._set_up)
        except sqlite3.Error as error:
            await connection.close()
            raise self._cannot_connect(error) from cause_of(error)
        except BaseException:
            connection.abort()
            await end_of(thread.thread)
            raise
        return connection

    def quote(self, identifier: str) -> str:
        return quoted_name(identifier)

    def _connect_plainly(self, path: str, *, is_uri: bool) -> sqlite3.Connection:
        """Open a database on the calling thread, for any other; it waits for no lock."""
        return sqlite3.connect(
            path, timeout=0, uri=is_uri, isolation_level=None, check_same_thread=False
        )

    async def _open(self) -> tuple[Any, WorkerThread]:
        target, is_uri = self._target()
        raw = aiosqlite.connect(
            target,
            uri=is_uri,
            factory=SQLite3Connection,
            isolation_level=None,
            check_same_thread=False,
            **{"detect_types": sqlite3.PARSE_DECLTYPES, **self._options},
        )
        # A thread that is no daemon would be waited for at exit, for ever if nobody closes it.
        raw._thread.daemon = True
        try:
            await raw
        except BaseException as error:
            await end_of(raw._thread)
            if isinstance(error, sqlite3.Error):
                raise self._cannot_connect(error) from error
            raise
        return raw, WorkerThread(raw, raw.execute_fetchall, Functions(self.definitions))

    async def _adopt(self, factory: Callable[[], Awaitable[Any]]) -> tuple[Any, WorkerThread]:
        raw = await factory()
        if not isinstance(raw, aiosqlite.Connection):
            raise ConfigurationError(
                f"connection_factory must return an aiosqlite.Connection, not {type(raw).__name__}"
            )

        def send(job: Job) -> Awaitable[Any]:
            # Without our factory= there is no public way to the thread.
            return raw._execute(job.run, raw._conn)  # type: ignore[no-untyped-call]

        return raw, WorkerThread(raw, send, Functions(self.definitions))

    def _target(self) -> tuple[str, bool]:
        """Return the path or URI for sqlite3, and whether it is a URI."""
        if self._is_uri or self._in_memory:
            joint = "&" if "?" in self._path else "?"
            more = joint + urlencode(self._uri_options) if self._uri_options else ""
            return self._path + more, True
        if not self._uri_options:
            return self._path, bool(self._set_up.attach)  # whose URIs are read only then
        return f"{Path(self._path).as_uri()}?{urlencode(self._uri_options)}", True

    @property
    def place(self) -> Place | None:
        if self._factory is not None:
            return None
        path, is_uri = self._target()
        keys = keys_among(self._set_up.pragmas)
        return Place(path, is_uri, self._identity, self._shown_as, keys)

    @property
    def _identity(self) -> str:
        """The file that the path leads to, however it was called."""
        if self._in_memory:
            return self._path
        return os.path.realpath(unquote(urlsplit(self._path).path) if self._is_uri else self._path)

    @property
    def _shown_as(self) -> str:
        return "the database in memory" if self._in_memory else repr(self._path)

    def _cannot_connect(self, error: sqlite3.Error) -> CannotConnectError:
        busy = primary_code(error) == BUSY
        return CannotConnectError(
            f"cannot open SQLite: {self._shown_as}: {error}{self._reason()}",
            code=getattr(error, "sqlite_errorcode", None),
            is_transient=busy,
        )

    def _reason(self) -> str:
        """What a look at the path tells of the failure."""
        if self._is_uri or self._in_memory:
            return ""
        path = Path(self._path)
        folder = str(path.parent)
        checks = (
            (path.parent.is_dir(), f"there is no folder {folder!r}"),
            (not path.is_dir(), "it is a folder"),
            (path.exists(), "it does not exist and was not created"),
            (os.access(path, os.R_OK), "there is no permission to read it"),
            (os.access(path, os.W_OK), 'it is read-only: mode="ro" opens it for reading'),
        )
        return next((f" ({reason})" for is_well, reason in checks if not is_well), "")


async def end_of(thread: threading.Thread) -> None:
    """Wait a moment for a thread that was told to stop: it is not to outlive the event loop."""
    for _ in range(200):
        if not thread.is_alive():
            return
        await asyncio.sleep(0.005)


def _pragmas(options: dict[str, Any], *, in_memory: bool) -> dict[str, Any]:
    """Take the pragmas out of the options; what is asked for goes before the defaults."""
    timeout = options.pop("timeout", _DEFAULT_TIMEOUT)
    seconds("timeout", timeout)
    reads_only = options.get("mode") == "ro" or options.get("immutable")
    pragmas: dict[str, Any] = {"busy_timeout": round(timeout * 1000), "foreign_keys": 1}
    if not in_memory and not reads_only:
        pragmas["journal_mode"] = "wal"
    given = options.pop("pragmas", None)
    if not isinstance(given, Mapping | None):
        raise ConfigurationError(f"pragmas must be a mapping, not {type(given).__name__}")
    pragmas.update({str(name).lower(): value for name, value in (given or {}).items()})
    for name in [name for name in options if name.startswith("pragma.")]:
        pragmas[name.removeprefix("pragma.")] = options.pop(name)
    return pragmas


def _extensions(given: Any) -> tuple[str, ...]:
    paths = (given,) if isinstance(given, str | os.PathLike) else given
    try:
        return tuple(os.fspath(path) for path in paths)
    except TypeError:
        raise ConfigurationError(f"extensions must be paths, not {given!r}") from None


def _attached(given: Any, *, in_memory: bool) -> dict[str, str]:
    """Return where the databases to attach are, whatever folder and VFS are the current ones."""
    if not isinstance(given, Mapping | None):
        raise ConfigurationError(
            f"attach must be a mapping of names to paths, not {type(given).__name__}"
        )
    attached = {}
    for name, path in (given or {}).items():
        text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
        if not isinstance(name, str) or not name or name.lower() in ("main", "temp"):
            raise ConfigurationError(f"attach: {name!r} cannot be the name of a database")
        if not text or text == ":memory:":
            raise ConfigurationError(
                f"attach: {name!r} needs the path of a file, not {path!r}: each connection would "
                "have a database in memory of its own"
            )
        if text.startswith("file:"):
            attached[name] = text
        elif in_memory:  # whose VFS would have it in memory too
            vfs = "win32" if os.name == "nt" else "unix"
            attached[name] = f"{Path(text).absolute().as_uri()}?vfs={vfs}"
        else:
            attached[name] = str(Path(text).absolute())
    return attached


def _uri_options(options: dict[str, Any]) -> dict[str, str]:
    if options.get("mode") is not None:
        choice("mode", options["mode"], ("ro", "rw", "rwc"))
    found = {name: options.pop(name) for name in _URI_OPTIONS if name in options}
    return {
        name: str(int(value)) if isinstance(value, bool) else str(value)
        for name, value in found.items()
        if value is not None
    }
