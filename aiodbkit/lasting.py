"""Connections that outlast blocks: replaced between two statements when they die or grow old.

Those that a task keeps (`aiodbkit.persistent`), and those that tasks share (`aiodbkit.shared`).
A statement that waited for one that was replaced meanwhile goes to the next; none is sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AbstractContextManager
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from aiodbkit.connection import Connection
from aiodbkit.driver import DriverConnection
from aiodbkit.errors import ConnectionLostError, Error, InterfaceError, QueryTimeoutError
from aiodbkit.stream import Stream
from aiodbkit.turns import Turns
from aiodbkit.verbs import Turn, time_left

if TYPE_CHECKING:
    from aiodbkit.engine import Engine

__all__ = ["LastingConnection", "LastingStream"]

T = TypeVar("T")


class LastingConnection:
    """One connection of the pool, and another one in its place when it is done for."""

    def __init__(self, engine: Engine, connection: Connection | None = None) -> None:
        self._engine = engine
        self._renewal = Turns()
        self._used_at = monotonic()
        self.connection = connection

    # What each kind of them says

    @property
    def _is_wanted(self) -> bool:
        """Whether anybody is left to use it."""
        raise NotImplementedError

    def _is_bound(self, connection: Connection) -> bool:
        """Whether somebody counts on this very one: he is told of its end, it is not replaced."""
        raise NotImplementedError

    def _turn_of(
        self, turn: AbstractContextManager[DriverConnection], connection: Connection
    ) -> AbstractContextManager[DriverConnection]:
        raise NotImplementedError

    def _refuse_if_missed(self, connection: Connection) -> None:
        """Raise if something was lost with it that its user has not been told of yet."""

    # Where statements run

    def _use(self) -> AbstractContextManager[DriverConnection] | None:
        connection = self.connection
        if connection is None or not self._is_ready(connection):
            return None
        turn = connection._use()
        if turn is None:
            return None
        self._used_at = monotonic()
        return self._turn_of(turn, connection)

    async def _wait(self, limit: float | None) -> Turn:
        since = monotonic()
        while True:
            connection = await self._take_hold(time_left(limit, since))
            left = time_left(limit, since)
            try:
                if (turn := connection._use()) is None:
                    turn, left = await connection._wait(left)
            except (ConnectionLostError, InterfaceError):
                if not self._is_to_go_on_without(connection):
                    raise
                continue  # it died, or was replaced, while this statement stood in line
            if not self._is_to_go_on_without(connection):
                return self._turn_of(turn, connection), left
            connection._pass_turn_on()

    async def _take_hold(self, limit: float | None = None) -> Connection:
        """Return the connection, or another one in its place."""
        connection = self.connection
        if connection is not None and self._is_ready(connection):
            return connection
        since = monotonic()
        await _in_time(limit, self._renewal.take())
        try:
            return await self._renewed(limit, since)
        finally:
            self._renewal.pass_on()
            if not self._is_wanted:  # all have left meanwhile
                self.give_back()

    async def _renewed(self, limit: float | None, since: float) -> Connection:
        connection = self.connection
        if connection is not None and not self._is_ready(connection):
            if not self._is_done(connection):
                await _in_time(time_left(limit, since), self._look(connection))
            if self._is_done(connection):
                self._refuse_if_missed(connection)
                self.give_back()
        if self.connection is None:
            pool = self._engine.pool
            slot, _ = await pool.slot_within(time_left(limit, since))
            self.connection = pool.lend(slot)
        self._used_at = monotonic()
        return self.connection

    async def _look(self, connection: Connection) -> None:
        """Ping it in its turn; one that does not answer is closed."""
        try:
            if (turn := connection._use()) is None:
                turn, _ = await connection._wait(None)
        except (ConnectionLostError, InterfaceError):
            if not connection.is_closed:
                raise
            return
        with turn as driver:
            try:
                async with asyncio.timeout(self._engine.pool.options.check_timeout):
                    await driver.ping()
            except (Error, TimeoutError):
                driver.abort()

    def give_back(self) -> None:
        """Give the connection back: a statement that is on its way comes to its end before."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection._leave()

    # In which state it is

    def _is_ready(self, connection: Connection) -> bool:
        """Whether a statement may be sent on it as it is."""
        if self._is_bound(connection):
            return True
        return not self._is_done(connection) and monotonic() - self._used_at < self._unchecked_for

    def _is_to_go_on_without(self, connection: Connection) -> bool:
        return connection.is_closed and self._is_wanted and not self._is_bound(connection)

    def _is_done(self, connection: Connection) -> bool:
        """Whether it is dead, or too old with nothing going on that its end would break."""
        slot = connection._slot
        if slot is None or connection.is_closed:
            return True
        engine = self._engine
        if monotonic() < slot.expires_at and connection._pool is engine._pool:  # no sandbox came
            return False
        is_read = any(stream._connection is connection for stream in engine._shared.streams)
        return not (is_read or connection._driver.in_transaction)

    @property
    def _unchecked_for(self) -> float:
        """Seconds of idleness after which the connection is looked at before it is used."""
        options = self._engine.pool.options
        return {"never": float("inf"), "idle": options.check_after}.get(options.check, 0.0)


class LastingStream(Stream[T]):
    """An `iterate` on such a connection, which is not replaced by a younger one until its end."""

    async def _open(self) -> None:
        self._source._shared.streams.add(self)  # type: ignore[union-attr]
        refused: Connection | None = None
        while True:
            try:
                return await super()._open()
            except (ConnectionLostError, InterfaceError):
                connection = self._connection
                was_sent = self._closing.driver is not None
                if connection is None or was_sent or not connection.is_closed:
                    raise
                if connection is refused:  # it is the only one that there is for it
                    raise
                # It died, or was replaced, while this statement stood in line.
                refused, self._connection = connection, None


async def _in_time(limit: float | None, work: Awaitable[Any]) -> None:
    try:
        async with asyncio.timeout(limit):
            await work
    except TimeoutError as error:
        if isinstance(error, Error) or limit is None:
            raise
        raise QueryTimeoutError(
            f"the wait for the connection took all of the {limit:g} s: nothing was sent"
        ) from error
