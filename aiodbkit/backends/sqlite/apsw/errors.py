"""What apsw raises, as sqlite3 would: the jobs on a connection's thread know that module's errors.

https://rogerbinns.github.io/apsw/exceptions.html
"""

from __future__ import annotations

import sqlite3
from typing import NoReturn

import apsw

from aiodbkit.backends.sqlite.errors import ForeignError
from aiodbkit.errors import DataError

__all__ = ["fail", "not_text"]

# Understood as they are.
_PLAIN = (UnicodeEncodeError, OverflowError, MemoryError)


def fail(error: BaseException) -> NoReturn:
    """Raise what apsw has raised, or a function of the user's through it, as an error of sqlite3.

    Raises:
        sqlite3.Error: with ``sqlite_errorcode``, if the error is SQLite's.
    """
    if isinstance(error, _PLAIN):
        raise error
    raise _failure(error) from error


def _failure(error: BaseException) -> sqlite3.Error:
    if isinstance(error, apsw.ConnectionClosedError):
        return sqlite3.ProgrammingError("Cannot operate on a closed database.")
    if isinstance(error, apsw.Error):
        failure = ForeignError(str(error))
        code = getattr(error, "extendedresult", None)
        if code is not None:
            failure.sqlite_errorcode = code
        return failure
    if isinstance(error, ValueError) and "null character" in str(error):
        return ForeignError("the SQL has a NUL character")
    return sqlite3.OperationalError("user-defined function raised exception")


def not_text(columns: tuple[str, ...]) -> DataError:
    """Return the error for text that is none, in one of the columns."""
    if len(columns) == 1:
        (column,) = columns
        return DataError(
            f"the text in column {column!r} is not UTF-8: read it as cast({column} as blob)",
            column=column,
        )
    return DataError(
        f"a text in one of the columns {', '.join(map(repr, columns))} is not UTF-8: read it as "
        "cast(... as blob)"
    )
