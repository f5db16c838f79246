"""Those who wait for a slot: first come, first served, each until its own deadline."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from aiodbkit.pool.slot import Slot

__all__ = ["WaitQueue", "Waiter"]

R = TypeVar("R")


class Waiter(Generic[R]):
    """One caller in line. Its future gets a slot that is its own from that moment on."""

    __slots__ = ("future", "since", "task", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self.future: asyncio.Future[Slot[R]] = loop.create_future()
        self.since = now
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[Any] | None = asyncio.current_task(loop)


class WaitQueue(Generic[R]):
    """An ordered set of waiters: joining, leaving and serving are O(1)."""

    def __init__(self) -> None:
        self.waiters: OrderedDict[Waiter[R], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.waiters)

    def join(
        self, waiter: Waiter[R], timeout: float, timed_out: Callable[[Waiter[R]], BaseException]
    ) -> None:
        """Put a waiter at the end; ``timed_out`` makes its error when ``timeout`` has passed."""
        self.waiters[waiter] = None
        loop = waiter.future.get_loop()
        waiter.timer = loop.call_later(timeout, self._expire, waiter, timed_out)

    def leave(self, waiter: Waiter[R]) -> None:
        """Take a waiter out, wherever it stands."""
        self.waiters.pop(waiter, None)
        if waiter.timer is not None:
            waiter.timer.cancel()
            waiter.timer = None

    @property
    def first(self) -> Waiter[R] | None:
        """The first one that still waits."""
        while self.waiters:
            waiter = next(iter(self.waiters))
            if not waiter.future.done():
                return waiter
            self.leave(waiter)  # cancelled in this very turn of the loop, it has not left yet
        return None

    def next(self) -> Waiter[R] | None:
        """Take out and return the first one that still waits."""
        waiter = self.first
        if waiter is not None:
            self.leave(waiter)
        return waiter

    def refuse_all(self, error: Callable[[], BaseException]) -> None:
        """End all waiting with an error, one of its own for each."""
        while (waiter := self.next()) is not None:
            waiter.future.set_exception(error())

    def _expire(self, waiter: Waiter[R], timed_out: Callable[[Waiter[R]], BaseException]) -> None:
        waiter.timer = None
        if not waiter.future.done():
            waiter.future.set_exception(timed_out(waiter))
        self.leave(waiter)
