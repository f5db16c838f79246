"""Advisory locks: a name that one session holds at a time, on the whole server."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any, cast

from aiodbkit.blocks import Block, ConnectionBlock
from aiodbkit.connection import Connection
from aiodbkit.driver import Params
from aiodbkit.errors import ConnectionLostError, InterfaceError, InternalError, LockTimeoutError
from aiodbkit.options import seconds

if TYPE_CHECKING:
    from aiodbkit.engine import Engine

__all__ = ["AdvisoryLock", "AdvisoryLockBlock", "lock_name"]

_LONGEST = 64  # characters of a name, from MySQL 5.7 on
_MOST_BYTES = 192  # of the same in MariaDB, which counts three for each
_FOR_EVER = 31_536_000  # seconds: the longest wait of MariaDB's, and no server waits for ever

# The function names in backticks are no session state to the connection: giving the lock back is
# our affair.
_TAKE = "SELECT `get_lock`(:name, :timeout)"
_GIVE_BACK = "SELECT `release_lock`(:name)"


def lock_name(name: str) -> str:
    """Return what stands for a name at the server: itself, or its SHA-256 if it is too long."""
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise InterfaceError(
            f"advisory_lock(): {name[:_LONGEST]!r} has a lone surrogate, which is no character"
        ) from None
    is_short = len(name) <= _LONGEST and len(raw) <= _MOST_BYTES
    return name if is_short else hashlib.sha256(raw).hexdigest()


class AdvisoryLock:
    """A lock that a block holds.

    Attributes:
        name: as it was given.
        key: as the server knows it.
    """

    def __init__(self, name: str, connection: Connection) -> None:
        self.name = name
        self.key = lock_name(name)
        self._connection = connection

    def __repr__(self) -> str:
        return f"<AdvisoryLock {self.name!r}>"

    @property
    def is_held(self) -> bool:
        """Whether it is, as far as is known without asking the server."""
        return not self._connection.is_closed


class AdvisoryLockBlock(Block[AdvisoryLock]):
    """`db.advisory_lock()`: a connection block that holds the lock as well."""

    _call = "advisory_lock()"

    def __init__(self, engine: Engine, name: str, *, timeout: float | None) -> None:
        if not name or not isinstance(cast("object", name), str):
            raise InterfaceError(f"advisory_lock(): a lock is named by a text, not by {name!r}")
        seconds("timeout", timeout, optional=True)
        self._engine = engine
        self._name, self._timeout = name, timeout
        self._key = lock_name(name)
        self._holder = ConnectionBlock(engine)
        self._lock: AdvisoryLock | None = None

    def _again(self) -> AdvisoryLockBlock:
        return AdvisoryLockBlock(self._engine, self._name, timeout=self._timeout)

    async def _enter(self) -> AdvisoryLock:
        connection = await self._holder._enter()
        try:
            await self._take(connection)
        except BaseException:
            self._holder.leave()
            raise
        self._lock = AdvisoryLock(self._name, connection)
        return self._lock

    async def _exit(self, error: BaseException | None) -> bool:
        assert self._lock is not None
        try:
            failure = await self._give_back(self._lock._connection)
        finally:
            self._holder.leave()
        if failure is not None and error is None:
            raise failure
        if failure is not None and error is not None:
            error.add_note(str(failure))
        return False

    async def _take(self, connection: Connection) -> None:
        # A wait that is cancelled costs the connection, and with it whatever it may have got.
        wait = _FOR_EVER if self._timeout is None else self._timeout
        params = {"name": self._key, "timeout": wait}
        taken: Any = 0
        while taken == 0:
            taken = await _ask(connection, _TAKE, params)
            if taken == 0 and self._timeout is not None:
                raise self._timed_out()
        if taken != 1:
            raise InternalError(f"GET_LOCK failed at the server, for advisory_lock({self._name!r})")

    async def _give_back(self, connection: Connection) -> ConnectionLostError | None:
        """Unlock, in a task of the pool with a deadline; what cannot be unlocked is closed.

        Returns:
            The error that says that the lock was lost, if it was.
        """
        if connection._has_ended:
            return self._lost()
        work = connection._spawn_work(self._unlock(connection))
        await asyncio.wait((work,))
        if work.cancelled() or work.exception() is not None:
            lost = self._lost()
            lost.__cause__ = None if work.cancelled() else work.exception()
            return lost
        return None if work.result() else self._lost("by an SQL statement that released it")

    async def _unlock(self, connection: Connection) -> bool:
        try:
            async with (
                asyncio.timeout(connection._pool.options.reset_timeout),
                connection._control() as driver,
            ):
                _, rows = await driver.fetch(_GIVE_BACK, {"name": self._key}, None)
        except BaseException:
            connection._driver.abort()  # which unlocks as well
            raise
        return bool(rows[0][0] == 1)

    def _timed_out(self) -> LockTimeoutError:
        waited = f"was not free within timeout={self._timeout:g} s" if self._timeout else "is taken"
        return LockTimeoutError(
            f"advisory_lock({self._name!r}) {waited}: another session holds it "
            f"(`select is_used_lock('...')` tells which)",
        )

    def _lost(self, how: str = "together with the connection that held it") -> ConnectionLostError:
        return ConnectionLostError(
            f"advisory_lock({self._name!r}) was lost {how}, at some time in its block: somebody "
            "else may have held it since",
            is_transient=False,
        )


async def _ask(connection: Connection, sql: str, params: Params) -> Any:
    """Return the one value, without the engine's command_timeout: locks take as long as they do."""
    if (turn := connection._use()) is None:
        turn, _ = await connection._wait(None)
    with turn as driver:
        _, rows = await driver.fetch(sql, params, None)
    return rows[0][0]
