"""What PostgreSQL's SQLSTATEs mean, whichever driver brings them.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
    ReadOnlyError,
    SerializationError,
    TooManyConnectionsError,
    UniqueViolationError,
)

__all__ = ["HINTS", "Sent", "kind_of", "line_of_copy", "without_values"]

# By the whole SQLSTATE, else by its class, the first two characters.
_BY_STATE: Mapping[str, type[Error]] = {
    "0A": NotSupportedError,
    "08": ConnectionLostError,
    "21": ProgrammingError,
    "22": DataError,
    "23": IntegrityError,
    "23502": NotNullViolationError,
    "23503": ForeignKeyViolationError,
    "23505": UniqueViolationError,
    "23514": CheckViolationError,
    "24": InternalError,
    "25": InternalError,
    "25001": ProgrammingError,
    "25006": ReadOnlyError,
    "25P01": ProgrammingError,
    "25P03": ConnectionLostError,
    "25P04": ConnectionLostError,
    "26": OperationalError,
    "2B": InternalError,
    "2D": InternalError,
    "2F": InternalError,
    "34": ProgrammingError,
    "38": InternalError,
    "39": InternalError,
    "3B": InternalError,
    "3D": ProgrammingError,
    "3F": ProgrammingError,
    "40": OperationalError,
    "40001": SerializationError,
    "40002": IntegrityError,
    "40P01": DeadlockError,
    "42": ProgrammingError,
    "42501": OperationalError,  # a missing permission is no fault of the SQL
    "42P05": OperationalError,
    "44": CheckViolationError,  # WITH CHECK OPTION of a view
    "53300": TooManyConnectionsError,
    "55P03": LockTimeoutError,
    "57P01": ConnectionLostError,
    "57P02": ConnectionLostError,
    "57P03": CannotConnectError,
    "57P04": ConnectionLostError,
    "57P05": ConnectionLostError,
    "P0": InternalError,
    "XX": InternalError,
    **dict.fromkeys(("28", "53", "54", "55", "57", "58"), OperationalError),
}

_POOLER_HINT = (
    "; behind a pooler that hands out its server connections per transaction, use "
    "prepared_statements=False"
)
HINTS: Mapping[str, str] = {
    "25P02": "; an earlier statement failed, and PostgreSQL refuses every other one until the "
    "transaction is rolled back: run what may fail in a nested transaction (a savepoint)",
    "26000": _POOLER_HINT,
    "42P05": _POOLER_HINT,
}

_LINE = re.compile(r"COPY [^\n]*?, line \d+(?:, column [^:\n]*)?")
_QUOTED = re.compile(r'"[^"]*"(?:.*")?', re.DOTALL)


class Sent(NamedTuple):
    """What a call had to send, for its error.

    Attributes:
        sql: as the caller wrote it.
        names: what the caller calls the arguments.
        args: the arguments; for many executions a list with those of each.
    """

    sql: str | None
    timeout: float | None = None
    names: Sequence[str] = ()
    args: Sequence[Any] = ()


def kind_of(state: str | None) -> type[Error]:
    """Return the class of errors of a SQLSTATE."""
    state = state or ""
    return _BY_STATE.get(state) or _BY_STATE.get(state[:2], DatabaseError)


def without_values(message: str) -> str:
    """Return a message about a value (class 22) without what it quotes."""
    return _QUOTED.sub('"..."', message)


def line_of_copy(context: str | None) -> str:
    """Say where in what was copied in an error is, without the value that stands there."""
    found = _LINE.match(context or "")
    return f" ({found[0]})" if found else ""
