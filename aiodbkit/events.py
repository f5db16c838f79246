"""What listeners are told: of statements, of transactions, and of the pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from aiodbkit.engine import Engine

__all__ = [
    "AnyListener",
    "Listener",
    "PoolEvent",
    "PoolEventKind",
    "PoolListener",
    "QueryEvent",
    "QueryListener",
    "QueryVerb",
    "TransactionEvent",
    "TransactionEventKind",
    "TransactionListener",
]

QueryVerb: TypeAlias = Literal[
    "execute",
    "execute_many",
    "execute_script",
    "fetch",
    "insert_many",
    "iterate",
    "copy_in",
    "copy_out",
]
TransactionEventKind: TypeAlias = Literal[
    "begin", "commit", "rollback", "savepoint", "release", "rollback to"
]
PoolEventKind: TypeAlias = Literal[
    "opened", "failed", "acquired", "released", "timeout", "overloaded", "lost", "expired", "closed"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryEvent:
    """A statement that was handed to the driver, and has ended, well or not.

    Attributes:
        engine: whose statement it was.
        verb: ``"fetch"`` is any of the ``fetch_*``.
        sql: as the caller wrote it; of an `insert_many` it is ``"insert_many: <table>"``, of a
            `copy_out` ``"copy_out: <table or query>"``, of a `copy_in` of bytes the COPY.
        params: the caller's, if the engine has ``log_params=True``, else None.
        duration: seconds that the database took; of an `iterate` those of opening, batches and
            closing together, without the reader's own; of an `insert_many` with its rows' coming,
            of a COPY with its bytes' coming and going.
        wait: seconds that the call had waited before, for a connection or its turn on one.
        rows: returned or affected; -1 where that is not known.
        error: what the statement ended with, `asyncio.CancelledError` included, or None. A
            database may tell values in the text of an error.
        in_transaction: whether a transaction was open when it was sent.
    """

    engine: Engine = field(repr=False)
    verb: QueryVerb
    sql: str
    params: Any
    duration: float
    wait: float
    rows: int
    error: BaseException | None
    in_transaction: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TransactionEvent:
    """A step of a transaction, when it has been answered or has failed.

    Attributes:
        engine: whose transaction it is.
        kind: ``"savepoint"``, ``"release"`` and ``"rollback to"`` are of nested ones.
        duration: seconds that the database took.
        wait: seconds of waiting before, as of `QueryEvent`.
        error: what it ended with, or None.
    """

    engine: Engine = field(repr=False)
    kind: TransactionEventKind
    duration: float
    wait: float
    error: BaseException | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolEvent:
    """Something that happened in the pool, and its figures just after.

    Attributes:
        engine: whose pool it is.
        kind: ``"opened"``: a connection was; ``"failed"``: it could not be; ``"acquired"``: lent;
            ``"released"``: given back; ``"timeout"`` and ``"overloaded"``: a caller was refused;
            ``"lost"``: a connection was found dead or could not be cleaned; ``"expired"``: it was
            too old, or used up; ``"closed"``: it is gone, for whatever reason.
        pool: the pool's name.
        duration: seconds: of connecting for ``"opened"``, of waiting for ``"acquired"`` (0.0 where
            there was none) and ``"timeout"``, of holding for ``"released"``; else 0.0.
        size, idle, in_use, waiting: as in `PoolStats`.
        error: of ``"failed"``, ``"timeout"``, ``"overloaded"``, and ``"lost"`` where it is known.
    """

    engine: Engine = field(repr=False)
    kind: PoolEventKind
    pool: str
    duration: float
    size: int
    idle: int
    in_use: int
    waiting: int
    error: BaseException | None


class QueryListener(Protocol):
    """Has `on_query`."""

    def on_query(self, event: QueryEvent, /) -> None:
        """Told of each statement when it has ended, in the task that it ran in."""


class TransactionListener(Protocol):
    """Has `on_transaction`."""

    def on_transaction(self, event: TransactionEvent, /) -> None:
        """Told of each begin, commit, rollback and savepoint when it has been answered."""


class PoolListener(Protocol):
    """Has `on_pool`."""

    def on_pool(self, event: PoolEvent, /) -> None:
        """Told of connections that come, go, are lent and given back, and of who is refused."""


# What `Engine.add_listener` takes: one method of these is enough.
AnyListener: TypeAlias = QueryListener | TransactionListener | PoolListener


class Listener:
    """A base for listeners, for those who like one: override what you want to be told.

    The methods are plain functions, called in the event loop between two steps of the caller's:
    they must be quick and cannot await. What one raises is logged and goes no further.
    """

    def on_query(self, event: QueryEvent, /) -> None:
        """Told of each statement when it has ended, in the task that it ran in."""

    def on_transaction(self, event: TransactionEvent, /) -> None:
        """Told of each begin, commit, rollback and savepoint when it has been answered."""

    def on_pool(self, event: PoolEvent, /) -> None:
        """Told of connections that come, go, are lent and given back, and of who is refused."""
