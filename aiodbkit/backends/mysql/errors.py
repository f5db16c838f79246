"""What MySQL's and MariaDB's error numbers mean, and what their texts tell."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any

from aiodbkit.errors import (
    CannotConnectError,
    CheckViolationError,
    ConnectionLostError,
    DatabaseError,
    DataError,
    DeadlockError,
    Error,
    ForeignKeyViolationError,
    IntegrityError,
    InternalError,
    LockTimeoutError,
    NotNullViolationError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    QueryTimeoutError,
    ReadOnlyError,
    SerializationError,
    TooManyConnectionsError,
    UniqueViolationError,
)

__all__ = ["cannot_connect", "is_driver_error", "is_statement_error", "masked", "translate"]

_BY_NUMBER: dict[int, type[Error]] = {
    number: kind
    for kind, numbers in {
        UniqueViolationError: (1062, 1169, 1586, 1859),
        ForeignKeyViolationError: (1216, 1217, 1451, 1452, 1761, 1762, 3730),
        NotNullViolationError: (1048, 1364, 1566),
        CheckViolationError: (3819, 4025),
        # 1153: more than max_allowed_packet; 3140: no JSON; 1365: division by zero.
        DataError: (1153, 1264, 1265, 1292, 1365, 1366, 1367, 1406, 1411, 1525, 1690, 3140, 4038),
        ProgrammingError: (
            *(1007, 1008, 1046, 1050, 1051, 1052, 1054, 1060, 1061, 1064, 1065, 1066, 1072, 1091),
            *(1109, 1110, 1111, 1136, 1146, 1149, 1193, 1210, 1222, 1231, 1241, 1304, 1305, 1318),
            *(1327, 1582, 1630),
        ),
        NotSupportedError: (1235, 1286, 1289),
        # Not the SQL's fault although the SQLSTATE is 42000.
        OperationalError: (1044, 1045, 1142, 1143, 1226, 1227, 1370, 1461),
        TooManyConnectionsError: (1040, 1203),
        DeadlockError: (1213, 3058),  # 3058: of GET_LOCK
        # 1020: the row has changed since the snapshot; 3101: a group refused the transaction.
        SerializationError: (1020, 3101),
        LockTimeoutError: (1205, 3572),
        # Killed by number, MariaDB's max_statement_time, MySQL's max_execution_time.
        QueryTimeoutError: (1317, 1969, 3024),
        # The server is read-only, or the transaction is.
        ReadOnlyError: (1290, 1792, 1836),
        ConnectionLostError: (
            *(1053, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2006, 2013, 2055, 3169, 4031),
        ),
    }.items()
    for number in numbers
}
# Where the number is not listed: by the first two characters of the SQLSTATE.
_BY_STATE: dict[str, type[Error]] = {
    "0A": NotSupportedError,
    "21": ProgrammingError,
    "22": DataError,
    "23": IntegrityError,
    "40": SerializationError,
    "42": ProgrammingError,
}
# By the names of the driver's classes, which are alike in PyMySQL, aiomysql and asyncmy.
_BY_CLASS: dict[str, type[Error]] = {
    kind.__name__: kind
    for kind in (
        *(IntegrityError, DataError, NotSupportedError, ProgrammingError),
        *(InternalError, OperationalError),
    )
}

_STATEMENT_ERRORS = (IntegrityError, DataError, NotSupportedError, ProgrammingError)

_IDENTIFIER = r"(?:[^`]|``)+"
_NAMES: dict[int, re.Pattern[str]] = {
    # MySQL 8 writes 'table.key', MariaDB 'key'.
    1062: re.compile(r"for key '(?:(?P<table>[^'.]+)\.)?(?P<constraint>[^']+)'"),
    1048: re.compile(r"Column '(?P<column>[^']+)'"),
    1364: re.compile(r"Field '(?P<column>[^']+)'"),
    1451: re.compile(
        rf"\((?:`{_IDENTIFIER}`\.)?`(?P<table>{_IDENTIFIER})`, CONSTRAINT "
        rf"`(?P<constraint>{_IDENTIFIER})` FOREIGN KEY \(`(?P<column>{_IDENTIFIER})`"
    ),
    3819: re.compile(r"constraint '(?P<constraint>[^']+)'"),
    4025: re.compile(
        rf"CONSTRAINT `(?P<constraint>{_IDENTIFIER})` failed for "
        rf"(?:`{_IDENTIFIER}`\.)?`(?P<table>{_IDENTIFIER})`"
    ),
    1054: re.compile(r"Unknown column '(?:(?P<table>[^'.]+)\.)?(?P<column>[^']+)'"),
    1146: re.compile(r"Table '(?:[^'.]+\.)?(?P<table>[^']+)'"),
    1264: re.compile(
        rf"for column (?:`{_IDENTIFIER}`\.)?(?:`(?P<table>{_IDENTIFIER})`\.)?"
        rf"[`'](?P<column>[^`']+)[`']"
    ),
}
_NAMES |= {1586: _NAMES[1062], 1452: _NAMES[1451], 1216: _NAMES[1451], 1217: _NAMES[1451]}
_NAMES |= dict.fromkeys((1265, 1292, 1366, 1406), _NAMES[1264])

# The server repeats values, and pieces of the SQL that it was sent, where they are literals.
_VALUES: dict[int, tuple[re.Pattern[str], str]] = {
    1062: (re.compile(r"entry '.*' for key", re.DOTALL), "entry for key"),
    1064: (
        re.compile(r"near '([^'0-9]*)(?!' at line \d+$)['0-9].*?(?=' at line \d+$|$)", re.DOTALL),
        r"near '\1…",
    ),
    1366: (re.compile(r"value: '.*?'(?= for column|$)", re.DOTALL), "value"),
    1690: (re.compile(r" in '.*'", re.DOTALL), ""),
}
_VALUES |= {1586: _VALUES[1062]}
_VALUES |= dict.fromkeys((1292, 1367, 1411, 1525), _VALUES[1366])


def is_statement_error(error: Error) -> bool:
    """Whether only the statement has failed, for certain: an open transaction is still open."""
    return isinstance(error, _STATEMENT_ERRORS)


def is_driver_error(error: BaseException) -> bool:
    """Whether a driver raised it on purpose: not a bug of its, nor of the event loop's."""
    return "MySQLError" in _class_names(error)


def _class_names(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def translate(error: Exception, sql: str | None) -> Error:
    """Return aiodbkit's error for one of the driver."""
    code, text = _code_and_text(error)
    if code is None or code == 0:
        return _without_number(error, text, sql)
    state: str | None = getattr(error, "sqlstate", None)
    kind = _kind(code, state, error)
    text = masked(code, text)
    made = kind(
        f"{text} (error {code})", code=code, sqlstate=state, query=sql, **_named(code, text)
    )
    if code == 1792:  # the transaction itself was begun read-only: again is no use
        made.is_transient = False
    return made


def masked(code: int, text: str) -> str:
    """Return the text of an error or a warning without the values that it is known to repeat."""
    if code not in _VALUES:
        return text
    pattern, instead = _VALUES[code]
    return pattern.sub(instead, text)


def _kind(code: int, state: str | None, error: BaseException) -> type[Error]:
    kind = _BY_NUMBER.get(code)
    if kind is None and state is not None:
        kind = _BY_STATE.get(state[:2])
    if kind is None:
        names = _class_names(error)
        kind = next((_BY_CLASS[name] for name in names if name in _BY_CLASS), DatabaseError)
    return kind


def _without_number(error: BaseException, text: str, sql: str | None) -> Error:
    if "InterfaceError" in _class_names(error):
        # Drivers look before they write: nothing was sent.
        return ConnectionLostError(
            f"the connection is closed, nothing was sent: {text}", query=sql, is_transient=True
        )
    return ConnectionLostError(f"the connection is out of step with the server: {text}", query=sql)


def _code_and_text(error: BaseException) -> tuple[int | None, str]:
    args = error.args
    if len(args) >= 2 and isinstance(args[0], int):
        return args[0], str(args[1])
    return None, str(error) or type(error).__name__


def _named(code: int, text: str) -> Mapping[str, Any]:
    pattern = _NAMES.get(code)
    found = pattern.search(text) if pattern is not None else None
    if found is None:
        return {}
    return {
        name: value.replace("``", "`")
        for name, value in found.groupdict().items()
        if value is not None
    }


def cannot_connect(where: str, error: BaseException) -> Error:
    """Return the error for a connection that could not be opened to ``where``."""
    code, text = _code_and_text(error)
    reason: BaseException = error.__cause__ or error
    if code == 2003 and error.__cause__ is not None:
        text = f"{error.__cause__}" or type(error.__cause__).__name__
    kind: type[CannotConnectError] = CannotConnectError
    if code in (1040, 1203) or (code == 1226 and "max_user_connections" in text):
        kind = TooManyConnectionsError
    return kind(
        f"cannot connect to {where}: {text}",
        code=code,
        sqlstate=getattr(error, "sqlstate", None),
        is_transient=_may_pass(code, reason),
    )


def _may_pass(code: int | None, reason: BaseException) -> bool:
    if isinstance(reason, ssl.SSLError):
        return False
    if isinstance(reason, OSError | EOFError):
        return True
    # Refused or gone, too many connections, out of resources, shutting down.
    return code in (1040, 1053, 1203, 1226, 2002, 2003, 2006, 2013)
