"""Shared connections: several tasks multiplex one, statement by statement, in autocommit.

What DBUtils' ``PooledDB`` does with ``maxshared``. What needs a connection for itself, a
transaction first of all, takes one of its own: nobody's statements end up in the transaction
of somebody else.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

from aiodbkit.blocks import Block
from aiodbkit.connection import Connection
from aiodbkit.driver import DriverConnection, Params
from aiodbkit.errors import SessionClosedError, TransactionScopeError
from aiodbkit.lasting import LastingConnection, LastingStream
from aiodbkit.options import ChildTasks
from aiodbkit.scope import Place, Scope, current_place
from aiodbkit.stream import Stream
from aiodbkit.verbs import Turn, Verbs, time_left

if TYPE_CHECKING:
    from aiodbkit.engine import Engine

__all__ = ["SharedBlock", "SharedConnection", "SharedConnections"]


_OF_ONE_USER = ("begin", "commit", "in_transaction", "raw", "rollback", "transaction")


class SharedConnections:
    """The connections of an engine that are shared now, at most ``max_shared``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shares: list[_Share] = []
        # What is read on lasting connections, be they shared or kept, so that none is replaced.
        self.streams: WeakSet[Stream[Any]] = WeakSet()

    def join(self) -> _Share:
        """Return a new one while there may be more, else the one with the fewest users."""
        most = self._engine.pool.max_size  # of more, the last would wait for the first
        if len(self._shares) < min(self._engine.options.max_shared, most):
            share = _Share(self._engine)
            self._shares.append(share)
        else:
            share = min(self._shares, key=lambda share: share.users)
        share.users += 1
        return share

    def leave(self, share: _Share) -> None:
        """One user less; the last one gives the connection back."""
        share.users -= 1
        if not share.users:
            self._shares.remove(share)
            share.give_back()


class _Share(LastingConnection):
    """One connection of the pool, and how many use it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.users = 0

    @property
    def _is_wanted(self) -> bool:
        return self.users > 0

    def _is_bound(self, connection: Connection) -> bool:  # noqa: ARG002
        return False

    def _turn_of(
        self, turn: AbstractContextManager[DriverConnection], connection: Connection
    ) -> AbstractContextManager[DriverConnection]:
        return _AutocommitTurn(turn, connection)


class _AutocommitTurn:
    """A turn that leaves no transaction behind: the next statement is somebody else's."""

    __slots__ = ("_connection", "_turn")

    def __init__(
        self, turn: AbstractContextManager[DriverConnection], connection: Connection
    ) -> None:
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
        connection = self._connection
        driver = connection._driver
        left_open = connection._reader is None and driver.in_transaction
        if left_open:
            driver.abort()
        self._turn.__exit__(exc_type, exc, traceback)
        if left_open and exc is None:
            raise TransactionScopeError(
                "the statement left a transaction open on a shared connection, which was closed, "
                "so that it is rolled back: use db.transaction(), which takes one of its own"
            )


class SharedConnection(Verbs):
    """A connection that other tasks use, too: the verbs in autocommit, in turns.

    It has no `begin`, `transaction` and `raw`: ``db.transaction()`` and ``db.connection()`` inside
    the block take a connection of their own.
    """

    is_shared: ClassVar[bool] = True

    def __init__(self, engine: Engine, source: _Share | Place) -> None:
        self._engine = engine
        self._source: _Share | Place | None = source

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"<SharedConnection of {self._engine!r}: {state}>"

    if not TYPE_CHECKING:  # for a checker the names are not there

        def __getattr__(self, name: str) -> Any:
            if name not in _OF_ONE_USER:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            raise AttributeError(
                f"a shared connection has no {name}, as other tasks use it too: db.transaction() "
                "and db.connection() take a connection of their own"
            )

    @property
    def is_closed(self) -> bool:
        """Whether its block has ended."""
        return self._source is None

    @property
    def _command_timeout(self) -> float | None:  # type: ignore[override]
        return self._engine._command_timeout

    @property
    def _held(self) -> Connection | None:
        return None  # nobody's

    @property
    def _open_to_children(self) -> ChildTasks | None:
        return None

    @property
    def _open_source(self) -> _Share | Place:
        if self._source is None:
            raise SessionClosedError(
                "this shared connection was used after its block: open one where it is needed, "
                "`async with db.connection(shared=True) as conn:`"
            )
        return self._source

    def _use(self) -> AbstractContextManager[DriverConnection] | None:
        return self._open_source._use()

    async def _wait(self, limit: float | None) -> Turn:
        return await self._open_source._wait(limit)

    async def _take_hold(self, limit: float | None = None) -> Connection:
        return await self._open_source._take_hold(limit)

    def _stream(
        self, sql: str, params: Params, into: Any, batch_size: int, timeout: float | None
    ) -> Stream[Any]:
        return LastingStream(self, sql, params, into, batch_size, timeout)

    @property
    def _shared(self) -> SharedConnections:
        return self._engine._shared

    async def _connection_for_stream(
        self, limit: float | None
    ) -> tuple[Connection, bool, float | None]:
        since = monotonic()
        connection = await self._take_hold(limit)
        return connection, False, time_left(limit, since)

    def _end(self) -> None:
        self._source = None


class SharedBlock(Block[SharedConnection]):
    """`db.connection(shared=True)`."""

    _call = "connection(shared=True)"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._share: _Share | None = None
        self._scope: Scope | None = None

    async def _enter(self) -> SharedConnection:
        engine = self._borrowed_from = self._engine._target
        place = current_place(engine)
        if place is not None and not place.is_shared:  # it has one for itself: that one serves
            self._connection = SharedConnection(engine, place)
            return self._connection
        self._share = engine._shared.join()
        self._connection = SharedConnection(engine, self._share)
        self._scope = Scope(engine, self._connection)
        self._scope.enter()
        return self._connection

    async def _exit(self, error: BaseException | None) -> bool:  # noqa: ARG002
        self._connection._end()
        if self._scope is not None:
            self._scope.leave()
        if self._share is not None:
            self._borrowed_from._shared.leave(self._share)
        return False

    def _again(self) -> SharedBlock:
        return SharedBlock(self._engine)
