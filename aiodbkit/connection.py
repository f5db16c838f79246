"""A borrowed connection: the verbs over one driver connection, for as long as it is held."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from contextvars import Context
from logging import DEBUG
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from aiodbkit.driver import Capabilities, DriverConnection, Params
from aiodbkit.errors import (
    ConnectionLostError,
    Error,
    InterfaceError,
    QueryTimeoutError,
    TransactionScopeError,
)
from aiodbkit.options import ChildTasks, Isolation, LockMode, TransactionOptions
from aiodbkit.pool import LooseLease, Slot
from aiodbkit.querylog import is_query_logged
from aiodbkit.stream import Stream
from aiodbkit.transaction import Transaction
from aiodbkit.turns import Turns
from aiodbkit.verbs import Turn, Verbs, time_left, waited

if TYPE_CHECKING:
    from aiodbkit.blocks import TransactionBlock
    from aiodbkit.engine import Engine

__all__ = ["Connection"]


class Connection(LooseLease[DriverConnection], Verbs):
    """One connection of an engine, good until its block ends or it is released.

    Statements of several tasks take turns on it, in the order in which they came.
    """

    __slots__ = (
        "_command_timeout",
        "_driver",
        "_engine",
        "_innermost",
        "_late_slot",
        "_litter",
        "_pending",
        "_reader",
        "_reader_task",
        "_recovery",
        "_turn",
        "_turns",
    )

    is_shared: ClassVar[bool] = False

    def __init__(self, engine: Engine, slot: Slot[DriverConnection]) -> None:
        # The pool that lent it; a sandbox may have taken the place of the engine's since.
        super().__init__(slot._owner, slot)  # type: ignore[arg-type]
        self._engine = engine
        self._driver = slot.resource
        self._command_timeout = engine.options.command_timeout
        self._innermost: Transaction | None = None
        self._turns = Turns()
        self._turn = _Turn(self)
        self._reader: weakref.ref[Stream[Any]] | None = None  # keeps the turn until it is closed
        self._reader_task: asyncio.Task[Any] | None = None
        self._litter: list[Callable[[], Awaitable[None]]] = []  # what dropped streams left open
        self._late_slot: Slot[DriverConnection] | None = None  # released while it was at work
        self._pending = 0  # tasks of the pool that work on it
        self._recovery: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "in transaction" if self.in_transaction else "open"
        return f"<Connection of {self._pool.name}: {state}>"

    # What it is

    @property
    def raw(self) -> Any:
        """The driver's own connection; InterfaceError after the release.

        What is done with it is not known to aiodbkit: the session is fully reset at release.
        """
        return self.resource.expose()

    @property
    def is_closed(self) -> bool:
        """Whether it can no longer be used: released, cut or lost."""
        return self._has_ended or self._driver.is_closed

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on it."""
        if self._has_ended:
            return False
        return self._transaction is not None or self._driver.in_transaction

    @property
    def _transaction(self) -> Transaction | None:
        """The innermost transaction that takes statements, or None."""
        innermost = self._innermost
        if innermost is None or self._has_ended or not innermost.is_active:
            return None
        return innermost

    @property
    def _held(self) -> Connection:
        return self

    @property
    def _open_to_children(self) -> ChildTasks | None:
        transaction = self._transaction
        return None if transaction is None else transaction.child_tasks

    async def _take_hold(self, limit: float | None = None) -> Connection:  # noqa: ARG002
        return self

    @property
    def _transaction_lost(self) -> BaseException | None:
        return self._driver.transaction_lost

    # Turns: one statement at a time, whoever asks

    def _use(self) -> AbstractContextManager[DriverConnection] | None:
        if self._has_ended:
            raise self._refusal("used")
        if asyncio.get_running_loop() is not self._pool.loop:
            raise InterfaceError(
                "this connection belongs to another event loop: hand its results over, not itself"
            )
        if is_query_logged(DEBUG) is not self._engine._logs_queries:
            self._engine._observation.update()
        if self._turns.taken or self._litter or self._driver.suspect:
            return None
        if self._innermost is not None:
            self._innermost.refuse_unless_active()
        self._turns.taken = True
        return self._turn

    async def _wait(self, limit: float | None) -> Turn:
        since = monotonic()
        try:
            async with asyncio.timeout(limit):
                await self._wait_for_turn()
        except TimeoutError as error:
            if isinstance(error, Error):
                raise
            raise QueryTimeoutError(
                f"another statement, or what one had left to be ended, kept the connection busy "
                f"for {limit:g} s: nothing was sent"
            ) from error
        try:
            turn = waited(self._turn, limit, time_left(limit, since))
        except QueryTimeoutError:
            self._pass_turn_on()
            raise
        self._engine._observation.note_wait(self._driver, since)
        return turn

    async def _wait_for_turn(self) -> None:
        asked_in = self._innermost
        await self._take_turn()
        try:
            # All may have changed while this task stood in line.
            self._refuse_if_ended()
            if asked_in is not None:
                asked_in.refuse_unless_outermost_active()
            await self._tidy()
            if self._innermost is not None:
                self._innermost.refuse_unless_active()
        except BaseException:
            self._pass_turn_on()
            raise

    def _control(self) -> _Control:
        """A turn for the end of a transaction: also in one that takes no more statements."""
        return _Control(self)

    async def _take_turn(self) -> None:
        task = asyncio.current_task()
        if self._turns.taken and self._driver.feeder is task:
            raise InterfaceError(
                "this connection is busy with an insert_many() or a COPY whose rows this same "
                "statement is to provide: read them before, or from another connection "
                "(db.execution_context(transaction=False))"
            )
        if self._reader is not None and self._reader_task is task:
            raise InterfaceError(
                "this connection is busy with an iterate() of this same task: finish it first, run "
                "both in one transaction (not on MySQL), or use another connection for the "
                "statement: db.execution_context(transaction=False)"
            )
        try:
            await self._turns.take()
        except BaseException:
            self._give_back_late()  # cancelled in the moment of its turn, it may be the last
            raise

    def _pass_turn_on(self) -> None:
        self._turns.pass_on()
        if self._late_slot is not None:
            self._give_back_late()

    def _give_back_late(self) -> None:
        if self._late_slot is not None and not self._turns.taken and not self._pending:
            slot, self._late_slot = self._late_slot, None
            self._pool.give_back(slot)

    def _keep_turn(self, stream: Stream[Any]) -> None:
        self._reader = weakref.ref(stream)
        self._reader_task = asyncio.current_task()

    def _return_turn(self) -> None:
        self._reader = self._reader_task = None
        self._pass_turn_on()

    def _cut_stream(self) -> None:
        stream = self._reader() if self._reader is not None else None
        if stream is not None:
            stream.cut()

    async def _tidy(self) -> None:
        """Bring the connection back in step after an interrupted statement or dropped stream."""
        if self._driver.suspect:
            await self._recover()
        while self._litter:
            await self._clear(self._litter[-1])

    async def _clear(self, litter: Callable[[], Awaitable[None]]) -> None:
        """Close what a stream left open; interrupted, it stays for the next one to close."""
        limit = self._pool.options.reset_timeout
        try:
            await _within(limit, litter)
        except TimeoutError as error:
            if not isinstance(error, Error):
                self._driver.abort()
                raise ConnectionLostError(
                    f"the end of an iterate() that had been dropped was not answered within "
                    f"reset_timeout={limit:g} s, and the connection was closed"
                ) from error
            self._litter.remove(litter)
            raise
        except BaseException as error:
            self._note_failure(error)
            if isinstance(error, Error):
                self._litter.remove(litter)
            raise
        self._litter.remove(litter)

    async def _recover(self) -> None:
        """Wait until the interrupted statement has ended, with a deadline, in a task of the pool.

        A caller that is cancelled meanwhile leaves the connection suspect, for the next one.
        """
        limit = self._pool.options.reset_timeout
        if self._recovery is None or self._recovery.done():
            self._recovery = self._spawn_work(_within(limit, self._driver.recover))
        recovery = self._recovery
        await asyncio.wait([recovery])
        if recovery.cancelled():
            self._driver.abort()
            raise ConnectionLostError(
                "the task that was to bring the connection back in step was cancelled, so it was "
                "closed"
            )
        try:
            recovery.result()
        except TimeoutError as error:
            self._driver.abort()
            raise ConnectionLostError(
                f"after an interrupted statement the connection gave no answer within "
                f"reset_timeout={limit:g} s, and was closed"
            ) from error

    def _note_failure(self, error: BaseException) -> None:
        """Only an `Error` says that the connection is still in step with the server."""
        if not isinstance(error, Error):
            self._driver.suspect = True

    def _spawn_work(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run in a task of the pool what the connection must not be lent again before."""
        task = self._spawn(work, "work")
        self._pending += 1
        task.add_done_callback(self._work_done)
        return task

    def _refuse_if_ended(self) -> None:
        if self._has_ended:
            raise self._refusal("used")

    def _work_done(self, _task: asyncio.Task[Any]) -> None:
        self._pending -= 1
        self._give_back_late()

    def _spawn(
        self, work: Coroutine[Any, Any, Any], name: str, context: Context | None = None
    ) -> asyncio.Task[Any]:
        return self._pool.spawn(work, name, context)

    # Giving it back

    def _end(self) -> Slot[DriverConnection]:
        slot = super()._end()
        self._driver.disown()
        self._cut_stream()
        scope = self._innermost
        while scope is not None:
            scope.cut(
                InterfaceError(
                    "the transaction's connection was given back before its block ended, so it "
                    "was rolled back: end the transaction first"
                )
            )
            scope = scope._parent
        if self._litter:
            # A cursor is still open: whoever cleans the connection must close it.
            self._driver.suspect = True
        return slot

    def _release(self) -> None:
        """Give it back without awaiting, whatever is still going on.

        A statement of another task, or a COMMIT that its cancelled caller left behind, is let
        finish before the connection goes to anybody else.
        """
        slot = self._end()
        if self._turns.taken or self._pending:
            self._late_slot = slot
            slot.holder = None  # it comes back by itself: nobody waits for its last holder
        else:
            self._pool.give_back(slot)

    def _leave(self) -> None:
        if self._slot is not None:
            self._release()

    # Transactions

    def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        deferrable: bool = False,
        mode: LockMode | None = None,
        force_rollback: bool = False,
        child_tasks: ChildTasks | None = None,
    ) -> TransactionBlock:
        """Open a transaction on this connection; see `Engine.transaction`."""
        return self._engine._transaction_block(
            TransactionOptions(
                isolation=isolation, read_only=read_only, deferrable=deferrable, mode=mode
            ),
            force_rollback=force_rollback,
            child_tasks=child_tasks,
            place=self,
        )

    async def begin(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        deferrable: bool = False,
        mode: LockMode | None = None,
    ) -> None:
        """Begin a transaction by hand; `commit` or `rollback` ends it.

        Raises:
            TransactionScopeError: one is open already.
        """
        if self._innermost is not None:
            raise TransactionScopeError(
                "begin(): a transaction is already open on this connection; transaction() nests one"
            )
        options = TransactionOptions(
            isolation=isolation, read_only=read_only, deferrable=deferrable, mode=mode
        )
        await Transaction(self, options, self._engine.options.child_tasks, by_hand=True).begin()

    async def commit(self) -> None:
        """Commit what `begin` began."""
        await self._finish_by_hand("commit", commit=True)

    async def rollback(self) -> None:
        """Roll back what `begin` began."""
        await self._finish_by_hand("rollback", commit=False)

    async def _finish_by_hand(self, call: str, *, commit: bool) -> None:
        if self._has_ended:
            raise self._refusal("used")
        transaction = self._innermost
        if transaction is None:
            raise TransactionScopeError(
                f"{call}(): there is no transaction on this connection; begin() opens one"
            )
        if not transaction.by_hand:
            raise TransactionScopeError(
                f"{call}(): a transaction block is open on this connection and ends by itself; "
                "to roll back early use the rollback() of its transaction"
            )
        try:
            await transaction.finish(commit=commit)
        finally:
            transaction.leave()
        await transaction.run_hooks()

    def _stream(
        self, sql: str, params: Params, into: Any, batch_size: int, timeout: float | None
    ) -> Stream[Any]:
        return Stream(self, sql, params, into, batch_size, timeout)

    async def _connection_for_stream(
        self, limit: float | None
    ) -> tuple[Connection, bool, float | None]:
        return self, False, limit

    @property
    def _capabilities(self) -> Capabilities:
        return self._engine.capabilities


class _Turn:
    """One statement's turn on a connection: made once, entered for each statement."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> DriverConnection:
        return self._connection._driver

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            self._connection._note_failure(exc)
        if self._connection._reader is None:
            self._connection._pass_turn_on()


class _Control:
    """`async with connection._control() as driver:` takes a turn in any state of a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __aenter__(self) -> DriverConnection:
        connection = self._connection
        connection._cut_stream()
        await connection._take_turn()
        try:
            await connection._tidy()
        except ConnectionLostError:
            pass  # the statement that follows says so, or finds that there is nothing to undo
        except BaseException:
            connection._pass_turn_on()
            raise
        return connection._driver

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection._turn.__exit__(exc_type, exc, traceback)


async def _within(limit: float, work: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(limit):
        await work()
