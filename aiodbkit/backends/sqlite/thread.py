"""The event loop's side of a worker thread: sends jobs, stops them, waits for the last one."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from aiodbkit.backends.sqlite.functions import Functions
from aiodbkit.backends.sqlite.opened import OpenCursors
from aiodbkit.backends.sqlite.values import decode_on_this_thread
from aiodbkit.backends.sqlite.worker import Job, SQLite3Connection, Stopped, Work
from aiodbkit.errors import ConnectionLostError, Error, OperationalError, QueryTimeoutError

__all__ = ["Stuck", "Until", "WorkerThread", "gone", "interrupted", "timed_out", "until"]

# An interrupt that meets no running statement is lost, so a job that is to stop is pressed again.
_PRESS_EVERY = 0.02
# What cannot be stopped (SQLite waiting for a lock, a function of the user's) is not waited for.
_GRACE = 1.0


class Until(NamedTuple):
    """A caller's timeout in seconds, and when it has passed, on the loop's clock."""

    timeout: float
    at: float


def until(timeout: float | None) -> Until | None:
    """Start a caller's timeout."""
    if timeout is None:
        return None
    return Until(timeout, asyncio.get_running_loop().time() + timeout)


class Stuck(Stopped):
    """The job was told to stop, and has not yet."""


def gone(sql: str | None) -> ConnectionLostError:
    """Return the error for a job that a closed connection was given."""
    return ConnectionLostError(
        "the connection to the SQLite database is closed: nothing was done",
        query=sql,
        is_transient=True,
    )


def timed_out(sql: str | None, limit: Until | None, while_: str = "") -> Error:
    """Return the error for a job that was stopped."""
    if limit is None:
        return OperationalError("the statement was interrupted", query=sql)
    if while_:
        text = f"timeout={limit.timeout:g} s has passed while {while_}; nothing was done"
    else:
        text = f"the statement ran past timeout={limit.timeout:g} s and was stopped"
    return QueryTimeoutError(text, query=sql)


def interrupted(sql: str | None) -> OperationalError:
    """Return the error for a job that was stopped by somebody else than its caller."""
    return OperationalError("the statement was interrupted by interrupt()", code=9, query=sql)


class _Served(Protocol):
    """A connection and its thread, as aiosqlite has it."""

    _thread: threading.Thread

    def stop(self) -> asyncio.Future[Any] | None: ...


class WorkerThread:
    """Runs one job after the other on the thread of one connection.

    Attributes:
        cursors: open ones.
        db: the connection of sqlite3, or what has its methods.
        job: the last one sent.
        send: does a job on the thread, in one hop.
    """

    __slots__ = ("_closed", "_raw", "_thread", "_timer", "cursors", "db", "job", "send")

    db: sqlite3.Connection
    job: Job | None
    _thread: threading.Thread
    _timer: asyncio.TimerHandle

    def __init__(
        self,
        raw: _Served,
        send: Callable[[Job], Awaitable[Any]],
        functions: Functions,
    ) -> None:
        self._raw = raw
        self.send = send
        self.job = None
        self.cursors = OpenCursors(functions)
        self._closed = False

    async def open(self, work: Work) -> Any:
        """Run the first job, which sets the connection up."""

        def first(db: sqlite3.Connection, job: Job) -> Any:
            self.db, self._thread = db, threading.current_thread()
            if isinstance(db, SQLite3Connection):
                db.open_cursors = self.cursors
            decode_on_this_thread()
            return work(db, job)

        return await self.run(first)

    @property
    def thread(self) -> threading.Thread:
        """The thread."""
        return self._raw._thread

    @property
    def is_closed(self) -> bool:
        """Whether the connection or its thread are gone; the thread dies with its loop, if that
        is closed before a job is back, and it does not live on in a forked process."""
        if self._closed or not self._thread.is_alive():
            return True
        try:
            return self.db.in_transaction is None
        except sqlite3.ProgrammingError:
            return True

    @property
    def in_transaction(self) -> bool:
        """Whether SQLite has a transaction open."""
        try:
            return self.db.in_transaction
        except sqlite3.ProgrammingError:
            return False  # closed

    async def run(
        self, work: Work, limit: Until | None = None, *, is_protected: bool = False
    ) -> Any:
        """Do the work in one hop.

        Args:
            is_protected: from `interrupt`.

        Raises:
            Stopped: ``limit`` has passed, and the work has had no effect.
            Stuck: the same, but the thread has not come back yet.
            Exception: whatever the work raised; interrupted by ``limit``, SQLite's INTERRUPT.
        """
        job = self.job = Job(work, self.cursors)
        job.is_protected = is_protected
        try:
            if limit is None:
                await self.send(job)
            else:
                await self._send_until(job, limit)
        except Exception:
            raise
        except BaseException:
            self.stop()
            raise
        return job.result

    async def _send_until(self, job: Job, limit: Until) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as grace:
                self._timer = loop.call_at(limit.at, self._press, grace)
                await self.send(job)
        except TimeoutError:
            raise Stuck from None
        finally:
            self._timer.cancel()

    def _press(self, grace: asyncio.Timeout) -> None:
        """Stop the job, again and again, until it is back or the grace is over."""
        if not self.stop():
            return  # it is being committed: that is waited for
        loop = asyncio.get_running_loop()
        if grace.when() is None:
            grace.reschedule(loop.time() + _GRACE)
        self._timer = loop.call_later(_PRESS_EVERY, self._press, grace)

    @property
    def was_stopped(self) -> bool:
        """Whether the last job was stopped before it could take effect."""
        return self.job is not None and self.job.stopped

    def stop(self) -> bool:
        """Stop the last job; False if it is too late for that."""
        job = self.job
        if job is None or not job.stop():
            return False
        if not job.finished:
            try:
                self.cursors.interrupted = True  # first: it may be over before the next line
                self.db.interrupt()
            except (AttributeError, sqlite3.ProgrammingError):
                pass  # not open yet, or closed meanwhile
        return True

    def interrupt(self) -> bool:
        """Stop the statement that runs, for somebody else than its caller; False if none does."""
        job = self.job
        if job is None or job.finished or job.stopped or job.is_protected or not self.stop():
            return False
        job.was_interrupted = True
        self._press_on(job)
        return True

    def _press_on(self, job: Job) -> None:
        if job is self.job and not job.finished and not self.is_closed:
            self.stop()
            asyncio.get_running_loop().call_later(_PRESS_EVERY, self._press_on, job)

    def when_over(self, call: Callable[[], object]) -> None:
        """Call it when the thread has left the last job: at once, or later in the event loop."""
        self._look_whether_over(self.job, call)

    def _look_whether_over(self, job: Job | None, call: Callable[[], object]) -> None:
        if job is None or job.finished or not self._thread.is_alive():
            call()
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(_PRESS_EVERY, self._look_whether_over, job, call)

    async def drain(self) -> None:
        """Stop what still runs and wait until the thread has nothing more to do."""
        if self.is_closed:
            raise gone(None)
        nothing = asyncio.ensure_future(self.send(Job(_nothing, self.cursors)))
        try:
            while not nothing.done():
                self.stop()
                await asyncio.wait({nothing}, timeout=_PRESS_EVERY)
                if not self._thread.is_alive():
                    raise gone(None)
            nothing.result()
        except ValueError as error:  # aiosqlite's way to say that it is closed
            raise gone(None) from error
        finally:
            nothing.cancel()

    async def close(self) -> None:
        """Close the connection, once what still runs was stopped, and end the thread."""
        if self._closed:
            return
        self._closed = True
        ended = self._raw.stop()
        while ended is not None and not ended.done() and self._thread.is_alive():
            self.stop()
            await asyncio.wait({ended}, timeout=_PRESS_EVERY)

    def abort(self) -> None:
        """The same, without waiting."""
        if self._closed:
            return
        self._closed = True
        self.stop()
        # Called where no loop runs, aiosqlite makes no future: its thread would try to complete it
        # when the loop may be closed already.
        threading.Thread(target=self._raw.stop, daemon=True).start()


def _nothing(db: sqlite3.Connection, job: Job) -> None:
    """Shows that everything before it is over."""
