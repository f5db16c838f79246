"""An event loop on a thread of its own, with an engine open in it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from aiodbkit.errors import InterfaceError, PoolClosedError

if TYPE_CHECKING:
    from aiodbkit.engine import Engine

__all__ = ["LoopThread", "perform", "refuse_in_a_loop", "wait"]

T = TypeVar("T")

logger = logging.getLogger("aiodbkit.portal")


class LoopThread:
    """One thread with its event loop, in which the engine is open. Started once, stopped once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._process = os.getpid()
        self._ready: Future[None] = Future()
        self._lock = threading.Lock()
        self._is_stopping = False
        self._grace = 0.0
        self._cutting: asyncio.Task[None] | None = None
        # A daemon: a program that forgets to close the portal ends all the same.
        self._thread = threading.Thread(target=self._run, name="aiodbkit portal", daemon=True)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping

    # In any thread

    def start(self) -> None:
        """Return when the engine is open.

        Raises:
            Error: it cannot be opened; the thread has ended then.
        """
        self._thread.start()
        try:
            wait(self._ready)
        except BaseException:
            self._is_stopping = True
            self._thread.join()
            raise

    def submit(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        """Have a task of its own do it."""
        future: Future[T] = Future()
        with self._lock:  # what came before the stop is begun before it
            if self._is_stopping or self._process != os.getpid():
                raise self.refusal()
            try:
                self._portal.start_task_soon(perform, work, future)
            except RuntimeError:  # the loop has ended by itself
                raise self.refusal() from None
        return future

    def call_soon(self, function: Callable[[T], object], argument: T) -> bool:
        """Call a function in the loop. Return False when there is none any more."""
        if self._process != os.getpid():
            return False
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:
            return False
        return True

    def refusal(self) -> InterfaceError:
        if self._process != os.getpid():
            return InterfaceError(
                "this block was begun by the process that this one was forked from: leave it to "
                "that, and begin a new one"
            )
        return PoolClosedError("the portal was closed: enter `with db.portal() as sync_db:` again")

    def stop(self, grace: float) -> None:
        """Let what was begun end within ``grace`` seconds, close the engine, end the thread."""
        with self._lock:
            if self._is_stopping:
                return
            self._is_stopping, self._grace = True, grace
            try:
                self._portal.start_task_soon(self._portal.stop)
            except RuntimeError:  # it has ended by itself
                pass
        self._thread.join()

    # In its thread

    def _run(self) -> None:
        try:
            anyio.run(self._main)
        except BaseException as error:
            if self._ready.done():
                logger.exception("the event loop of %r ended", self._engine)
            else:
                self._ready.set_exception(error)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack, BlockingPortal() as self._portal:  # whose end waits
            await perform(self._engine.connect, self._ready)
            if self._ready.cancelled() or self._ready.exception() is not None:
                return
            stack.push_async_callback(self._engine.close)
            await self._portal.sleep_until_stopped()
            stack.callback(self._loop.call_later(self._grace, self._cut).cancel)

    def _cut(self) -> None:
        stop = self._portal.stop(cancel_remaining=True)
        self._cutting = self._loop.create_task(stop)


async def perform(work: Callable[[], Awaitable[Any]], future: Future[Any]) -> None:
    """Do a thread's work; when the thread cancels its future the work is cancelled."""
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:

        def see(done: Future[Any]) -> None:
            if done.cancelled():
                try:
                    loop.call_soon_threadsafe(scope.cancel)
                except RuntimeError:  # the loop is closed
                    pass

        future.add_done_callback(see)
        try:
            result = await work()
        except asyncio.CancelledError:
            future.cancel()
            raise
        except BaseException as error:  # noqa: BLE001 - the thread's, all of it
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        else:
            if future.set_running_or_notify_cancel():
                future.set_result(result)


def wait(future: Future[T]) -> T:
    """Wait in a thread; whatever stops the wait stops the work."""
    try:
        return future.result()
    except CancelledError:
        raise PoolClosedError(
            "the portal was closed while this ran: it was cancelled, and its block rolled back"
        ) from None
    except BaseException:
        future.cancel()
        raise


def refuse_in_a_loop() -> None:
    if asyncio._get_running_loop() is not None:
        raise InterfaceError(
            "the portal waits, which would stop the event loop that runs in this thread: await "
            "the engine's own verbs here"
        )
