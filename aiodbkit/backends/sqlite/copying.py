"""A backup: SQLite's online copy, in steps on the thread of its source's connection.

https://www.sqlite.org/backup.html
"""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from aiodbkit.backends.sqlite.abilities import Place
from aiodbkit.backends.sqlite.errors import BUSY, error_code, primary_code
from aiodbkit.backends.sqlite.pragmas import set_pragmas
from aiodbkit.backends.sqlite.session import Settings
from aiodbkit.backends.sqlite.worker import Job, Stopped, begin, roll_back
from aiodbkit.errors import LockTimeoutError

__all__ = ["Copy", "Reports"]

_LOCKED = 6
_PAUSE = 0.01  # between two tries to get the lock of the target
_LOOK = 0.05  # how often a thread that waits for the event loop looks whether it is to stop
_SIDE_FILES = ("", "-journal", "-wal", "-shm")


class Reports:
    """What a copy tells after each step: the thread waits until the caller's task has heard it."""

    def __init__(self, progress: Callable[[int, int], Any]) -> None:
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._hearing = asyncio.timeout(None)
        self._is_hearing = False
        self._queue: asyncio.Queue[tuple[int, int, threading.Event] | None] = asyncio.Queue()

    async def tell(self, copying: asyncio.Future[Any]) -> None:
        """Call ``progress`` until the copy has ended; raise what either of them raised."""
        copying.add_done_callback(self._end)
        try:
            async with asyncio.timeout(None) as self._hearing:
                await self._tell_all()
        except TimeoutError:
            if not self._hearing.expired():
                raise
        copying.result()

    async def _tell_all(self) -> None:
        while (report := await self._queue.get()) is not None:
            remaining, total, is_heard = report
            heard = self._progress(remaining, total)
            if inspect.isawaitable(heard):
                self._is_hearing = True
                try:
                    await heard
                finally:
                    self._is_hearing = False
            is_heard.set()

    def _end(self, copying: asyncio.Future[Any]) -> None:
        if not copying.cancelled():
            copying.exception()  # seen, if nobody waits for it any more
        if self._is_hearing and self._hearing.when() is None:
            self._hearing.reschedule(self._loop.time())  # stopped: there is nothing more to hear
        self._queue.put_nowait(None)

    def send(self, job: Job, remaining: int, total: int) -> None:
        """Tell it from the thread, and wait."""
        is_heard = threading.Event()
        if self._loop.is_closed():
            raise Stopped
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (remaining, total, is_heard))
        while not is_heard.wait(_LOOK):
            job.go_on()
            if self._loop.is_closed():
                raise Stopped


class Copy:
    """The work of one backup.

    A copy that ends early leaves the target as it was: SQLite writes it in one transaction. A file
    that was not there before is removed.
    """

    def __init__(
        self, target: Place, pages: int, settings: Settings, reports: Reports | None
    ) -> None:
        self._target = target
        self._pages = pages
        self._connect = settings.connect
        self._patience = settings.lock_timeout
        self._reports = reports
        self._give_up = 0.0

    def __call__(self, db: sqlite3.Connection, job: Job) -> None:
        """Copy, as of one moment: what is written meanwhile is left out."""
        begin(db, job, "BEGIN")
        try:
            db.execute("select 1 from sqlite_master limit 1").fetchone()  # from now on it is held
            self._into_target(db, job)
        finally:
            roll_back(db, job)

    def _into_target(self, db: sqlite3.Connection, job: Job) -> None:
        files = self._new_files()
        try:
            with _naming(self._target):
                into = self._connect(self._target.path, is_uri=self._target.is_uri)
            try:
                self._give_up = time.monotonic() + self._patience
                with _naming(self._target):
                    set_pragmas(into, job, self._target.pragmas)
                    mode = self._mode(into, job)
                step = partial(self._step, job)
                if mode != "wal":
                    into.execute("PRAGMA locking_mode = exclusive")
                db.backup(into, pages=self._pages, progress=step, sleep=_PAUSE)
                if mode != "wal":
                    _leave_wal(into)
            finally:
                into.close()
        except BaseException:
            for file in files:
                file.unlink(missing_ok=True)
            raise

    def _new_files(self) -> list[Path]:
        """Return the files that a copy that fails must not leave."""
        path = Path(self._target.path)
        if self._target.is_uri or path.exists():
            return []
        return [path.with_name(path.name + side) for side in _SIDE_FILES]

    def _step(self, job: Job, status: int, remaining: int, total: int) -> None:
        job.go_on()
        now = time.monotonic()
        if status not in (BUSY, _LOCKED):
            self._give_up = now + self._patience
            if self._reports is not None:
                self._reports.send(job, remaining, total)
        elif now > self._give_up:
            raise self._locked()

    def _mode(self, into: sqlite3.Connection, job: Job) -> str:
        while True:
            try:
                return str(into.execute("PRAGMA journal_mode").fetchone()[0])
            except sqlite3.OperationalError as error:
                if primary_code(error) != BUSY:
                    raise
                if time.monotonic() > self._give_up:
                    raise self._locked() from error
            job.go_on()
            time.sleep(_PAUSE)

    def _locked(self) -> LockTimeoutError:
        return LockTimeoutError(
            f"backup(): {self._target.shown_as} was locked by somebody else for "
            f"{self._patience:g} s (lock_timeout); it is as it was"
        )


@contextmanager
def _naming(target: Place) -> Iterator[None]:
    """Say in SQLite's errors, which name no file, that it is the target."""
    try:
        yield
    except Exception as error:
        if error_code(error) is not None:
            folder = Path(target.path).parent
            has_folder = target.is_uri or folder.is_dir()
            reason = "" if has_folder else f" (there is no folder {str(folder)!r})"
            error.args = (f"backup(): the target {target.shown_as}: {error}{reason}",)
        raise


def _leave_wal(into: sqlite3.Connection) -> None:
    """Take off the mark of WAL mode, which a copy has from its source.

    One in memory could not be opened with it. It takes a lock that nobody can come before.
    """
    into.execute("PRAGMA journal_mode = delete")
    into.execute("PRAGMA locking_mode = normal")
    into.execute("select 1 from sqlite_master limit 1")
