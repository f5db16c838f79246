"""What a connection must know of a statement before it is sent."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from aiodbkit.backends.dbapi.family import Family
from aiodbkit.backends.dbapi.paramstyle import plan
from aiodbkit.errors import NotSupportedError, TransactionScopeError
from aiodbkit.sql import Dialect, Statement, blank, split

__all__ = ["Script", "Traits", "insert_sql", "refuse_inside", "script", "traits"]

# Changes that belong together with those of its transaction, so they can be given one.
_CHANGES = frozenset(("insert", "update", "delete", "replace", "merge", "with"))
_SESSION = re.compile(
    r"""(?isx) \s* (?:
    set \b (?! \s+ (?:local|transaction|constraints) \b )
    | (?: reset | use | attach | detach | lock | prepare | listen | load | discard | handler
        | call | do | exec | execute | alter\s+session ) \b
    | pragma \b [^;]* [=(]
    | (?:create|drop) \s [^(;]*? \b temp(?:orary)? \b
    | .*? (?: (?<!@)@(?!@)\w+\s*:=
        | \b (?: set_config | pg_(?:try_)?advisory_lock\w* | get_lock ) \s*\(
        | \b into \s+ (?:local\s+|global\s+)? temp ) )"""
)
_CONTROL = re.compile(
    r"""(?ix) [\s;]* ( begin (?!\s+not\b) | start\s+transaction | commit | end | abort
    | prepare\s+transaction | rollback (?! \s+ (?:work\s+|transaction\s+)? to \b ) ) \b"""
)
_FIRST_WORD = re.compile(r"[\s;(]*(\w*)")


class Traits(NamedTuple):
    """A statement and what it does beyond its own work.

    Attributes:
        is_change: it can be given a transaction of its own.
        touches: it may leave something behind in the session.
        control: its name, if it begins or ends a transaction, else ``""``.
        commits: its name, if it commits the open transaction by the way, else ``""``.
    """

    statement: Statement
    is_change: bool
    touches: bool
    control: str
    commits: str

    @property
    def inserts(self) -> bool:
        """Whether there may be a new key."""
        return self.statement.keyword in ("insert", "replace")


class Script(NamedTuple):
    """Statements, and what is true of any of them.

    Attributes:
        is_loose: it has ideas of its own about transactions.
        touches, control, commits: as in `Traits`.
    """

    statements: tuple[str, ...]
    is_loose: bool
    touches: bool
    control: str
    commits: str


@lru_cache(maxsize=1024)
def traits(sql: str, family: Family) -> Traits:
    """Look at one statement, once."""
    statement = plan(sql, family.dialect)
    blanked = blank(sql, family.dialect)
    return Traits(
        statement,
        statement.keyword in _CHANGES and not statement.is_read,
        _SESSION.match(blanked) is not None,
        _control(blanked),
        family.commits(blanked),
    )


def script(sql: str, family: Family) -> Script:
    """Look at several statements."""
    statements = tuple(split(sql, family.dialect))
    blanked = [blank(one, family.dialect) for one in statements]
    words = {_first_word(one) for one in blanked}
    control = next(filter(None, map(_control, blanked)), "")
    is_loose = bool(control) or not words.isdisjoint(family.loose_words)
    return Script(
        statements,
        is_loose or not family.undoes_scripts,
        any(_SESSION.match(one) for one in blanked),
        control,
        next(filter(None, map(family.commits, blanked)), ""),
    )


def _control(blanked: str) -> str:
    found = _CONTROL.match(blanked)
    return " ".join(found[1].upper().split()) if found else ""


def _first_word(blanked: str) -> str:
    found = _FIRST_WORD.match(blanked)
    return found[1].lower() if found else ""


def refuse_inside(known: Traits | Script, sql: str) -> None:
    """Raise for what would begin, end or commit a transaction inside an open one."""
    if known.control:
        raise TransactionScopeError(
            f"{known.control} would begin or end a transaction inside the open one: leave that to "
            "its block, or to begin(), commit() and rollback(). Nothing was sent",
            query=sql,
        )
    if known.commits:
        raise NotSupportedError(
            f"{known.commits} would commit the open transaction on this database: run it outside "
            "of one. Nothing was sent",
            query=sql,
        )


def insert_sql(table: str, columns: list[str], family: Family) -> str:
    """Return the INSERT for rows of these columns, with placeholders of the family's dialect."""
    names = ", ".join(map(family.quote, columns))
    target = ".".join(map(family.quote, table.split(".")))
    if family.dialect is Dialect.POSTGRES:
        marks = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    else:
        marks = ", ".join(["%s" if family.dialect.is_mysql else "?"] * len(columns))
    # In a text with %s each %% is one %.
    head = f"insert into {target} ({names}) values ("  # noqa: S608
    return (head.replace("%", "%%") if family.dialect.is_mysql else head) + marks + ")"
