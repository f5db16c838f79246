"""Advisory locks: a name that one block holds at a time, in all programs on the database."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

from aiodbkit.blocks import Block, ConnectionBlock
from aiodbkit.connection import Connection
from aiodbkit.errors import (
    ConnectionLostError,
    Error,
    InterfaceError,
    LockTimeoutError,
    NotSupportedError,
    QueryTimeoutError,
)
from aiodbkit.options import seconds

if TYPE_CHECKING:
    from aiodbkit.backends.postgres.engine import PostgresEngine

__all__ = ["AdvisoryLock", "AdvisoryLockBlock", "lock_key"]

# Seconds beyond the server's own lock_timeout after which it is taken for dead.
_GRACE = 5.0
_LONGEST_TIMEOUT = 2**31 - 1  # milliseconds that lock_timeout takes, 24 days

# What each borrowed connection holds: a second block of the same name on it only counts. So the
# server knows of each lock once, and what a cancelled wait may have got can be given back blindly.
_held: WeakKeyDictionary[Connection, Counter[tuple[int, bool]]] = WeakKeyDictionary()


def lock_key(name: str) -> int:
    """Return the 64 bits that stand for a name: the first of its SHA-256, as a signed number.

    In SQL: ``('x' || encode(substr(sha256('name'), 1, 8), 'hex'))::bit(64)::bigint``.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class AdvisoryLock:
    """A lock that a block holds.

    Attributes:
        name: as it was given.
        key: its 64 bits, as they stand in ``pg_locks``.
        shared: whether others may hold it too, shared.
    """

    def __init__(
        self, name: str, *, shared: bool, connection: Connection, is_of_transaction: bool
    ) -> None:
        self.name = name
        self.key = lock_key(name)
        self.shared = shared
        self._connection = connection
        self._is_of_transaction = is_of_transaction

    def __repr__(self) -> str:
        return f"<AdvisoryLock {self.name!r}>"

    @property
    def is_held(self) -> bool:
        """Whether it is, as far as is known without asking the server."""
        connection = self._connection
        return not connection.is_closed and (
            connection.in_transaction or not self._is_of_transaction
        )


class AdvisoryLockBlock(Block[AdvisoryLock]):
    """`db.advisory_lock()`: a connection block that holds the lock as well."""

    _call = "advisory_lock()"

    def __init__(
        self, engine: PostgresEngine, name: str, *, timeout: float | None, shared: bool
    ) -> None:
        if not name or not isinstance(cast("object", name), str):
            raise InterfaceError(f"advisory_lock(): a lock is named by a text, not by {name!r}")
        seconds("timeout", timeout, optional=True)
        self._engine = engine
        self._name, self._timeout, self._shared = name, timeout, shared
        try:
            self._key = lock_key(name)
        except UnicodeEncodeError:
            raise InterfaceError(
                f"advisory_lock(): the name {name!r} has a lone surrogate, which is no character"
            ) from None
        self._suffix = "_shared" if shared else ""
        self._holder = ConnectionBlock(engine)
        self._lock: AdvisoryLock | None = None
        self._is_of_transaction = False

    def _again(self) -> AdvisoryLockBlock:
        return AdvisoryLockBlock(
            self._engine, self._name, timeout=self._timeout, shared=self._shared
        )

    async def _enter(self) -> AdvisoryLock:
        connection = await self._holder._enter()
        try:
            self._is_of_transaction = connection.in_transaction
            if self._is_of_transaction:
                await self._take_for_transaction(connection)
            else:
                await self._take_for_session(connection)
        except BaseException:
            self._holder.leave()
            raise
        self._lock = AdvisoryLock(
            self._name,
            shared=self._shared,
            connection=connection,
            is_of_transaction=self._is_of_transaction,
        )
        return self._lock

    async def _exit(self, error: BaseException | None) -> bool:
        assert self._lock is not None
        connection = self._lock._connection
        failure: Error | None = None
        try:
            if self._is_of_transaction:  # it ends with that, by a commit in the block as well
                is_lost = connection.is_closed and not connection._has_ended
                failure = self._lost() if is_lost else None
            elif self._counts(connection)[self._key, self._shared] > 1:
                self._counts(connection)[self._key, self._shared] -= 1
            else:
                failure = await self._give_back(connection)
        finally:
            self._holder.leave()
        if failure is not None and error is None:
            raise failure
        if failure is not None and error is not None:
            error.add_note(str(failure))
        return False

    # Of the session

    async def _take_for_session(self, connection: Connection) -> None:
        if self._engine._shares_server_connections:
            raise NotSupportedError(
                "advisory_lock() outside of a transaction is a lock of the server's session, which "
                "a transaction-pooling proxy (prepared_statements=False) shares among its clients: "
                "take it inside of `async with db.transaction():`, which holds it to its end"
            )
        counts = self._counts(connection)
        if counts[self._key, self._shared]:
            counts[self._key, self._shared] += 1
            return
        try:
            await self._ask(connection)
        except BaseException as error:
            if not isinstance(error, Error) or isinstance(error, QueryTimeoutError):
                await self._give_back(connection)  # the answer may have been on its way
            raise
        counts[self._key, self._shared] = 1

    async def _ask(self, connection: Connection) -> None:
        # The name in quotes is no session state to the connection: giving it back is our affair.
        if self._timeout == 0:
            sql = f'select pg_catalog."pg_try_advisory_lock{self._suffix}"(:key)'
            if not await connection.fetch_val(sql, {"key": self._key}):
                raise self._timed_out()
        elif self._timeout is None:
            sql = f'select pg_catalog."pg_advisory_lock{self._suffix}"(:key)'
            await _fetch_patiently(connection, sql, self._key)
        else:
            # One transaction, whose setting ends with it; a lock of the session does not.
            await self._ask_in_time(
                connection,
                f"SET LOCAL lock_timeout = {_milliseconds(self._timeout)}; "
                f'SELECT pg_catalog."pg_advisory_lock{self._suffix}"({self._key})',
            )

    async def _give_back(self, connection: Connection) -> Error | None:
        """Unlock, in a task of the pool with a deadline; what cannot be unlocked is closed.

        Returns:
            The error that says that the lock was lost, if it was.
        """
        self._counts(connection)[self._key, self._shared] = 0
        if connection._has_ended:
            return self._lost()
        work = connection._spawn_work(self._unlock(connection))
        await asyncio.wait((work,))
        if work.cancelled() or work.exception() is not None or not work.result():
            lost = self._lost()
            lost.__cause__ = None if work.cancelled() else work.exception()
            return lost
        return None

    async def _unlock(self, connection: Connection) -> bool:
        sql = f'select pg_catalog."pg_advisory_unlock{self._suffix}"($1)'
        try:
            async with (
                asyncio.timeout(connection._pool.options.reset_timeout),
                connection._control() as driver,
            ):
                _, rows = await driver.fetch(sql, [self._key], None)
        except BaseException:
            connection._driver.abort()  # which unlocks as well
            raise
        return bool(rows[0][0])

    # Of the transaction

    async def _take_for_transaction(self, connection: Connection) -> None:
        if self._timeout == 0:
            sql = f"select pg_try_advisory_xact_lock{self._suffix}(:key)"
            if not await connection.fetch_val(sql, {"key": self._key}):
                raise self._timed_out()
        elif self._timeout is None:
            sql = f"select pg_advisory_xact_lock{self._suffix}(:key)"
            await _fetch_patiently(connection, sql, self._key)
        else:
            await self._take_in_savepoint(connection, self._timeout)

    async def _take_in_savepoint(self, connection: Connection, timeout: float) -> None:
        """Wait in a savepoint: a wait in vain is an error, which would end the transaction."""
        before = await connection.fetch_val("select current_setting('lock_timeout')")
        statements = (
            "SAVEPOINT aiodbkit_lock",
            f"SET LOCAL lock_timeout = {_milliseconds(timeout)}",
            f"SELECT pg_advisory_xact_lock{self._suffix}({self._key})",
            f"SET LOCAL lock_timeout = '{before}'",
            "RELEASE SAVEPOINT aiodbkit_lock",
        )
        try:
            await self._ask_in_time(connection, "; ".join(statements))
        except LockTimeoutError:
            await _send(
                connection,
                "ROLLBACK TO SAVEPOINT aiodbkit_lock; RELEASE SAVEPOINT aiodbkit_lock",
                None,
            )
            raise

    # Both

    async def _ask_in_time(self, connection: Connection, sql: str) -> None:
        assert self._timeout is not None
        try:
            await _send(connection, sql, self._timeout + _GRACE)
        except LockTimeoutError as error:
            raise self._timed_out() from error.__cause__

    def _counts(self, connection: Connection) -> Counter[tuple[int, bool]]:
        return _held.setdefault(connection, Counter())

    def _timed_out(self) -> LockTimeoutError:
        waited = f"within timeout={self._timeout:g} s" if self._timeout else "free"
        what = "was not free" if self._timeout else "is not"
        return LockTimeoutError(
            f"advisory_lock({self._name!r}) {what} {waited}: somebody else holds it "
            f"(pg_locks, key {self._key})",
            sqlstate="55P03",
        )

    def _lost(self) -> ConnectionLostError:
        return ConnectionLostError(
            f"advisory_lock({self._name!r}) was lost together with the connection that held it, at "
            "some time in its block: somebody else may have held it since",
            is_transient=False,
        )


async def _fetch_patiently(connection: Connection, sql: str, key: int) -> None:
    """Wait for the answer without the engine's command_timeout: a lock takes as long as it does."""
    if (turn := connection._use()) is None:
        turn, _ = await connection._wait(None)
    with turn as driver:
        await driver.fetch(sql, {"key": key}, None)


async def _send(connection: Connection, sql: str, timeout: float | None) -> None:
    if (turn := connection._use()) is None:
        turn, timeout = await connection._wait(timeout)
    with turn as driver:
        # execute_script() has the session reset at the end of the loan.
        send = getattr(driver, "send", driver.execute_script)
        await send(sql, timeout)


def _milliseconds(timeout: float) -> int:
    return max(1, min(round(timeout * 1000), _LONGEST_TIMEOUT))
