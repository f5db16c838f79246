"""A connection's settings: set and verified when it is opened, put back after a borrower."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiodbkit.backends.sqlite.worker import Job, Work, close_cursors, patiently, roll_back
from aiodbkit.errors import ConfigurationError

__all__ = [
    "SESSION_PRAGMAS",
    "Session",
    "Settings",
    "look_at_session",
    "quoted_name",
    "restore",
    "set_up",
    "with_look",
]

# Settings of a connection, as opposed to those that live in the file.
SESSION_PRAGMAS = (
    "analysis_limit",
    "automatic_index",
    "busy_timeout",
    "cache_size",
    "cache_spill",
    "cell_size_check",
    "checkpoint_fullfsync",
    "defer_foreign_keys",
    "foreign_keys",
    "fullfsync",
    "ignore_check_constraints",
    "journal_size_limit",
    "legacy_alter_table",
    "locking_mode",
    "max_page_count",
    "mmap_size",
    "query_only",
    "read_uncommitted",
    "recursive_triggers",
    "reverse_unordered_selects",
    "secure_delete",
    "synchronous",
    "temp_store",
    "threads",
    "trusted_schema",
    "wal_autocheckpoint",
    "writable_schema",
)
_WRITE_ONLY_PRAGMAS = frozenset(("case_sensitive_like", "key", "hexkey", "rekey", "hexrekey"))

# SQLite takes either and shows the number.
_WORDS = {"on": 1, "yes": 1, "true": 1, "off": 0, "no": 0, "false": 0, "none": 0}
_WORDS_OF = {
    "synchronous": {"normal": 1, "full": 2, "extra": 3},
    "temp_store": {"default": 0, "file": 1, "memory": 2},
    "auto_vacuum": {"full": 1, "incremental": 2},
    "secure_delete": {"fast": 2},
}

_execute = sqlite3.Connection.execute


class Settings:
    """What all connections of a driver have in common.

    Attributes:
        in_memory: readers take turns with writers.
        lock_timeout: seconds that one writer may hold up the others.
        reset: the pool's option.
        session: what a new session looks like, where it must not be looked at each time.
    """

    def __init__(self, *, in_memory: bool, lock_timeout: float, reset: str) -> None:
        self.in_memory = in_memory
        self.lock_timeout = lock_timeout
        self.reset = reset
        self.session: Session | None = None


class Session(NamedTuple):
    """A connection's state, to be put back after a borrower changed it."""

    pragmas: tuple[Any, ...]
    databases: frozenset[str]
    temporary: frozenset[tuple[str, str]]


def set_up(
    db: sqlite3.Connection, job: Job, *, pragmas: Mapping[str, Any], extensions: Sequence[str]
) -> None:
    """Set a new connection up."""
    db.isolation_level = None
    if extensions:
        _load_extensions(db, extensions)
    for name, value in pragmas.items():
        if value is not None:
            _set_pragma(db, job, name, value)


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


def _set_pragma(db: sqlite3.Connection, job: Job, name: str, value: Any) -> None:
    if not re.fullmatch(r"\w+(?:\.\w+)?", name):
        raise ConfigurationError(f"pragmas: {name!r} is no name of a pragma")
    quoted = "'" + str(value).replace("'", "''") + "'"
    setting = int(value) if isinstance(value, bool) else value
    text = f"PRAGMA {name} = {setting if isinstance(setting, int | float) else quoted}"
    # Only one connection at a time can change the journal mode; SQLite does not wait for it.
    patiently(db, job, text, _execute(db, "PRAGMA busy_timeout").fetchone()[0] / 1000)
    if name in _WRITE_ONLY_PRAGMAS:
        return
    found = _execute(db, f"PRAGMA {name}").fetchone()
    if found is None:
        raise ConfigurationError(f"pragmas: SQLite {sqlite3.sqlite_version} knows no {name!r}")
    if _as_shown(name, setting) != _as_shown(name, found[0]):
        raise ConfigurationError(
            f"pragmas: {name} = {setting!r} did not take, it is {found[0]!r}: the database or this "
            f"build of SQLite does not allow it; pragmas={{{name!r}: None}} leaves it alone"
        )


def _as_shown(name: str, value: Any) -> str:
    word = str(value).lower()
    return str(_WORDS_OF.get(name, {}).get(word, _WORDS.get(word, word)))


def look_at_session(db: sqlite3.Connection) -> Session:
    """Return the connection's state, as far as SQLite shows it. Reads the database."""
    values = (_execute(db, f"PRAGMA {name}").fetchone() for name in SESSION_PRAGMAS)
    databases = _execute(db, "select name from pragma_database_list")
    temporary = _execute(
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
        _execute(db, "PRAGMA query_only = 0")
    if session is None:
        return
    db.isolation_level, db.row_factory, db.text_factory = None, None, str
    found = look_at_session(db)
    for name, was, now in zip(SESSION_PRAGMAS, session.pragmas, found.pragmas, strict=True):
        if was != now and was is not None:
            _execute(db, f"PRAGMA {name} = {was}")
    for kind, name in found.temporary - session.temporary:
        _execute(db, f"DROP {kind} IF EXISTS temp.{quoted_name(name)}")
    for name in found.databases - session.databases - {"temp"}:
        _execute(db, f"DETACH {quoted_name(name)}")


def quoted_name(identifier: str) -> str:
    """Return an identifier quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'
