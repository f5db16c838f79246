"""A portal: the engine for threads that have no event loop, as those of a WSGI server.

The engine runs in an event loop on a thread of its own. What a thread asks for outside of a block
is a task there. In a block, `transaction()` or `session()`, one task, the thread's *desk*, does
all that the thread asks for: scopes belong to tasks, so that is what makes the thread's
statements join its transaction, and no other thread's.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

import anyio

from aiodbkit.errors import InterfaceError, PoolClosedError
from aiodbkit.loopthread import LoopThread, perform, refuse_in_a_loop, wait
from aiodbkit.options import Isolation, LockMode, seconds
from aiodbkit.pool.fork import watch
from aiodbkit.session import Session
from aiodbkit.sync import SyncSession, SyncTransaction, SyncVerbs
from aiodbkit.transaction import Hook, Transaction

if TYPE_CHECKING:
    from aiodbkit.engine import Engine

__all__ = ["Portal", "SyncBlock", "portal_of"]

T = TypeVar("T")
A = TypeVar("A")
V = TypeVar("V")

Job: TypeAlias = tuple[Callable[[], Awaitable[Any]], Future[Any]]

logger = logging.getLogger("aiodbkit.portal")

_DESERTED = (
    "the thread that entered this block has ended without leaving it: it was rolled back; enter "
    "and leave a block in one thread"
)


class Portal(SyncVerbs):
    """``with db.portal() as sync_db:`` the verbs of the engine, for sync code in any thread.

    The first block, or the first statement where there is none, starts a daemon thread with an
    event loop and opens the engine in it; the end of the last block, `close` or the end of the
    program closes both. Each engine has one portal, which all threads share. After a fork the
    child starts anew, with a thread and connections of its own.

    Raises (all that it does):
        InterfaceError: called where an event loop runs: await the engine there.
        PoolClosedError: it was closed, and not entered again.
        Error: as the engine.
    """

    _loop_thread: LoopThread | None

    def __init__(self, engine: Engine) -> None:
        self._source = self._engine = engine
        self._users = 0
        self._begin_anew()
        watch(self)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "new" if self._loop_thread is None else "open"
        return f"<Portal of {self._engine!r}: {state}>"

    @property
    def engine(self) -> Engine:
        """The engine, which belongs to the portal's event loop while it is open."""
        return self._engine

    @property
    def is_open(self) -> bool:
        """Whether its thread runs and the engine is open there."""
        return self._loop_thread is not None

    # Life

    def __enter__(self) -> Self:
        refuse_in_a_loop()
        with self._lock:
            self._start()
            self._users += 1
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._users -= 1
            if self._users > 0:
                return
        self.close()

    def close(self, timeout: float = 10.0) -> None:
        """Close the engine and stop the thread, also while other blocks of the portal are open.

        What other threads have begun may end within ``timeout`` seconds; after that it is
        cancelled and rolled back. Safe to call again.

        Raises:
            InterfaceError: this thread is in a `transaction` or `session` block of the portal.
        """
        seconds("timeout", timeout)
        refuse_in_a_loop()
        if self._desk is not None:
            raise InterfaceError(
                "close(): this thread is in a transaction() or session() block of the portal: "
                "leave that first"
            )
        with self._lock:
            self._is_closed = True
            thread, self._loop_thread = self._loop_thread, None
            self._users = 0
            if thread is not None:
                thread.stop(timeout)

    def _start(self) -> LoopThread:
        thread = self._loop_thread
        if thread is None or not thread.is_alive:
            thread = LoopThread(self._engine)
            thread.start()
            self._loop_thread = thread
            self._is_closed = False
            _open.add(self)
        return thread

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self._loop_thread = None
        self._is_closed = False

    def leave_to_parent(self) -> object:
        """Forget the parent's thread: this is a child process. Return what has to be kept."""
        inherited = (self._loop_thread, self._lock, self._local)
        self._begin_anew()
        return inherited

    # Work

    @property
    def _desk(self) -> _Desk | None:
        """The desk of the calling thread, while it is in a block."""
        hold: _Hold | None = getattr(self._local, "hold", None)
        # Another thread may have left the block: then this one is in none.
        return None if hold is None or hold.desk.is_closed else hold.desk

    def _sit_down(self) -> _Desk:
        desk = _Desk(self._open_thread())
        self._local.hold = _Hold(desk)
        return desk

    def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        refuse_in_a_loop()
        desk = self._desk
        if desk is not None:
            return desk.do(work)
        return wait(self._open_thread().submit(work))

    def _open_thread(self) -> LoopThread:
        thread = self._loop_thread
        if thread is not None and thread.is_alive:
            return thread
        with self._lock:
            if self._is_closed:
                raise PoolClosedError(
                    "this portal was closed: enter `with db.portal() as sync_db:` again"
                )
            return self._start()

    # Blocks

    def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        deferrable: bool = False,
        mode: LockMode | None = None,
        force_rollback: bool = False,
    ) -> SyncBlock[Transaction, SyncTransaction]:
        """A transaction for a ``with`` block of this thread; see `Engine.transaction`."""
        block = self._engine.transaction(
            isolation=isolation,
            read_only=read_only,
            deferrable=deferrable,
            mode=mode,
            force_rollback=force_rollback,
        )
        return SyncBlock(self, block, SyncTransaction)

    def session(
        self,
        *,
        read_only: bool = False,
        isolation: Isolation | None = None,
        deferrable: bool = False,
        mode: LockMode | None = None,
    ) -> SyncBlock[Session, SyncSession]:
        """A session for a ``with`` block of this thread; see `Engine.session`."""
        session = self._engine.session(
            read_only=read_only, isolation=isolation, deferrable=deferrable, mode=mode
        )
        return SyncBlock(self, session, SyncSession)


def portal_of(engine: Engine) -> Portal:
    """Return the engine's portal: always the same one."""
    with _making:
        portal = engine.__dict__.get("_portal")
        if portal is None:
            portal = engine.__dict__["_portal"] = Portal(engine)
        assert isinstance(portal, Portal)
        return portal


class SyncBlock(Generic[A, V]):
    """A block of one thread; the outermost one of the thread has a desk made for it."""

    def __init__(
        self,
        portal: Portal,
        block: AbstractAsyncContextManager[A, bool | None],
        wrap: Callable[[_Desk, A], V],
    ) -> None:
        self._portal = portal
        self._block = block
        self._wrap = wrap
        self._desk: _Desk | None = None
        self._is_outermost = False

    def __enter__(self) -> V:
        refuse_in_a_loop()
        if self._desk is not None:
            raise InterfaceError(
                "this block is open already: call session() or transaction() for each block"
            )
        desk = self._portal._desk
        self._is_outermost = desk is None
        if desk is None:
            desk = self._portal._sit_down()
        try:
            entered = desk.do(partial(desk.enter, self._block))
        except BaseException as error:
            # It may have been entered all the same, when it was the wait that was interrupted.
            desk.abandon(self._block, error)
            self._leave(desk)
            raise
        self._desk = desk
        return self._wrap(desk, entered)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        desk, self._desk = self._desk, None
        if desk is None:
            raise InterfaceError(
                "this block was left without being entered: `with` does both, for session() and "
                "for transaction()"
            )
        try:
            return desk.do(partial(desk.exit, self._block, exc))
        finally:
            self._leave(desk)
            desk.run_hooks()

    def _leave(self, desk: _Desk) -> None:
        if self._is_outermost:
            desk.close()


class _Hold:
    """Nothing but the thread holds it: when the thread ends inside a block, so does its desk."""

    def __init__(self, desk: _Desk) -> None:
        self.desk = desk

    def __del__(self) -> None:
        self.desk.close()


class _Desk:
    """A task in the engine's loop that does all of one thread's work while it is in a block."""

    def __init__(self, thread: LoopThread) -> None:
        self._loop_thread = thread
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._blocks: list[AbstractAsyncContextManager[Any, bool | None]] = []
        self._hooks: list[Hook] = []
        self._is_over = False  # set and read in the loop
        self.is_closed = False  # set by the thread, or when that has ended
        self._thread_name = threading.current_thread().name
        thread.submit(self._work)

    # In the thread

    def do(self, work: Callable[[], Awaitable[T]], /) -> T:
        """Have the task do it, wait, and return what it returns."""
        refuse_in_a_loop()
        return wait(self._loop_thread.submit(work) if self.is_closed else self._post(work))

    def hook(self, hook: Hook, /) -> Hook:
        """Return a hook that has a sync one run by the thread: there it may wait."""
        return hook if inspect.iscoroutinefunction(hook) else lambda: self._hooks.append(hook)

    def run_hooks(self) -> None:
        """Run those that have become due; then raise the first error there was."""
        due, self._hooks = self._hooks, []
        failure: Exception | None = None
        for hook in due:
            try:
                result = hook()
                if inspect.isawaitable(result):
                    self.do(partial(_awaited, result))
            except Exception as error:  # noqa: BLE001 - raised below, after the others have run
                failure = failure or error
        if failure is not None:
            raise failure

    def abandon(
        self, block: AbstractAsyncContextManager[Any, bool | None], error: BaseException
    ) -> None:
        """Roll back a block that the thread is not in, if the task is."""

        async def exit_if_entered() -> None:
            if block in self._blocks:
                await self.exit(block, error)

        try:
            self._post(exit_if_entered)
        except InterfaceError:  # the portal is closed, and with it the block
            pass

    def close(self) -> None:
        """Let the task end, and roll back what is open. Safe to call again."""
        if not self.is_closed:
            self.is_closed = True
            self._loop_thread.call_soon(self._jobs.put_nowait, None)

    def _post(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        future: Future[T] = Future()
        if not self._loop_thread.call_soon(self._take, (work, future)):
            raise self._loop_thread.refusal()
        return future

    # In the loop

    def _take(self, job: Job) -> None:
        if self._is_over:
            job[1].cancel()
        else:
            self._jobs.put_nowait(job)

    async def _work(self) -> None:
        try:
            while (job := await self._jobs.get()) is not None:
                await perform(*job)
            if self._blocks:
                await self._roll_back_deserted()
        except asyncio.CancelledError as error:
            with anyio.CancelScope(shield=True):  # the blocks have deadlines of their own
                await self._exit_all(error)
            raise
        finally:
            self._is_over = True
            while not self._jobs.empty():
                left = self._jobs.get_nowait()
                if left is not None:
                    left[1].cancel()

    async def _roll_back_deserted(self) -> None:
        logger.warning(
            "the thread %r ended inside a session() or transaction() block, which is rolled back: "
            "leave blocks by `with`, in the thread that entered them",
            self._thread_name,
        )
        await self._exit_all(InterfaceError(_DESERTED))

    async def _exit_all(self, error: BaseException) -> None:
        while self._blocks:
            try:
                await self.exit(self._blocks[-1], error)
            except Exception:
                logger.exception("a block that the portal cut short could not be rolled back")

    async def enter(self, block: AbstractAsyncContextManager[A, bool | None]) -> A:
        entered = await block.__aenter__()
        self._blocks.append(block)
        return entered

    async def exit(
        self, block: AbstractAsyncContextManager[Any, bool | None], error: BaseException | None
    ) -> bool:
        if block not in self._blocks:
            raise InterfaceError(_DESERTED)
        self._blocks.remove(block)
        if error is None:
            return bool(await block.__aexit__(None, None, None))
        return bool(await block.__aexit__(type(error), error, error.__traceback__))


async def _awaited(result: Awaitable[Any]) -> None:
    await result


def _close_open_ones() -> None:
    for portal in list(_open):
        try:
            desk = portal._desk
            if desk is not None:  # a block that nobody will leave any more
                desk.close()
            portal.close()
        except Exception:
            logger.exception("%r could not be closed at the end of the program", portal)


_making = threading.Lock()
_open: weakref.WeakSet[Portal] = weakref.WeakSet()

# Before Python waits for threads that are no daemons: SQLite's connections have such threads, and
# they end when they are closed. Where Python offers no such call, at the usual time.
getattr(threading, "_register_atexit", atexit.register)(_close_open_ones)
