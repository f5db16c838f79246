"""The thread of one connection of apsw: a daemon that does one job after the other."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

from aiodbkit.backends.sqlite.apsw.connection import APSWHandle
from aiodbkit.backends.sqlite.worker import Job

__all__ = ["Worker"]

_Future: TypeAlias = "asyncio.Future[Any]"
# No job is the end.
_Queue: TypeAlias = "SimpleQueue[tuple[_Future | None, Job | None]]"


class Worker:
    """Sends jobs to a thread of its own, which opens the connection and closes it.

    Attributes:
        handle: the connection, once it is open.
    """

    handle: APSWHandle

    def __init__(self, connect: Callable[[], APSWHandle]) -> None:
        self._queue: _Queue = SimpleQueue()
        self._stopped = False
        self._opened: _Future = asyncio.get_running_loop().create_future()
        self._thread = threading.Thread(
            target=_serve, args=(connect, self._opened, self._queue), daemon=True
        )

    async def open(self) -> None:
        """Open the connection; cancelled or failed, nothing is left of it and its thread."""
        self._thread.start()
        try:
            self.handle = await self._opened
        except BaseException:
            self.stop()
            raise

    def send(self, job: Job) -> _Future:
        """Do a job: the future ends with it.

        Raises:
            ValueError: the thread was stopped.
        """
        if self._stopped:
            raise ValueError("the connection is closed")
        future: _Future = asyncio.get_running_loop().create_future()
        self.handle.is_busy = True
        self._queue.put((future, job))
        return future

    def stop(self) -> _Future | None:
        """Close the connection after the last job, and end the thread; without a loop, unseen."""
        self._stopped = True
        try:
            future: _Future | None = asyncio.get_running_loop().create_future()
        except RuntimeError:
            future = None
        self._queue.put((future, None))
        return future

    def __del__(self) -> None:
        if not self._stopped and self._thread.is_alive():
            self._queue.put((None, None))
            warnings.warn(
                "a connection of apsw was not closed", ResourceWarning, stacklevel=1, source=self
            )


def _serve(connect: Callable[[], APSWHandle], opened: _Future, queue: _Queue) -> None:
    """Open, do jobs and close: the life of the thread."""
    try:
        handle = connect()
    except BaseException as error:  # noqa: BLE001 - it is the caller's
        _tell(opened, None, error)
        return
    handle.thread = threading.get_ident()
    is_heard = _tell(opened, handle, None)
    del connect, opened
    while is_heard:
        future, job = queue.get()
        if job is None:
            _end(handle, future)
            return
        is_heard = _do(handle, job, future)
        del future, job  # nothing of it is kept until the next one comes
    _end(handle, None)


def _do(handle: APSWHandle, job: Job, future: _Future | None) -> bool:
    """Do a job; return whether anybody can be told."""
    handle.is_busy = True  # also if it was sent before the last one was over
    try:
        job.run(handle.as_sqlite3)
    except BaseException as error:  # noqa: BLE001 - it is the caller's
        handle.rest()
        return _tell(future, None, error)
    handle.rest()
    return _tell(future, None, None)


def _end(handle: APSWHandle, future: _Future | None) -> None:
    try:
        handle.close()
    except BaseException as error:  # noqa: BLE001 - it is the caller's
        _tell(future, None, error)
    else:
        _tell(future, None, None)


def _tell(future: _Future | None, result: Any, error: BaseException | None) -> bool:
    """Complete a future from the thread; False if its event loop is closed."""
    if future is None:
        return True
    try:
        future.get_loop().call_soon_threadsafe(_complete, future, result, error)
    except RuntimeError:
        return False
    return True


def _complete(future: _Future, result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
