"""What an engine gives out: async context managers that are decorators of async functions too.

Each block is entered once; as a decorator it makes a new one for each call.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, get_args

from aiodbkit.connection import Connection
from aiodbkit.errors import Error, InterfaceError, Rollback, TransactionScopeError
from aiodbkit.options import ChildTasks, RetryPolicy, TransactionOptions, choice
from aiodbkit.persistent import KeptConnection
from aiodbkit.scope import Place, Scope, find_scope
from aiodbkit.transaction import Transaction

if TYPE_CHECKING:
    from aiodbkit.engine import Engine

__all__ = ["ConnectionBlock", "ExecutionContext", "TransactionBlock"]

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")


class Block(Generic[V]):
    """One use of `__aenter__` and `__aexit__`, or a decorator."""

    _call = ""  # as the user writes it, for messages
    _entered = False

    async def _enter(self) -> V:
        raise NotImplementedError

    async def _exit(self, error: BaseException | None) -> bool:
        raise NotImplementedError

    def _again(self) -> Block[V]:
        """Return a block like this one, not yet entered."""
        raise NotImplementedError

    async def __aenter__(self) -> V:
        if self._entered:
            raise InterfaceError(
                f"this {self._call} block has been entered before: call {self._call} for each block"
            )
        self._entered = True
        return await self._enter()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return await self._exit(exc)

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Run each call of an async function in a block of its own."""
        self._refuse_what_cannot_be_decorated(function)

        @functools.wraps(function)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            async with self._again():
                return await function(*args, **kwargs)
            raise AssertionError("unreachable")  # pragma: no cover

        return wrapper

    def _refuse_what_cannot_be_decorated(self, function: Any) -> None:
        if inspect.iscoroutinefunction(function):
            return
        name = getattr(function, "__qualname__", repr(function))
        if inspect.isasyncgenfunction(function):
            raise TypeError(
                f"@{self._call} cannot wrap the async generator {name}: between two of its rows "
                "other code runs, inside the block but not part of it. Open the block inside the "
                "generator: `async with`"
            )
        raise TypeError(f"@{self._call} wraps async functions; {name} is not one")


class ConnectionBlock(Block[Connection]):
    """`db.connection()`: the task's connection, or one from the pool that becomes it."""

    _call = "connection()"

    def __init__(self, engine: Engine, *, separate: bool = False) -> None:
        self._engine = engine
        self._separate = separate
        self._scope: Scope | None = None
        self._pinned: KeptConnection | None = None

    async def _enter(self) -> Connection:
        engine = self._engine._target
        if not self._separate:
            current = await engine._settle()
            if current is not None:
                connection = await current._take_hold()
                if isinstance(current, KeptConnection):  # not to be replaced in this block
                    self._pinned = current
                    current.pins += 1
                return connection
        connection = self._borrowed = await self._borrow(engine)
        self._scope = Scope(engine._scoped, connection)
        self._scope.enter()
        return connection

    async def _borrow(self, engine: Engine) -> Connection:
        return await engine._borrow()

    async def _take_hold(self) -> Connection:
        return await self._enter()

    async def _exit(self, error: BaseException | None) -> bool:  # noqa: ARG002
        self.leave()
        return False

    def leave(self) -> None:
        """End the scope and give the connection back; no await."""
        pinned, self._pinned = self._pinned, None
        if pinned is not None:
            pinned.pins -= 1
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.leave()
            self._borrowed._leave()

    def _again(self) -> ConnectionBlock:
        return ConnectionBlock(self._engine, separate=self._separate)


class TransactionBlock(Block[Transaction]):
    """`db.transaction()`: the outermost one is a transaction, those inside are savepoints."""

    _call = "transaction()"

    def __init__(
        self,
        engine: Engine,
        options: TransactionOptions,
        *,
        force_rollback: bool = False,
        child_tasks: ChildTasks | None = None,
        retry: RetryPolicy | None = None,
        place: Place | None = None,
    ) -> None:
        choice("child_tasks", child_tasks, (None, *get_args(ChildTasks)))
        self._engine = engine
        self._options = options
        self._force_rollback = force_rollback
        self._child_tasks: ChildTasks | None = child_tasks
        self._retry = retry
        self._given = place
        self._holder = ConnectionBlock(engine)
        self._transaction: Transaction | None = None

    async def _enter(self) -> Transaction:
        if self._retry is not None:
            raise TypeError(
                "retry= needs something that can be run again, and the body of an `async with` "
                "cannot: use @db.transaction(retry=...) on an async function, or "
                "await db.run_in_transaction(function, ..., retry=...)"
            )
        return await self._begin()

    async def _begin(self) -> Transaction:
        connection = await (self._given or self._holder)._take_hold()
        try:
            self._refuse_shared(connection)
            modes = self._child_tasks or connection._engine.options.child_tasks
            transaction = Transaction(connection, self._options, modes)
            await transaction.begin()
        except BaseException:
            self._holder.leave()
            raise
        self._transaction = transaction
        return transaction

    def _refuse_shared(self, connection: Connection) -> None:
        scope = find_scope(connection._engine)
        if (
            self._given is None
            and scope is not None
            and scope.place._held is connection
            and not scope.is_own
        ):
            raise TransactionScopeError(
                'a task that shares its parent\'s transaction (child_tasks="share") cannot open '
                "one inside it: the statements of its siblings would be part of it too"
            )

    async def _exit(self, error: BaseException | None) -> bool:
        transaction = self._transaction
        assert transaction is not None
        failure: Error | None = None
        try:
            await transaction.finish(commit=error is None and not self._force_rollback)
        except Error as problem:
            failure = problem
        finally:
            transaction.leave()
            self._holder.leave()
        try:
            await transaction.run_hooks()  # of a failed commit too, which is a rollback
        except Exception as problem:
            if failure is None:
                raise
            failure.add_note(f"and then a hook failed: {type(problem).__name__}: {problem}")
        if failure is not None and error is None:
            raise failure
        if failure is not None and error is not None:
            error.add_note(f"and then its transaction could not be rolled back: {failure}")
        return isinstance(error, Rollback)

    def _again(self) -> TransactionBlock:
        return TransactionBlock(
            self._engine,
            self._options,
            force_rollback=self._force_rollback,
            child_tasks=self._child_tasks,
            place=self._given,
        )

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Run each call of an async function in a transaction of its own, or a nested one."""
        once = super().__call__(function)
        if self._retry is None:
            return once
        # Only the outermost transaction can be repeated.
        return self._engine._retry_by(self._retry, self._is_nested)(once)

    def _is_nested(self) -> bool:
        return self._engine._is_in_transaction(self._given)


class ExecutionContext(Block[Connection]):
    """`db.execution_context()`: a separate connection for the block, in a transaction or not."""

    _call = "execution_context()"

    def __init__(self, engine: Engine, *, transaction: bool) -> None:
        self._engine = engine
        self._with_transaction = transaction
        self._holder = ConnectionBlock(engine, separate=True)
        self._inner: TransactionBlock | None = None

    async def _enter(self) -> Connection:
        connection = await self._holder._enter()
        if self._with_transaction:
            self._inner = TransactionBlock(self._engine, TransactionOptions(), place=connection)
            try:
                await self._inner._begin()
            except BaseException:
                self._holder.leave()
                raise
        return connection

    async def _exit(self, error: BaseException | None) -> bool:
        try:
            return self._inner is not None and await self._inner._exit(error)
        finally:
            self._holder.leave()

    def _again(self) -> ExecutionContext:
        return ExecutionContext(self._engine, transaction=self._with_transaction)
