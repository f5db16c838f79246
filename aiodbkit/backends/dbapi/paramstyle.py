"""Parameters as a DB-API 2.0 module wants them.

``:name`` is found by `aiodbkit.sql`, in the way of the database that the module is for. What that
writes is then written again with the module's placeholders. Where no parameters are sent, the text
goes out as it stands: a module that formats has nothing to look for ``%`` in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from aiodbkit.driver import Params
from aiodbkit.errors import ProgrammingError
from aiodbkit.sql import Dialect, Expand, Statement, compile_sql

__all__ = ["Arguments", "bind", "bind_many", "plan"]

Arguments: TypeAlias = Mapping[str, Any] | Sequence[Any] | None

_NUMBER = re.compile(r"\$(\d+)")
_HOLES: dict[str, Callable[[int], str]] = {
    "qmark": lambda _: "?",
    "numeric": ":{}".format,
    "named": ":p{}".format,
    "format": lambda _: "%s",
    "pyformat": "%(p{})s".format,
}


class _Written(NamedTuple):
    """A text with the module's placeholders, and how the arguments go with it."""

    text: str
    arrange: Callable[[Sequence[Any]], Arguments]


def plan(sql: str, dialect: Dialect) -> Statement:
    """Compile the SQL, which has to be one statement."""
    statement = compile_sql(sql, dialect)
    if statement.count != 1:
        what = "is empty" if not statement.count else f"has {statement.count} statements"
        raise ProgrammingError(
            f"one statement is expected, but the SQL {what}; execute_script() runs several, "
            "without parameters",
            query=sql,
        )
    return statement


def bind(statement: Statement, params: Params, style: str) -> tuple[str, Arguments]:
    """Return the text and the arguments for the module; no arguments are None.

    Raises:
        ProgrammingError: names are missing or unused, or a mapping and a sequence are mixed up.
    """
    if _is_the_modules_own(statement, params):
        _refuse_misfits(statement, [params], style)
        return statement.sql, params
    text, args = statement.bind(params)
    if not args:
        return text, None
    written = _write(text, statement.dialect, style)
    return written.text, written.arrange(args)


def bind_many(
    statement: Statement, rows: Sequence[Params], style: str
) -> tuple[str, list[Arguments]]:
    """Return the text and the arguments of each row.

    Raises:
        ProgrammingError: as `bind`, with the row's index.
    """
    if rows and all(_is_the_modules_own(statement, row) for row in rows):
        _refuse_misfits(statement, rows, style)
        return statement.sql, list(rows)
    text, bound = statement.bind_many(rows)
    if not any(bound):
        return text, [None for _ in bound]
    written = _write(text, statement.dialect, style)
    return written.text, [written.arrange(args) for args in bound]


def _is_the_modules_own(statement: Statement, params: object) -> bool:
    """Whether only the module knows what the placeholders are: a sequence, and none that we do."""
    if statement.names or not params or isinstance(params, str | bytes | bytearray | memoryview):
        return False
    return isinstance(params, Sequence)


def _refuse_misfits(statement: Statement, rows: Sequence[Any], style: str) -> None:
    """Raise for what the modules take without a word."""
    if style in ("format", "pyformat") and "%" not in statement.sql:
        raise ProgrammingError(
            "the SQL has no parameters, and some were given", query=statement.sql
        )
    if any(type(value) is Expand for row in rows for value in row):
        raise ProgrammingError(
            "expand() goes with named parameters: in (:ids), and a mapping", query=statement.sql
        )


@lru_cache(maxsize=1024)
def _write(text: str, dialect: Dialect, style: str) -> _Written:
    statement = compile_sql(text, dialect)
    numbers = _numbers(text, statement)
    pieces = list(statement.parts)
    if style in ("format", "pyformat"):
        pieces = [piece.replace("%", "%%") for piece in pieces]
    hole = _HOLES[style]
    holes = [*map(hole, numbers), ""]
    written = "".join(part for pair in zip(pieces, holes, strict=True) for part in pair)
    return _Written(written, _arranger(style, numbers))


def _numbers(text: str, statement: Statement) -> list[int]:
    """Return the number of each placeholder's argument, from 1."""
    if statement.dialect is not Dialect.POSTGRES:
        return list(range(1, len(statement.names) + 1))
    numbers, place = list[int](), 0
    for part in statement.parts[:-1]:
        found = _NUMBER.match(text, place + len(part))
        assert found is not None
        numbers.append(int(found[1]))
        place = found.end()
    return numbers


def _arranger(style: str, numbers: Sequence[int]) -> Callable[[Sequence[Any]], Arguments]:
    if style in ("named", "pyformat"):
        names = {f"p{number}": number - 1 for number in numbers}
        return lambda args: {name: args[place] for name, place in names.items()}
    if style == "numeric":
        return tuple
    return lambda args: tuple([args[number - 1] for number in numbers])
