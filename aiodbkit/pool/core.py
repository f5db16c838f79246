"""The pool.

Everything that changes who holds what is decided synchronously, between two awaits, by the pool;
everything that waits for the network (opening, checking, cleaning, closing) runs in tasks of the
pool with a deadline (`aiodbkit.pool.keeper`). A caller therefore has exactly one await in
`acquire`, on a future that nobody else looks at, and none in `release`: wherever it is
cancelled, by asyncio once or by an anyio scope at every turn, no slot can be lost.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from enum import Enum, auto
from time import monotonic
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from aiodbkit.errors import InterfaceError, PoolClosedError, PoolOverloadedError
from aiodbkit.options import PoolOptions, RetryPolicy
from aiodbkit.pool import report
from aiodbkit.pool.keeper import Keeper, ResourceCalls
from aiodbkit.pool.lease import Acquire, Lease
from aiodbkit.pool.pace import Pace
from aiodbkit.pool.slot import Slot, SlotState
from aiodbkit.pool.stats import Histogram, PoolStats
from aiodbkit.pool.waiters import Waiter, WaitQueue

__all__ = ["Pool"]

R = TypeVar("R")
L = TypeVar("L", bound=Lease[Any])

_NEVER = float("inf")
_IDLE = SlotState.IDLE
_LENT = SlotState.LENT


class PoolState(Enum):
    NEW = auto()
    OPEN = auto()
    CLOSING = auto()
    CLOSED = auto()


class _Done:
    """An awaitable that is done: `release` acts at once, awaited or not."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


_DONE = _Done()


class Pool(Generic[R, L]):
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
        on_failure: plain callable, told of each exception that leaves a use of a resource.
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
        lease_factory: Callable[[Pool[R, L], Slot[R]], L] | None = None,
        options: PoolOptions | None = None,
        connect_retry: RetryPolicy | None = None,
        **more: Any,
    ) -> None:
        self.options = options or PoolOptions(**more)
        self.name = self.options.name
        self.min_size = self.options.min_size
        self.max_size = self.options.max_size
        self._is_dirty = is_dirty or _no
        self._is_closed = is_closed or _no
        self._calls = ResourceCalls(
            connect=connect,
            close=close,
            ping=ping,
            clean=clean,
            prepare=prepare,
            is_dirty=self._is_dirty,
            is_closed=self._is_closed,
            abort=abort,
        )
        self._on_failure = on_failure
        self._lease_factory = lease_factory or cast("Callable[[Pool[R, L], Slot[R]], L]", Lease)
        self._connect_retry = connect_retry
        self._always_checks = self.options.check == "always" or prepare is not None
        self._fresh_for = _NEVER if self.options.check == "never" else self.options.check_after
        if self._always_checks:
            self._fresh_for = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forget()

    def _forget(self) -> None:
        """Start from nothing: a new pool, or one whose loop has ended."""
        self._state = PoolState.NEW
        # A new one for each life of the pool: what the old one still does is its own affair.
        self._keeper: Keeper[R] = Keeper(self.name, self._calls, self.options, self)
        self._idle: list[Slot[R]] = []  # a stack: the most recently used is on top
        self._queue: WaitQueue[R] = WaitQueue()
        self._pace = Pace(self._connect_retry)
        self._failure: BaseException | None = None  # why the latest connect failed
        self._dispatch_timer: asyncio.TimerHandle | None = None
        self._upkeep_timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._acquired = self._timeouts = self._overloads = 0
        self._wait_times = Histogram()
        self._hold_times = Histogram()

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
        if self._closing is not None:
            await asyncio.shield(self._closing)
        self._forget()
        self._loop = loop
        self._state = PoolState.OPEN
        try:
            await self._open_minimum()
        except BaseException:
            self._begin_closing(0.0)
            raise
        self._schedule_upkeep()

    async def _open_minimum(self) -> None:
        openings = [self._keeper.open(report=False) for _ in range(self.min_size)]
        if openings:
            await asyncio.wait(openings)
        for opening in openings:
            opening.result()

    async def close(self, timeout: float = 10.0) -> None:
        """Close: refuse new callers and those in line, give borrowers ``timeout`` seconds.

        After that their connections are cut. Safe to call again; when the caller is cancelled
        the closing goes on by itself.
        """
        if self._state is PoolState.NEW:
            self._state = PoolState.CLOSED
        if self._state is PoolState.CLOSED or self._loop is None:
            return
        if asyncio.get_running_loop() is not self._loop:
            self._refuse_unless_ended(self._loop)
            self._state = PoolState.CLOSED
            return
        await asyncio.shield(self._begin_closing(timeout))

    def _begin_closing(self, grace: float) -> asyncio.Task[None]:
        if self._closing is None:
            self._state = PoolState.CLOSING
            for timer in (self._dispatch_timer, self._upkeep_timer):
                if timer is not None:
                    timer.cancel()
            self._queue.refuse_all(lambda: PoolClosedError(f"{self.name} was closed"))
            loop = asyncio.get_running_loop()
            self._closing = loop.create_task(self._close_all(grace), context=Context())
        return self._closing

    async def _close_all(self, grace: float) -> None:
        """Bounded in time: the grace, then the deadlines of cleaning and closing."""
        keeper = self._keeper
        keeper.cancel_preparations()
        while self._idle:
            keeper.retire(self._idle.pop())
        await keeper.wait_until_empty(grace)
        for slot in [slot for slot in keeper.slots if slot.state is _LENT]:
            keeper.drop(slot)
        await keeper.wait_until_empty(self.options.reset_timeout + self.options.close_timeout)
        await keeper.end_tasks(self.options.close_timeout)
        self._state = PoolState.CLOSED

    async def __aenter__(self) -> Pool[R, L]:
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

    @property
    def was_closed(self) -> bool:
        """Whether `close` was called and no `open` since."""
        return self._state in (PoolState.CLOSING, PoolState.CLOSED)

    # Lending

    def acquire(self, *, timeout: float | None = None) -> Acquire[L]:
        """Borrow: ``await pool.acquire()`` or ``async with pool.acquire() as lease:``.

        Args:
            timeout: seconds to wait, instead of ``acquire_timeout``.

        Raises:
            PoolTimeoutError: says who holds the connections.
            PoolOverloadedError: more than ``max_waiting`` callers wait.
            PoolClosedError: the pool is not open.
            CannotConnectError: none can be opened, and there is none to wait for.
        """
        return Acquire(self, timeout)

    async def _borrow(self, timeout: float | None = None) -> L:
        return self._lease_factory(self, self.take() or await self.wait(timeout))

    def take(self) -> Slot[R] | None:
        """Return the most recently used slot if it can be lent without awaiting, else None."""
        idle = self._idle
        if not idle or asyncio.get_running_loop() is not self._loop:
            return None
        slot = idle[-1]
        now = monotonic()
        if now >= slot.fresh_until or self._is_closed(slot.resource):
            return None
        del idle[-1]
        slot.state = _LENT
        slot.since = now
        slot.holder = asyncio.current_task(self._loop)
        self._acquired += 1
        return slot

    async def wait(self, timeout: float | None = None) -> Slot[R]:
        """Stand in line for a slot; see `acquire`."""
        self._admit()
        waiter: Waiter[R] = Waiter(asyncio.get_running_loop(), monotonic())
        limit = self.options.acquire_timeout if timeout is None else timeout
        self._queue.join(waiter, limit, self._timed_out)
        self._dispatch()
        try:
            return await waiter.future
        except BaseException:
            self._queue.leave(waiter)
            future = waiter.future
            if future.done() and not future.cancelled() and future.exception() is None:
                # Cancelled in the moment of the hand-off: the slot goes to the next in line.
                self.give_back(future.result())
            raise

    def _admit(self) -> None:
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            self._refuse_unless_ended(self._loop)
        if self._state is not PoolState.OPEN:
            was = "was closed" if self.was_closed else "is not open"
            raise PoolClosedError(f"{self.name} {was}: `await pool.open()` first")
        limit = self.options.max_waiting
        # Those for whom a connection is still to be opened do not count as waiting.
        if limit and len(self._queue) - (self.max_size - self._in_use) >= limit:
            self._overloads += 1
            raise PoolOverloadedError(report.overloaded(self, limit))

    def _timed_out(self, waiter: Waiter[R]) -> BaseException:
        self._timeouts += 1
        return report.timed_out(self, waiter, self._failure)

    def release(self, lease: L) -> Awaitable[None]:
        """Take a lease back, at once: nothing is awaited, ``await`` is allowed for symmetry.

        Raises:
            InterfaceError: it was released before, or belongs to another pool.
        """
        if not isinstance(lease, Lease):
            raise InterfaceError(f"release() takes what acquire() gave, not {type(lease).__name__}")
        if lease._pool is not self:
            raise InterfaceError(
                f"this connection belongs to {lease._pool.name}, not to {self.name}: "
                "release it there"
            )
        lease._release()
        return _DONE

    def give_back(self, slot: Slot[R]) -> None:
        """Take a slot back: for the next in line, for the stack, or for a task that mends it."""
        if slot.state is not _LENT:  # cut while it was lent, by close()
            return
        now = monotonic()
        held = now - slot.since
        self._hold_times.add(held)
        slot.holder = None
        slot.uses += 1
        if self._is_dirty(slot.resource):
            self._keeper.mend(slot)
        elif now >= slot.expires_at or slot.uses == self.options.max_uses:
            self._keeper.retire(slot)
        elif self._queue or self._state is not PoolState.OPEN:
            self._pace.released(now, held)
            self._offer(slot)
        else:
            slot.state = _IDLE
            slot.since = now
            slot.fresh_until = min(now + self._fresh_for, slot.expires_at)
            self._idle.append(slot)

    def reclaim(self, slot: Slot[R]) -> None:
        """Take back what was forgotten; the garbage collector may run in any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.give_back, slot)

    def note_failure(self, slot: Slot[R], error: BaseException) -> None:
        """Told by a slot that its use ended with an exception."""
        if self._on_failure is not None:
            self._on_failure(slot.resource, error)

    # The dispatcher: the one answer to every event that frees capacity or needs it

    def _dispatch(self) -> None:
        if self._state is not PoolState.OPEN:
            return
        counts = self._keeper.counts
        while self._idle and len(self._queue) > counts[SlotState.CHECKING]:
            slot = self._idle.pop()
            now = monotonic()
            if self._is_closed(slot.resource):
                self._keeper.drop(slot)
                self._suspect_idle()
            elif now >= slot.expires_at:
                self._keeper.retire(slot)
            elif now >= slot.fresh_until:
                self._keeper.check(slot)
            else:
                self._hand_over(slot)
        self._grow()

    def _offer(self, slot: Slot[R]) -> None:
        """Put a slot that is back from a use where it is wanted."""
        if self._state is not PoolState.OPEN:
            self._keeper.retire(slot)
        elif self._is_closed(slot.resource):
            self._keeper.drop(slot)
            self._suspect_idle()
            self._dispatch()
        elif self._always_checks:
            self._keeper.check(slot)
        else:
            self._hand_over(slot)

    def _hand_over(self, slot: Slot[R]) -> None:
        """Give a ready slot to the first in line and to nobody else; without one, to the stack."""
        now = monotonic()
        waiter = self._queue.next()
        slot.since = now
        if waiter is None:
            self._keeper.move(slot, _IDLE)
            slot.fresh_until = min(now + self._fresh_for, slot.expires_at)
            self._idle.append(slot)
            return
        self._keeper.move(slot, _LENT)
        slot.holder = waiter.task
        self._acquired += 1
        self._wait_times.add(now - waiter.since)
        waiter.future.set_result(slot)

    def _grow(self) -> None:
        """Open what the demand needs beyond what is on its way."""
        counts, size = self._keeper.counts, len(self._keeper.slots)
        connecting = counts[SlotState.CONNECTING]
        wanted = len(self._queue) - connecting - counts[SlotState.CHECKING]
        wanted = min(max(wanted, self.min_size - size), self.max_size - size)
        if wanted <= 0:
            return
        now = monotonic()
        allowed, again_at = self._pace.allowance(
            now, waiting=len(self._queue), lent=self._in_use, connecting=connecting
        )
        for _ in range(min(wanted, allowed)):
            self._keeper.open()
        if allowed < wanted and again_at is not None:
            if self._dispatch_timer is not None:
                self._dispatch_timer.cancel()
            loop = asyncio.get_running_loop()
            self._dispatch_timer = loop.call_later(max(again_at - now, 0.0), self._dispatch)

    def _suspect_idle(self) -> None:
        """One connection proved dead: those that idled with it are checked, side by side."""
        suspects, self._idle = self._idle, []
        for slot in suspects:
            if self._is_closed(slot.resource):
                self._keeper.drop(slot)
            elif self._calls.ping is not None and self._queue:
                self._keeper.check(slot)
            else:
                slot.fresh_until = 0.0
                self._idle.append(slot)

    # What the keeper reports

    def slot_ready(self, slot: Slot[R], *, prepared: bool) -> None:
        """A slot was opened, cleaned or checked."""
        if self._state is not PoolState.OPEN:
            self._keeper.retire(slot)
        elif not prepared and self._calls.prepare is not None and self._queue:
            self._keeper.check(slot, ping=False)
        else:
            self._hand_over(slot)
        self._dispatch()

    def capacity_freed(self) -> None:
        """A slot is gone."""
        self._dispatch()

    def connected(self, slot: Slot[R], took: float) -> None:
        """A connect succeeded; `slot_ready` follows."""
        now = monotonic()
        self._failure = None
        self._pace.connected(now, took)
        lifetime = self.options.max_lifetime
        # Jitter: connections opened together must not all expire together.
        slot.expires_at = _NEVER if lifetime is None else now + lifetime * random.uniform(0.9, 1.0)

    def connect_failed(self, error: BaseException) -> None:
        """A connect failed: those who wait go on waiting if there is something to wait for."""
        self._failure = error
        self._pace.failed(monotonic())
        is_fatal = getattr(error, "is_transient", True) is False
        if (is_fatal or self._pace.gives_up) and not self._keeper.slots:
            self._queue.refuse_all(lambda: _copy_of(error))
        self._dispatch()

    def check_failed(self) -> None:
        """An idle connection was dead."""
        self._suspect_idle()
        self._dispatch()

    def prepare_failed(self, error: Exception) -> None:
        """The user's hook raised; the first in line is told."""
        waiter = self._queue.next()
        if waiter is not None:
            waiter.future.set_exception(error)
        self._dispatch()

    # Upkeep

    def _schedule_upkeep(self) -> None:
        limits = (self.options.idle_timeout, self.options.max_lifetime)
        shortest = min((limit for limit in limits if limit is not None), default=60.0)
        period = min(max(shortest / 4, 0.05), 30.0)
        self._upkeep_timer = asyncio.get_running_loop().call_later(period, self._keep_up)

    def _keep_up(self) -> None:
        """Close what is dead, too old or idle for too long; restore the minimum."""
        now = monotonic()
        limit = _NEVER if self.options.idle_timeout is None else self.options.idle_timeout
        spare = len(self._keeper.slots) - self.min_size
        idle, self._idle = self._idle, []
        for slot in idle:
            if self._is_closed(slot.resource):
                self._keeper.drop(slot)
            elif now >= slot.expires_at or (now - slot.since >= limit and spare > 0):
                self._keeper.retire(slot)
            else:
                self._idle.append(slot)
                continue
            spare -= 1
        self._dispatch()
        self._schedule_upkeep()

    async def resize(self, *, min_size: int | None = None, max_size: int | None = None) -> None:
        """Change the bounds. Surplus idle connections are closed, borrowed ones on return."""
        smallest = self.min_size if min_size is None else min_size
        largest = self.max_size if max_size is None else max_size
        PoolOptions(min_size=smallest, max_size=largest)  # refuses bad values by name
        self.min_size, self.max_size = smallest, largest
        if self._state is not PoolState.OPEN:
            return
        surplus = len(self._keeper.slots) - largest
        while surplus > 0 and self._idle:
            self._keeper.retire(self._idle.pop(0))
            surplus -= 1
        for slot in [slot for slot in self._keeper.slots if slot.state is _LENT][: max(surplus, 0)]:
            slot.expires_at = 0.0
        self._dispatch()

    async def expire(self) -> None:
        """Replace all connections: idle ones now, borrowed ones as they come back."""
        if self._state is not PoolState.OPEN:
            return
        for slot in self._keeper.slots:
            slot.expires_at = 0.0
        idle, self._idle = self._idle, []
        for slot in idle:
            self._keeper.retire(slot)
        self._dispatch()

    async def check(self) -> None:
        """Check all idle connections now, side by side; dead ones are closed."""
        idle, self._idle = self._idle, []
        checks = [self._keeper.check(slot) for slot in idle]
        if checks:
            await asyncio.wait(checks)

    # Knowing

    @property
    def _in_use(self) -> int:
        return len(self._keeper.slots) - len(self._idle) - self._keeper.busy

    def stats(self) -> PoolStats:
        """Return a snapshot of the pool."""
        keeper = self._keeper
        return PoolStats(
            size=len(keeper.slots),
            idle=len(self._idle),
            in_use=self._in_use,
            waiting=len(self._queue),
            min_size=self.min_size,
            max_size=self.max_size,
            opened=keeper.opened,
            closed=keeper.closed,
            acquired=self._acquired,
            timeouts=self._timeouts,
            overloads=self._overloads,
            errors=keeper.errors,
            wait_time=self._wait_times.percentiles(),
            hold_time=self._hold_times.percentiles(),
            connect_time=keeper.connect_times.percentiles(),
        )

    def lent(self) -> list[Slot[R]]:
        """Return the slots in callers' hands, the one held longest first."""
        lent = [slot for slot in self._keeper.slots if slot.state is _LENT]
        return sorted(lent, key=lambda slot: slot.since)

    # The event loop

    def spawn(
        self, work: Coroutine[Any, Any, Any], name: str, context: Context | None = None
    ) -> asyncio.Task[Any]:
        """Run in a task of the pool what must end well whatever happens to the caller."""
        return self._keeper.spawn(work, name, context)

    def _refuse_unless_ended(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse another loop while it can run; what it left behind when it ended is forgotten."""
        if not loop.is_closed():
            raise InterfaceError(
                f"{self.name} belongs to another event loop that is still open: use one engine "
                "or pool for each loop, or close it there first"
            )
        for slot in self._keeper.slots:
            if slot.state is not SlotState.CONNECTING and self._calls.abort is not None:
                self._calls.abort(slot.resource)
        self._forget()
        self._loop = None


def _no(resource: Any) -> bool:
    return False


def _copy_of(error: BaseException) -> BaseException:
    """Each waiter raises an error of its own: a traceback must not grow from several tasks."""
    try:
        twin = copy.copy(error)
    except Exception:
        return error
    twin.__cause__ = error.__cause__
    return twin
