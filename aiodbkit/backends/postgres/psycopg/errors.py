"""What PostgreSQL and psycopg say, in the words of `aiodbkit.errors`.

Server messages are passed on without DETAIL, and those about values (class 22) without what they
quote: neither the text nor the attributes of an error hold a value of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

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
    OperationalError,
    QueryTimeoutError,
    TooManyConnectionsError,
)

__all__ = [
    "answered",
    "cannot_connect",
    "cause_of",
    "connection_lost",
    "is_stale",
    "means_broken",
    "refused_argument",
]


def cause_of(error: Exception) -> BaseException | None:
    """Return the driver's own exception, also where ``error`` is one of ours already."""
    return error.__cause__ if isinstance(error, Error) else error


def is_stale(error: Exception) -> bool:
    """Whether a prepared statement would have other columns now than when it was prepared."""
    return (
        isinstance(error, psycopg.errors.FeatureNotSupported)
        and error.diag.source_function == "RevalidateCachedQuery"
    )


def answered(error: psycopg.Error, sent: Sent) -> Error:
    """Translate what the server answered to a statement."""
    state = error.sqlstate or ""
    message = error.diag.message_primary or str(error)
    kind = kind_of(state)
    if state == "57014":
        if "user request" in message:
            return _made(OperationalError, error, f"{message} (pg_cancel_backend)", sent)
        return _made(QueryTimeoutError, error, f"{message} (a limit of the server)", sent)
    if is_stale(error):
        again = f"{message}: run the transaction again"
        return _made(OperationalError, error, again, sent, is_transient=True)
    if kind is DataError:
        message = _nul_character(error) or without_values(message)
    message += line_of_copy(error.diag.context)
    return _made(kind, error, message + HINTS.get(state, ""), sent)


def _nul_character(error: psycopg.Error) -> str:
    if error.sqlstate != "22021" or not (error.diag.message_primary or "").endswith("0x00"):
        return ""
    return "a text holds a NUL character, which PostgreSQL's text cannot"


def _made(
    kind: type[Error],
    error: psycopg.Error,
    message: str,
    sent: Sent,
    *,
    is_transient: bool | None = None,
) -> Error:
    return kind(
        message,
        sqlstate=error.sqlstate,
        constraint=error.diag.constraint_name,
        table=error.diag.table_name,
        column=error.diag.column_name,
        query=sent.sql,
        is_transient=is_transient,
    )


def means_broken(error: Exception) -> bool:
    """Whether the protocol can no longer be trusted, even if psycopg has not closed it."""
    if isinstance(error, psycopg.Error):
        if error.sqlstate:
            return kind_of(error.sqlstate) is ConnectionLostError
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return isinstance(error, OSError | RuntimeError)


def connection_lost(error: Exception, sql: str | None, *, was_closed: bool) -> ConnectionLostError:
    """Say that the connection broke; transient only where the server cannot have got anything."""
    state = getattr(error, "sqlstate", None)
    reason = (error.diag.message_primary if isinstance(error, psycopg.Error) else None) or error
    queued = "query_wait_timeout" in str(error)  # a pooler's answer: no server has seen it
    return ConnectionLostError(
        f"the connection to PostgreSQL was lost: {' '.join(str(reason).split())}",
        sqlstate=state,
        query=sql,
        is_transient=queued or was_closed,
    )


# Values that do not fit.


def refused_argument(
    values: Sequence[Any], encoders: Sequence[Any], names: Sequence[str], row: int | None
) -> tuple[int, str] | None:
    """Return which value does not fit, and what it is called; never the value."""
    for index, (value, encode) in enumerate(zip(values, encoders, strict=False)):
        try:
            if value is not None:
                encode(value)
        except Exception:  # an encoder may be the user's
            place = f" of row {row}" if row is not None else ""
            return index, f"parameter {names[index]}{place}"
    return None


# Connections that could not be opened.


def cannot_connect(error: Exception, where: str, password: object = None) -> Error:
    """Say what could not be reached, and whether trying again can help."""
    if isinstance(error, Error):
        return error
    if isinstance(error, TimeoutError | psycopg.errors.ConnectionTimeout):
        return CannotConnectError(f"cannot connect to {where}: no answer in time")
    if isinstance(error, psycopg.OperationalError):
        return _refused(error, where, password)
    if isinstance(error, psycopg.Error | ValueError | TypeError):
        return ConfigurationError(f"cannot connect to {where}: {_without(password, str(error))}")
    if isinstance(error, OSError):
        return CannotConnectError(f"cannot connect to {where}: {error.strerror or error}")
    # Whatever a connection_factory or a password callable raised: its text may hold a secret.
    return CannotConnectError(
        f"cannot connect to {where}: {type(error).__name__} was raised on the way",
        is_transient=False,
    )


def _without(password: object, text: str) -> str:
    text = " ".join(text.split())
    return text.replace(password, "***") if isinstance(password, str) and password else text


# What libpq says of attempts that will fail again; the server's SQLSTATE it does not tell.
_LASTING = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "certificate",
    "SSL error",
    "does not support SSL",
    "invalid ",
    "is not permitted to log in",
    "permission denied",
    "Name or service not known",
    "No address associated",
)
_TOO_MANY = ("too many clients", "too many connections", "remaining connection slots")


def _refused(error: psycopg.OperationalError, where: str, password: object) -> CannotConnectError:
    text = _without(password, str(error))
    is_full = any(phrase in text for phrase in _TOO_MANY)
    kind = TooManyConnectionsError if is_full else CannotConnectError
    reason = text
    if "Connection refused" in text:
        reason = "connection refused, no server listens there"
    elif "unsupported startup parameter" in text:
        reason += "; a pooler takes few server_settings: leave it out, or let it ignore them"
    return kind(
        f"cannot connect to {where}: {reason}",
        sqlstate=error.sqlstate or ("53300" if is_full else None),
        is_transient=not any(phrase in text for phrase in _LASTING),
    )
