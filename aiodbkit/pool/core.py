"""The core of the pool: who holds what, and who is next.

Everything that changes that is decided here, synchronously, between two awaits; everything that
waits for the network (opening, checking, cleaning, closing) runs in tasks of the pool with a
deadline (`aiodbkit.pool.keeper`). A caller therefore has exactly one await when it acquires, on a
future that nobody else looks at, and none when it releases: wherever it is cancelled, by
asyncio once or by an anyio scope at every turn, no slot can be lost.
"""

from __future__ import annotations

import asyncio
import logging
import math
from asyncio import current_task
from collections.abc import Callable
from enum import Enum, auto
from threading import get_ident
from time import monotonic
from typing import Generic, TypeVar

from aiodbkit.errors import InterfaceError, PoolClosedError
from aiodbkit.events import PoolEventKind
from aiodbkit.options import PoolOptions, RetryPolicy
from aiodbkit.pool import fork, notice, report
from aiodbkit.pool.admission import closes_a_circle, refuse_overload
from aiodbkit.pool.keeper import Keeper, ResourceCalls
from aiodbkit.pool.pace import Pace
from aiodbkit.pool.shedding import Shedder
from aiodbkit.pool.slot import Slot, SlotState
from aiodbkit.pool.stats import recent_times
from aiodbkit.pool.waiters import Waiter, WaitQueue

__all__ = ["NEVER", "REPORTED", "PoolCore", "PoolState"]

R = TypeVar("R")

logger = logging.getLogger("aiodbkit.pool")

NEVER = float("inf")
REPORTED = ""  # in place of the origin of a leak that was logged
_IDLE = SlotState.IDLE
_LENT = SlotState.LENT


class PoolState(Enum):
    """Where a pool is; `open` and `close` move it."""

    NEW = auto()
    OPEN = auto()
    CLOSING = auto()
    CLOSED = auto()


_OPEN = PoolState.OPEN


class PoolCore(Generic[R]):
    """Lends slots and takes them back; see `aiodbkit.pool.pool.Pool` for the rest."""

    def __init__(
        self, calls: ResourceCalls[R], options: PoolOptions, connect_retry: RetryPolicy | None
    ) -> None:
        self.options = options
        self.name = options.name
        self.min_size = options.min_size
        self.max_size = options.max_size
        self._calls = calls
        self._is_dirty = calls.is_dirty
        self._is_closed = calls.is_closed
        self._connect_retry = connect_retry
        self._always_checks = options.check == "always" or calls.prepare is not None
        self._fresh_for = NEVER if options.check == "never" else options.check_after
        if self._always_checks:
            self._fresh_for = 0.0
        self._counts_uses = options.max_uses > 0
        self._notes_origin = options.leak_after is not None
        self.watcher: notice.Watcher | None = None  # told of what is not on the warm path
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._keeper: Keeper[R] = Keeper(self.name, self._calls, self.options, self)
        self._forget()
        fork.watch(self)

    def _forget(self) -> None:
        """Start from nothing: a new pool, or one whose loop has ended."""
        self._state = PoolState.NEW
        # A new one for each life of the pool: what the old one still does is its own affair.
        self._keeper.disown()
        self._keeper = Keeper(self.name, self._calls, self.options, self)
        self._idle: list[Slot[R]] = []  # a stack: the most recently used is on top
        self._queue: WaitQueue[R] = WaitQueue(self._timed_out)
        self._waiters = self._queue.waiters
        self._pace = Pace(self._connect_retry)
        self._shedder = Shedder(self.options.shed_after)
        self._failed_to_open = False  # closed by `open` itself, not by `close`
        self._failure: BaseException | None = None  # why the latest connect failed
        self._dispatch_timer: asyncio.TimerHandle | None = None
        self._upkeep_timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._acquired = self.timeouts = self.overloads = 0
        self._wait_times = recent_times()
        self._hold_times = recent_times()
        self._note_hold = self._hold_times.append

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the pool was opened in."""
        return self._loop

    @property
    def was_closed(self) -> bool:
        """Whether `close` was called and no `open` since."""
        is_closed = self._state in (PoolState.CLOSING, PoolState.CLOSED)
        return is_closed and not self._failed_to_open

    # Lending

    def take(self) -> Slot[R] | None:
        """Return the most recently used slot if it can be lent without awaiting, else None."""
        idle = self._idle
        if not idle:
            return None
        # A task of this loop that runs in this thread: half the price of get_running_loop().
        task = current_task(self._loop)
        if task is None or get_ident() != self._thread:
            return None
        slot = idle[-1]
        now = monotonic()
        is_closed = self._is_closed
        try:
            if now >= slot.fresh_until or (is_closed is not None and is_closed(slot.resource)):
                return None
        except Exception:  # noqa: BLE001 - the slow path logs it and drops the slot
            return None
        del idle[-1]
        slot.state = _LENT
        slot.since = now
        slot.holder = task
        self._acquired += 1
        if self._notes_origin:
            slot.origin = report.origin()
        return slot

    async def wait(self, timeout: float | None = None) -> Slot[R]:
        """Stand in line for a slot; see `acquire`."""
        limit = self.options.acquire_timeout if timeout is None else timeout
        loop = self._refuse_unless_open()
        refuse_overload(self, limit)
        waiter: Waiter[R] = Waiter(loop, monotonic(), limit)
        if not self._queue.waiters:
            self._shedder.nobody_waits()
        self._queue.join(waiter)
        if self._idle or len(self._keeper.slots) < self.max_size:
            self._dispatch()
        elif closes_a_circle(self, waiter):
            self._queue.leave(waiter)
            raise notice.refusal(self, "timeout", report.deadlocked(self))
        origin = report.origin() if self._notes_origin else None
        try:
            slot = await waiter.future
            slot.origin = origin
            return slot
        except BaseException:
            self._queue.leave(waiter)
            future = waiter.future
            if future.done() and not future.cancelled() and future.exception() is None:
                # Cancelled in the moment of the hand-off: the slot goes to the next in line.
                self.give_back(future.result())
            raise

    def _refuse_other_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not None and loop is not self._loop:
            self._refuse_unless_ended(self._loop)
        return loop

    def _refuse_unless_open(self) -> asyncio.AbstractEventLoop:
        loop = self._refuse_other_loop()
        if self._state is not PoolState.OPEN:
            was = "was closed" if self.was_closed else "is not open"
            raise PoolClosedError(f"{self.name} {was}: `await pool.open()` first")
        return loop

    def _timed_out(self, waiter: Waiter[R]) -> BaseException:
        error = report.timed_out(self, waiter, self._failure)
        return notice.refusal(self, "timeout", error, monotonic() - waiter.since)

    def give_back(self, slot: Slot[R]) -> None:
        """Take a slot back: for the next in line, for the stack, or for a task that mends it."""
        if slot.state is not _LENT:  # cut while it was lent, by close()
            return
        now = monotonic()
        held = now - slot.since
        self._note_hold(held)
        slot.holder = None
        slot.since = now
        if self._counts_uses:
            slot.uses_left -= 1
            if not slot.uses_left:
                slot.expires_at = 0.0
        if self._notes_origin:
            self._origin_done(slot, held)
        is_dirty = self._is_dirty
        if is_dirty is not None and self._needs_mending(slot, is_dirty):
            self._keeper.mend(slot)
        elif now >= slot.expires_at:
            self._retire_used(slot)
        elif self._waiters or self._state is not _OPEN:
            self._pace.released(now, held)
            self._offer(slot)
        else:
            slot.state = _IDLE
            fresh_until = now + self._fresh_for
            # Not min(): this line is run for every query.
            expires_at = slot.expires_at
            slot.fresh_until = fresh_until if fresh_until < expires_at else expires_at  # noqa: FURB136
            self._idle.append(slot)

    def _needs_mending(self, slot: Slot[R], is_dirty: Callable[[R], bool]) -> bool:
        try:
            return is_dirty(slot.resource)
        except Exception:
            logger.exception("%s: is_dirty() failed, so the connection is closed", self.name)
            slot.expires_at = 0.0
            return False

    def _retire_used(self, slot: Slot[R]) -> None:
        """Close what was used up or is too old; the next caller shall find another one open."""
        if not (self._idle or slot.is_renewed) and self.has_room:
            self._keeper.open()
        self._keeper.retire(slot)

    @property
    def has_room(self) -> bool:
        """Whether a connection may be opened before the one that it replaces is closed."""
        is_below = len(self._keeper.slots) < self.max_size
        return is_below and self._state is _OPEN and not self._pace.failures

    def _origin_done(self, slot: Slot[R], held: float) -> None:
        if slot.origin == REPORTED:
            logger.warning("%s: the connection came back after %.1f s", self.name, held)
        slot.origin = None

    def note_failure(self, slot: Slot[R], error: BaseException) -> None:
        """Told by a slot that its use ended with an exception."""
        if self._calls.on_failure is not None:
            try:
                self._calls.on_failure(slot.resource, error)
            except Exception:
                logger.exception("%s: on_failure() failed", self.name)

    # The dispatcher: the one answer to every event that frees capacity or needs it

    def _dispatch(self) -> None:
        if self._state is not PoolState.OPEN:
            return
        while self._idle and len(self._queue) > self._expected:
            slot = self._idle.pop()
            now = monotonic()
            if self._calls.has_closed(slot.resource):
                self._keeper.lose(slot)
                self._suspect_idle()
            elif now >= slot.expires_at:
                self._keeper.retire(slot)
            elif now >= slot.fresh_until:
                self._keeper.check(slot, ping=self._needs_ping(slot, now), prepare=True)
            else:
                self._hand_over(slot)
        self._grow()

    def _offer(self, slot: Slot[R]) -> None:
        """Put a slot that is back from a use where it is wanted."""
        if self._state is not PoolState.OPEN:
            self._keeper.retire(slot)
        elif self._calls.has_closed(slot.resource):
            self._keeper.lose(slot)
            self._suspect_idle()
            self._dispatch()
        elif self._always_checks:
            self._keeper.check(slot, ping=self.options.check == "always", prepare=True)
        else:
            self._hand_over(slot)

    def _needs_ping(self, slot: Slot[R], now: float) -> bool:
        """Whether a ping is due: a hook before each loan is no reason for one."""
        how = self.options.check
        suspected = slot.fresh_until == 0.0
        stale_at = slot.known_good_at + self.options.check_after
        return how == "always" or (how == "idle" and (suspected or now >= stale_at))

    def _hand_over(self, slot: Slot[R]) -> None:
        """Give a ready slot to the first in line and to nobody else; without one, to the stack."""
        now = monotonic()
        waiter = self._next_waiter(now)
        if waiter is None:
            self._keeper.move(slot, _IDLE)
            slot.fresh_until = min(slot.known_good_at + self._fresh_for, slot.expires_at)
            self._idle.append(slot)
            return
        self._keeper.move(slot, _LENT)
        slot.since = now
        slot.holder = waiter.task
        self._acquired += 1
        self._wait_times.append(now - waiter.since)
        waiter.future.set_result(slot)
        if self.watcher is not None:
            self.watcher(self, "acquired", now - waiter.since, None)

    def _next_waiter(self, now: float) -> Waiter[R] | None:
        """Return the first in line; those who have waited too long for an overload are refused."""
        if self.options.shed_after is None:
            return self._queue.next()
        self.shed(now)
        waiter = self._queue.next()
        if waiter is None:
            self._shedder.nobody_waits()
        return waiter

    def shed(self, now: float) -> None:
        """Refuse those in front who have waited too long, while the line does not get shorter."""
        keeper = self._keeper
        if keeper.counts[SlotState.CONNECTING] or len(keeper.slots) < self.max_size:
            return  # they wait for connections to be opened: that is no overload
        while (waiter := self._queue.first) is not None:
            waited = now - waiter.since
            too_long = self._shedder.longest_wait(now, waited)
            if too_long is None or waited <= too_long:
                return
            self._queue.leave(waiter)
            error = notice.refusal(self, "overloaded", report.shed(self, waited), waited)
            waiter.future.set_exception(error)

    @property
    def _expected(self) -> int:
        """How many of the slots under check are probably good: no suspects."""
        checking = SlotState.CHECKING
        if not self._keeper.counts[checking]:
            return 0
        slots = self._keeper.slots
        return sum(slot.state is checking and slot.fresh_until > 0.0 for slot in slots)

    def _grow(self) -> None:
        """Open what the demand needs beyond what is on its way."""
        counts, size = self._keeper.counts, len(self._keeper.slots)
        connecting = counts[SlotState.CONNECTING]
        wanted = len(self._queue) - connecting - self._expected
        wanted = min(max(wanted, self.min_size - size), self.max_size - size)
        if wanted <= 0:
            return
        now = monotonic()
        allowed, again_at = self._pace.allowance(
            now,
            waiting=len(self._queue),
            lent=self.in_use,
            connecting=connecting,
            waited=0.0 if (first := self._queue.first) is None else now - first.since,
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
        self._pace.died()
        suspects, self._idle = self._idle, []
        for slot in suspects:
            slot.fresh_until = 0.0
            if self._calls.has_closed(slot.resource):
                self._keeper.lose(slot)
            elif self._calls.ping is not None and (self._queue or self.options.check != "never"):
                self._keeper.check(slot)
            else:
                self._idle.append(slot)

    # What the keeper reports

    def slot_ready(self, slot: Slot[R], *, prepared: bool) -> None:
        """A slot was opened, cleaned or checked."""
        keeper = self._keeper
        is_surplus = len(keeper.slots) - keeper.counts[SlotState.CLOSING] > self.max_size
        if self._state is not PoolState.OPEN or is_surplus or monotonic() >= slot.expires_at:
            self._keeper.retire(slot)
        else:
            self._succeed(slot)
            if not prepared and self._calls.prepare is not None and self._queue:
                self._keeper.check(slot, ping=False, prepare=True)
            else:
                self._hand_over(slot)
        self._dispatch()

    def _succeed(self, slot: Slot[R]) -> None:
        """Let a new slot take the place of the one it was opened to replace, if it did."""
        predecessor, slot.predecessor = slot.predecessor, None
        if predecessor is None:
            return
        predecessor.expires_at = predecessor.fresh_until = 0.0
        if predecessor.state is not _LENT:
            slot.since = predecessor.since  # else a pool of old connections would never shrink
        if predecessor.state is _IDLE:
            self._idle.remove(predecessor)
            self._keeper.retire(predecessor)

    def capacity_freed(self) -> None:
        """A slot is gone."""
        self._dispatch()

    def work_cancelled(self) -> None:
        """Someone cancelled a task of the pool, as the end of a loop does with all tasks.

        Those who still wait are served, but the minimum is left to the upkeep: a loop that ends
        must not find new tasks.
        """
        if self._queue.first is not None:
            self._dispatch()

    def connected(self, slot: Slot[R], took: float) -> None:
        """A connect succeeded; `slot_ready` follows."""
        now = monotonic()
        self._failure = None
        self._pace.connected(now, took)
        self.tell("opened", took)
        slot.fresh_until = now  # no suspect while the hook before its first loan runs
        options = self.options
        slot.since = slot.seen_at = now
        # Jitter: connections opened together must not all expire together.
        lifetime = NEVER if options.max_lifetime is None else options.max_lifetime
        slot.expires_at = min(slot.expires_at, now + lifetime * slot.jitter)
        slot.uses_left = math.ceil(options.max_uses * slot.jitter) or -1

    def connect_failed(self, slot: Slot[R], error: BaseException) -> None:
        """A connect failed: those who wait go on waiting if there is something to wait for."""
        if slot.predecessor is not None:
            slot.predecessor.is_renewed = False
        self._failure = error
        self.tell("failed", error=error)
        self._pace.failed(monotonic())
        is_fatal = getattr(error, "is_transient", True) is False
        if (is_fatal or self._pace.gives_up) and not self._keeper.slots:
            self._queue.refuse_all(lambda: report.copy_of(error))
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

    def reclaim(self, slot: Slot[R]) -> None:
        """Take back what was forgotten; the garbage collector may run in any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.give_back, slot)

    def tell(
        self, kind: PoolEventKind, duration: float = 0.0, error: BaseException | None = None
    ) -> None:
        """Log what happened, and tell it to whoever watches."""
        notice.tell(self, kind, duration, error)

    # Knowing

    @property
    def in_use(self) -> int:
        """How many connections are lent."""
        return len(self._keeper.slots) - len(self._idle) - self._keeper.busy

    def lent(self) -> list[Slot[R]]:
        """Return the slots in callers' hands, the one held longest first."""
        lent = [slot for slot in self._keeper.slots if slot.state is _LENT]
        return sorted(lent, key=lambda slot: slot.since)

    def leave_to_parent(self) -> object:
        """In a forked child: forget everything, and return it so that it is kept untouched."""
        inherited = (self._keeper, self._idle, self._queue, self._loop)
        self._forget()
        self._loop = None
        return inherited

    def _refuse_unless_ended(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse another loop while it can run; what it left behind when it ended is forgotten."""
        if not loop.is_closed():
            raise InterfaceError(
                f"{self.name} belongs to another event loop that is still open: use one engine "
                "or pool for each loop, or close it there first"
            )
        for slot in self._keeper.slots:
            if slot.state is not SlotState.CONNECTING:
                self._calls.let_go(slot.resource)
        self._forget()
        self._loop = None
