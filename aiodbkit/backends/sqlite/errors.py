"""What SQLite and sqlite3 raise, as errors of aiodbkit.

https://www.sqlite.org/rescode.html; ``sqlite_errorcode`` is the extended code, whose low byte is
the primary one.
"""

from __future__ import annotations

import re
import sqlite3

from aiodbkit import errors
from aiodbkit.errors import Error

__all__ = [
    "BUSY",
    "BUSY_SNAPSHOT",
    "INTERRUPT",
    "IOERR",
    "ForeignError",
    "UserCodeError",
    "cause_of",
    "error_code",
    "primary_code",
    "translate",
]

BUSY, LOCKED, READONLY, INTERRUPT, IOERR = 5, 6, 8, 9, 10
BUSY_SNAPSHOT = 517

_BY_CODE: dict[int, type[Error]] = {
    275: errors.CheckViolationError,
    787: errors.ForeignKeyViolationError,
    1299: errors.NotNullViolationError,
    1555: errors.UniqueViolationError,  # the primary key
    2067: errors.UniqueViolationError,
    2579: errors.UniqueViolationError,  # the rowid
    3091: errors.DataError,  # a STRICT table
    BUSY_SNAPSHOT: errors.SerializationError,
}
_BY_PRIMARY: dict[int, type[Error]] = {
    1: errors.ProgrammingError,
    BUSY: errors.LockTimeoutError,
    LOCKED: errors.LockTimeoutError,
    READONLY: errors.ReadOnlyError,
    18: errors.DataError,  # too big
    19: errors.IntegrityError,
    20: errors.DataError,  # mismatch
    21: errors.InterfaceError,
    25: errors.ProgrammingError,  # parameter out of range
}
_HINTS = {
    4: "the row of an open blob was changed or deleted meanwhile: open it again",
    BUSY: "another process, thread or event loop holds the lock",
    LOCKED: "a cursor that is open on this connection uses the table: close it first",
    BUSY_SNAPSHOT: "somebody else has written since this transaction began to read: roll it back "
    'and repeat it, or begin it with mode="immediate"',
}

# They say: UNIQUE constraint failed: t.a, t.b; UNIQUE constraint failed: index 'i';
# CHECK constraint failed: name; cannot store TEXT value in INTEGER column t.n
_COLUMNS = re.compile(r"(?:failed:|column) (?P<table>[^.,]+)\.(?P<column>[^.,]+)(?P<more>,.*)?\Z")
_NAME = re.compile(r"CHECK constraint failed: (?P<check>.+)|failed: index '(?P<index>.+)'")
_UNDECODABLE = re.compile(r"Could not decode to UTF-8 column '(?P<column>.*)' with text", re.DOTALL)


class ForeignError(sqlite3.OperationalError):
    """What another module than sqlite3 raised, which is its ``__cause__``."""


class UserCodeError(sqlite3.OperationalError):
    """A function of the user's raised its ``__cause__`` in the middle of a statement."""


def error_code(error: BaseException) -> int | None:
    """Return SQLite's extended code, None where the error is sqlite3's own."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return getattr(error, "extendedresult", None) if code is None else code  # apsw's name


def primary_code(error: BaseException) -> int | None:
    """Return SQLite's primary code, None where the error is sqlite3's own."""
    code = error_code(error)
    return None if code is None else code & 0xFF


def cause_of(error: BaseException) -> BaseException | None:
    """Return the error if it may be shown: its text has no value of a row or a parameter."""
    if isinstance(error, UserCodeError | ForeignError):
        return error.__cause__
    if isinstance(error, sqlite3.Error) and not _UNDECODABLE.match(str(error)):
        return error
    return None


def translate(error: BaseException, sql: str | None, *, upgrading: bool = False) -> Error | None:
    """Return the error of aiodbkit for one that came out of the worker thread, or None.

    Args:
        upgrading: the transaction has begun without the lock: it is too late to wait for it.
    """
    if isinstance(error, Error):
        error.query = sql
        return error
    code = error_code(error)
    if code is not None:
        return _from_code(error, BUSY_SNAPSHOT if upgrading and code == BUSY else code, sql)
    if isinstance(error, sqlite3.Error | sqlite3.Warning):
        return _from_module(error, sql)
    if isinstance(error, UnicodeEncodeError):
        return errors.ProgrammingError(
            "the SQL has a lone surrogate, which is no character", query=sql
        )
    if isinstance(error, OverflowError):
        return errors.DataError("a parameter is larger than SQLite can take", query=sql)
    return None


def _from_code(error: BaseException, code: int, sql: str | None) -> Error:
    primary = code & 0xFF
    cls = _BY_CODE.get(code) or _BY_PRIMARY.get(primary) or errors.OperationalError
    if primary == 1 and "user-defined" in str(error):
        cls = errors.OperationalError
    hint = _HINTS.get(code) or _HINTS.get(primary)
    text = f"{error} ({hint})" if hint else str(error)
    columns, name = _COLUMNS.search(str(error)), _NAME.search(str(error))
    return cls(
        text,
        code=code,
        query=sql,
        table=columns["table"] if columns else None,
        column=columns["column"] if columns and not columns["more"] else None,
        constraint=(name["check"] or name["index"]) if name else None,
        # Nothing that is repeated makes a database writable.
        is_transient=False if primary == READONLY else None,
    )


def _from_module(error: BaseException, sql: str | None) -> Error:
    text = str(error)
    if isinstance(error, UserCodeError):
        return errors.OperationalError(text, code=1, query=sql)
    if "closed database" in text:
        return errors.ConnectionLostError(
            "the connection to the SQLite database is closed: nothing was sent",
            query=sql,
            is_transient=True,
        )
    if found := _UNDECODABLE.match(text):
        column = found["column"]
        return errors.DataError(
            f"the text in column {column!r} is not UTF-8: read it as cast({column} as blob)",
            query=sql,
            column=column,
        )
    if isinstance(error, sqlite3.NotSupportedError):
        return errors.NotSupportedError(text, query=sql)
    return errors.ProgrammingError(text, query=sql)
