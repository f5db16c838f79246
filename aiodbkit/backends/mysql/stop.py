"""Stopping a statement at the server, which takes a second connection: KILL.

MySQL has no message that cancels. A client that goes away does not stop its statement either:
the server finds out when it sends the result, after an autocommitted write has been committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from aiodbkit.backends.mysql.errors import is_driver_error, translate
from aiodbkit.errors import ConnectionLostError, Error

__all__ = ["GRACE", "Side", "Stopper", "Victim", "Watch"]

logger = logging.getLogger("aiodbkit.mysql")

# Seconds for the side connection to open, and for each KILL.
_STOP_TIMEOUT = 5.0
# Seconds for a statement to end after its time was up; then the connection is cut.
GRACE = 2.0


@dataclass(frozen=True, slots=True)
class Victim:
    """A session: its number, and the server that gave it (behind a proxy there are many)."""

    server: str
    number: int


class Side(Protocol):
    """A connection that KILL is sent on."""

    victim: Victim

    async def command(self, text: str) -> None: ...

    def abort(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Order:
    victim: Victim
    what: str
    # Set to whether nothing more can come of it: done, or never sent.
    settled: asyncio.Future[bool] = field(default_factory=lambda: _loop().create_future())

    def settle(self, *, known: bool) -> None:
        if not self.settled.done():
            self.settled.set_result(known)


class Stopper:
    """Sends KILL, in a task of its own, for all connections of one engine.

    Orders that come together share one side connection, so a hundred cancelled tasks
    do not open a hundred connections to a server that is busy already.
    """

    def __init__(self, open_side: Callable[[], Awaitable[Side]]) -> None:
        self._open_side = open_side
        self._orders: deque[_Order] = deque()
        self._task: asyncio.Task[None] | None = None

    def stop_statement(self, victim: Victim) -> asyncio.Future[bool]:
        """End the running statement; its session and transaction live on.

        The future tells whether the end of it is known: once it is True, no KILL of this order
        can hit a later statement.
        """
        return self._order(victim, "KILL QUERY")

    def end_session(self, victim: Victim) -> None:
        """End the session and what it runs; its transaction is rolled back."""
        # A coroutine that is closed by the garbage collector may have no loop any more.
        with contextlib.suppress(RuntimeError):
            self._order(victim, "KILL")

    async def close(self) -> None:
        """Let what was ordered be sent, for a moment."""
        task = self._task
        if task is None or task.get_loop() is not _loop():
            return
        try:
            await asyncio.wait([task], timeout=GRACE)
        finally:
            task.cancel()

    def _order(self, victim: Victim, what: str) -> asyncio.Future[bool]:
        order = _Order(victim, what)
        self._orders.append(order)
        if self._task is None or self._task.get_loop() is not _loop():
            self._task = _loop().create_task(self._work(), name="aiodbkit: KILL")
        return order.settled

    async def _work(self) -> None:
        side: Side | None = None
        try:
            async with asyncio.timeout(_STOP_TIMEOUT) as limit:
                side = await self._open_side()
                while self._orders:
                    limit.reschedule(_loop().time() + _STOP_TIMEOUT)
                    await _send(side, self._orders.popleft())
        except Exception as error:
            # TimeoutError is an OSError.
            if not isinstance(error, Error | OSError) and not is_driver_error(error):
                raise
            logger.warning("a statement could not be stopped at the server: %r", error)
        finally:
            if side is not None:
                side.abort()
            self._task = None
            while self._orders:
                self._orders.popleft().settle(known=True)


async def _send(side: Side, order: _Order) -> None:
    number, server = order.victim.number, order.victim.server
    if side.victim.server != server:
        # Sent elsewhere, it would hit whoever has the same number there.
        logger.warning(
            "the statement of session %d on %s runs on: a second connection led to %s",
            *(number, server, side.victim.server),
        )
        order.settle(known=True)
        return
    try:
        await side.command(f"{order.what} {number}")
    except Exception as error:
        if not is_driver_error(error) or isinstance(translate(error, None), ConnectionLostError):
            order.settle(known=False)
            raise
        # The session has ended by itself, or may not be killed by this user.
        logger.debug("%s %d: %r", order.what, number, error)
    except BaseException:
        order.settle(known=False)
        raise
    order.settle(known=True)


class Watch:
    """The deadline of one call: its statement is stopped at the server, the session lives on.

    Cancelling the driver's await instead would close the connection.

    Args:
        limit: seconds.
        stop: orders the end of the running statement.
        cut: drops the connection, for a server that does not even end the statement.

    Attributes:
        expired: the time was up; no further statement may be sent.
    """

    __slots__ = ("_cut", "_handle", "_order", "_stop", "expired", "limit")

    def __init__(
        self, limit: float, stop: Callable[[], asyncio.Future[bool]], cut: Callable[[], None]
    ) -> None:
        self.limit = limit
        self.expired = False
        self._stop = stop
        self._cut = cut
        self._order: asyncio.Future[bool] | None = None
        self._handle = _loop().call_later(limit, self._expire)

    def _expire(self) -> None:
        self.expired = True
        self._order = self._stop()
        self._handle = _loop().call_later(GRACE, self._cut)

    @property
    def remaining(self) -> float:
        """Seconds left; not below 0."""
        return 0.0 if self.expired else max(self._handle.when() - _loop().time(), 0.0)

    @property
    def is_pending(self) -> bool:
        """Whether something was ordered of which the end is not known yet."""
        return self._order is not None

    def cancel(self) -> None:
        """Stop the clock: nothing more is ordered, nothing cut."""
        self._handle.cancel()

    async def settle(self) -> bool:
        """After `cancel`: return whether no KILL of this watch can hit a later statement."""
        order, self._order = self._order, None
        if order is None:
            return True
        await asyncio.wait([order], timeout=GRACE)
        return order.done() and order.result()


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
