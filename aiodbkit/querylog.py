"""The lines about statements in the log: how long, how many rows, which SQL; values only if asked.

Of an error only its class and code are told: a database may quote values in its text.
"""

from __future__ import annotations

import asyncio
import logging
import re
import reprlib

from aiodbkit.errors import Error
from aiodbkit.events import QueryEvent, TransactionEvent

__all__ = ["is_query_logged", "log_query", "log_transaction"]

_queries = logging.getLogger("aiodbkit.query")
_transactions = logging.getLogger("aiodbkit.transaction")

# Asked before each statement, by those who run them.
is_query_logged = _queries.isEnabledFor

# Passwords stand in the text of `create user`, `alter role` and the like, which take no parameters.
_SECRET = re.compile(
    r"""
    ( (?<!['"`.]) \b
      (?: identified \s+ (?: (?: with | via ) \s [^'";]*? )? \b (?: by | as | using )
          (?: \s+ password )?
        | password )
      \s* [=(]? \s* [en]? )
    (?: '(?: [^'\\] | '' | \\. )* '?
      | "(?: [^"\\] | "" | \\. )* "?
      | \$ (\w*) \$ .*? (?: \$ \2 \$ | \Z ) )
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)

_LONGEST_SQL = 1000
_LEAST_WAIT = 0.001  # seconds: less is not worth a word


def log_query(event: QueryEvent, slow_query: float | None) -> None:
    """Log a statement: at WARNING if it took longer than ``slow_query`` seconds, else at DEBUG."""
    if slow_query is not None and event.duration > slow_query:
        if _queries.isEnabledFor(logging.WARNING):
            line = f"slow query: {_told(event)} {_shown(event)}"
            _queries.warning(
                "%s [longer than slow_query=%g s: look at its plan, as by EXPLAIN, or raise "
                "slow_query]",
                line,
                slow_query,
            )
    elif _queries.isEnabledFor(logging.DEBUG):
        _queries.debug("%s %s", _told(event), _shown(event))


def log_transaction(event: TransactionEvent, slow_query: float | None) -> None:
    """Log a step of a transaction, as `log_query` does a statement."""
    name = event.kind.upper()
    if slow_query is not None and event.duration > slow_query:
        _transactions.warning(
            "slow %s: %s [longer than slow_query=%g s: a lock or the disk kept it, or raise "
            "slow_query]",
            name,
            _told(event).rstrip(":"),
            slow_query,
        )
    elif _transactions.isEnabledFor(logging.DEBUG):
        _transactions.debug("%s %s", _told(event), name)


def _told(event: QueryEvent | TransactionEvent) -> str:
    """Return whose it was, how long it took, and how it ended."""
    parts = [f"{event.duration * 1000:.2f} ms"]
    if event.wait >= _LEAST_WAIT:
        parts.append(f"after a wait of {event.wait * 1000:.2f} ms")
    if event.error is not None:
        parts.append(_ending(event.error))
    elif isinstance(event, QueryEvent) and event.rows >= 0:
        parts.append(f"{event.rows} row{'s' * (event.rows != 1)}")
    return f"{event.engine.pool_options.name}: {', '.join(parts)}:"


def _ending(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    code = (error.sqlstate or error.code) if isinstance(error, Error) else None
    return f"failed with {type(error).__name__}" + ("" if code is None else f" {code}")


def _shown(event: QueryEvent) -> str:
    """Return the SQL in one line, and the parameters where the event has them."""
    sql = event.sql
    line = _in_one_line(_SECRET.sub(r"\1'***'", sql[: 4 * _LONGEST_SQL]))
    if len(line) > _LONGEST_SQL or len(sql) > 4 * _LONGEST_SQL:
        line = f"{line[:_LONGEST_SQL]}… ({len(sql)} characters)"
    return line if event.params is None else f"{line} with {_shortened.repr(event.params)}"


def _in_one_line(sql: str) -> str:
    line = " ".join(sql.split())
    if line.isprintable():
        return line
    # What a terminal would obey, or show as something else.
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)


class _Shortened(reprlib.Repr):
    """Parameters, without the length of what may be a file."""

    def __init__(self) -> None:
        super().__init__()
        self.maxdict = self.maxlist = self.maxtuple = 20
        self.maxstring = self.maxother = self.maxlong = 100

    def repr_bytes(self, x: bytes, level: int) -> str:  # noqa: ARG002 - as it is called
        shown = repr(x[: self.maxother])
        return shown if len(x) <= self.maxother else f"{shown}… ({len(x)} bytes)"

    def repr_str(self, x: str, level: int) -> str:  # noqa: ARG002
        shown = repr(x[: self.maxstring])
        return shown if len(x) <= self.maxstring else f"{shown}… ({len(x)} characters)"


_shortened = _Shortened()
