"""What a replicated engine gives out: blocks and streams that go to a replica, or leave a mark.

A block belongs to the primary in the eyes of its task, wherever its connection leads: so all that
the task does inside finds it.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from aiodbkit.blocks import ConnectionBlock, TransactionBlock
from aiodbkit.connection import Connection
from aiodbkit.driver import Fetched, Params
from aiodbkit.engine import Engine
from aiodbkit.errors import Error, ReadOnlyError
from aiodbkit.options import ChildTasks, RetryPolicy, TransactionOptions
from aiodbkit.replicas.marks import Mark, Marks
from aiodbkit.session import Session
from aiodbkit.shared import SharedBlock, SharedConnection
from aiodbkit.stream import Stream, StreamState, _Closing
from aiodbkit.transaction import Transaction
from aiodbkit.verbs import time_left

if TYPE_CHECKING:
    from aiodbkit.replicas.engine import ReplicatedEngine

__all__ = [
    "ReadingSession",
    "ReadingStream",
    "ReadingTransaction",
    "WritingShared",
    "WritingStream",
    "expired",
    "is_of_primary",
]


def expired(limit: float | None, since: float) -> bool:
    """Whether nothing is left of ``limit``."""
    return limit is not None and limit - (monotonic() - since) < 0.001


def is_of_primary(error: Error) -> bool:
    """Whether a replica has refused what its primary can do."""
    # 55000: what PostgreSQL says of functions that tell of the log while it "is in recovery".
    return isinstance(error, ReadOnlyError) or error.sqlstate == "55000"


async def _borrow_from(source: Engine, primary: Engine, limit: float | None = None) -> Connection:
    slot, _ = await source.pool.slot_within(limit)
    return Connection(primary, slot)


class _Hold(ConnectionBlock):
    """A block on a connection of another engine than the one that it belongs to."""

    def __init__(self, engine: Engine, source: Engine) -> None:
        super().__init__(engine)
        self._source = source

    async def _borrow(self, engine: Engine) -> Connection:
        return await _borrow_from(self._source, engine._scoped)


class ReadingTransaction(TransactionBlock):
    """`db.transaction(read_only=True)`: on a replica, chosen when the block is entered."""

    def __init__(
        self,
        engine: ReplicatedEngine,
        options: TransactionOptions,
        *,
        force_rollback: bool = False,
        child_tasks: ChildTasks | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        super().__init__(
            engine, options, force_rollback=force_rollback, child_tasks=child_tasks, retry=retry
        )
        self._replicated = engine

    async def _begin(self) -> Transaction:
        db = self._replicated
        readers = await db._router.readers(None, self._options.isolation)
        for replica in readers:
            self._holder = _Hold(db, replica.engine)
            try:
                return await super()._begin()
            except Error as error:
                if not db._replicas.excuses(replica, error, readers):
                    raise
        self._holder = _Hold(db, db.primary_engine)
        return await super()._begin()

    def _again(self) -> ReadingTransaction:
        return ReadingTransaction(
            self._replicated,
            self._options,
            force_rollback=self._force_rollback,
            child_tasks=self._child_tasks,
        )


class ReadingSession(Session):
    """`db.session(read_only=True)`: each of its transactions is on a replica."""

    __slots__ = ("_replicated", "_source")

    def __init__(
        self,
        engine: ReplicatedEngine,
        options: TransactionOptions,
        child_tasks: ChildTasks | None,
    ) -> None:
        super().__init__(engine, options, child_tasks)
        self._replicated = engine
        self._source = engine.primary_engine

    async def _begin(self, limit: float | None) -> Connection:
        db, since = self._replicated, monotonic()
        if self._outer is None:
            readers = await db._router.free_readers(limit, self._options.isolation)
            for replica in readers:
                self._source = replica.engine
                try:
                    return await super()._begin(time_left(limit, since))
                except Error as error:
                    excused = db._replicas.excuses(replica, error, readers)
                    if not excused or expired(limit, since):
                        raise
        self._source = db.primary_engine
        return await super()._begin(time_left(limit, since))

    async def _borrow(self, limit: float | None) -> Connection:
        return await _borrow_from(self._source, self._replicated.primary_engine, limit)


class WritingShared(SharedBlock):
    """`db.connection(shared=True)`: anything may be written by it."""

    def __init__(self, engine: ReplicatedEngine, marks: Marks) -> None:
        super().__init__(engine.primary_engine)
        self._replicated = engine
        self._marks = marks
        self._mark: Mark | None = None

    async def _enter(self) -> SharedConnection:
        connection = await super()._enter()
        self._mark = self._marks.begin()
        return connection

    async def _exit(self, error: BaseException | None) -> bool:
        mark, self._mark = self._mark, None
        try:
            return await super()._exit(error)
        finally:
            if mark is not None:
                self._marks.end(mark, is_known=error is None)

    def _again(self) -> WritingShared:
        return WritingShared(self._replicated, self._marks)


class WritingStream(Stream[Any]):
    """`iterate()` of a statement that may write: on the primary, marked with each batch."""

    def __init__(self, marks: Marks, engine: Engine, *what: Any) -> None:
        super().__init__(engine, *what)
        self._marks = marks

    async def _fetch(self) -> None:
        with self._marks.writing():
            await super()._fetch()

    async def aclose(self) -> None:
        """Close the cursor, which ends the transaction that it may have had of its own."""
        if self._connection is None:
            await super().aclose()
            return
        with self._marks.writing():
            await super().aclose()


class _Source:
    """A replica as a stream asks it for a connection: within the time that all tries share."""

    def __init__(self, engine: Engine, since: float) -> None:
        self._engine = engine
        self._since = since

    async def _connection_for_stream(
        self, limit: float | None
    ) -> tuple[Connection, bool, float | None]:
        left = time_left(limit, self._since)
        connection, is_owned, _ = await self._engine._connection_for_stream(left)
        try:
            return connection, is_owned, time_left(limit, self._since)
        except BaseException:
            if is_owned:
                connection._leave()
            raise


class ReadingStream(Stream[Any]):
    """`iterate()` of a statement that reads: on the replica that gives the first batch."""

    def __init__(  # noqa: PLR0917 - made by iterate() alone
        self,
        engine: ReplicatedEngine,
        sql: str,
        params: Params,
        into: Any,
        batch_size: int,
        timeout: float | None,
    ) -> None:
        super().__init__(engine, sql, params, into, batch_size, timeout)
        self._replicated = engine
        self._first: Fetched | None = None

    async def _open(self) -> None:
        db, since = self._replicated, monotonic()
        readers = await db._router.readers(self._timeout)
        for replica in readers:
            try:
                await self._open_on(replica.engine, since)
            except Error as error:
                if is_of_primary(error):
                    db._router.note_write(self._sql)
                    self._forget()
                    break
                excused = db._replicas.excuses(replica, error, readers)
                if not excused or expired(self._timeout, since):
                    raise
                self._forget()
            else:
                return
        if db._router.is_known_write(self._sql):
            with db._marks.writing():
                await self._open_on(db._home, since)
        else:
            await self._open_on(db._home, since)

    async def _open_on(self, engine: Engine, since: float) -> None:
        self._source = _Source(engine, since)  # type: ignore[assignment]
        await super()._open()
        self._first = await super()._next_batch()

    async def _next_batch(self) -> Fetched:
        first, self._first = self._first, None
        return await super()._next_batch() if first is None else first

    def _forget(self) -> None:
        """Let go of what failed, and be as before the first try."""
        self._abandon()
        self._closing = _Closing()
        self._state = StreamState.NEW
        self._deadline = None
