"""A session: one unit of work that takes a connection only for as long as it needs one.

What a web handler is given: a handler that runs no statement holds nothing, one that commits
midway has given its connection back before it goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AbstractContextManager
from dataclasses import replace
from enum import Enum, auto
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, get_args

from aiodbkit.blocks import TransactionBlock
from aiodbkit.connection import Connection
from aiodbkit.driver import DriverConnection, Params
from aiodbkit.errors import (
    Error,
    InterfaceError,
    QueryTimeoutError,
    Rollback,
    SessionClosedError,
    TransactionScopeError,
)
from aiodbkit.hooks import Hook, refuse_unless_hook, start_hooks, wait_for_hooks
from aiodbkit.options import ChildTasks, TransactionOptions, choice
from aiodbkit.scope import Place, Scope
from aiodbkit.stream import Stream
from aiodbkit.transaction import Transaction, TransactionState
from aiodbkit.turns import Turns
from aiodbkit.verbs import Turn, Verbs, time_left

if TYPE_CHECKING:
    from aiodbkit.engine import Engine

__all__ = ["Session"]

T = TypeVar("T")


class SessionState(Enum):
    NEW = auto()
    OPEN = auto()
    ENDED = auto()


class Session(Verbs):
    """``async with db.session() as session:`` commits at the end, rolls back on any exception.

    The first statement takes a connection and begins a transaction; `commit` and `rollback` give
    the connection back at once, and the next statement begins anew. Verbs on the engine run in
    the session, in its block and task. Inside another session or transaction of the task it is a
    savepoint.
    """

    __slots__ = (
        "_child_tasks",
        "_commit_hooks",
        "_connection",
        "_engine",
        "_is_borrowed",
        "_opening",
        "_options",
        "_outer",
        "_rollback_hooks",
        "_rollback_only",
        "_scope",
        "_state",
        "_transaction",
    )

    is_shared: ClassVar[bool] = False

    def __init__(
        self, engine: Engine, options: TransactionOptions, child_tasks: ChildTasks | None
    ) -> None:
        choice("child_tasks", child_tasks, (None, *get_args(ChildTasks)))
        self._engine = engine
        self._options = options
        self._child_tasks: ChildTasks | None = child_tasks
        self._outer: Place | None = None  # what it is nested in
        self._state = SessionState.NEW
        self._scope: Scope | None = None
        self._opening = Turns()  # two tasks that share the session begin it once
        self._connection: Connection | None = None
        self._is_borrowed = False
        self._transaction: Transaction | None = None
        self._rollback_only = False
        self._commit_hooks: list[Hook] = []
        self._rollback_hooks: list[Hook] = []

    def __repr__(self) -> str:
        what = self._state.name.lower() if self._connection is None else "in transaction"
        return f"<Session of {self._engine!r}: {what}>"

    # What it is

    @property
    def is_closed(self) -> bool:
        """Whether its block has ended."""
        return self._state is SessionState.ENDED

    @property
    def in_transaction(self) -> bool:
        """Whether it holds a connection, in a transaction."""
        return self._connection is not None

    @property
    def is_rollback_only(self) -> bool:
        """Whether `set_rollback_only` was called."""
        return self._rollback_only

    # Life

    async def __aenter__(self) -> Self:
        if self._state is not SessionState.NEW:
            raise InterfaceError(
                "this session() block has been entered before: call session() for each block"
            )
        _ = self._engine.pool  # refuses a deferred engine
        # Asked now, in this task: its first statement may come from another one.
        self._outer = await self._engine._settle()
        self._state = SessionState.OPEN
        self._scope = Scope(self._engine._scoped, self)
        self._scope.enter()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._state is SessionState.NEW:
            self._refuse_unless_open()
        commit = exc is None and not self._rollback_only
        transaction, failure = self._transaction, None
        try:
            failure = await self._finish(commit=commit)
        finally:
            self._state = SessionState.ENDED
            assert self._scope is not None
            self._scope.leave()
        if failure is not None and exc is not None:
            exc.add_note(f"and then its session could not be rolled back: {failure}")
            failure = None
        await self._conclude(transaction, commit=commit, failure=failure)
        return isinstance(exc, Rollback)

    async def commit(self) -> None:
        """Commit what was done so far, and give the connection back. The session goes on.

        Raises:
            TransactionScopeError: `set_rollback_only` was called, a nested transaction is still
                open, or another task was rolling back at that moment.
            CommitUnknownError: the connection was lost: it may have been committed.
        """
        self._refuse_unless_open()
        if self._rollback_only:
            raise TransactionScopeError(
                "commit(): set_rollback_only() was called on this session: rollback() takes that "
                "back, with all that was done"
            )
        transaction = self._midway("commit()")
        failure = await self._finish(commit=True)
        if failure is None and transaction is not None:
            failure = _rolled_back_instead(transaction)
        await self._conclude(transaction, commit=True, failure=failure)

    async def rollback(self) -> None:
        """Undo what was done so far, and give the connection back. The session goes on.

        Raises:
            TransactionScopeError: a nested transaction is still open, or another task was
                committing at that moment.
        """
        self._refuse_unless_open()
        transaction = self._midway("rollback()")
        self._rollback_only = False
        failure = await self._finish(commit=False)
        await self._conclude(transaction, commit=False, failure=failure)

    def set_rollback_only(self) -> None:
        """Roll back at the end, without an exception."""
        self._refuse_unless_open()
        self._rollback_only = True

    def on_commit(self, hook: Hook) -> None:
        """Call ``hook``, sync or async, after the next commit, also of nothing at all."""
        self._refuse_unless_open()
        refuse_unless_hook("on_commit()", hook)
        if self._transaction is None:
            self._commit_hooks.append(hook)
        else:
            self._transaction.on_commit(hook)

    def on_rollback(self, hook: Hook) -> None:
        """Call ``hook``, sync or async, after the next rollback."""
        self._refuse_unless_open()
        refuse_unless_hook("on_rollback()", hook)
        if self._transaction is None:
            self._rollback_hooks.append(hook)
        else:
            self._transaction.on_rollback(hook)

    def transaction(self, *, force_rollback: bool = False) -> TransactionBlock:
        """A savepoint for a block; see `Engine.transaction`."""
        self._refuse_unless_open()
        return self._engine._transaction_block(
            TransactionOptions(),
            force_rollback=force_rollback,
            child_tasks=self._modes,
            place=self,
        )

    # Where its statements run

    @property
    def _command_timeout(self) -> float | None:  # type: ignore[override]
        return self._engine._command_timeout

    @property
    def _held(self) -> Connection | None:
        return self._connection

    @property
    def _open_to_children(self) -> ChildTasks | None:
        return self._modes if self._state is SessionState.OPEN else None

    @property
    def _modes(self) -> ChildTasks:
        given: ChildTasks | None = self._child_tasks
        return self._engine.options.child_tasks if given is None else given

    def _use(self) -> AbstractContextManager[DriverConnection] | None:
        self._refuse_unless_open()
        if self._connection is None or self._is_ending:
            return None
        return self._connection._use()

    async def _wait(self, limit: float | None) -> Turn:
        since = monotonic()
        connection = await self._take_hold(limit)
        left = time_left(limit, since)
        turn = connection._use()
        return (turn, left) if turn is not None else await connection._wait(left)

    def _stream(
        self, sql: str, params: Params, into: Any, batch_size: int, timeout: float | None
    ) -> Stream[Any]:
        return Stream(self, sql, params, into, batch_size, timeout)

    async def _connection_for_stream(
        self, limit: float | None
    ) -> tuple[Connection, bool, float | None]:
        since = monotonic()
        connection = await self._take_hold(limit)
        return connection, False, time_left(limit, since)

    async def _take_hold(self, limit: float | None = None) -> Connection:
        """Return the connection; the first to ask takes one and begins."""
        self._refuse_unless_open()
        if self._connection is not None and not self._is_ending:
            return self._connection
        since = monotonic()
        await _in_time(limit, "another task to begin the session", self._opening.take())
        try:
            if self._transaction is not None and self._is_ending:
                await self._see_the_end(self._transaction, time_left(limit, since))
            self._refuse_unless_open()  # it may have ended meanwhile
            return self._held or await self._begin(time_left(limit, since))
        finally:
            self._opening.pass_on()

    @property
    def _is_ending(self) -> bool:
        return self._transaction is not None and self._transaction.is_ending

    async def _see_the_end(self, transaction: Transaction, limit: float | None) -> None:
        """A statement that comes during a COMMIT of another task is of the next unit of work."""
        await _in_time(limit, "another task's commit() or rollback()", transaction.ended())
        self._let_go(transaction)

    async def _begin(self, limit: float | None) -> Connection:
        since = monotonic()
        is_nested = self._outer is not None
        if self._outer is not None:
            connection = await self._outer._take_hold(limit)
        else:
            connection = await self._borrow(limit)
        try:
            left = time_left(limit, since)
            transaction = await _in_time(
                left, "BEGIN", self._begin_on(connection, is_nested=is_nested)
            )
            if self._state is SessionState.ENDED:  # meanwhile, by the task that opened it
                await self._undo(transaction)
        except BaseException:
            if not is_nested:
                connection._leave()
            raise
        self._connection, self._transaction = connection, transaction
        self._is_borrowed = not is_nested
        return connection

    async def _borrow(self, limit: float | None) -> Connection:
        return await self._engine._borrow(limit)

    async def _undo(self, transaction: Transaction) -> None:
        try:
            await transaction.finish(commit=False)
        finally:
            transaction.leave()
        self._refuse_unless_open()

    async def _begin_on(self, connection: Connection, *, is_nested: bool) -> Transaction:
        # What is around it says whether it may write.
        is_joined = is_nested and connection._transaction is not None
        options = replace(self._options, read_only=False) if is_joined else self._options
        transaction = Transaction(connection, options, self._modes)
        assert self._scope is not None
        transaction._task = self._scope.owner  # whoever of its tasks came first
        transaction.session = self._scope
        await transaction.begin()
        for hook in self._commit_hooks:
            transaction.on_commit(hook)
        for hook in self._rollback_hooks:
            transaction.on_rollback(hook)
        self._commit_hooks, self._rollback_hooks = [], []
        return transaction

    # Ending

    def _midway(self, call: str) -> Transaction | None:
        """Return what is to be ended; what is nested in it would be lost, and go on outside."""
        if self._transaction is not None:
            self._transaction.refuse_around_nested(call)
        return self._transaction

    async def _finish(self, *, commit: bool) -> Error | None:
        """End the transaction, if there is one, give the connection back; return what failed."""
        transaction = self._transaction
        if transaction is None:
            return None
        try:
            await transaction.finish(commit=commit)
        except Error as failure:
            return failure
        finally:
            self._let_go(transaction)
        return None

    def _let_go(self, transaction: Transaction) -> None:
        """Give its connection back, once: the next unit of work may have one by now."""
        transaction.leave()
        if self._transaction is not transaction:
            return
        connection, self._connection, self._transaction = self._connection, None, None
        if connection is not None and self._is_borrowed:
            connection._leave()

    async def _conclude(
        self, transaction: Transaction | None, *, commit: bool, failure: Error | None
    ) -> None:
        """Run the hooks, of a failed commit too, which is a rollback; then tell the failure."""
        try:
            await self._run_hooks(transaction, commit=commit)
        except Exception as error:
            if failure is None:
                raise
            failure.add_note(f"and then a hook failed: {type(error).__name__}: {error}")
        if failure is not None:
            raise failure

    async def _run_hooks(self, transaction: Transaction | None, *, commit: bool) -> None:
        if transaction is not None:
            await transaction.run_hooks()
            return
        due = self._commit_hooks if commit else self._rollback_hooks
        self._commit_hooks, self._rollback_hooks = [], []
        if due:
            after = "committed" if commit else "rolled back"
            spawn = self._engine.pool.spawn
            hooks = start_hooks(self._engine, spawn, due, after, self._scope)
            await wait_for_hooks(hooks, after)

    def _refuse_unless_open(self) -> None:
        if self._state is SessionState.OPEN:
            return
        if self._state is SessionState.NEW:
            raise InterfaceError(
                "this session was not entered: `async with db.session() as session:`"
            )
        raise SessionClosedError(
            "this session has ended with its block: code that runs later, as a background task or "
            "a streaming response, opens one of its own: `async with db.session() as session:`"
        )


def _rolled_back_instead(transaction: Transaction) -> Error | None:
    if transaction.state is not TransactionState.ROLLED_BACK:
        return None
    return TransactionScopeError(
        "commit(): another task was rolling this session back at that moment: nothing was committed"
    )


async def _in_time(limit: float | None, what: str, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(limit):
            return await work
    except TimeoutError as error:
        if isinstance(error, Error):
            raise
        raise QueryTimeoutError(
            f"the wait for {what} took all of the {limit:g} s: the statement was not sent"
        ) from error
