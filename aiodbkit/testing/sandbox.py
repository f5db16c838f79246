"""A sandbox: everything that an engine does runs in one transaction, which is rolled back.

It belongs to the engine, not to a task or a context: for its time the engine's pool is another
one, whose connections are all the same, see `aiodbkit.testing.wire`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from operator import attrgetter
from types import TracebackType
from typing import TYPE_CHECKING

from aiodbkit.driver import DriverConnection
from aiodbkit.engine import Engine
from aiodbkit.engine_pool import EnginePool
from aiodbkit.errors import Error, InterfaceError, InternalError, QueryTimeoutError
from aiodbkit.options import TransactionOptions
from aiodbkit.pool import Pool, Slot
from aiodbkit.scope import current_place
from aiodbkit.testing.shared import SharedConnection
from aiodbkit.testing.wire import Wire

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Sandbox", "sandbox"]


def sandbox(engine: Engine) -> Sandbox:
    """Return a sandbox for ``async with``: all that is done inside is rolled back at its end.

    It holds for the engine as a whole: for fixtures, the test, child tasks, and an app under test
    in the same event loop. Transactions and sessions inside are savepoints, and their hooks run.
    Those of two tasks take turns: the second begins when the first has ended. Sandboxes nest.

    Raises:
        InterfaceError: on entering: this task holds a connection or a transaction of the engine.
        PoolTimeoutError, CannotConnectError: on entering: there is no connection.
    """
    return Sandbox(engine)


class Sandbox:
    """What `sandbox` returns; ``async with`` gives it."""

    def __init__(self, engine: Engine) -> None:
        if not isinstance(engine, Engine):
            raise InterfaceError(f"sandbox() takes an engine, not {type(engine).__name__}")
        self._engine = engine._target  # a proxy stands in for it
        self._pool: SandboxPool | None = None

    def __repr__(self) -> str:
        state = "closed" if self._pool is None else "open"
        return f"<Sandbox of {self._engine!r}: {state}>"

    @property
    def engine(self) -> Engine:
        """The engine that it is for."""
        return self._engine

    async def __aenter__(self) -> Self:
        engine = self._engine
        if self._pool is not None:
            raise InterfaceError("this sandbox is open already: call sandbox(db) for each block")
        if current_place(engine._scoped) is not None:
            raise InterfaceError(
                "sandbox(): this task has a connection, a session or a transaction of the engine "
                "open, and its statements would stay outside: open the sandbox first"
            )
        outer = engine.pool
        slot = outer.take() or await outer.wait()
        try:
            await _begin(slot.resource, outer.options.acquire_timeout)
            pool = SandboxPool(engine, outer, slot)
            await pool.open()
        except BaseException as error:
            if not isinstance(error, Error):
                slot.resource.suspect = True
            outer.give_back(slot)
            raise
        slot.is_handed_out = True  # a fixture's end may run in another task than its beginning
        self._pool = pool
        engine._lend_from(pool)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pool, self._pool = self._pool, None
        assert pool is not None
        is_innermost = self._engine._pool is pool
        if is_innermost:
            pool.step_aside()
        # In a task of the outer pool: it comes to its end whatever happens to the caller.
        work = pool.outer.spawn(pool.undo(), "sandbox")
        work.add_done_callback(lambda _: pool.outer.give_back(pool.slot))
        await asyncio.wait([work])
        if exc is not None or work.cancelled():
            return
        work.result()
        if not is_innermost:
            raise InterfaceError(
                "another sandbox of this engine was still open inside this one, and is rolled back "
                "with it: end sandboxes in the reverse order of their beginning"
            )


class SandboxPool(EnginePool):
    """In place of the engine's pool: each connection it lends is a part of one real connection."""

    is_sandbox = True

    def __init__(self, engine: Engine, outer: EnginePool, slot: Slot[DriverConnection]) -> None:
        hooks = engine.options
        options = replace(
            outer.options,
            min_size=0,
            max_lifetime=None,
            idle_timeout=None,
            max_uses=0,
            check="never",
            shed_after=None,
            name=f"{outer.name} (sandbox)",
        )
        Pool.__init__(
            self,
            self._share,
            close=_close,
            clean=self._clean_connection,
            is_dirty=attrgetter("is_dirty") if hooks.on_release is None else _yes,
            is_closed=attrgetter("is_closed"),
            prepare=None if hooks.on_acquire is None else self._prepare_connection,
            abort=_abort,
            on_failure=_note_failure,
            options=options,
        )
        self._engine = engine
        self.outer = outer
        self.slot = slot
        self._wire = Wire(slot.resource, engine.capabilities, options, outer.spawn)

    async def _share(self) -> DriverConnection:
        shared = SharedConnection(self._wire)
        for hook in self._engine._opened_hooks:
            hook(shared)
        return shared

    def step_aside(self) -> None:
        """Give the engine its pool back; an outer sandbox that has ended before is passed over."""
        pool = self.outer
        while isinstance(pool, SandboxPool) and pool._wire.has_ended:
            pool = pool.outer
        self._engine._lend_from(pool)

    async def undo(self) -> None:
        """Cut whoever still works in it, and roll back.

        Raises:
            InternalError: something had ended the transaction, so there was nothing to undo.
        """
        wire, driver = self._wire, self._wire.driver
        await self.close(0.0)
        limit = self.options.reset_timeout
        try:
            async with asyncio.timeout(limit):
                await wire.enter(None, None, ends=True)
                if driver.suspect:
                    await driver.recover()
                was_ended = not driver.in_transaction and driver.transaction_lost is None
                was_ended = was_ended and not driver.is_closed
                await driver.rollback()
        except (Error, TimeoutError):
            driver.abort()  # which rolls back, too
            return
        finally:
            wire.has_ended = True
        if was_ended:
            raise InternalError(
                "the sandbox could not be rolled back: something inside it had ended its "
                "transaction, as a COMMIT on `raw` does, and what was done may have stayed"
            )


async def _begin(driver: DriverConnection, limit: float) -> None:
    try:
        async with asyncio.timeout(limit):
            await driver.begin(TransactionOptions())
    except TimeoutError as error:
        if isinstance(error, Error):
            raise
        driver.suspect = True
        raise QueryTimeoutError(
            f"the sandbox's BEGIN was not answered within acquire_timeout={limit:g} s",
            query="BEGIN",
        ) from error


async def _close(driver: DriverConnection) -> None:
    await driver.close()


def _abort(driver: DriverConnection) -> None:
    driver.abort()


def _yes(_driver: DriverConnection) -> bool:
    return True


def _note_failure(driver: DriverConnection, error: BaseException) -> None:
    if not isinstance(error, Error):
        driver.suspect = True
