"""The one connection of a sandbox, in a transaction that will be rolled back, and who is next.

Transactions inside are savepoints. Savepoints of one connection nest, so two transactions of two
tasks cannot be open at once: the second waits for the end of the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aiodbkit.driver import Capabilities, DriverConnection
from aiodbkit.errors import (
    ConnectionLostError,
    Error,
    InterfaceError,
    InternalError,
    PoolTimeoutError,
    QueryTimeoutError,
    TransactionScopeError,
)
from aiodbkit.options import PoolOptions

if TYPE_CHECKING:
    from aiodbkit.testing.shared import SharedConnection

__all__ = ["Wire"]

T = TypeVar("T")


class _Spawn(Protocol):
    def __call__(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]: ...


class _Hold:
    """A claim on the wire: an open transaction, or a cursor that tolerates no other statement."""

    __slots__ = ("is_exclusive", "number", "task", "who")

    def __init__(self, who: SharedConnection, number: int, *, is_exclusive: bool = False) -> None:
        self.who = who
        self.number = number
        self.task = asyncio.current_task()
        self.is_exclusive = is_exclusive


class _Waiter:
    __slots__ = ("ends", "task", "turn", "who")

    def __init__(self, who: SharedConnection | None, *, ends: bool) -> None:
        self.who = who
        self.ends = ends
        self.task = asyncio.current_task()
        self.turn = asyncio.get_running_loop().create_future()


class Wire:
    """The real connection: one statement at a time, those of an open transaction first."""

    def __init__(
        self, driver: DriverConnection, can: Capabilities, options: PoolOptions, spawn: _Spawn
    ) -> None:
        self.driver = driver
        self.can = can
        self.has_ended = False
        self._options = options
        self._spawn = spawn
        self._holds: list[_Hold] = []  # the innermost last
        self._user: asyncio.Task[Any] | None = None
        self._is_busy = False
        self._line: list[_Waiter] = []
        self._last_number = 0
        self._torn = 0  # the outermost savepoint that has to be undone before anything else
        self._upkeep: asyncio.Task[Any] | None = None

    # Turns

    async def enter(
        self, who: SharedConnection | None, limit: float | None, *, ends: bool = False
    ) -> float | None:
        """Take the wire, and return what is left of ``limit``; ``ends``: to end a transaction.

        Raises:
            InterfaceError: this task would wait for itself.
            PoolTimeoutError: another task's transaction did not end within ``acquire_timeout``.
            QueryTimeoutError: or not within ``limit``.
        """
        waiter = _Waiter(who, ends=ends)
        if not self._is_busy and self._admits(waiter):
            self._is_busy, self._user = True, waiter.task
            return limit
        self._refuse_to_wait_for_oneself(waiter)
        loop, patience = asyncio.get_running_loop(), self._options.acquire_timeout
        began = loop.time()
        self._line.append(waiter)
        try:
            async with asyncio.timeout(patience if limit is None else min(limit, patience)):
                await waiter.turn
        except BaseException as error:
            if waiter in self._line:
                self._line.remove(waiter)
            elif waiter.turn.done() and not waiter.turn.cancelled():
                self.leave()
            if isinstance(error, TimeoutError):
                raise self._too_long(limit, patience) from None
            raise
        return limit if limit is None else max(limit - (loop.time() - began), 0.001)

    def leave(self) -> None:
        """Pass the wire on to the first in line that may have it."""
        self._is_busy, self._user = False, None
        for waiter in self._line:
            if not waiter.turn.done() and self._admits(waiter):
                self._line.remove(waiter)
                self._is_busy, self._user = True, waiter.task
                waiter.turn.set_result(None)
                return

    def _admits(self, waiter: _Waiter) -> bool:
        if waiter.ends or not self._holds:
            return True
        top = self._holds[-1]
        if top.who is waiter.who:
            return True
        return top.task is waiter.task and not top.is_exclusive and not self._is_deeper(waiter.who)

    def _is_deeper(self, who: SharedConnection | None) -> bool:
        return any(hold.who is who for hold in self._holds[:-1])

    def _refuse_to_wait_for_oneself(self, waiter: _Waiter) -> None:
        if self._is_busy and self._user is waiter.task:
            raise InterfaceError(
                "this task is in the middle of a statement of the sandbox, whose rows it was to "
                "provide: in a sandbox there is one connection; read them before"
            )
        top = self._holds[-1] if self._holds else None
        if top is None or top.task is not waiter.task or self._admits(waiter):
            return
        what = (
            "an iterate() of this task" if top.is_exclusive else "a transaction that is open inside"
        )
        raise InterfaceError(
            f"this task would wait for itself: in a sandbox there is one connection, and {what} "
            "has it; end that first"
        )

    def _too_long(self, limit: float | None, patience: float) -> Error:
        task = self._holds[-1].task if self._holds else self._user
        name = task.get_name() if task is not None else "another task"
        what = f"the transaction of task {name!r}" if self._holds else f"a statement of {name!r}"
        if limit is not None and limit <= patience:
            return QueryTimeoutError(
                f"{what} kept the sandbox's one connection for {limit:g} s: nothing was sent"
            )
        return PoolTimeoutError(
            f"{what} kept the sandbox's one connection for acquire_timeout={patience:g} s. If it "
            "waits for this one, neither can go on: run the statement in its own task, or share "
            'the transaction: child_tasks="share"'
        )

    # Its state

    def reason_gone(self) -> Error | None:
        """Return why nothing can be run in the sandbox any more, or None."""
        driver = self.driver
        if self.has_ended:
            return InterfaceError("this connection belongs to a sandbox that has ended")
        lost = driver.transaction_lost
        if driver.is_closed:
            return ConnectionLostError(
                "the sandbox's connection was lost, with all that was done in it"
            )
        if lost is not None or not driver.in_transaction:
            why = str(lost) if lost is not None else "something ended it, as a COMMIT on `raw` does"
            error = InternalError(f"the sandbox's transaction is gone: {why}")
            error.__cause__ = lost
            return error
        return None

    async def refresh(self) -> None:
        """Undo what is half done; raise if there is no sandbox any more."""
        if self._upkeep is not None and not self._upkeep.done():
            await asyncio.wait([self._upkeep])
        if self.driver.suspect or self._torn:
            try:
                await self._surely(self._mend)
            except Error as error:
                gone = self.reason_gone()
                if gone is None:
                    raise
                raise gone from error
        gone = self.reason_gone()
        if gone is not None:
            raise gone

    async def _mend(self) -> None:
        if self.driver.suspect:
            await self.driver.recover()
        torn, self._torn = self._torn, 0
        if torn and self.reason_gone() is None:
            await self.driver.rollback_to_savepoint(_name(torn))

    async def _surely(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run in a task of the pool, with a deadline: a cancelled caller does not tear it apart."""
        limit = self._options.reset_timeout

        async def in_time() -> None:
            try:
                async with asyncio.timeout(limit):
                    await work()
            except Error:
                raise
            except BaseException as error:
                self.driver.abort()
                raise ConnectionLostError(
                    f"the sandbox's connection gave no answer within reset_timeout={limit:g} s, "
                    "and was closed"
                ) from error

        task = self._upkeep = self._spawn(in_time(), "sandbox")
        await asyncio.wait([task])
        task.result()

    # Statements

    async def run(
        self,
        who: SharedConnection,
        limit: float | None,
        work: Callable[[float | None], Awaitable[T]],
        *,
        alone: bool = False,
    ) -> T:
        """Run one statement; where an error would end the transaction, in a savepoint.

        ``alone`` keeps the wire to the connection until it calls `release`.
        """
        left = await self.enter(who, limit)
        try:
            await self.refresh()
            if who.in_transaction or not self.can.error_aborts_transaction:
                result = await self._noting(work(left))
            else:
                result = await self._in_savepoint(work, left)
            if alone:
                self._holds.append(_Hold(who, 0, is_exclusive=True))
            return result
        finally:
            self.leave()

    async def _in_savepoint(
        self, work: Callable[[float | None], Awaitable[T]], left: float | None
    ) -> T:
        number = await self._set_savepoint()
        try:
            result = await self._noting(work(left))
        except BaseException as error:
            self._tear(number)
            if isinstance(error, Error):
                with suppress(Error):  # whatever it is, the next statement meets it
                    await self.refresh()
            raise
        await self._surely(lambda: self.driver.release_savepoint(_name(number)))
        return result

    async def _noting(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except BaseException as error:
            if not isinstance(error, Error):
                self.driver.suspect = True
            raise

    async def _set_savepoint(self) -> int:
        self._last_number += 1
        number = self._last_number
        try:
            await self._surely(lambda: self.driver.savepoint(_name(number)))
        except asyncio.CancelledError:
            self._tear(number)
            raise
        return number

    def _tear(self, number: int) -> None:
        self._torn = min(self._torn or number, number)

    # Transactions

    async def begin(self, who: SharedConnection) -> int:
        """Set a savepoint that keeps others waiting until it is ended; return its number."""
        await self.enter(who, None)
        try:
            await self.refresh()
            number = await self._set_savepoint()
            self._holds.append(_Hold(who, number))
            return number
        finally:
            self.leave()

    async def end(self, who: SharedConnection, number: int, *, commit: bool) -> None:
        """Release the savepoint or go back to it; what is open inside it goes with it.

        Raises:
            TransactionScopeError: something was, and this was to be a commit: all is undone.
            Error: the sandbox is gone, and this was to be a commit.
        """
        try:
            await self.enter(who, None, ends=True)
        except BaseException:
            self.abandon(who)
            raise
        inner_is_open = self._drop_inner(who)
        try:
            await self._end(number, commit=commit and not inner_is_open)
        except Error:
            if commit or self.reason_gone() is None:
                raise
        finally:
            self.release(who)
            self.leave()
        if commit and inner_is_open:
            raise TransactionScopeError(
                "another connection's transaction was still open inside this one, and in a sandbox "
                "they are nested: both were rolled back; end them in the reverse order"
            )

    async def _end(self, number: int, *, commit: bool) -> None:
        """Whoever is cancelled or refused here has not committed: what comes next undoes it."""
        if not commit:
            self._tear(number)
        try:
            await self.refresh()
        except BaseException:
            self._tear(number)
            raise
        if not commit:
            return
        try:
            await self._surely(lambda: self.driver.release_savepoint(_name(number)))
        except Error:
            self._tear(number)
            raise

    def _drop_inner(self, who: SharedConnection) -> bool:
        found = False
        while self._holds and self._holds[-1].who is not who:
            found = True
            self._holds.pop().who.lose(
                TransactionScopeError("the transaction around this one, in the sandbox, has ended")
            )
        return found

    def release(self, who: SharedConnection) -> None:
        """Give up the claims of ``who``."""
        self._holds = [hold for hold in self._holds if hold.who is not who]
        if not self._is_busy:
            self.leave()

    def release_cursor(self, who: SharedConnection) -> None:
        """Give up the claim of an exclusive cursor; the transaction around it stays."""
        self._holds = [hold for hold in self._holds if hold.who is not who or hold.number]
        if not self._is_busy:
            self.leave()

    def abandon(self, who: SharedConnection) -> None:
        """The same at once, without I/O: whoever comes next undoes what was done."""
        if not any(hold.who is who for hold in self._holds):
            return
        self._drop_inner(who)
        for hold in self._holds:
            if hold.who is who and hold.number:
                self._tear(hold.number)
        self.release(who)


def _name(number: int) -> str:
    return f"aiodbkit_sandbox_{number}"
