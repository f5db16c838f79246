"""aiodbkit: asyncio-native database access, the same on SQLite, PostgreSQL and MySQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiodbkit.connection import Connection
from aiodbkit.driver import Capabilities, Driver, DriverConnection, DriverCursor, ExecuteResult
from aiodbkit.engine import Engine
from aiodbkit.errors import (
    CannotConnectError,
    CheckViolationError,
    CommitUnknownError,
    ConfigurationError,
    ConnectionLostError,
    DatabaseError,
    DataError,
    DeadlockError,
    Error,
    ForeignKeyViolationError,
    IntegrityError,
    InterfaceError,
    InternalError,
    LockTimeoutError,
    MissingColumnError,
    NotNullViolationError,
    NotSupportedError,
    OperationalError,
    PoolClosedError,
    PoolOverloadedError,
    PoolTimeoutError,
    ProgrammingError,
    QueryTimeoutError,
    ReadOnlyError,
    Rollback,
    SerializationError,
    SessionClosedError,
    TooManyConnectionsError,
    TransactionScopeError,
    UniqueViolationError,
)
from aiodbkit.factory import create_engine, register_backend
from aiodbkit.factory import load_backend as _load_backend
from aiodbkit.lifespan import lifespan
from aiodbkit.options import (
    PoolOptions,
    RetryBudget,
    RetryEvent,
    RetryPolicy,
    TransactionOptions,
)
from aiodbkit.pool import Lease, Pool, PoolStats
from aiodbkit.retry import Attempt, Retrying, retry, retrying
from aiodbkit.rows import Row
from aiodbkit.session import Session
from aiodbkit.sql import expand
from aiodbkit.stream import Stream
from aiodbkit.transaction import Transaction

if TYPE_CHECKING:
    from aiodbkit.backends.mysql import MySQLEngine
    from aiodbkit.backends.postgres import PostgresEngine
    from aiodbkit.backends.sqlite import SQLiteEngine

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "CannotConnectError",
    "Capabilities",
    "CheckViolationError",
    "CommitUnknownError",
    "ConfigurationError",
    "Connection",
    "ConnectionLostError",
    "DataError",
    "DatabaseError",
    "DeadlockError",
    "Driver",
    "DriverConnection",
    "DriverCursor",
    "Engine",
    "Error",
    "ExecuteResult",
    "ForeignKeyViolationError",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "Lease",
    "LockTimeoutError",
    "MissingColumnError",
    "MySQLEngine",
    "NotNullViolationError",
    "NotSupportedError",
    "OperationalError",
    "Pool",
    "PoolClosedError",
    "PoolOptions",
    "PoolOverloadedError",
    "PoolStats",
    "PoolTimeoutError",
    "PostgresEngine",
    "ProgrammingError",
    "QueryTimeoutError",
    "ReadOnlyError",
    "RetryBudget",
    "RetryEvent",
    "RetryPolicy",
    "Retrying",
    "Rollback",
    "Row",
    "SQLiteEngine",
    "SerializationError",
    "Session",
    "SessionClosedError",
    "Stream",
    "TooManyConnectionsError",
    "Transaction",
    "TransactionOptions",
    "TransactionScopeError",
    "UniqueViolationError",
    "create_engine",
    "expand",
    "lifespan",
    "register_backend",
    "retry",
    "retrying",
]


def __getattr__(name: str) -> Any:
    """The three engine classes bring their drivers with them, so they come when asked for."""
    if name in ("MySQLEngine", "PostgresEngine", "SQLiteEngine"):
        return _load_backend(name)
    raise AttributeError(f"module 'aiodbkit' has no attribute {name!r}")
