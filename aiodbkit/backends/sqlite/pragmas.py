"""Pragmas: set in the order in which they can take effect, and verified."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from aiodbkit.backends.sqlite.worker import Job, execute, patiently
from aiodbkit.errors import ConfigurationError

__all__ = ["FILE_PRAGMAS", "SESSION_PRAGMAS", "keys_among", "set_pragmas"]

# Settings that live in the file.
FILE_PRAGMAS = ("application_id", "auto_vacuum", "encoding", "journal_mode", "page_size")

# Settings of a connection.
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

# SQLite says nothing of them.
_WRITE_ONLY = frozenset(("case_sensitive_like", "key", "hexkey", "rekey", "hexrekey", "textkey"))
_KEYS = _WRITE_ONLY - {"case_sensitive_like"}
# What a file is made with: WAL mode, which writes its first page, comes after them.
_SHAPE = frozenset(("auto_vacuum", "encoding", "page_size"))

# SQLite takes either and shows the number.
_WORDS = {"on": 1, "yes": 1, "true": 1, "off": 0, "no": 0, "false": 0, "none": 0}
_WORDS_OF: dict[str, dict[str, object]] = {
    "synchronous": {"normal": 1, "full": 2, "extra": 3},
    "temp_store": {"default": 0, "file": 1, "memory": 2},
    "auto_vacuum": {"full": 1, "incremental": 2},
    "secure_delete": {"fast": 2},
    "writable_schema": {"reset": 0},
    "encoding": {"utf8": "utf-8", "utf16le": "utf-16le", "utf16be": "utf-16be"},
}
# What any number below means.
_LEAST = {"busy_timeout": 0, "journal_size_limit": -1, "wal_autocheckpoint": 0}


def set_pragmas(db: sqlite3.Connection, job: Job, pragmas: Mapping[str, Any]) -> None:
    """Set pragmas and verify each; those that are None are left alone.

    Raises:
        ConfigurationError: one that SQLite does not know, or that did not take.
    """
    wanted = {name: value for name, value in pragmas.items() if value is not None}
    for name in sorted(wanted, key=_rank):
        _set(db, job, name, wanted[name])
        if name not in _WRITE_ONLY | _SHAPE:
            _verify(db, name, wanted[name])
    if shape := _SHAPE & wanted.keys():
        # Until a file has been read, SQLite shows what was asked for.
        execute(db, "PRAGMA schema_version").fetchone()
        for name in sorted(shape):
            _verify(db, name, wanted[name])


def keys_among(pragmas: Mapping[str, Any]) -> dict[str, Any]:
    """Return those without which the file cannot be read."""
    return {name: value for name, value in pragmas.items() if _is_key(name)}


def _is_key(name: str) -> bool:
    return name in _KEYS or name.startswith(("cipher_", "kdf_"))


def _rank(name: str) -> int:
    if name == "busy_timeout":
        return 0
    if _is_key(name):
        return 1
    return 2 if name in _SHAPE else 3


def _set(db: sqlite3.Connection, job: Job, name: str, value: Any) -> None:
    if not re.fullmatch(r"\w+(?:\.\w+)?", name):
        raise ConfigurationError(f"pragmas: {name!r} is no name of a pragma")
    quoted = "'" + str(value).replace("'", "''") + "'"
    setting = int(value) if isinstance(value, bool) else value
    text = f"PRAGMA {name} = {setting if isinstance(setting, int | float) else quoted}"
    # Only one connection at a time can change the journal mode; SQLite does not wait for it.
    patiently(db, job, text, execute(db, "PRAGMA busy_timeout").fetchone()[0] / 1000)


def _verify(db: sqlite3.Connection, name: str, value: Any) -> None:
    found = execute(db, f"PRAGMA {name}").fetchone()
    plain = name.rpartition(".")[2]
    if found is None:
        raise ConfigurationError(_unanswered(db, name, plain))
    if not _took(plain, _as_shown(plain, value), _as_shown(plain, found[0])):
        raise ConfigurationError(
            f"pragmas: {name} = {value!r} did not take, it is {found[0]!r}: the database or this "
            f"build of SQLite does not allow it; pragmas={{{name!r}: None}} leaves it alone"
        )


def _unanswered(db: sqlite3.Connection, name: str, plain: str) -> str:
    known = execute(db, "select 1 from pragma_pragma_list where name = ?", (plain,)).fetchone()
    if known is None:
        (version,) = execute(db, "select sqlite_version()").fetchone()
        return f"pragmas: SQLite {version} knows no {name!r}"
    return (
        f"pragmas: {name!r} has no value that could be set here: it is an action, which is run as "
        "a statement, or a setting that a database in memory does not have"
    )


def _took(name: str, wanted: str, found: str) -> bool:
    if wanted == found:
        return True
    if name == "cache_spill":  # on is shown as a number of pages
        return wanted == "1" and found != "0"
    return name == "encoding" and wanted == "utf-16" and found.startswith(wanted)


def _as_shown(name: str, value: Any) -> str:
    word = str(int(value) if isinstance(value, bool) else value).lower()
    shown = str(_WORDS_OF.get(name, {}).get(word, _WORDS.get(word, word)))
    least = _LEAST.get(name)
    if least is not None and re.fullmatch(r"-\d+", shown):
        return str(max(int(shown), least))
    return shown
