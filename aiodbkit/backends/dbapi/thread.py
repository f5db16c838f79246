"""A connection's worker thread: one job after the other, and never two at once.

A thread cannot be stopped. What can be: a job that has not begun never runs, one that has a
decision to make (to commit) can be told not to, and some modules let another thread end what the
connection is waiting for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeAlias

__all__ = ["Deadline", "Job", "Stopped", "Stuck", "Work", "WorkerThread", "deadline"]

# Seconds that a statement which was told to stop gets to do so before its caller goes on.
_GRACE = 1.0
# A stop that comes before its statement has begun is lost: it is given again, ever more slowly.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
_POLL = 0.005


class Stopped(Exception):  # noqa: N818 - not an error
    """The job was stopped before it took effect."""


class Stuck(Exception):  # noqa: N818 - not an error
    """The job is past its deadline, and has not come back.

    Attributes:
        decided: it was too late to stop it: it may take effect.
    """

    def __init__(self, *, decided: bool) -> None:
        super().__init__()
        self.decided = decided


class Deadline(NamedTuple):
    """A caller's timeout in seconds, and when it has passed on the loop's clock."""

    timeout: float
    at: float

    @property
    def left(self) -> float:
        """Seconds, 0 when it has passed."""
        return max(self.at - asyncio.get_running_loop().time(), 0.0)


def deadline(timeout: float | None) -> Deadline | None:
    """Start a caller's timeout."""
    if timeout is None:
        return None
    return Deadline(timeout, asyncio.get_running_loop().time() + timeout)


class Job:
    """Work on its way to the thread and back.

    Attributes:
        future: its outcome, in the loop that sent it.
        finished: the thread has left it.
        stopped: it was told to stop before it had decided to take effect.
    """

    __slots__ = ("_decision", "_loop", "_work", "finished", "future", "is_last", "stopped")

    def __init__(
        self, work: Work, loop: asyncio.AbstractEventLoop | None, *, is_last: bool
    ) -> None:
        self._work = work
        self._loop = loop
        self._decision = threading.Lock()
        self.future: asyncio.Future[Any] | None = loop.create_future() if loop else None
        self.is_last = is_last
        self.finished = self.stopped = False

    def run(self) -> None:
        """Do it, on the thread."""
        result: Any = None
        failure: BaseException | None = None
        try:
            self.go_on()
            result = self._work(self)
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            failure = error
        self.finished = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._deliver, result, failure)

    def _deliver(self, result: Any, failure: BaseException | None) -> None:
        assert self.future is not None
        if self.future.done():
            return
        if failure is None:
            self.future.set_result(result)
            return
        if not isinstance(failure, Exception) or isinstance(failure, StopIteration):
            failure = RuntimeError(f"{type(failure).__name__} was raised on the worker thread")
        self.future.set_exception(failure)
        self.future.exception()  # it is told to whoever still waits, and to nobody else

    def go_on(self) -> None:
        """Raise `Stopped` on the thread if nobody waits for the work any more."""
        if self.stopped:
            raise Stopped

    def decide(self) -> None:
        """Decide on the thread that it takes effect, or raise `Stopped`: it must not any more."""
        if not self._decision.acquire(blocking=False):
            raise Stopped

    def stop(self) -> bool:
        """Decide in the event loop that it has no effect; False if the thread was first."""
        if not self.stopped:
            self.stopped = self._decision.acquire(blocking=False)
        return self.stopped


Work: TypeAlias = Callable[[Job], Any]


class WorkerThread:
    """The thread of one connection: a daemon, which ends with its connection.

    Attributes:
        cancel: ends what the connection waits for; may be called on any thread. None where the
            module has no such thing.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._jobs,), name=name, daemon=True)
        self._thread.start()
        self._last: Job | None = None
        self._presser: threading.Thread | None = None
        self._is_ending = False
        self.cancel: Callable[[], Any] | None = None
        # One that nobody refers to any more ends as well; not so at exit, which kills it anyway.
        weakref.finalize(self, self._jobs.put, None).atexit = False

    @property
    def is_alive(self) -> bool:
        """Whether it takes jobs. In a forked process it does not."""
        return not self._is_ending and self._thread.is_alive()

    @property
    def is_busy(self) -> bool:
        """Whether the last job has not come back."""
        return self._last is not None and not self._last.finished

    async def run(self, work: Work, limit: Deadline | None = None) -> Any:
        """Do the work in one hop there and back.

        Raises:
            Stopped: ``limit`` has passed, and the work has had no effect.
            Stuck: the same, but the thread has not come back yet.
            Exception: whatever the work raised.
        """
        job = self._last = self._send(work)
        assert job.future is not None
        try:
            if limit is not None:
                await self._until(job, limit)
            return await job.future
        except asyncio.CancelledError:
            self.stop()
            raise

    async def _until(self, job: Job, limit: Deadline) -> None:
        """Return when the job is back, stopped or not; press it to stop past ``limit``."""
        waiting = {job.future}
        done, _ = await asyncio.wait(waiting, timeout=limit.left)  # type: ignore[type-var]
        if done:
            return
        stopped = self.stop()
        if stopped and self.cancel is None:
            raise Stuck(decided=False)
        give_up = asyncio.get_running_loop().time() + _GRACE
        pause = _FIRST_PAUSE
        while asyncio.get_running_loop().time() < give_up:
            done, _ = await asyncio.wait(waiting, timeout=pause)  # type: ignore[type-var]
            if done:
                return
            pause = min(2 * pause, _LONGEST_PAUSE)
            self._press()
        raise Stuck(decided=not stopped)

    def _send(self, work: Work, *, is_last: bool = False) -> Job:
        job = Job(work, asyncio.get_running_loop(), is_last=is_last)
        self._jobs.put(job)
        return job

    # Stopping

    def stop(self) -> bool:
        """Stop the last job; False if it is too late for that."""
        if self._last is None or not self._last.stop():
            return False
        self._press()
        return True

    @property
    def was_stopped(self) -> bool:
        """Whether the last job was told to stop."""
        return self._last is not None and self._last.stopped

    def _press(self) -> None:
        """Call `cancel`, which may take its time, on a thread of its own."""
        if self.cancel is None or not self.is_busy or not self.was_stopped:
            return
        if self._presser is None or not self._presser.is_alive():
            self._presser = threading.Thread(target=_quietly, args=(self.cancel,), daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter is ending
                self._presser.start()

    async def drain(self) -> None:
        """Return when the thread has nothing more to do, and nothing more can stop it."""
        nothing = self._send(_nothing)
        pause = _FIRST_PAUSE
        while self._thread.is_alive() and not nothing.finished:
            self._press()
            assert nothing.future is not None
            await asyncio.wait({nothing.future}, timeout=pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        # No loop is needed to start a presser, so it has no event to set.
        while self._presser is not None and self._presser.is_alive():  # noqa: ASYNC110
            await asyncio.sleep(_POLL)
        self._presser = None

    # Its end

    async def close(self, work: Work) -> None:
        """Do a last job, and end."""
        if self.is_alive:
            self._is_ending = True
            job = self._send(work, is_last=True)
            assert job.future is not None
            await job.future

    def abandon(self, work: Work) -> None:
        """The same without waiting, once what still runs has come back."""
        if not self._is_ending:
            self.stop()
            self._is_ending = True
            self._jobs.put(Job(work, None, is_last=True))


def _work(jobs: SimpleQueue[Job | None]) -> None:
    """Run on the thread; it must not refer to the `WorkerThread`, so that this can be dropped."""
    while (job := jobs.get()) is not None:
        job.run()
        if job.is_last:
            return
        del job


def _quietly(cancel: Callable[[], Any]) -> None:
    with contextlib.suppress(Exception):  # it has ended meanwhile, or the server is away
        cancel()


def _nothing(_job: Job) -> None:
    """Shows that everything before it is over."""
