"""An engine's pool: lends `Connection`s, and opens itself with the first of them."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from aiodbkit.connection import Connection
from aiodbkit.driver import DriverConnection
from aiodbkit.errors import Error
from aiodbkit.options import seconds
from aiodbkit.pool import Acquire, Pool, Slot

if TYPE_CHECKING:
    from aiodbkit.engine import Engine

__all__ = ["EnginePool"]


class EnginePool(Pool[DriverConnection]):
    """An engine's pool: lends `Connection`s, and opens itself with the first of them."""

    is_sandbox = False  # whether it stands in for the engine's pool, see `aiodbkit.testing`

    def __init__(self, engine: Engine) -> None:
        options = engine.options
        super().__init__(
            engine._open_connection,
            close=_close,
            ping=_ping,
            clean=engine._clean_connection,
            is_dirty=attrgetter("is_dirty") if options.on_release is None else _yes,
            is_closed=attrgetter("is_closed"),
            prepare=None if options.on_acquire is None else engine._prepare_connection,
            abort=_abort,
            on_failure=_note_failure,
            options=engine.pool_options,
            connect_retry=options.connect_retry,
        )
        self._engine = engine

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
