"""What is said over one psycopg connection, in step whoever is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.generators import cancel
from psycopg.waiting import Ready, Wait, wait_conn_async

__all__ = ["Cuts", "Exchange"]

T = TypeVar("T")

_ACTIVE = int(pq.TransactionStatus.ACTIVE)
_OK = int(pq.ConnStatus.OK)
_READ, _WRITE = int(Wait.R), int(Wait.W)

# Seconds that the CancelRequest for a statement that nobody waits for may take.
_CANCEL_TIMEOUT = 3.0


class Cuts:
    """Has the server stop what connections were running whose tasks do not wait for it.

    A backend whose client has gone works on to the end of its statement, and commits it.
    """

    def __init__(self) -> None:
        self._requests: set[asyncio.Future[Any]] = set()

    def request_cancel(self, pgconn: Any) -> asyncio.Future[None] | None:
        """Send a CancelRequest on another connection; ``pgconn`` may be finished meanwhile."""
        try:
            asyncio.get_running_loop()
            request = asyncio.ensure_future(_send_cancel(_cancelling(pgconn)))
        except (RuntimeError, psycopg.Error):
            return None
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)
        return request

    def give_up(self, connecting: asyncio.Future[psycopg.AsyncConnection[Any]]) -> None:
        """Nobody waits for this connection any more: close it when it is there.

        Cancelled instead, psycopg would leave the socket open until the garbage is collected.
        """
        self._requests.add(connecting)
        connecting.add_done_callback(self._given_up)

    def _given_up(self, connecting: asyncio.Future[psycopg.AsyncConnection[Any]]) -> None:
        self._requests.discard(connecting)
        if not connecting.cancelled() and connecting.exception() is None:
            connecting.result().pgconn.finish()

    async def wait(self) -> None:
        """Let the requests go out and the connects that were given up end; not for long."""
        if self._requests:
            await asyncio.wait(self._requests, timeout=_CANCEL_TIMEOUT)
        for late in self._requests:
            late.cancel()


def _cancelling(pgconn: Any) -> Any:
    """Return what can be told to the server without the connection itself."""
    if psycopg.capabilities.has_cancel_safe():
        request = pgconn.cancel_conn()
        request.start()
        return cancel(request)
    return pgconn.get_cancel().cancel  # before libpq 17: blocking, and never over TLS


async def _send_cancel(cancelling: Any) -> None:
    with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
        if callable(cancelling):
            async with asyncio.timeout(_CANCEL_TIMEOUT):
                await asyncio.to_thread(cancelling)
        else:
            await wait_conn_async(cancelling, interval=0.1, timeout=_CANCEL_TIMEOUT)


class Exchange:
    """Stands for ``AsyncConnection.wait()``: runs one generator of psycopg's to its end.

    psycopg's own awaits the end of a cancelled statement in the cancelled task, which takes as
    long as the network does, and drops the connection with the statement running if it is
    cancelled once more, as every scope of anyio does. This one lets the task go at once: a task
    of its own has the server stop the statement and reads the rest, and what comes next waits for
    that.
    """

    def __init__(self, pgconn: Any, cuts: Cuts) -> None:
        self._pgconn, self._cuts = pgconn, cuts
        self._left: Generator[Any, int, Any] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._woken: asyncio.Future[int] | None = None
        self._watched: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._lost: Callable[[], None] | None = None  # of a connection that listens
        self._fd: int = pgconn.socket  # libpq forgets it as the connection breaks

    async def __call__(
        self,
        gen: Generator[Any, int, T],
        interval: float = 0.0,  # noqa: ARG002 - as psycopg calls it
        timeout: float | None = None,
    ) -> T:
        if self._ending is not None:
            await self.settle()
        if timeout is not None:  # of a user of the raw connection
            return await self._in_time(gen, timeout)
        return await self.run(gen)

    async def run(self, gen: Generator[Any, int, T]) -> T:
        """Run ``gen``; interrupted, leave it to `_end`."""
        try:
            return await self._drive(gen)
        except Exception:
            raise
        except BaseException:
            if self._pgconn.transaction_status == _ACTIVE:
                self.leave(gen)
            raise

    async def _in_time(self, gen: Generator[Any, int, T], timeout: float) -> T:
        try:
            async with asyncio.timeout(timeout):
                return await self._drive(gen)
        except TimeoutError:
            raise psycopg.errors._WaitTimeout("wait timeout expired") from None

    async def _drive(self, gen: Generator[Any, int, T]) -> T:
        try:
            wanted = next(gen)
            loop = asyncio.get_running_loop()
            while True:
                self._woken = woken = loop.create_future()
                self._watch(loop, wanted)
                try:
                    ready = await woken
                finally:
                    self._unwatch()
                wanted = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            if self._lost is not None:
                self._watch_idle()

    def _watch(self, loop: asyncio.AbstractEventLoop, wanted: int) -> None:
        if self._pgconn.status != _OK:  # the descriptor may be another connection's
            raise psycopg.OperationalError("the connection is lost")
        fd = self._fd
        self._watched = loop, fd
        if wanted & _READ:
            loop.add_reader(fd, self._wake, Ready.R)
        if wanted & _WRITE:
            loop.add_writer(fd, self._wake, Ready.W)

    def _unwatch(self) -> None:
        """Once: the descriptor may be another connection's afterwards."""
        if self._watched is not None:
            loop, fd = self._watched
            self._watched = self._woken = None
            loop.remove_reader(fd)
            loop.remove_writer(fd)

    def listen(self, lost: Callable[[], None]) -> None:
        """Read what comes between statements; call ``lost`` when nothing more can."""
        self._lost = lost
        self._watch_idle()

    def _watch_idle(self) -> None:
        if self._pgconn.status == _OK:
            asyncio.get_running_loop().add_reader(self._fd, self._read_idle)
        else:
            self._tell_lost()

    def _read_idle(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._pgconn.consume_input()
            while came := self._pgconn.notifies():
                self._pgconn.notify_handler(came)
        if self._pgconn.status != _OK:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._tell_lost()

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    def _wake(self, ready: int) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(ready)

    def leave(self, gen: Generator[Any, int, Any]) -> None:
        """Have the running statement stopped, and ``gen`` run to its end, by a task of our own."""
        self._left = gen
        if self._ending is None:
            request = self._cuts.request_cancel(self._pgconn)
            try:
                self._ending = asyncio.get_running_loop().create_task(self._end(request))
            except RuntimeError:  # the loop is closed
                self.abort()

    async def _end(self, request: asyncio.Future[None] | None) -> None:
        try:
            if request is not None:
                await asyncio.wait([request])
            left, self._left = self._left, None
            if left is not None:
                await self._drive(left)
        except (psycopg.Error, OSError):
            pass  # what became of the connection is known to it
        finally:
            self._ending = None

    async def settle(self) -> None:
        """Wait until what was left has ended."""
        while self._ending is not None:
            await asyncio.wait([self._ending])

    def abort(self) -> None:
        """Drop the connection at once; whoever waits for it is told, and the server."""
        if self._pgconn.status == _OK and self._pgconn.transaction_status == _ACTIVE:
            self._cuts.request_cancel(self._pgconn)
        if self._ending is not None:
            with contextlib.suppress(RuntimeError):
                self._ending.cancel()
        woken = self._woken
        with contextlib.suppress(RuntimeError, ValueError, OSError):
            self._unwatch()
            if woken is not None and not woken.done():
                woken.set_exception(psycopg.OperationalError("the connection was closed"))
        if self._lost is not None:
            with contextlib.suppress(RuntimeError, ValueError, OSError):
                asyncio.get_running_loop().remove_reader(self._fd)
        self._left = None
        self._pgconn.finish()
        self._tell_lost()
