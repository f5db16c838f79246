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
from aiodbkit.events import Listener, PoolEvent, QueryEvent, TransactionEvent
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
from aiodbkit.proxy import EngineProxy
from aiodbkit.replicas import ReplicaState, ReplicatedEngine
from aiodbkit.retry import Attempt, Retrying, retry, retrying
from aiodbkit.rows import Row
from aiodbkit.session import Session
from aiodbkit.shared import SharedConnection
from aiodbkit.sql import expand
from aiodbkit.stream import Stream
from aiodbkit.transaction import Transaction

if TYPE_CHECKING:
    from aiodbkit.backends.dbapi import DBAPIEngine
    from aiodbkit.backends.mysql import MySQLEngine
    from aiodbkit.backends.postgres import Gap, Notification, PostgresEngine
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
    "DBAPIEngine",
    "DataError",
    "DatabaseError",
    "DeadlockError",
    "Driver",
    "DriverConnection",
    "DriverCursor",
    "Engine",
    "EngineProxy",
    "Error",
    "ExecuteResult",
    "ForeignKeyViolationError",
    "Gap",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "Lease",
    "Listener",
    "LockTimeoutError",
    "MissingColumnError",
    "MySQLEngine",
    "NotNullViolationError",
    "NotSupportedError",
    "Notification",
    "OperationalError",
    "Pool",
    "PoolClosedError",
    "PoolEvent",
    "PoolOptions",
    "PoolOverloadedError",
    "PoolStats",
    "PoolTimeoutError",
    "PostgresEngine",
    "ProgrammingError",
    "QueryEvent",
    "QueryTimeoutError",
    "ReadOnlyError",
    "ReplicaState",
    "ReplicatedEngine",
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
    "SharedConnection",
    "Stream",
    "TooManyConnectionsError",
    "Transaction",
    "TransactionEvent",
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
    """The engine classes come when asked for: few programs need all of them."""
    if name in ("DBAPIEngine", "MySQLEngine", "PostgresEngine", "SQLiteEngine"):
        return _load_backend(name)
    if name in ("Gap", "Notification"):
        from aiodbkit.backends.postgres import listen  # noqa: PLC0415 - few programs listen

        return getattr(listen, name)
    raise AttributeError(f"module 'aiodbkit' has no attribute {name!r}")
