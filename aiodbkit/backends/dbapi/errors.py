"""What a DB-API 2.0 module raises, as errors of aiodbkit.

The class is told by SQLSTATE or error number where the module is recognised as one of PostgreSQL,
MySQL or SQLite, by the tables of those backends; else by an SQLSTATE, if the exception has one;
else by the class of PEP 249. Messages that may quote values are passed on without them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aiodbkit import errors
from aiodbkit.backends.dbapi.module import DBAPIModule
from aiodbkit.backends.dbapi.worker import LostError
from aiodbkit.backends.mysql import errors as mysql_errors
from aiodbkit.backends.postgres.sqlstates import kind_of, without_values
from aiodbkit.backends.sqlite import errors as sqlite_errors
from aiodbkit.errors import Error

__all__ = ["cannot_connect", "translate"]

_BY_CLASS: tuple[tuple[str, type[Error]], ...] = (
    ("IntegrityError", errors.IntegrityError),
    ("DataError", errors.DataError),
    ("NotSupportedError", errors.NotSupportedError),
    ("ProgrammingError", errors.ProgrammingError),
    ("InternalError", errors.InternalError),
    ("OperationalError", errors.OperationalError),
    ("InterfaceError", errors.InterfaceError),
)
# Raised instead of errors of its own by a module that cannot make anything of the parameters.
_BY_BUILTIN: tuple[tuple[tuple[type[Exception], ...], type[Error]], ...] = (
    ((TypeError, LookupError), errors.ProgrammingError),
    ((ValueError, ArithmeticError), errors.DataError),
)
# The standard's SQLSTATEs, for databases that have no table of their own.
_STANDARD: Mapping[str, type[Error]] = {
    "08": errors.ConnectionLostError,
    "0A": errors.NotSupportedError,
    "21": errors.ProgrammingError,
    "22": errors.DataError,
    "23": errors.IntegrityError,
    "23502": errors.NotNullViolationError,
    "23503": errors.ForeignKeyViolationError,
    "23505": errors.UniqueViolationError,
    "23514": errors.CheckViolationError,
    "25": errors.InternalError,
    "25006": errors.ReadOnlyError,
    "40": errors.OperationalError,
    "40001": errors.SerializationError,
    "40P01": errors.DeadlockError,
    "42": errors.ProgrammingError,
    "55P03": errors.LockTimeoutError,
    "57014": errors.QueryTimeoutError,
    "57P01": errors.ConnectionLostError,
    "57P02": errors.ConnectionLostError,
}
_STATE = re.compile(r"[0-9A-Z]{5}")
_QUOTED = re.compile(r"""(['"]).*\1""", re.DOTALL)
_TOO_MANY = ("too many", "remaining connection slots")
_MAY_PASS = ("starting up", "shutting down", "recovery", *_TOO_MANY)
_LASTING = ("FATAL:", "could not translate host name", "SSL", "certificate")


def translate(error: Exception, sql: str | None, module: DBAPIModule) -> Error:  # noqa: PLR0911
    """Return the error of aiodbkit for one that came out of the worker thread."""
    if isinstance(error, Error):
        error.query = error.query or sql
        return error
    if isinstance(error, LostError):
        return errors.ConnectionLostError(f"the connection was lost: {error.__cause__}", query=sql)
    if not isinstance(error, module.error("Error")):
        return _not_the_modules(error, sql)
    if module.database == "sqlite":
        found = sqlite_errors.translate(error, sql)
        if found is not None:
            return found
    if module.database == "postgres":
        return _postgres(error, sql, module)
    if module.database == "mysql":
        return mysql_errors.translate(error, sql)
    return _standard(error, sql, module)


def _not_the_modules(error: Exception, sql: str | None) -> Error:
    kind = next((ours for theirs, ours in _BY_BUILTIN if isinstance(error, theirs)), None)
    if isinstance(error, OSError | EOFError):
        return errors.ConnectionLostError(f"the connection was lost: {error}", query=sql)
    if kind is None:
        return errors.InterfaceError(f"the module raised {type(error).__name__}", query=sql)
    # Its text may quote a parameter.
    reason = "parameters do not fit the SQL, or their types are not known to it"
    if "NUL" in str(error):
        reason = "a text holds a NUL character"
    return kind(f"the module raised {type(error).__name__}: {reason}", query=sql)


def _class_of(error: Exception, module: DBAPIModule) -> type[Error]:
    for name, ours in _BY_CLASS:
        if isinstance(error, module.error(name)):
            return ours
    return errors.DatabaseError


def _standard(error: Exception, sql: str | None, module: DBAPIModule) -> Error:
    state = _sqlstate(error)
    kind = _by_state(_STANDARD, state) or _class_of(error, module)
    text = str(error)
    if issubclass(kind, errors.DataError | errors.IntegrityError):
        text = _QUOTED.sub("'...'", text)
    return kind(text, sqlstate=state, code=_number(error), query=sql)


def _by_state(table: Mapping[str, type[Error]], state: str | None) -> type[Error] | None:
    return None if state is None else table.get(state) or table.get(state[:2])


def _sqlstate(error: Exception) -> str | None:
    """Return what psycopg, psycopg2, pg8000, pyodbc and others tell in places of their own."""
    first = error.args[0] if error.args else None
    told = (
        getattr(error, "sqlstate", None),
        getattr(error, "pgcode", None),
        first.get("C") if isinstance(first, dict) else first,
    )
    return next((one for one in told if isinstance(one, str) and _STATE.fullmatch(one)), None)


def _number(error: Exception) -> int | None:
    first = error.args[0] if error.args else None
    told = (getattr(error, "errno", None), first, getattr(first, "code", None))
    return next((one for one in told if isinstance(one, int)), None)


# PostgreSQL


def _postgres(error: Exception, sql: str | None, module: DBAPIModule) -> Error:
    state = _sqlstate(error)
    kind = _class_of(error, module) if state is None else kind_of(state)
    text = _primary_message(error)
    if state == "57014":
        kind = errors.OperationalError if "user request" in text else errors.QueryTimeoutError
    if issubclass(kind, errors.DataError):
        text = without_values(text)
    if state is None and kind is errors.InterfaceError and "closed" in text:
        # psycopg2 and psycopg look before they send.
        return errors.ConnectionLostError(text, query=sql, is_transient=True)
    diagnosis = getattr(error, "diag", None)
    return kind(
        text,
        sqlstate=state,
        constraint=getattr(diagnosis, "constraint_name", None),
        table=getattr(diagnosis, "table_name", None),
        column=getattr(diagnosis, "column_name", None),
        query=sql,
    )


def _primary_message(error: Exception) -> str:
    """Return the message without DETAIL and CONTEXT, which quote values."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    first = error.args[0] if error.args else None
    if primary is None and isinstance(first, dict):
        primary = first.get("M")
    return str(primary or str(error).partition("\n")[0])


# Connections that could not be opened


def cannot_connect(error: Exception, where: str, module: DBAPIModule | None) -> Error:
    """Return the error for a connection that was not to be had.

    What is not an error of the module comes from a function of the user's: its text may hold a
    secret.
    """
    if isinstance(error, Error):
        return error
    if module is None or not isinstance(error, (module.error("Error"), OSError)):
        return errors.CannotConnectError(
            f"cannot connect to {where}: {type(error).__name__} was raised on the way",
            is_transient=False,
        )
    text = " ".join(str(error).split())
    kind = errors.CannotConnectError
    if any(words in text for words in _TOO_MANY) or _number(error) in (1040, 1203):
        kind = errors.TooManyConnectionsError
    return kind(
        f"cannot connect to {where}: {text}",
        sqlstate=_sqlstate(error),
        code=_number(error) if module.database != "sqlite" else sqlite_errors.error_code(error),
        is_transient=_may_pass(error, text, module),
    )


def _may_pass(error: Exception, text: str, module: DBAPIModule) -> bool:
    """Whether the same attempt may succeed later."""
    if module.database == "sqlite":
        return sqlite_errors.primary_code(error) == sqlite_errors.BUSY
    if module.database == "mysql":
        return _number(error) in (1040, 1053, 1203, 1226, 2002, 2003, 2006, 2013)
    if not isinstance(error, (module.error("OperationalError"), OSError)):
        return False
    return any(words in text for words in _MAY_PASS) or not any(words in text for words in _LASTING)
