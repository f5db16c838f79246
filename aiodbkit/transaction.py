"""Transactions: scopes, savepoints inside them, and what runs when they have ended.

A state changes only after the database has answered. COMMIT and ROLLBACK run in a task of the
pool: a caller that is cancelled meanwhile does not tear them apart, hooks run exactly if the
commit took effect, and the connection is lent again only after they have ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import TYPE_CHECKING

from aiodbkit.errors import (
    CommitUnknownError,
    ConnectionLostError,
    Error,
    InterfaceError,
    InternalError,
    QueryTimeoutError,
    TransactionScopeError,
)
from aiodbkit.hooks import Hook, log_failure, refuse_unless_hook, start_hooks, wait_for_hooks
from aiodbkit.options import ChildTasks, TransactionOptions
from aiodbkit.scope import Scope

if TYPE_CHECKING:
    from aiodbkit.connection import Connection
    from aiodbkit.driver import DriverConnection

__all__ = ["Hook", "Transaction", "TransactionState"]

logger = logging.getLogger("aiodbkit.transaction")


class TransactionState(Enum):
    """Where a transaction is."""

    NEW = auto()
    ACTIVE = auto()
    COMMITTED = auto()  # for a nested one: its savepoint was released
    ROLLED_BACK = auto()
    LOST = auto()  # the connection broke; for a commit, the outcome is unknown


class Transaction:
    """One scope: the outermost is a transaction of the database, those inside are savepoints."""

    def __init__(
        self,
        connection: Connection,
        options: TransactionOptions,
        child_tasks: ChildTasks,
        *,
        by_hand: bool = False,
    ) -> None:
        self._connection = connection
        self._options = options
        self._parent = connection._innermost
        self._root: Transaction = self._parent._root if self._parent else self
        self._depth: int = self._parent._depth + 1 if self._parent else 0
        self._doom: BaseException | None = None  # on the root: why it can only be rolled back
        self._commit_hooks: list[Hook] = []
        self._rollback_hooks: list[Hook] = []
        self._due: list[Hook] = []
        self._hooks: asyncio.Task[None] | None = None  # those that are due, at work
        self._ending: asyncio.Task[None] | None = None
        self._is_committing = False  # what the ending is
        self._waiting = 0  # tasks that wait for it
        self._is_torn = False  # it ends around a nested one
        self._cut_short: InterfaceError | None = None
        self.child_tasks: ChildTasks = child_tasks
        self.by_hand = by_hand
        self._task = asyncio.current_task()
        self.session: Scope | None = None  # of the session whose unit of work it is
        self.state = TransactionState.NEW

    def __repr__(self) -> str:
        kind = "savepoint" if self._parent else "transaction"
        return f"<Transaction {kind} {self.state.name.lower()}>"

    @property
    def connection(self) -> Connection:
        """The connection that it runs on."""
        return self._connection

    @property
    def is_active(self) -> bool:
        """Whether statements can still be run in it."""
        return self.state is TransactionState.ACTIVE and self._reason_lost() is None

    def on_commit(self, hook: Hook) -> None:
        """Call ``hook``, sync or async, after the outermost commit; never after a rollback.

        All run, in order, when the connection has been given back; the first error of one is
        raised after that, and the commit stands.
        """
        self._refuse_hook("on_commit()", hook)
        self._commit_hooks.append(hook)

    def on_rollback(self, hook: Hook) -> None:
        """Call ``hook``, sync or async, after this scope or one around it was rolled back."""
        self._refuse_hook("on_rollback()", hook)
        self._rollback_hooks.append(hook)

    async def rollback(self) -> None:
        """Roll this scope back now, and end it: statements in the rest of its block are refused.

        Its hooks run at the end of the block.
        """
        if self.state is not TransactionState.ACTIVE:
            raise TransactionScopeError(
                f"rollback(): this transaction has ended already ({self._said})"
            )
        self.refuse_around_nested("rollback()")
        await self.finish(commit=False)

    # For scopes and connections

    async def begin(self) -> None:
        """Send BEGIN, or SAVEPOINT."""
        if self._parent is not None:
            self._refuse_other_task(self._parent)
            self._refuse_other_options()
        limit = self._connection._command_timeout
        if (turn := self._connection._use()) is None:
            turn, limit = await self._connection._wait(limit)
        with turn as driver:
            if self._parent is not None:
                await self._savepoint(driver, limit)
            elif driver.in_transaction:
                raise TransactionScopeError(
                    "a transaction that was begun by an SQL statement is still open on this "
                    "connection: use transaction() or begin() for it, so that its end is known"
                )
            else:
                await self._in_time(driver, limit, "BEGIN", driver.begin(self._options))
        self.state = TransactionState.ACTIVE
        self._connection._innermost = self

    @property
    def is_ending(self) -> bool:
        """Whether COMMIT or ROLLBACK is under way."""
        return self._ending is not None and (self._waiting > 0 or not self._ending.done())

    async def finish(self, *, commit: bool) -> None:
        """End the scope in the database. When the caller is cancelled, it goes on by itself.

        Where another task is ending it already, wait for that, and tell what came of it.

        Raises:
            InterfaceError: its connection was given back before.
            TransactionScopeError: another scope is still open inside it: all is rolled back. Or
                another task has ended it in the opposite way.
        """
        if self._cut_short is not None and commit:
            raise self._cut_short
        if not self.is_ending:
            if self.state is not TransactionState.ACTIVE:
                return
            self._start_ending(commit=commit)
        work = self._ending
        assert work is not None
        await self._wait_for(work)
        if work.cancelled():
            self._end_cancelled()
        elif commit is self._is_committing:
            work.result()
        else:
            self._tell_other_ending(work)

    async def ended(self) -> None:
        """Wait for an ending of another task, whatever comes of it."""
        if self._ending is not None:
            await asyncio.wait([self._ending])

    async def _wait_for(self, work: asyncio.Task[None]) -> None:
        self._waiting += 1
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            if self._waiting == 1:
                self._detach(work)
            work.add_done_callback(lambda _: self._start_unseen_hooks())
            raise
        finally:
            self._waiting -= 1

    def _start_ending(self, *, commit: bool) -> None:
        self._end_inner_scopes()
        self._is_committing = commit
        self._ending = self._connection._spawn_work(self._finish(commit=commit))

    async def _finish(self, *, commit: bool) -> None:
        if self._parent is not None:
            await self._finish_savepoint(self._parent, commit=commit)
        else:
            await self._finish_outermost(commit=commit)
        if self._is_torn and commit:
            raise TransactionScopeError(
                "a nested transaction was still open when the one around it ended, so all was "
                "rolled back: end blocks in the reverse order of their beginning"
            )

    def _tell_other_ending(self, work: asyncio.Task[None]) -> None:
        """One task commits and another one rolls back: neither may believe what is not so."""
        if not self._is_committing:
            work.result()
            if self.by_hand:
                raise TransactionScopeError(
                    "commit(): another task was rolling this transaction back at that moment: "
                    "nothing was committed"
                )
        elif self.state is not TransactionState.ROLLED_BACK:
            work.result()
            raise TransactionScopeError(
                "rollback: another task was committing this transaction at that moment, and it "
                "is committed: let one task decide how it ends"
            )

    def _end_inner_scopes(self) -> None:
        """End the scopes that were left open inside this one, which can only be rolled back."""
        scope = self._connection._innermost
        while scope is not None and scope is not self:
            self._is_torn = self._is_torn or scope.state is TransactionState.ACTIVE
            scope.cut(TransactionScopeError("the transaction around this one has ended"))
            scope = scope._parent
        self._connection._innermost = self

    def cut(self, reason: InterfaceError) -> None:
        """End the scope without a word to the database: what ends it does so anyway."""
        if self.state is TransactionState.ACTIVE and self._ending is None:
            self._cut_short = reason
            self._ended(TransactionState.ROLLED_BACK)

    def _end_cancelled(self) -> None:
        """Someone cancelled the task that was to end it: closing the connection ends it, too."""
        reason = ConnectionLostError("the task that was to end the transaction was cancelled")
        if self.state is TransactionState.ACTIVE:
            self._connection._driver.abort()
            self.doom(reason)
            if self._is_committing:
                self.state = TransactionState.LOST
            else:
                self._ended(TransactionState.ROLLED_BACK)
        if not self._is_committing:
            return
        if self._parent is not None:
            raise self._gone("the nested one is gone with it", reason)
        raise CommitUnknownError(
            "the task that was to commit was cancelled: whether COMMIT took effect is unknown",
            query="COMMIT",
        )

    def _detach(self, work: asyncio.Task[None]) -> None:
        """No caller is left: the ending goes on by itself, from now on with a deadline."""
        limit = self._connection._pool.options.reset_timeout
        timer = asyncio.get_running_loop().call_later(limit, work.cancel)
        work.add_done_callback(lambda _: timer.cancel())

    def leave(self) -> None:
        """Make the scope around this one the connection's current one again."""
        scope = self._connection._innermost
        while scope is not None and scope is not self:
            scope = scope._parent
        if scope is self:
            self._connection._innermost = self._parent

    def refuse_unless_active(self) -> None:
        """Raise for a statement in a scope that has ended or is lost.

        Raises:
            TransactionScopeError: it was rolled back on purpose.
            InternalError, ConnectionLostError: it is gone.
        """
        lost = self._reason_lost()
        if self.state is TransactionState.ACTIVE and lost is None:
            return
        if lost is None:
            raise TransactionScopeError(
                f"this transaction has been {self._said}: its block takes no more statements; "
                "leave the block first"
            )
        raise self._gone("the statement was not sent", lost)

    def refuse_unless_outermost_active(self) -> None:
        """Raise for a statement that stood in line while the whole transaction ended."""
        self._root.refuse_unless_active()

    async def run_hooks(self) -> None:
        """Run what has become due, all of it, whatever happens to the caller meanwhile.

        Whoever ended the transaction at the same time waits for the same run.
        """
        self._start_due_hooks()
        if self._hooks is not None:
            await wait_for_hooks(self._hooks, self._said)

    def _start_due_hooks(self) -> None:
        if self._due:
            due, self._due = self._due, []
            connection = self._connection
            self._hooks = start_hooks(
                connection._engine, connection._spawn, due, self._said, self.session
            )

    def _start_unseen_hooks(self) -> None:
        """Nobody waits for them: the log is told what fails."""
        self._start_due_hooks()
        if self._hooks is not None and not self._waiting:
            self._hooks.add_done_callback(log_failure)

    @property
    def _said(self) -> str:
        return self.state.name.lower().replace("_", " ")

    # Ending

    async def _finish_outermost(self, *, commit: bool) -> None:
        async with self._connection._control() as driver:
            self._end_inner_scopes()  # one may have been begun before this had its turn
            lost = self._reason_lost()
            if not commit or lost is not None or self._is_torn:
                await self._roll_back(driver)
                if commit and lost is not None:
                    raise self._gone("it was rolled back, nothing was committed", lost)
                return
            if not driver.in_transaction:
                self._ended(TransactionState.ROLLED_BACK)
                raise TransactionScopeError(
                    "the transaction was ended inside its block by an SQL statement (COMMIT or "
                    "ROLLBACK): leave that to the block, or use begin(), commit() and rollback()"
                )
            await self._commit(driver)

    async def _commit(self, driver: DriverConnection) -> None:
        limit = self._connection._command_timeout
        try:
            async with asyncio.timeout(limit):
                await driver.commit()
        except CommitUnknownError:
            self.state = TransactionState.LOST
            raise
        except TimeoutError as error:
            if isinstance(error, Error):  # a lock timeout of a deferred check
                await self._roll_back(driver)
                raise
            self.state = TransactionState.LOST
            driver.suspect = True
            raise CommitUnknownError(
                f"COMMIT was not answered within command_timeout={limit} s: whether it took "
                "effect is unknown",
                query="COMMIT",
            ) from error
        except Error:
            await self._roll_back(driver)
            raise
        except BaseException:
            self.state = TransactionState.LOST
            raise
        self._ended(TransactionState.COMMITTED)

    async def _roll_back(self, driver: DriverConnection) -> None:
        """Roll back; a connection that cannot even do that is discarded, which does it too."""
        limit = self._connection._pool.options.reset_timeout
        try:
            if not driver.is_closed and driver.in_transaction:
                async with asyncio.timeout(limit):
                    await driver.rollback()
        except (Error, TimeoutError) as error:
            reason = error if isinstance(error, Error) else f"no answer within {limit:g} s"
            logger.info("a rollback failed, the connection is discarded: %s", reason)
            driver.abort()
        self._ended(TransactionState.ROLLED_BACK)

    async def _in_time(
        self, driver: DriverConnection, limit: float | None, statement: str, work: Awaitable[None]
    ) -> None:
        """Await a statement of ours for what is left of the engine's ``command_timeout``."""
        try:
            async with asyncio.timeout(limit):
                await work
        except TimeoutError as error:
            if isinstance(error, Error):
                raise
            driver.suspect = True
            told = f"command_timeout={self._connection._command_timeout} s"
            if self._connection._command_timeout is None:  # a ROLLBACK TO: there is no other way
                driver.abort()
                told = f"reset_timeout={limit:g} s, and the connection was closed"
            raise QueryTimeoutError(
                f"{statement} was not answered within {told}", query=statement
            ) from error

    async def _savepoint(self, driver: DriverConnection, limit: float | None) -> None:
        with self._dooming():
            work = driver.savepoint(self._name)
            await self._in_time(driver, limit, f"SAVEPOINT {self._name}", work)

    async def _finish_savepoint(self, parent: Transaction, *, commit: bool) -> None:
        lost = self._reason_lost()
        if lost is not None:
            self._ended(TransactionState.ROLLED_BACK)
            if commit:
                raise self._gone("the nested one is gone with it", lost)
            return
        name, limit = self._name, self._connection._command_timeout
        with self._dooming():
            async with self._connection._control() as driver:
                self._end_inner_scopes()
                commit = commit and not self._is_torn
                if commit:
                    statement, work = f"RELEASE SAVEPOINT {name}", driver.release_savepoint(name)
                else:
                    statement, work = f"ROLLBACK TO {name}", driver.rollback_to_savepoint(name)
                    limit = limit or self._connection._pool.options.reset_timeout
                await self._in_time(driver, limit, statement, work)
        if commit:
            self.state = TransactionState.COMMITTED
            parent._commit_hooks += self._commit_hooks
            parent._rollback_hooks += self._rollback_hooks
        else:
            self._ended(TransactionState.ROLLED_BACK)

    def _ended(self, state: TransactionState) -> None:
        self.state = state
        committed = state is TransactionState.COMMITTED
        self._due += self._commit_hooks if committed else self._rollback_hooks

    # Being gone

    def _reason_lost(self) -> BaseException | None:
        return self._root._doom or self._connection._transaction_lost

    def _gone(self, consequence: str, reason: BaseException) -> Error:
        kind = ConnectionLostError if isinstance(reason, ConnectionLostError) else InternalError
        cause = str(reason) or type(reason).__name__
        error = kind(f"the transaction is gone: {consequence}. The cause was: {cause}")
        error.__cause__ = reason
        return error

    @contextmanager
    def _dooming(self) -> Iterator[None]:
        """A savepoint statement that did not end as asked leaves the outer transaction unknown."""
        try:
            yield
        except InternalError:
            raise
        except BaseException as error:
            self.doom(error)
            raise

    def doom(self, reason: BaseException) -> None:
        """From now on the whole transaction can only be rolled back."""
        if self._root._doom is None:
            self._root._doom = reason

    # Refusing

    def _refuse_hook(self, call: str, hook: Hook) -> None:
        refuse_unless_hook(call, hook)
        if self.state is not TransactionState.ACTIVE:
            raise TransactionScopeError(
                f"{call}: this transaction has ended ({self._said}): a hook would never be called"
            )

    @property
    def _name(self) -> str:
        return f"aiodbkit_{self._depth}"

    def _refuse_other_task(self, parent: Transaction) -> None:
        if parent._task is not self._task:
            owner = parent._task.get_name() if parent._task is not None else "another task"
            raise TransactionScopeError(
                f"a transaction of task {owner!r} is open on this connection, and one of this "
                "task inside it would be undone with it: run the statements in that transaction "
                "without one of your own, or take a connection for this task"
            )

    def _refuse_other_options(self) -> None:
        if not self._options.is_default and self._options != self._root._options:
            raise TransactionScopeError(
                "isolation, read_only, deferrable and mode belong to the outermost transaction: "
                "this one is nested, a savepoint inside it"
            )

    def refuse_around_nested(self, call: str) -> None:
        """Raise TransactionScopeError while a nested transaction is open inside this one."""
        if self._connection._innermost is not self:
            raise TransactionScopeError(
                f"{call}: a nested transaction is still open inside this one: end that first"
            )
