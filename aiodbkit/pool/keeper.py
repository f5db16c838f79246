"""What takes time: opening, checking, cleaning and closing, each in a task of the pool.

Each task has a deadline and ends in one of two events: a slot is ready for use, or capacity has
become free. What follows from an event is decided by the pool.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import Context
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from aiodbkit.errors import CannotConnectError, InterfaceError
from aiodbkit.events import PoolEventKind
from aiodbkit.options import PoolOptions
from aiodbkit.pool.slot import Slot, SlotState
from aiodbkit.pool.stats import recent_times

__all__ = ["Keeper", "ResourceCalls"]

R = TypeVar("R")

logger = logging.getLogger("aiodbkit.pool")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceCalls(Generic[R]):
    """How to handle one kind of resource; see `Pool`."""

    connect: Callable[[], Awaitable[R]]
    close: Callable[[R], Awaitable[Any]] | None
    ping: Callable[[R], Awaitable[Any]] | None
    clean: Callable[[R], Awaitable[Any]] | None
    prepare: Callable[[R], Awaitable[Any]] | None
    is_dirty: Callable[[R], bool] | None
    is_closed: Callable[[R], bool] | None
    abort: Callable[[R], None] | None
    on_failure: Callable[[R, BaseException], None] | None

    def has_closed(self, resource: R) -> bool:
        """Whether the resource itself knows that it is closed."""
        if self.is_closed is None:
            return False
        try:
            return self.is_closed(resource)
        except Exception:
            logger.exception("is_closed() failed, so the connection counts as closed")
            return True

    def let_go(self, resource: R) -> None:
        """Drop a resource at once, if that can be done; what `abort` raises is logged."""
        if self.abort is not None:
            try:
                self.abort(resource)
            except Exception:
                logger.exception("abort() failed")


# How long a ping may take before another connection is opened beside it, at least.
_LEAST_PATIENCE = 0.05


class _Events(Protocol[R]):
    """What the pool is told; all of it synchronous."""

    def slot_ready(self, slot: Slot[R], *, prepared: bool) -> None: ...
    def capacity_freed(self) -> None: ...
    def work_cancelled(self) -> None: ...
    def connected(self, slot: Slot[R], took: float) -> None: ...
    def connect_failed(self, slot: Slot[R], error: BaseException) -> None: ...
    def check_failed(self) -> None: ...
    def prepare_failed(self, error: Exception) -> None: ...
    def note_failure(self, slot: Slot[Any], error: BaseException) -> None: ...
    def give_back(self, slot: Slot[Any]) -> None: ...
    def tell(
        self, kind: PoolEventKind, duration: float = 0.0, error: BaseException | None = None
    ) -> None: ...


class Keeper(Generic[R]):
    """Owns the slots and the tasks that work on them, from one `open` to the next."""

    def __init__(
        self,
        name: str,
        calls: ResourceCalls[R],
        options: PoolOptions,
        events: _Events[R],
    ) -> None:
        self._name = name
        self._calls = calls
        self._options = options
        self._events = events
        self._tasks: set[asyncio.Task[Any]] = set()
        self._preparations: set[asyncio.Task[Any]] = set()
        self._is_spawning = False
        self.slots: dict[Slot[R], None] = {}  # an ordered set: the oldest first
        self.counts = [0] * (max(SlotState) + 1)  # exact for all but IDLE and LENT
        self._removed = asyncio.Event()
        self.opened = self.closed = self.errors = 0
        self.connect_times = recent_times()

    @property
    def busy(self) -> int:
        """How many slots tasks of the pool are working on."""
        counts = self.counts
        return (
            counts[SlotState.CONNECTING]
            + counts[SlotState.CHECKING]
            + counts[SlotState.CLEANING]
            + counts[SlotState.CLOSING]
        )

    def move(self, slot: Slot[R], state: SlotState) -> None:
        """Set a slot's state and keep the counts."""
        self.counts[slot.state] -= 1
        self.counts[state] += 1
        slot.state = state

    # Starting work

    def open(
        self, *, report: bool = True, predecessor: Slot[R] | None = None
    ) -> asyncio.Task[None]:
        """Open a resource in a slot of its own, to replace another one when it is there.

        Without ``report`` the task raises instead.
        """
        slot: Slot[R] = Slot(self._events)
        slot.predecessor = predecessor
        self.slots[slot] = None
        self.counts[SlotState.CONNECTING] += 1
        return self._prepare_by(self._open(slot, report=report), slot, "connect")

    def check(
        self, slot: Slot[R], *, ping: bool = True, prepare: bool = False
    ) -> asyncio.Task[None]:
        """Ping a slot, and prepare it for a loan, as asked for."""
        self.move(slot, SlotState.CHECKING)
        return self._prepare_by(self._check(slot, ping=ping, prepare=prepare), slot, "check")

    def mend(self, slot: Slot[R]) -> None:
        """Clean a dirty slot; what cannot be cleaned is dropped."""
        if self._calls.has_closed(slot.resource):
            self.lose(slot)
            self._events.check_failed()
            return
        if self._calls.clean is None:
            self.retire(slot)
            return
        self.move(slot, SlotState.CLEANING)
        self._work_on(slot, self._clean(slot, self._calls.clean), "clean")

    def retire(self, slot: Slot[R]) -> None:
        """Close a healthy resource politely; the slot counts until that is over."""
        if monotonic() >= slot.expires_at:
            self._events.tell("expired")
        self.move(slot, SlotState.CLOSING)
        self._work_on(slot, self._close(slot), "close")

    def lose(self, slot: Slot[R], error: BaseException | None = None) -> None:
        """Drop a resource that was found dead, or that could not be put right."""
        self._events.tell("lost", error=error)
        self.drop(slot)

    def drop(self, slot: Slot[R]) -> None:
        """Let go of a resource at once, without I/O."""
        self._let_go(slot)
        if self._calls.abort is None:
            # It knows only a polite close; no slot waits for it.
            self.spawn(self._close_politely(slot.resource), "close")

    def _let_go(self, slot: Slot[R]) -> None:
        self._remove(slot)
        self.closed += 1
        self._calls.let_go(slot.resource)
        self._events.tell("closed")

    def disown(self) -> None:
        """Part with all slots for good: another life of the pool begins, or another process."""
        for slot in self.slots:
            slot.state = SlotState.GONE

    def cancel_preparations(self) -> None:
        """Give up what is being opened or checked for callers that are there no more."""
        for task in self._preparations:
            task.cancel()

    def _prepare_by(
        self, work: Coroutine[Any, Any, None], slot: Slot[R], name: str
    ) -> asyncio.Task[None]:
        task = self._work_on(slot, work, name)
        self._preparations.add(task)
        task.add_done_callback(self._preparations.discard)
        return task

    def _work_on(
        self, slot: Slot[R], work: Coroutine[Any, Any, None], name: str
    ) -> asyncio.Task[None]:
        """Work on a slot in a task; cancelled, before its first line even, it loses no slot."""
        task = self.spawn(work, name)
        task.add_done_callback(lambda task: self._gave_up(slot) if task.cancelled() else None)
        return task

    def _gave_up(self, slot: Slot[R]) -> None:
        if slot.state is SlotState.CONNECTING:
            self._remove(slot)
        elif slot.state in (SlotState.CHECKING, SlotState.CLEANING, SlotState.CLOSING):
            self.drop(slot)
        self._events.work_cancelled()

    async def end_tasks(self, grace: float) -> None:
        """Let all tasks end within ``grace`` seconds, then cancel them."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks:
            task.cancel()
        if self._tasks:  # one that will not be cancelled is left to itself
            await asyncio.wait(self._tasks, timeout=1.0)

    def spawn(
        self, work: Coroutine[Any, Any, Any], name: str, context: Context | None = None
    ) -> asyncio.Task[Any]:
        """Run ``work`` in a task of the pool, by default in an empty context: in no one's scope."""
        loop = asyncio.get_running_loop()
        self._is_spawning = True  # an eager task factory runs the work's first lines in here
        try:
            task = loop.create_task(work, name=f"aiodbkit-{name}", context=context or Context())
        finally:
            self._is_spawning = False
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for the task has it; nobody may be left to

    # The work

    async def _open(self, slot: Slot[R], *, report: bool) -> None:
        if self._is_spawning:
            await asyncio.sleep(0)  # the caller is in the middle of something
        began = monotonic()
        try:
            slot.resource = await self._connect_in_time()
        except BaseException as error:
            self.errors += 1
            was_disowned = slot.state is SlotState.GONE
            self._remove(slot)
            if was_disowned:
                return
            if isinstance(error, asyncio.CancelledError) and not _is_cancelled():
                error = CannotConnectError(f"{self._name}: connect() was cancelled from inside")
            if not report or isinstance(error, asyncio.CancelledError):
                raise error  # noqa: TRY201 - another one than was caught, maybe
            self._events.connect_failed(slot, error)
            return
        took = monotonic() - began
        self.opened += 1
        if slot.state is SlotState.GONE:  # it comes too late: this life of the pool is over
            self.drop(slot)
            return
        self.connect_times.append(took)
        self._events.connected(slot, took)
        self._events.slot_ready(slot, prepared=False)

    async def _connect_in_time(self) -> R:
        limit = self._options.connect_timeout
        deadline = asyncio.timeout(limit)
        try:
            async with deadline:
                return await self._calls.connect()
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise CannotConnectError(
                f"{self._name}: no connection within connect_timeout={limit:g} s: the server "
                "does not answer; check host, port and firewall, or raise connect_timeout"
            ) from error

    async def _check(self, slot: Slot[R], *, ping: bool, prepare: bool) -> None:
        if self._is_spawning:
            await asyncio.sleep(0)
        patience = max(_LEAST_PATIENCE, 2 * self.connect_times[-1]) if self.connect_times else 0.0
        timer = asyncio.get_running_loop().call_later(patience, self._check_is_slow, slot)
        try:
            async with asyncio.timeout(self._options.check_timeout):
                if ping and self._calls.ping is not None:
                    await self._ping(slot.resource)
        except BaseException as error:
            self.errors += 1
            logger.info("%s: an idle connection was dead: %r", self._name, error)
            self.lose(slot, error)
            self._events.check_failed()
            if not isinstance(error, Exception):
                raise
            return
        finally:
            timer.cancel()
        if ping:
            slot.seen_at = monotonic()
        if slot.state is SlotState.GONE:
            self.drop(slot)
        elif prepare:
            await self._prepare(slot)
        else:
            self._events.slot_ready(slot, prepared=False)

    def _check_is_slow(self, slot: Slot[R]) -> None:
        """Count on it no more: who waits for it is better served by a new connection."""
        slot.fresh_until = 0.0
        self._events.capacity_freed()

    async def _ping(self, resource: R) -> None:
        assert self._calls.ping is not None
        if await self._calls.ping(resource) is False:
            raise InterfaceError("ping() returned False")

    async def _prepare(self, slot: Slot[R]) -> None:
        """Run the user's hook; what it raises belongs to a user."""
        deadline = asyncio.timeout(self._options.check_timeout)
        try:
            if self._calls.prepare is not None:
                async with deadline:
                    await self._calls.prepare(slot.resource)
        except BaseException as error:
            self.errors += 1
            self.drop(slot)
            if isinstance(error, asyncio.CancelledError) and not _is_cancelled():
                error = InterfaceError(f"{self._name}: prepare() was cancelled from inside")
            elif isinstance(error, TimeoutError) and deadline.expired():
                error = InterfaceError(
                    f"{self._name}: prepare() (the engine's on_acquire) did not end within "
                    f"check_timeout={self._options.check_timeout:g} s: make it quicker, or raise "
                    "check_timeout"
                )
            if not isinstance(error, Exception):
                self._events.capacity_freed()
                raise
            self._events.prepare_failed(error)
            return
        self._events.slot_ready(slot, prepared=True)

    async def _clean(self, slot: Slot[R], clean: Callable[[R], Awaitable[Any]]) -> None:
        if self._is_spawning:
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(self._options.reset_timeout):
                await clean(slot.resource)
        except BaseException as error:
            self.errors += 1
            logger.info("%s: a connection could not be cleaned: %r", self._name, error)
            self.lose(slot, error)
            self._events.capacity_freed()
            if not isinstance(error, Exception):
                raise
            return
        if slot.state is SlotState.GONE:
            self.drop(slot)
            return
        self._events.slot_ready(slot, prepared=False)

    async def _close(self, slot: Slot[R]) -> None:
        if self._is_spawning:
            await asyncio.sleep(0)
        try:
            await self._close_politely(slot.resource)
        finally:
            self._let_go(slot)
            self._events.capacity_freed()

    async def _close_politely(self, resource: R) -> None:
        if self._calls.close is None:
            return
        try:
            async with asyncio.timeout(self._options.close_timeout):
                await self._calls.close(resource)
        except Exception as error:  # noqa: BLE001 - it is let go of anyway
            logger.info("%s: a connection was not closed politely: %r", self._name, error)

    def _remove(self, slot: Slot[R]) -> None:
        self.move(slot, SlotState.GONE)
        self.slots.pop(slot, None)
        self._removed.set()

    async def wait_until_gone(self, slots: Iterable[Slot[R]], timeout: float | None) -> None:
        """Return when none of ``slots`` is left, or after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not self.slots.keys().isdisjoint(slots):
                    self._removed.clear()
                    await self._removed.wait()
        except TimeoutError:
            pass


def _is_cancelled() -> bool:
    """Whether this task was asked to end, rather than something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
