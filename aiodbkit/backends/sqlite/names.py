"""Names in SQL."""

from __future__ import annotations

from aiodbkit.errors import ProgrammingError

__all__ = ["quoted_name"]


def quoted_name(identifier: str) -> str:
    """Return an identifier quoted for SQL.

    Raises:
        ProgrammingError: it has a NUL character, at which SQLite would end the statement.
    """
    if "\0" in identifier:
        raise ProgrammingError("an identifier cannot hold a NUL character")
    return '"' + identifier.replace('"', '""') + '"'
