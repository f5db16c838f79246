"""The pool as its users see it: opening, closing and leases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from dataclasses import replace
from threading import get_ident
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from aiodbkit.errors import CannotConnectError, InterfaceError, PoolClosedError
from aiodbkit.options import PoolOptions, RetryPolicy, seconds
from aiodbkit.pool import report
from aiodbkit.pool.core import PoolState
from aiodbkit.pool.keeper import ResourceCalls
from aiodbkit.pool.lease import Acquire, Lease, LooseLease
from aiodbkit.pool.slot import Slot, SlotState
from aiodbkit.pool.stats import PoolStats, percentiles
from aiodbkit.pool.upkeep import Upkeep
from aiodbkit.retry import run_with_retry

__all__ = ["Pool"]

R = TypeVar("R")


class _Done:
    """An awaitable that is done: `release` acts at once, awaited or not."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


_DONE = _Done()


class Pool(Upkeep[R], Generic[R]):
    """Lends resources to tasks, in the order in which they ask.

    Opened by ``await pool.open()`` or ``async with pool:``.

    Args:
        connect: async callable that returns a new resource.
        close: async callable that closes one; when cancelled (the deadline) it must let go.
        ping: async callable; raises, or returns False, when the resource is dead.
        clean: async callable, run before the next loan of a resource that `is_dirty`; without
            it a dirty one is replaced.
        is_dirty, is_closed: plain callables that cost nothing.
        prepare: async callable, run before each loan.
        abort: plain callable that drops a resource at once.
        on_failure: plain callable, told of each exception that leaves a `Slot` used as a context
            manager, as an engine's verbs do; a block of `acquire()` tells it nothing.
        options: `PoolOptions`; or give its fields as keywords.
        connect_retry: how long to go on trying to open the first connections, and the pace of
            trying while a server is away.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[R]],
        *,
        close: Callable[[R], Awaitable[Any]] | None = None,
        ping: Callable[[R], Awaitable[Any]] | None = None,
        clean: Callable[[R], Awaitable[Any]] | None = None,
        is_dirty: Callable[[R], bool] | None = None,
        is_closed: Callable[[R], bool] | None = None,
        prepare: Callable[[R], Awaitable[Any]] | None = None,
        abort: Callable[[R], None] | None = None,
        on_failure: Callable[[R, BaseException], None] | None = None,
        options: PoolOptions | None = None,
        connect_retry: RetryPolicy | None = None,
        **more: Any,
    ) -> None:
        calls = ResourceCalls(
            connect=connect,
            close=close,
            ping=ping,
            clean=clean,
            prepare=prepare,
            is_dirty=is_dirty,
            is_closed=is_closed,
            abort=abort,
            on_failure=on_failure,
        )
        # Both is fine, and none of the keywords is lost without a word.
        chosen = PoolOptions(**more) if options is None else replace(options, **more)
        super().__init__(calls, chosen, connect_retry)

    def __repr__(self) -> str:
        return f"<Pool {self.name!r} {self._state.name.lower()}: {report.sizes(self)}>"

    # Opening and closing

    async def open(self) -> None:
        """Open the pool and its ``min_size`` connections. Safe to call again.

        Raises:
            CannotConnectError: or whatever ``connect`` raised; nothing is left open then.
            InterfaceError: it is open in another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            self._refuse_unless_ended(self._loop)
        if self._state is PoolState.OPEN:
            return
        while self._closing is not None and not await _has_ended(self._begin_closing(0.0)):
            pass
        if self.is_open:  # by another task that waited for the same closing
            return
        self._forget()
        self._loop, self._thread = loop, get_ident()
        self._state = PoolState.OPEN
        try:
            policy = self._connect_retry or RetryPolicy(max_retries=0)
            await run_with_retry(policy, self._open_minimum)
            self._refuse_overtaken()
        except BaseException as error:
            self._failed_to_open = self._state is PoolState.OPEN
            closing = self._begin_closing(0.0)
            if isinstance(error, Exception):
                await _has_ended(closing)  # nothing is left open when the caller is told
            raise
        self._keep_up()

    def _refuse_overtaken(self) -> None:
        if self._state is not PoolState.OPEN:
            raise PoolClosedError(f"{self.name} was closed while it was opening")

    async def _open_minimum(self) -> None:
        self._refuse_overtaken()
        missing = self.min_size - len(self._keeper.slots)
        openings = [self._keeper.open(report=False) for _ in range(missing)]
        if openings:
            await asyncio.wait(openings)
        for opening in openings:
            if opening.cancelled():
                self._refuse_overtaken()
                raise CannotConnectError(f"{self.name}: a task that was to connect was cancelled")
            opening.result()

    async def close(self, timeout: float = 10.0) -> None:
        """Close: refuse new callers and those in line, give borrowers ``timeout`` seconds.

        After that their connections are cut. Safe to call again; when the caller is cancelled
        the closing goes on by itself.
        """
        seconds("timeout", timeout)
        self._failed_to_open = False
        if self._state is PoolState.NEW:
            self._state = PoolState.CLOSED
        if self._state is PoolState.CLOSED or self._loop is None:
            return
        if asyncio.get_running_loop() is not self._loop:
            self._refuse_unless_ended(self._loop)
            self._state = PoolState.CLOSED
            return
        while not await _has_ended(self._begin_closing(timeout)):
            pass  # someone cancelled the closing itself

    def _begin_closing(self, grace: float) -> asyncio.Task[None]:
        if self._closing is None or self._closing.cancelled():
            self._state = PoolState.CLOSING
            for timer in (self._dispatch_timer, self._upkeep_timer):
                if timer is not None:
                    timer.cancel()
            self._queue.refuse_all(lambda: PoolClosedError(f"{self.name} was closed"))
            self._queue.stop()
            loop = asyncio.get_running_loop()
            while self._idle:
                self._keeper.retire(self._idle.pop())
            self._closing = loop.create_task(self._close_all(grace), context=Context())
        return self._closing

    async def _close_all(self, grace: float) -> None:
        """Bounded in time: the grace, then the deadlines of cleaning and closing."""
        keeper = self._keeper
        keeper.cancel_preparations()
        while self._idle:
            keeper.retire(self._idle.pop())
        await keeper.wait_until_gone(keeper.slots, grace)
        for slot in [slot for slot in keeper.slots if slot.state is SlotState.LENT]:
            keeper.drop(slot)
        patience = self.options.reset_timeout + self.options.close_timeout
        await keeper.wait_until_gone(keeper.slots, patience)
        await keeper.end_tasks(self.options.close_timeout)
        self._state = PoolState.CLOSED

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def is_open(self) -> bool:
        """Whether the pool lends connections, in this event loop."""
        return self._state is PoolState.OPEN and asyncio.get_running_loop() is self._loop

    # Leases

    def acquire(self, *, timeout: float | None = None) -> Acquire[Lease[R]]:
        """Borrow: ``await pool.acquire()`` or ``async with pool.acquire() as lease:``.

        Args:
            timeout: seconds to wait, instead of ``acquire_timeout``.

        Raises:
            PoolTimeoutError: says who holds the connections.
            PoolOverloadedError: more than ``max_waiting`` callers wait.
            PoolClosedError: the pool is not open.
            CannotConnectError: none can be opened, and there is none to wait for.
        """
        if timeout is not None:
            seconds("timeout", timeout, optional=True)
        return Acquire(self, timeout)

    def lend(self, slot: Slot[R]) -> Lease[R]:
        """Make the lease of a slot that was taken for a block."""
        return Lease(self, slot)

    def hand_out(self, slot: Slot[R]) -> Lease[R]:
        """Make the lease of a slot that was taken without a block."""
        slot.is_handed_out = True
        return LooseLease(self, slot)

    def release(self, lease: Lease[R]) -> Awaitable[None]:
        """Take a lease back, at once: nothing is awaited, ``await`` is allowed for symmetry.

        Raises:
            InterfaceError: it was released before, or belongs to another pool.
        """
        if not isinstance(lease, Lease):
            raise InterfaceError(f"release() takes what acquire() gave, not {type(lease).__name__}")
        if lease._pool is not self:
            raise InterfaceError(
                f"this connection belongs to another pool, {lease._pool.name}, not to {self.name}: "
                "release it there"
            )
        if get_ident() != self._thread or self._loop is None or not self._loop.is_running():
            # From another thread, or between two runs of the loop: the loop itself takes it back.
            self.reclaim(lease._end())
        else:
            lease._release()
        return _DONE

    def stats(self) -> PoolStats:
        """Return a snapshot of the pool."""
        keeper = self._keeper
        return PoolStats(
            name=self.name,
            size=len(keeper.slots),
            idle=len(self._idle),
            in_use=self.in_use,
            waiting=len(self._queue),
            min_size=self.min_size,
            max_size=self.max_size,
            opened=keeper.opened,
            closed=keeper.closed,
            acquired=self._acquired,
            timeouts=self.timeouts,
            overloads=self.overloads,
            errors=keeper.errors,
            wait_time=percentiles(self._wait_times),
            hold_time=percentiles(self._hold_times),
            connect_time=percentiles(keeper.connect_times),
        )

    # For what is built on the pool

    def spawn(
        self, work: Coroutine[Any, Any, Any], name: str, context: Context | None = None
    ) -> asyncio.Task[Any]:
        """Run in a task of the pool what must end well whatever happens to the caller."""
        return self._keeper.spawn(work, name, context)


async def _has_ended(task: asyncio.Task[None]) -> bool:
    """Wait for a task, which goes on if its caller is cancelled; False if it was cancelled."""
    await asyncio.wait([task])
    return not task.cancelled() and task.result() is None
