"""An engine's pool: lends `Connection`s, and opens itself with the first of them."""

from __future__ import annotations

from operator import attrgetter
from time import monotonic
from typing import TYPE_CHECKING

from aiodbkit.connection import Connection
from aiodbkit.driver import DriverConnection
from aiodbkit.errors import Error, QueryTimeoutError
from aiodbkit.options import ConnectionHook, seconds
from aiodbkit.pool import Acquire, Pool, Slot
from aiodbkit.pool.slot import SlotState
from aiodbkit.verbs import time_left

if TYPE_CHECKING:
    from aiodbkit.engine import Engine

__all__ = ["EnginePool"]


class EnginePool(Pool[DriverConnection]):
    """An engine's pool: lends `Connection`s, and opens itself with the first of them."""

    is_sandbox = False  # whether it stands in for the engine's pool, see `aiodbkit.testing`

    def __init__(self, engine: Engine) -> None:
        options = engine.options
        super().__init__(
            self._open_connection,
            close=_close,
            ping=_ping,
            clean=self._clean_connection,
            is_dirty=attrgetter("is_dirty") if options.on_release is None else _yes,
            is_closed=attrgetter("is_closed"),
            prepare=None if options.on_acquire is None else self._prepare_connection,
            abort=_abort,
            on_failure=_note_failure,
            options=engine.pool_options,
            connect_retry=options.connect_retry,
        )
        self._engine = engine

    async def open(self) -> None:
        """Open the pool; see `Pool.open`."""
        self._engine._observation.watch_pool(self)
        await super().open()

    # What it does with a connection

    async def _open_connection(self) -> DriverConnection:
        driver = self._engine._driver
        assert driver is not None
        opened = await driver.connect()
        options = self._engine.options
        try:
            for sql in options.session_sql:
                await opened.execute_script(sql, None)
            if options.on_connect is not None:
                await self._run_hook(options.on_connect, opened)
            opened.keep_session()
            for hook in self._engine._opened_hooks:
                hook(opened)
        except BaseException:
            opened.abort()
            raise
        return opened

    async def _prepare_connection(self, driver: DriverConnection) -> None:
        hook = self._engine.options.on_acquire
        assert hook is not None
        await self._run_hook(hook, driver)

    async def _clean_connection(self, driver: DriverConnection) -> None:
        await driver.clean()
        hook = self._engine.options.on_release
        if hook is not None:
            await self._run_hook(hook, driver)
            await driver.clean()

    async def _run_hook(self, hook: ConnectionHook, driver: DriverConnection) -> None:
        """Lend the connection to a hook, outside the pool's books."""
        slot: Slot[DriverConnection] = Slot(self)
        slot.resource = driver
        slot.state = SlotState.CHECKING
        connection = Connection(self._engine, slot)
        try:
            await hook(connection)
        finally:
            connection._end()

    # Lending

    def acquire(self, *, timeout: float | None = None) -> Acquire[Connection]:
        """Borrow a connection; see `Pool.acquire`."""
        if timeout is not None:
            seconds("timeout", timeout, optional=True)
        return Acquire(self, timeout)

    def lend(self, slot: Slot[DriverConnection]) -> Connection:
        """Make the connection of a slot that was taken for a block."""
        return Connection(self._engine, slot)

    def hand_out(self, slot: Slot[DriverConnection]) -> Connection:
        """Make the connection of a slot that was taken without a block."""
        slot.is_handed_out = True
        return Connection(self._engine, slot)

    async def wait(self, timeout: float | None = None) -> Slot[DriverConnection]:
        """Stand in line for a slot; see `acquire`."""
        if not self.is_open or self._engine._opening.taken:
            await self._engine._connect_by_itself()
        return await super().wait(timeout)

    async def wait_within(self, limit: float | None) -> tuple[Slot[DriverConnection], float | None]:
        """Stand in line for as long as ``limit`` allows; return what is left of it, too."""
        since = monotonic()
        longest = self.options.acquire_timeout
        slot = await self.wait(longest if limit is None else min(limit, longest))
        try:
            left = time_left(limit, since)
        except QueryTimeoutError:
            self.give_back(slot)
            raise
        self._engine._observation.note_wait(slot.resource, since)
        return slot, left

    async def slot_within(self, limit: float | None) -> tuple[Slot[DriverConnection], float | None]:
        """Return a slot, at once where one is idle, and the seconds that are left of ``limit``."""
        slot = self.take()
        return (slot, limit) if slot is not None else await self.wait_within(limit)


def _note_failure(driver: DriverConnection, error: BaseException) -> None:
    """Only an `Error` says that the connection is still in step with the server."""
    if not isinstance(error, Error):
        driver.suspect = True


async def _close(driver: DriverConnection) -> None:
    await driver.close()


async def _ping(driver: DriverConnection) -> None:
    await driver.ping()


def _abort(driver: DriverConnection) -> None:
    driver.abort()


def _yes(_driver: DriverConnection) -> bool:
    return True
