"""The contract of a backend: one `Driver` per engine, one `DriverConnection` per connection.

What holds for every method of a backend:

- It raises errors of `aiodbkit.errors` only, the driver's own exception as ``__cause__`` and the
  caller's SQL as ``query``. Anything else that leaves it (`asyncio.CancelledError` first of all)
  tells the caller that the connection's state is unknown: the caller sets ``suspect``.
- One task at a time: whoever calls sees to that. No method needs a lock of its own.
- ``sql`` and ``params`` are what the user wrote; the backend rewrites them (`aiodbkit.sql`).
- Times are in seconds. ``timeout=None`` is no deadline.

`docs/backends-of-your-own.md` builds one, `aiodbkit.testing.conformance` tests it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

from aiodbkit.options import TransactionOptions

__all__ = [
    "Capabilities",
    "Driver",
    "DriverConnection",
    "DriverCursor",
    "ExecuteResult",
    "Fetched",
    "Params",
]

Params: TypeAlias = Mapping[str, Any] | Sequence[Any] | None

# Column names and the rows, each a sequence of the values in that order (a tuple, a driver's
# record). Where there are no rows, the names may be missing too.
Fetched: TypeAlias = tuple[Sequence[str], Sequence[Sequence[Any]]]


class ExecuteResult(NamedTuple):
    """What a statement did.

    Attributes:
        rows_affected: rows inserted, updated or deleted; -1 when the driver cannot know.
        last_insert_id: the key the server generated, where the backend tells it.
    """

    rows_affected: int
    last_insert_id: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a backend can do; the contract tests ask these and never a backend's name.

    Attributes:
        isolation_levels: the names that `begin` accepts.
        deferrable: ``deferrable=True`` means something.
        lock_modes: ``mode=`` means something (SQLite).
        cursor_needs_transaction: `open_cursor` works inside a transaction only.
        cursor_is_exclusive: no other statement can run while a cursor is open.
        error_aborts_transaction: after an error only a rollback is possible.
        ddl_is_transactional: CREATE and ALTER are undone by a rollback.
        concurrent_writers: two connections may have uncommitted writes at once.
        returning: INSERT ... RETURNING works.
        rows_affected_of_many: `execute_many` can count its rows.
        last_insert_id: `execute` tells the generated key.
        deferred_constraints: a constraint can be checked at COMMIT.
    """

    isolation_levels: frozenset[str]
    deferrable: bool = False
    lock_modes: bool = False
    cursor_needs_transaction: bool = False
    cursor_is_exclusive: bool = False
    error_aborts_transaction: bool = False
    ddl_is_transactional: bool = False
    concurrent_writers: bool = True
    returning: bool = True
    rows_affected_of_many: bool = True
    last_insert_id: bool = True
    deferred_constraints: bool = True


class Driver(ABC):
    """Opens the connections of one engine. Built without I/O.

    An engine that names its drivers (`Engine.drivers`) builds them with these arguments; one that
    builds its driver itself may ask for others.

    Args:
        target: where the database is: those given of ``host``, ``port``, ``hosts``, ``user``,
            ``password``, ``database``.
        options: those of `options` that were given.
        connect_timeout: seconds after which `connect` will be cancelled.
        reset: what `DriverConnection.clean` undoes, see `PoolOptions`.
        connection_factory: opens the raw connections instead, if given.
    """

    capabilities: ClassVar[Capabilities]

    @classmethod
    def options(cls) -> Mapping[str, Any]:
        """Return the names of its options, with the type that a URL's text is converted to."""
        return {}

    async def start(self) -> None:  # noqa: B027 - most backends need nothing
        """Run once before the first `connect`, in the engine's loop: what all connections share."""

    async def stop(self) -> None:  # noqa: B027
        """Undo `start` after the last connection was closed. Safe to call twice."""

    @abstractmethod
    async def connect(self) -> DriverConnection:
        """Open one connection and set it up. The caller sets the deadline, by cancelling.

        Cancelled or failed, it leaves no socket, no thread and no server session behind.

        Raises:
            CannotConnectError: names host, port, user and database, never the password;
                ``is_transient`` tells whether trying again can help.
        """

    @abstractmethod
    def quote(self, identifier: str) -> str:
        """Return one identifier (no dots) quoted for SQL."""

    def only_reads(self, sql: str) -> bool:  # noqa: ARG002
        """Whether a statement surely changes nothing: it may be sent twice then."""
        return False


class DriverCursor(ABC):
    """Rows of one statement, taken in batches: constant memory."""

    @abstractmethod
    async def fetch(self) -> Fetched:
        """Return the next batch; no rows when there are no more."""

    @abstractmethod
    async def close(self) -> None:
        """Let the server forget the rest. Safe to call twice.

        On a lost connection it has nothing to do, and raises nothing.
        """


class DriverConnection(ABC):
    """One physical connection, and everything that its driver gets wrong put right.

    Attributes:
        raw: the driver's own connection.
        feeder: the task whose rows an `insert_many` is taking, while it does.
        suspect: set by whoever saw a call end with anything but an `Error`, or by the backend
            for a statement that may still run; `recover` clears it.
        transaction_lost: why an open transaction is gone although nobody ended it (connection
            lost, deadlock, a full disk), or None. Set by the backend, cleared by `begin`
            and `clean`.
    """

    __slots__ = ("feeder", "raw", "suspect", "transaction_lost")

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.suspect = False
        self.feeder: asyncio.Task[Any] | None = None
        self.transaction_lost: BaseException | None = None

    # What is known without asking the server. Called at every hand-out and every return:
    # well under a microsecond each.

    @property
    @abstractmethod
    def is_closed(self) -> bool:
        """Whether driver or socket know that the connection is dead."""

    @property
    @abstractmethod
    def in_transaction(self) -> bool:
        """Whether a transaction is open at the server, as of the last completed statement."""

    @property
    @abstractmethod
    def is_dirty(self) -> bool:
        """Whether `clean` has anything to do: suspect, a transaction, changed session state."""

    def expose(self) -> Any:
        """Return ``raw`` to a user: whatever is done with it has to be undone by `clean`.

        From now on `is_dirty` is true, unless ``reset`` is ``"never"`` or the driver tells of all
        that can be done with ``raw``.
        """
        return self.raw

    def disown(self) -> None:  # noqa: B027 - for backends that remember a task
        """The borrower has let go, though work that it began may still go on."""

    def keep_session(self) -> None:  # noqa: B027 - for backends whose `clean` resets sessions
        """Take the session as it is now for clean: the engine's set-up of it is complete.

        Called once, after `session_sql` and `on_connect`, which may have used ``raw``.
        """

    # Statements, in the caller's task.

    @abstractmethod
    async def execute(self, sql: str, params: Params, timeout: float | None) -> ExecuteResult:
        """Run one statement.

        Raises:
            QueryTimeoutError: past ``timeout``; the statement is being stopped at the server.
                The connection is then usable, ``suspect`` or closed.
            ConnectionLostError: ``is_transient`` only if nothing can have been sent.
        """

    @abstractmethod
    async def execute_many(
        self, sql: str, rows: Sequence[Params], timeout: float | None
    ) -> ExecuteResult:
        """Run one statement for each of ``rows`` (not empty): all of them or none."""

    @abstractmethod
    async def execute_script(self, sql: str, timeout: float | None) -> None:
        """Run several statements. Never commits an open transaction behind the caller's back."""

    @abstractmethod
    async def fetch(
        self, sql: str, params: Params, timeout: float | None, limit: int = 0
    ) -> Fetched:
        """Run one statement and return its rows; with ``limit``, at least that many of them.

        Only of a statement that surely reads may rows be left: others would be half done.
        """

    @abstractmethod
    async def open_cursor(
        self, sql: str, params: Params, timeout: float | None, batch_size: int
    ) -> DriverCursor:
        """Start a statement whose rows are fetched ``batch_size`` at a time.

        ``timeout`` is for each batch. Needs a transaction where the capabilities say so.
        """

    @abstractmethod
    async def insert_many(
        self,
        table: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        timeout: float | None,
    ) -> int:
        """Insert rows by the fastest safe way, all or none; return how many.

        ``table`` may have a schema (``"app.users"``); names are quoted as they stand.
        """

    # Transactions, in the caller's task. The state a caller keeps changes after these return.

    @abstractmethod
    async def begin(self, options: TransactionOptions) -> None:
        """Begin. NotSupportedError, before anything is sent, for what this backend cannot do."""

    @abstractmethod
    async def commit(self) -> None:
        """Commit.

        Raises:
            CommitUnknownError: the connection broke after COMMIT may have been sent, also by
                `abort` from another task: the outcome is unknown. Never ``is_transient``.
            InternalError: the server rolled back instead (the transaction had failed before).
            Error: the commit was refused (e.g. a deferred constraint). If the transaction is
                still open then, `in_transaction` says so and a rollback ends it.
        """

    @abstractmethod
    async def rollback(self) -> None:
        """Roll back. Succeeds when no transaction is open any more, or none ever was."""

    async def savepoint(self, name: str) -> None:
        """Set a savepoint in the open transaction."""
        await self.execute(f"SAVEPOINT {name}", None, None)

    async def release_savepoint(self, name: str) -> None:
        """Keep what was done since the savepoint and forget it."""
        await self.execute(f"RELEASE SAVEPOINT {name}", None, None)

    async def rollback_to_savepoint(self, name: str) -> None:
        """Undo what was done since the savepoint, and forget it."""
        await self.execute(f"ROLLBACK TO SAVEPOINT {name}", None, None)
        await self.execute(f"RELEASE SAVEPOINT {name}", None, None)

    # Upkeep, in tasks of the pool, which set a deadline by cancelling.

    @abstractmethod
    async def ping(self) -> None:
        """One round trip; any error means dead."""

    @abstractmethod
    async def recover(self) -> None:
        """After an interrupted call (``suspect``): wait until the statement has ended.

        Brings the protocol back in step, keeps a transaction that survived and sets
        ``transaction_lost`` for one that did not; clears ``suspect``.

        Raises:
            ConnectionLostError: it cannot be brought back.
        """

    @abstractmethod
    async def clean(self) -> None:
        """Before the next borrower: recover, roll back, undo session state.

        Any error means that the connection must be closed instead.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close politely; cancelled midway (the deadline), abort. Safe to call twice."""

    @abstractmethod
    def abort(self) -> None:
        """Drop the connection at once, without I/O; never raises. Safe to call twice.

        A call that another task awaits on it ends soon, with an error. Cursors that are open let
        go of what they keep, though somebody may refer to them still.
        """
