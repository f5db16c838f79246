"""Persistent mode: a task keeps its connection from its first statement until it ends.

What DBUtils' ``PersistentDB`` does for threads. Unlike there, a connection that died is replaced
only before a statement is sent and outside of transactions, and no statement is sent twice.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from aiodbkit.connection import Connection
from aiodbkit.driver import DriverConnection
from aiodbkit.errors import ConnectionLostError, PoolTimeoutError
from aiodbkit.lasting import LastingConnection
from aiodbkit.options import ChildTasks
from aiodbkit.scope import Scope

if TYPE_CHECKING:
    from aiodbkit.engine import Engine

__all__ = ["KeptConnection", "KeptConnections"]


class KeptConnections:
    """Those that the tasks of an engine keep."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: set[KeptConnection] = set()

    async def keep(self, limit: float | None) -> KeptConnection:
        """Give the running task a connection, until it ends."""
        try:
            slot, _ = await self._engine.pool.slot_within(limit)
        except PoolTimeoutError as error:
            error.add_note(
                "persistent=True: each task keeps its connection until it ends, so that max_size "
                "is how many tasks can use the engine at a time"
            )
            raise
        kept = KeptConnection(self._engine, self._engine.pool.lend(slot))
        self._kept.add(kept)
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._end(kept))
        return kept

    def release(self) -> None:
        """Take back what no transaction and no block needs: the engine is to be closed."""
        for kept in tuple(self._kept):
            kept.release()

    def _end(self, kept: KeptConnection) -> None:
        self._kept.discard(kept)
        kept.end()


class KeptConnection(LastingConnection):
    """A task's own connection: where its statements run outside of transactions.

    Attributes:
        pins: the open blocks of `Engine.connection` that count on this very connection.
    """

    is_shared: ClassVar[bool] = False

    def __init__(self, engine: Engine, connection: Connection) -> None:
        super().__init__(engine, connection)
        self.pins = 0
        self.has_open = False  # a transaction that was begun by SQL, after the last statement
        self._has_ended = False
        self._scope = Scope(engine, self)
        self._scope.enter()

    def end(self) -> None:
        """Its task has ended: give the connection back."""
        self._has_ended = True
        self._scope.leave()
        self.give_back()

    def release(self) -> None:
        """Give the connection back unless it is needed."""
        connection = self.connection
        if connection is None or self._is_bound(connection) or connection.in_transaction:
            return
        self.give_back()

    @property
    def _held(self) -> Connection | None:
        connection = self.connection
        return None if connection is None or connection._slot is None else connection

    @property
    def _open_to_children(self) -> ChildTasks | None:
        return None if self.connection is None else self.connection._open_to_children

    @property
    def _is_wanted(self) -> bool:
        return not self._has_ended

    def _is_bound(self, connection: Connection) -> bool:
        return self.pins > 0 or connection._innermost is not None

    def _turn_of(
        self, turn: AbstractContextManager[DriverConnection], connection: Connection
    ) -> AbstractContextManager[DriverConnection]:
        return _KeptTurn(self, turn, connection)

    def _refuse_if_missed(self, connection: Connection) -> None:
        had_open, self.has_open = self.has_open, False
        if had_open and connection._slot is not None:  # it was not given back by hand
            raise ConnectionLostError(
                "the connection was lost, and with it the transaction that had been begun by SQL "
                "on it: nothing was sent. Begin the transaction again"
            )


class _KeptTurn:
    """A turn that notes whether a transaction is open behind it, which nobody else would know."""

    __slots__ = ("_connection", "_kept", "_turn")

    def __init__(
        self,
        kept: KeptConnection,
        turn: AbstractContextManager[DriverConnection],
        connection: Connection,
    ) -> None:
        self._kept = kept
        self._turn = turn
        self._connection = connection

    def __enter__(self) -> DriverConnection:
        return self._turn.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        driver, is_block = self._connection._driver, self._connection._innermost is not None
        if not driver.is_closed:
            self._kept.has_open = driver.in_transaction and not is_block
        elif exc is not None:
            self._kept.has_open = False  # its user is told so now
        self._turn.__exit__(exc_type, exc, traceback)
