"""Those who wait for a slot: first come, first served, each until its own deadline."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, TypeVar

from aiodbkit.pool.slot import Slot

__all__ = ["WaitQueue", "Waiter"]

R = TypeVar("R")


class Waiter(Generic[R]):
    """One caller in line. Its future gets a slot that is its own from that moment on."""

    __slots__ = ("deadline", "future", "since", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop, now: float, timeout: float) -> None:
        self.future: asyncio.Future[Slot[R]] = loop.create_future()
        self.since = now
        self.deadline = now + timeout
        self.task: asyncio.Task[Any] | None = asyncio.current_task(loop)


class WaitQueue(Generic[R]):
    """An ordered set of waiters: joining, leaving and serving are O(1).

    One timer serves all deadlines. Most waits are served long before theirs, so it is set again
    only when it has fired, or for a deadline before all others.

    Args:
        timed_out: makes the error of a waiter whose deadline has passed.
    """

    def __init__(self, timed_out: Callable[[Waiter[R]], BaseException]) -> None:
        self.waiters: OrderedDict[Waiter[R], None] = OrderedDict()
        self._timed_out = timed_out
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def __len__(self) -> int:
        return len(self.waiters)

    def join(self, waiter: Waiter[R]) -> None:
        """Put a waiter at the end."""
        self.waiters[waiter] = None
        if self._timer is None or waiter.deadline < self._timer_at:
            self._set_timer(waiter.deadline)

    def leave(self, waiter: Waiter[R]) -> None:
        """Take a waiter out, wherever it stands."""
        self.waiters.pop(waiter, None)

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

    def stop(self) -> None:
        """Forget the deadlines: nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, deadline: float) -> None:
        self.stop()
        self._timer_at = deadline
        delay = max(deadline - monotonic(), 0.0)
        self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = monotonic()
        for waiter in [waiter for waiter in self.waiters if waiter.deadline <= now]:
            if not waiter.future.done():
                waiter.future.set_exception(self._timed_out(waiter))
            self.leave(waiter)
        if self.waiters:
            self._set_timer(min(waiter.deadline for waiter in self.waiters))
