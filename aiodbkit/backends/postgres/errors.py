"""What PostgreSQL and asyncpg say, in the words of `aiodbkit.errors`.

Server messages are passed on without DETAIL, and those about values (class 22) without what they
quote: neither the text nor the attributes of an error hold a value of the caller.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import asyncpg

from aiodbkit.backends.postgres.sqlstates import (
    HINTS,
    Sent,
    kind_of,
    line_of_copy,
    without_values,
)
from aiodbkit.errors import (
    CannotConnectError,
    ConfigurationError,
    ConnectionLostError,
    DataError,
    Error,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    QueryTimeoutError,
    TooManyConnectionsError,
)

__all__ = [
    "Sent",
    "answered",
    "cannot_connect",
    "connection_lost",
    "is_refused_argument",
    "means_broken",
    "refused_argument",
]


def answered(error: asyncpg.PostgresError, sent: Sent) -> Error:
    """Translate what the server answered to a statement."""
    state = error.sqlstate or ""
    message = str(error.args[0] if error.args else "")
    kind = _kind(error)
    if state == "57014":
        return _cancelled(error, message, sent.sql)
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        # Outside a transaction asyncpg has tried again by itself; inside, all of it can be.
        again = f"{message}: run the transaction again"
        return _made(OperationalError, error, again, sent.sql, is_transient=True)
    if kind is DataError:
        message = _nul_character(error, sent) or without_values(message)
    message += line_of_copy(getattr(error, "context", None))
    return _made(kind, error, message + HINTS.get(state, ""), sent.sql)


def _kind(error: asyncpg.PostgresError) -> type[Error]:
    return kind_of(error.sqlstate)


def _cancelled(error: asyncpg.PostgresError, message: str, sql: str | None) -> Error:
    """57014 is not our doing: our own timeout never comes back as an answer."""
    if "user request" in message:
        return _made(OperationalError, error, f"{message} (pg_cancel_backend)", sql)
    return _made(QueryTimeoutError, error, f"{message} (a limit of the server)", sql)


def _made(
    kind: type[Error],
    error: BaseException,
    message: str,
    sql: str | None,
    *,
    is_transient: bool | None = None,
) -> Error:
    return kind(
        message,
        sqlstate=getattr(error, "sqlstate", None),
        constraint=getattr(error, "constraint_name", None),
        table=getattr(error, "table_name", None),
        column=getattr(error, "column_name", None),
        query=sql,
        is_transient=is_transient,
    )


# Connections that broke.


def means_broken(error: Exception) -> bool:
    """Whether the protocol can no longer be trusted, even if asyncpg has not closed it."""
    if isinstance(error, asyncpg.OutdatedSchemaCacheError):
        return False
    if isinstance(error, asyncpg.PostgresError):
        return _kind(error) is ConnectionLostError
    return isinstance(error, OSError | RuntimeError | asyncpg.InternalClientError)


def connection_lost(error: Exception, sql: str | None) -> ConnectionLostError:
    """Say that the connection broke; transient only where the server cannot have got anything."""
    server = error.__cause__ if isinstance(error.__cause__, asyncpg.PostgresError) else None
    reason = server.args[0] if server is not None else error
    # A pooler's answer to a client that waited too long: no server has seen the statement.
    queued = "query_wait_timeout" in str(error)
    # asyncpg's own refusals come before anything is sent.
    return ConnectionLostError(
        f"the connection to PostgreSQL was lost: {str(reason) or type(error).__name__}",
        sqlstate=getattr(server or error, "sqlstate", None),
        query=sql,
        is_transient=queued or isinstance(error, asyncpg.InterfaceError),
    )


# Arguments that asyncpg refused before it sent anything.

_ARGUMENT = re.compile(
    r"(?:invalid input for )?query argument \$(?P<position>\d+)"
    r"(?: in element #(?P<row>\d+) of executemany\(\) sequence)?:"
)


def is_refused_argument(error: Exception) -> bool:
    """Whether it is asyncpg that complains; errors of the server have a severity."""
    if isinstance(error, asyncpg.DataError):
        return getattr(error, "severity", None) is None
    return isinstance(error, asyncpg.InterfaceError)


def refused_argument(error: Exception, sent: Sent, expected: Sequence[str]) -> Error:
    """Name the parameter, its type and the type that the server expects; never the value.

    Args:
        expected: the server's names of the parameters' types, empty where unknown.
    """
    text = str(error.args[0])
    found = _ARGUMENT.match(text)
    if found is None:
        misfit = text.startswith(("the server expects", "the number of query arguments"))
        return _made(ProgrammingError if misfit else InterfaceError, error, text, sent.sql)
    index = int(found["position"]) - 1
    row = sent.args[int(found["row"])] if found["row"] else sent.args
    place = f" of row {found['row']}" if found["row"] else ""
    wanted = f"PostgreSQL's {expected[index]}" if expected else "the type that the server expects"
    given = type(row[index]).__name__
    message = f"parameter {sent.names[index]}{place}: this {given} does not fit {wanted}"
    return _made(DataError, error, message, sent.sql)


def _nul_character(error: asyncpg.PostgresError, sent: Sent) -> str:
    """Name the parameter whose text PostgreSQL cannot store: its own message does not."""
    if error.sqlstate != "22021" or not str(error.args[0]).endswith("0x00"):
        return ""
    if not sent.args:  # of a COPY the server tells line and column, and in binary no value
        return "a text holds a NUL character, which PostgreSQL's text cannot"
    rows = sent.args if isinstance(sent.args, list) else [sent.args]
    for row in rows:
        for name, value in zip(sent.names, row, strict=False):
            if _has_nul(value):
                return f"parameter {name} holds a NUL character, which PostgreSQL's text cannot"
    return ""


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    return isinstance(value, list | tuple) and any(map(_has_nul, value))


# Connections that could not be opened.


def cannot_connect(error: Exception, where: str) -> Error:
    """Say what could not be reached, and whether trying again can help."""
    if isinstance(error, Error):
        return error
    if isinstance(error, asyncpg.PostgresError):
        return _refused(error, where)
    if isinstance(error, TimeoutError) and not error.errno:
        return CannotConnectError(f"cannot connect to {where}: no answer in time")
    if isinstance(error, OSError | asyncpg.InternalClientError):
        return CannotConnectError(
            f"cannot connect to {where}: {_reason(error)}", is_transient=not _is_lasting(error)
        )
    if isinstance(error, ValueError | TypeError | asyncpg.InterfaceError):
        return ConfigurationError(f"cannot connect to {where}: {error}")
    # Whatever a connection_factory or a password callable raised: its text may hold a secret.
    return CannotConnectError(
        f"cannot connect to {where}: {type(error).__name__} was raised on the way",
        is_transient=False,
    )


def _refused(error: asyncpg.PostgresError, where: str) -> CannotConnectError:
    state = error.sqlstate or ""
    kind = TooManyConnectionsError if state == "53300" else CannotConnectError
    hint = ""
    if state == "08P01" and "startup parameter" in str(error):
        hint = "; a pooler takes few server_settings: leave it out, or let the pooler ignore it"
    return kind(
        f"cannot connect to {where}: {error.args[0]}{hint}",
        sqlstate=state or None,
        is_transient=state[:2] in ("53", "57") or state in ("08001", "08003", "08004", "08006"),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused, no server listens there"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "the server is not of the kind that target_session_attrs asks for"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _is_lasting(error: Exception) -> bool:
    """Whether the same attempt will fail again: an unknown name, a wrong certificate."""
    if isinstance(error, socket.gaierror):
        return error.errno != socket.EAI_AGAIN
    return isinstance(error, ssl.SSLError | PermissionError) or "SSL upgrade" in str(error)
