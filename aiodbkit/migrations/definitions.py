"""Definitions of tables and columns as text, changed in one place; all else stays as written."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from aiodbkit.errors import InternalError, ProgrammingError
from aiodbkit.sql import Dialect, blank

__all__ = [
    "Definition",
    "Edit",
    "names_in",
    "with_column",
    "with_nullability",
    "with_nullable",
    "without_column",
]

_CONSTRAINT = re.compile(r"(?i)\s*(?:constraint|primary|unique|check|foreign)\b")
_NULL = re.compile(
    r"(?i)(?P<kept>\b(?:default|set)\s+null\b)"
    r"|\s*(?:\bconstraint\s+(?:\w+|'+)\s+)?\b(?:not\s+)?null\b(?:\s+on\s+conflict\s+\w+)?"
)
_DEFAULT_NULL = re.compile(r"(?i)\s*\bdefault\s+null\b")
_CHECK = re.compile(r"(?i)\s*\bcheck\b")
_TOKEN = re.compile(r"'+|\w+")


@dataclass(frozen=True)
class Definition:
    """CREATE TABLE of SQLite's, cut up.

    Attributes:
        items: columns, then constraints, with the blanks and comments around them.
        tail: what comes after them: ``") strict"``.
    """

    items: tuple[str, ...]
    tail: str

    @classmethod
    def of(cls, sql: str) -> Definition:
        """Cut the text at the commas between its outermost parentheses."""
        flat = _flat(blank(sql, Dialect.SQLITE))
        start = flat.index("(") + 1
        end = flat.find(")", start)
        if end < 0:
            raise InternalError(f"CREATE TABLE has no end: {sql}")
        cuts = [start - 1, *(place for place in range(start, end) if flat[place] == "\0"), end]
        items = (sql[before + 1 : after] for before, after in pairwise(cuts))
        return cls(tuple(items), sql[end:])

    def body(self) -> str:
        """Return all that comes after the name."""
        return f"({','.join(self.items)}{self.tail}"

    @property
    def count(self) -> int:
        """How many of the items are columns."""
        blanked = (blank(item, Dialect.SQLITE) for item in self.items)
        return sum(_CONSTRAINT.match(item) is None for item in blanked)

    def place_of(self, column: str) -> int:
        """Return where a column is among the items."""
        for place, item in enumerate(self.items[: self.count]):
            if names_in(item)[0] == column.lower():
                return place
        raise ProgrammingError(f"there is no column {column!r}", column=column)


Edit = Callable[[Definition], Definition]


def with_column(text: str) -> Edit:
    """Add a column after the others."""

    def edit(old: Definition) -> Definition:
        count = old.count
        return replace(old, items=(*old.items[:count], f" {text}", *old.items[count:]))

    return edit


def without_column(column: str) -> Edit:
    """Leave a column out, and the table's constraints that name it."""

    def edit(old: Definition) -> Definition:
        place, count = old.place_of(column), old.count
        if count == 1:
            raise ProgrammingError(f"{column!r} is the only column of its table", column=column)
        columns = (*old.items[:place], *old.items[place + 1 : count])
        if any(f'"{column}"'.lower() in item.lower() for item in columns):
            # SQLite would take it for text from now on.
            raise ProgrammingError(f"another column's definition needs {column!r}", column=column)
        kept = (item for item in old.items[count:] if column.lower() not in _own_names(item))
        return replace(old, items=(*columns, *kept))

    return edit


def with_nullability(column: str, *, nullable: bool) -> Edit:
    """Let a column take NULL, or refuse it."""

    def edit(old: Definition) -> Definition:
        place = old.place_of(column)
        item = with_nullable(old.items[place], Dialect.SQLITE, nullable=nullable)
        return replace(old, items=(*old.items[:place], item, *old.items[place + 1 :]))

    return edit


def with_nullable(text: str, dialect: Dialect, *, nullable: bool) -> str:
    """Return a column's definition with NULL or NOT NULL, and without what it had of these."""
    cut = _cut(text, _NULL, dialect)
    if not nullable:
        cut = _cut(cut, _DEFAULT_NULL, dialect)
    flat = _flat(blank(cut, dialect))
    check = _CHECK.search(flat)  # MariaDB wants it last
    end = check.start() if check and dialect.is_mysql else len(flat.rstrip())  # before a comment
    return f"{cut[:end]} {'null' if nullable else 'not null'}{cut[end:]}"


def names_in(sql: str) -> list[str]:
    """Return the words and the quoted names of a piece of SQLite's SQL, in lower case."""
    return [
        sql[found.start() : found.end()].strip("\"'`[]").replace('""', '"').lower()
        for found in _TOKEN.finditer(blank(sql, Dialect.SQLITE))
    ]


def _own_names(constraint: str) -> list[str]:
    """Return the names in a constraint but for those of the table that it refers to."""
    names = names_in(constraint)
    return names[: names.index("references")] if "references" in names else names


def _cut(text: str, pattern: re.Pattern[str], dialect: Dialect) -> str:
    """Cut out what is found outside of quotes, comments and parentheses, unless it is kept."""
    pieces, done = list[str](), 0
    for found in pattern.finditer(_flat(blank(text, dialect))):
        if not found.groupdict().get("kept"):
            pieces.append(text[done : found.start()])
            done = found.end()
    return "".join(pieces) + text[done:]


def _flat(blanked: str) -> str:
    r"""Return the text, equally long, with dots for what is inside of parentheses.

    In the outermost ones its commas are ``\0`` if it is a list, as that of CREATE TABLE.
    """
    depth, characters = 0, list[str]()
    for character in blanked:
        depth -= character == ")"
        inside = "\0" if depth == 1 and character == "," else "."
        characters.append(inside if depth else character)
        depth += character == "("
    return "".join(characters)
