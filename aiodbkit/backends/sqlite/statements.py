"""What SQLite makes of a statement: does it write, what does it need, what may it leave."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from aiodbkit.backends.sqlite.names import quoted_name
from aiodbkit.backends.sqlite.worker import first_word
from aiodbkit.errors import NotSupportedError, ProgrammingError, TransactionScopeError
from aiodbkit.options import TransactionOptions
from aiodbkit.sql import Dialect, Statement, blank, compile_sql

__all__ = [
    "begin_statement",
    "insert_statement",
    "is_atomic",
    "is_loose",
    "kind",
    "refuse_control",
    "single",
    "touches",
    "writes",
]

# Given a transaction of their own where none is open.
_ATOMIC = frozenset(
    (
        *("insert", "update", "delete", "replace", "with"),
        *("create", "drop", "alter", "reindex", "analyze"),
    )
)
# They write nothing, or only what is of this connection alone.
_NO_WRITES = frozenset(
    ("commit", "end", "rollback", "savepoint", "release", "attach", "detach", "explain")
)
_CONTROL = frozenset(("begin", "commit", "end", "rollback"))
# A script with one of these has ideas of its own about transactions.
_LOOSE = _CONTROL | {"savepoint", "release", "pragma", "vacuum", "attach", "detach"}
_MAY_TOUCH = frozenset(("pragma", "attach", "detach", "create"))

_LOCKS = re.compile(r"\bbegin\s+(?:immediate|exclusive)\b", re.IGNORECASE)
_ROLLBACK_TO = re.compile(r"[\s;]*rollback\s+(?:transaction\s+)?to\b", re.IGNORECASE)
_ASSIGNS = re.compile(r"\bpragma\b[^=(;]*=", re.IGNORECASE)
_TOUCHES = re.compile(
    r"\bpragma\b[^;]*[=(]|\b(?:attach|detach)\b|\btemp(?:orary)?\b", re.IGNORECASE
)


@lru_cache(maxsize=1024)
def single(sql: str) -> Statement:
    """Compile the SQL, which has to be one statement."""
    statement = compile_sql(sql, Dialect.SQLITE)
    if statement.count == 0:
        raise ProgrammingError("the SQL is empty: it has no statement", query=sql)
    if statement.count > 1:
        raise ProgrammingError(
            f"the SQL has {statement.count} statements, one is expected: "
            "execute_script() runs several",
            query=sql,
        )
    return statement


def kind(statement: Statement) -> str:
    """Return the first word, ``"select"`` for whatever only reads."""
    return "select" if statement.is_read else statement.keyword


def is_atomic(statement: Statement) -> bool:
    """Whether it needs a transaction of its own, so that it can be undone."""
    return statement.keyword in _ATOMIC and not statement.is_read


def writes(statement: Statement) -> bool:
    """Whether it needs, or takes, the lock that one connection at a time can have."""
    match statement.keyword:
        case "begin":
            return _LOCKS.search(statement.text) is not None
        case "pragma":
            return _ASSIGNS.search(statement.text) is not None
        case keyword:
            return keyword not in _NO_WRITES


def touches(sql: str, words: Iterable[str]) -> bool:
    """Whether it may change the session: settings, attached databases, what is temporary."""
    return not _MAY_TOUCH.isdisjoint(words) and _TOUCHES.search(sql) is not None


def is_loose(words: Iterable[str]) -> bool:
    """Whether a script cannot be put into a transaction as a whole."""
    return not _LOOSE.isdisjoint(words)


def refuse_control(sql: str, statements: Iterable[str]) -> None:
    """Raise for SQL that would end the open transaction, or begin another one inside."""
    for statement in statements:
        word = first_word(statement)
        if word in _CONTROL and not _ROLLBACK_TO.match(blank(statement, Dialect.SQLITE)):
            raise TransactionScopeError(
                f"{word.upper()} would begin or end a transaction inside the open one: leave that "
                "to its block, or to begin(), commit() and rollback(). Nothing was done",
                query=sql,
            )


def insert_statement(table: str, columns: Sequence[str]) -> str:
    """Return the INSERT for rows of these columns; ``table`` may have a schema."""
    names = ", ".join(map(quoted_name, columns))
    marks = ", ".join("?" * len(columns))
    return f"insert into {'.'.join(map(quoted_name, table.split('.')))} ({names}) values ({marks})"  # noqa: S608


def begin_statement(options: TransactionOptions) -> str:
    """Return the BEGIN that does what is asked.

    Raises:
        NotSupportedError: SQLite cannot do that.
    """
    if options.isolation not in (None, "serializable"):
        raise NotSupportedError(
            f"isolation={options.isolation!r}: SQLite's transactions are always serializable"
        )
    if options.deferrable:
        raise NotSupportedError("deferrable=True is PostgreSQL's: SQLite's readers never wait")
    mode = options.mode or ("deferred" if options.read_only else "immediate")
    return f"BEGIN {mode.upper()}"
