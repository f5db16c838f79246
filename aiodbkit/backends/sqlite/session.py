"""A connection's settings: set and verified when it is opened, put back after a borrower."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiodbkit.backends.sqlite.names import quoted_name
from aiodbkit.backends.sqlite.opened import close_cursors
from aiodbkit.backends.sqlite.pragmas import SESSION_PRAGMAS, set_pragmas
from aiodbkit.backends.sqlite.worker import Job, Work, execute, roll_back
from aiodbkit.errors import ConfigurationError, InternalError

__all__ = [
    "Session",
    "SetUp",
    "Settings",
    "look_at_session",
    "restore",
    "with_look",
]


class Settings:
    """What all connections of a driver have in common.

    Attributes:
        in_memory: readers take turns with writers.
        connect: opens a database by path or URI, and whether it is one, on the calling thread.
        lock_timeout: seconds that one writer may hold up the others.
        reset: the pool's option.
        session: what a new session looks like, where it must not be looked at each time.
    """

    def __init__(
        self,
        *,
        in_memory: bool,
        lock_timeout: float,
        reset: str,
        connect: Callable[..., sqlite3.Connection],
    ) -> None:
        self.in_memory = in_memory
        self.connect = connect
        self.lock_timeout = lock_timeout
        self.reset = reset
        self.session: Session | None = None


class Session(NamedTuple):
    """A connection's state, to be put back after a borrower changed it."""

    pragmas: tuple[Any, ...]
    databases: frozenset[str]
    temporary: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class SetUp:
    """What every new connection is given.

    Attributes:
        pragmas: by name; one of an attached database is ``"name.pragma"``.
        extensions: paths.
        attach: paths or URIs, by the name that the database gets.
    """

    pragmas: Mapping[str, Any] = field(default_factory=dict)
    extensions: Sequence[str] = ()
    attach: Mapping[str, str] = field(default_factory=dict)

    @property
    def pragmas_of_its_own(self) -> dict[str, Any]:
        """Those that are not of an attached database."""
        names = {name.lower() for name in self.attach}
        return {
            name: value
            for name, value in self.pragmas.items()
            if name.partition(".")[0] not in names
        }

    def __call__(self, db: sqlite3.Connection, job: Job) -> None:
        """Set a new connection up."""
        db.isolation_level = None
        if self.extensions:
            _load_extensions(db, self.extensions)
        # Without a name before it, journal_mode would be that of the attached databases too.
        own = self.pragmas_of_its_own
        set_pragmas(db, job, own)
        for name, path in self.attach.items():
            execute(db, f"ATTACH ? AS {quoted_name(name)}", (path,))
        set_pragmas(db, job, {n: value for n, value in self.pragmas.items() if n not in own})


def _load_extensions(db: sqlite3.Connection, extensions: Sequence[str]) -> None:
    if not hasattr(db, "enable_load_extension"):
        raise ConfigurationError(
            "extensions: this Python's sqlite3 was built without loadable extensions"
        )
    db.enable_load_extension(True)  # noqa: FBT003
    try:
        for extension in extensions:
            db.load_extension(extension)
    finally:
        db.enable_load_extension(False)  # noqa: FBT003


def look_at_session(db: sqlite3.Connection) -> Session:
    """Return the connection's state, as far as SQLite shows it. Reads the database."""
    values = (execute(db, f"PRAGMA {name}").fetchone() for name in SESSION_PRAGMAS)
    databases = execute(db, "select name from pragma_database_list")
    temporary = execute(
        db,
        "select type, name from sqlite_temp_master "
        "where type <> 'index' and name not like 'sqlite\\_%' escape '\\'",
    )
    return Session(
        tuple(value[0] if value else None for value in values),
        frozenset(name for (name,) in databases),
        frozenset(temporary),
    )


def with_look(db: sqlite3.Connection, job: Job, work: Work) -> tuple[Any, Session]:
    """Do work that changes the session; return its result and the session afterwards."""
    return work(db, job), look_at_session(db)


def _forget_hooks(db: Any) -> None:
    """Undo what a borrower has set on the module's connection itself."""
    if isinstance(db, sqlite3.Connection):
        db.isolation_level, db.row_factory, db.text_factory = None, None, str
    else:
        db.forget_hooks()


def restore(
    db: sqlite3.Connection,
    job: Job,
    *,
    session: Session | None,
    cursors: set[sqlite3.Cursor],
    read_only: bool,
) -> None:
    """End what a borrower left open; with ``session``, put that state back too."""
    close_cursors(cursors)
    roll_back(db, job)
    if read_only:
        execute(db, "PRAGMA query_only = 0")
    if session is None:
        return
    _forget_hooks(db)
    found = look_at_session(db)
    for name, was, now in zip(SESSION_PRAGMAS, session.pragmas, found.pragmas, strict=True):
        if was != now and was is not None:
            execute(db, f"PRAGMA {name} = {was}")
    if lost := session.databases - found.databases - {"temp"}:
        raise InternalError(
            f"the attached database {min(lost)!r} was detached: the connection is replaced"
        )
    for kind, name in found.temporary - session.temporary:
        execute(db, f"DROP {kind} IF EXISTS temp.{quoted_name(name)}")
    for name in found.databases - session.databases - {"temp"}:
        execute(db, f"DETACH {quoted_name(name)}")
