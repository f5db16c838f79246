"""Every error aiodbkit raises.

PEP 249's tree, with a leaf class where a program would want to react::

    Error
    ├── InterfaceError                  the caller used aiodbkit wrongly
    │   ├── ConfigurationError          an option, a URL, a missing driver
    │   ├── TransactionScopeError       a statement outside the transaction it was meant for
    │   ├── SessionClosedError          a session used after its block
    │   └── PoolClosedError             a pool used before it was opened or after it was closed
    └── DatabaseError                   the database, or the way to it
        ├── DataError                   a value that does not fit its type
        ├── IntegrityError
        │   ├── UniqueViolationError
        │   ├── ForeignKeyViolationError
        │   ├── NotNullViolationError
        │   └── CheckViolationError
        ├── InternalError               the server's state, e.g. an aborted transaction
        ├── NotSupportedError           this backend cannot do that
        ├── ProgrammingError            wrong SQL, wrong parameters, missing table or column
        │   └── MissingColumnError      a column that the result does not have; also a KeyError
        └── OperationalError
            ├── CannotConnectError
            │   └── TooManyConnectionsError
            ├── ConnectionLostError
            ├── CommitUnknownError      the connection broke during COMMIT
            ├── SerializationError
            ├── DeadlockError
            ├── LockTimeoutError        also a TimeoutError
            ├── QueryTimeoutError       also a TimeoutError
            ├── PoolTimeoutError        also a TimeoutError
            ├── PoolOverloadedError
            └── ReadOnlyError

    Rollback                            not an error: leaves a transaction block, rolled back
"""

from __future__ import annotations

__all__ = [
    "CannotConnectError",
    "CheckViolationError",
    "CommitUnknownError",
    "ConfigurationError",
    "ConnectionLostError",
    "DataError",
    "DatabaseError",
    "DeadlockError",
    "Error",
    "ForeignKeyViolationError",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "LockTimeoutError",
    "MissingColumnError",
    "NotNullViolationError",
    "NotSupportedError",
    "OperationalError",
    "PoolClosedError",
    "PoolOverloadedError",
    "PoolTimeoutError",
    "ProgrammingError",
    "QueryTimeoutError",
    "ReadOnlyError",
    "Rollback",
    "SerializationError",
    "SessionClosedError",
    "TooManyConnectionsError",
    "TransactionScopeError",
    "UniqueViolationError",
]


class Error(Exception):
    """Base of all errors of aiodbkit.

    The driver's own exception, where there is one, is the ``__cause__``.

    Attributes:
        sqlstate: the five-character SQLSTATE, or None.
        code: the backend's own error number, or None.
        constraint, table, column: the names the backend gave, None where it did not say.
        query: the SQL as the caller wrote it, never the parameters' values.
        is_transient: whether the same work, done again as a whole, may succeed. True only
            where it is certain that nothing of the failed work remains.
    """

    is_transient: bool = False

    def __init__(
        self,
        message: str = "",
        *,
        sqlstate: str | None = None,
        code: int | str | None = None,
        constraint: str | None = None,
        table: str | None = None,
        column: str | None = None,
        query: str | None = None,
        is_transient: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.code = code
        self.constraint = constraint
        self.table = table
        self.column = column
        self.query = query
        if is_transient is not None:
            self.is_transient = is_transient

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[Error], args: tuple[object, ...], state: dict[str, object]) -> Error:
    """Restore a pickled error: the keyword-only attributes do not travel in ``args``."""
    error = cls(*(str(arg) for arg in args))
    error.__dict__.update(state)
    return error


class InterfaceError(Error):
    """Raised when aiodbkit itself is used in a way that cannot work."""


class ConfigurationError(InterfaceError):
    """Raised when a URL or an option is wrong, or a driver is not installed."""


class TransactionScopeError(InterfaceError):
    """Raised when a statement would run outside the transaction it seems to belong to."""


class SessionClosedError(InterfaceError):
    """Raised when a session is used after its block has ended."""


class PoolClosedError(InterfaceError):
    """Raised when a connection is asked of a pool that is not open."""


class DatabaseError(Error):
    """Base of the errors that come from the database or the way to it."""


class DataError(DatabaseError):
    """Raised when a value does not fit the type it is meant for."""


class IntegrityError(DatabaseError):
    """Raised when a constraint refuses a change."""


class UniqueViolationError(IntegrityError):
    """Raised when a row with the same unique key exists."""


class ForeignKeyViolationError(IntegrityError):
    """Raised when a referenced row is missing, or is still referenced."""


class NotNullViolationError(IntegrityError):
    """Raised when NULL is given to a column that refuses it."""


class CheckViolationError(IntegrityError):
    """Raised when a CHECK constraint refuses a row."""


class InternalError(DatabaseError):
    """Raised when the server's state forbids the statement, e.g. in an aborted transaction."""


class NotSupportedError(DatabaseError):
    """Raised when this backend cannot do what was asked; nothing was sent."""


class ProgrammingError(DatabaseError):
    """Raised when the SQL or its parameters are wrong."""


class MissingColumnError(ProgrammingError, KeyError):
    """Raised when ``column=`` names one that the result does not have; lists those there are."""

    __str__ = Exception.__str__  # KeyError would quote the message


class OperationalError(DatabaseError):
    """Raised when the database could not do its work, through no fault of the SQL."""


class CannotConnectError(OperationalError):
    """Raised when a connection cannot be opened. Not transient where trying again cannot help."""

    is_transient = True


class TooManyConnectionsError(CannotConnectError):
    """Raised when the server refuses a connection because it has too many."""


class ConnectionLostError(OperationalError):
    """Raised when the connection broke. Transient only if nothing can have reached the server."""


class CommitUnknownError(OperationalError):
    """Raised when the connection broke during COMMIT: it may have taken effect, or not."""


class SerializationError(OperationalError):
    """Raised when the transaction collided with another one; the whole of it can be repeated."""

    is_transient = True


class DeadlockError(OperationalError):
    """Raised when the server chose this transaction to end a deadlock; it can be repeated."""

    is_transient = True


class LockTimeoutError(OperationalError, TimeoutError):
    """Raised when a lock was not granted in time; also for a busy SQLite database."""

    is_transient = True


class QueryTimeoutError(OperationalError, TimeoutError):
    """Raised when a statement ran past its ``timeout``; it was cancelled at the server."""


class PoolTimeoutError(OperationalError, TimeoutError):
    """Raised when the pool had no connection within ``acquire_timeout``."""


class PoolOverloadedError(OperationalError):
    """Raised at once when more callers wait for a connection than the pool admits."""


class ReadOnlyError(OperationalError):
    """Raised when a write meets a read-only server, database or transaction."""

    is_transient = True


class Rollback(Exception):  # noqa: N818 - a signal, not an error
    """Raise it inside a transaction block to leave the block, rolled back, silently."""
