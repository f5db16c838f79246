"""LOAD DATA LOCAL: the file that a statement names, and no other, for the server to ask for."""

from __future__ import annotations

import os
import re
from io import FileIO
from pathlib import Path

from aiodbkit.backends.mysql.sql import Traits
from aiodbkit.errors import DataError, ProgrammingError

__all__ = ["local_file", "opened"]

_LOCAL = re.compile(rb"\blocal\s+infile\b", re.IGNORECASE)
_NAMED = re.compile(rb"\blocal\s+infile\s+'([^'\\]+)'(?!')", re.IGNORECASE)


def local_file(traits: Traits, text: bytes) -> bytes | None:
    """Return the path in a LOAD DATA LOCAL, None for other statements.

    Raises:
        ProgrammingError: the path is not plain to see.
    """
    if traits.keyword != "LOAD" or not _LOCAL.search(text):
        return None
    named = _NAMED.search(text)
    if named is None:
        raise ProgrammingError(
            "LOAD DATA LOCAL INFILE takes the path of its file in single quotes, with no quote and "
            "no backslash in it",
            query=traits.sql,
        )
    return named[1]


def opened(path: bytes, sql: str) -> FileIO:
    """Open it, before anything is sent.

    Raises:
        DataError: it cannot be read.
    """
    try:
        # Unbuffered: to close a buffered one would wait for a read of it that was cancelled.
        return Path(os.fsdecode(path)).open("rb", buffering=0)
    except OSError as error:
        raise DataError(f"the file cannot be read, nothing was sent: {error}", query=sql) from error
