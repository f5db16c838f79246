"""One connection of the database played as many: what the pool of a sandbox lends.

Each looks to the rest of aiodbkit like a connection of its own, whose transactions are savepoints
on the wire, see `aiodbkit.testing.wire`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from aiodbkit.driver import (
    Capabilities,
    DriverConnection,
    DriverCursor,
    ExecuteResult,
    Fetched,
    Params,
)
from aiodbkit.errors import (
    ConnectionLostError,
    Error,
    InternalError,
    NotSupportedError,
    ReadOnlyError,
)
from aiodbkit.options import TransactionOptions
from aiodbkit.sql import Dialect, blank, split
from aiodbkit.testing.wire import Wire

__all__ = ["SharedConnection"]

T = TypeVar("T")

_WRITING = (
    "alter|create|delete|drop|grant|insert|load|merge|rename|replace|revoke|truncate|update|vacuum"
)
_WRITES = re.compile(
    rf"[\s(]*({_WRITING})\b|\s*with\b.*\b(insert|(?<!for )update|delete|merge)\b",
    re.IGNORECASE | re.DOTALL,
)


class SharedConnection(DriverConnection):
    """A connection of its own to whoever uses it; a part of the wire in truth."""

    __slots__ = ("_is_read_only", "_is_shut", "_number", "_reads_alone", "_wire")

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire.driver.raw)
        self._wire = wire
        self._number = 0  # of its savepoint; 0: not in a transaction
        self._is_read_only = False
        self._is_shut = False
        self._reads_alone = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in SharedConnection.__slots__:
            raise AttributeError(name)
        return getattr(self._wire.driver, name)  # what only this backend has

    @property
    def real(self) -> DriverConnection:
        """The connection that it is a part of; in a nested sandbox, one of the outer one's."""
        return self._wire.driver

    @property
    def is_closed(self) -> bool:
        return self._is_shut or self._wire.has_ended or self._wire.driver.is_closed

    @property
    def in_transaction(self) -> bool:
        return self._number != 0

    @property
    def is_dirty(self) -> bool:
        return self.suspect or self.in_transaction or self._reads_alone

    def expose(self) -> Any:
        return self._wire.driver.expose()

    def lose(self, reason: Error) -> None:
        """Its transaction has ended without it."""
        self._number = 0
        self.transaction_lost = reason

    async def _run(
        self,
        limit: float | None,
        work: Callable[[float | None], Awaitable[T]],
        *,
        alone: bool = False,
    ) -> T:
        self._refuse_if_shut()
        try:
            return await self._wire.run(self, limit, work, alone=alone)
        except BaseException:
            if self.in_transaction and not self._wire.driver.suspect:
                self._note_loss()
            raise

    def _note_loss(self) -> None:
        gone = self._wire.reason_gone()
        if gone is not None:
            self.transaction_lost = gone

    def _refuse_if_shut(self) -> None:
        if self._is_shut:
            raise ConnectionLostError("this connection of the sandbox was closed")

    def _refuse_to_write(self, sql: str) -> None:
        """In a read-only transaction, as the server would; a savepoint cannot be made that."""
        if not (self._is_read_only and self.in_transaction):
            return
        dialect = getattr(self._wire.driver, "dialect", Dialect.POSTGRES)
        for statement in split(sql, dialect):
            found = _WRITES.match(blank(statement, dialect))
            if found is not None:
                self._refuse_write(found[1] or found[2], sql)

    def _refuse_write(self, what: str, sql: str | None) -> None:
        raise ReadOnlyError(
            f"this transaction is read_only: {what.lower()} is refused, as it is outside of the "
            "sandbox",
            query=sql,
        )

    # Statements

    async def execute(self, sql: str, params: Params, timeout: float | None) -> ExecuteResult:
        self._refuse_to_write(sql)
        driver = self._wire.driver
        return await self._run(timeout, lambda left: driver.execute(sql, params, left))

    async def execute_many(
        self, sql: str, rows: Sequence[Params], timeout: float | None
    ) -> ExecuteResult:
        self._refuse_to_write(sql)
        driver = self._wire.driver
        return await self._run(timeout, lambda left: driver.execute_many(sql, rows, left))

    async def execute_script(self, sql: str, timeout: float | None) -> None:
        self._refuse_to_write(sql)
        driver = self._wire.driver
        await self._run(timeout, lambda left: driver.execute_script(sql, left))

    async def fetch(
        self, sql: str, params: Params, timeout: float | None, limit: int = 0
    ) -> Fetched:
        self._refuse_to_write(sql)
        driver = self._wire.driver
        return await self._run(timeout, lambda left: driver.fetch(sql, params, left, limit))

    async def insert_many(
        self, table: str, columns: Sequence[str], rows: Any, timeout: float | None
    ) -> int:
        if self._is_read_only and self.in_transaction:
            self._refuse_write(f"insert_many into {table}", None)
        driver = self._wire.driver
        return await self._run(timeout, lambda left: driver.insert_many(table, columns, rows, left))

    async def open_cursor(
        self, sql: str, params: Params, timeout: float | None, batch_size: int
    ) -> DriverCursor:
        self._refuse_to_write(sql)
        driver, alone = self._wire.driver, self._wire.can.cursor_is_exclusive
        cursor = await self._run(
            timeout, lambda left: driver.open_cursor(sql, params, left, batch_size), alone=alone
        )
        self._reads_alone = alone
        return _SharedCursor(self, cursor)

    # Transactions

    async def begin(self, options: TransactionOptions) -> None:
        self._refuse_if_shut()
        _refuse_unsupported(self._wire.can, options)
        self._number = await self._wire.begin(self)
        self._is_read_only = options.read_only
        self.transaction_lost = None

    async def commit(self) -> None:
        if not self.in_transaction:
            raise InternalError(
                "there is nothing to commit: the transaction is gone", query="COMMIT"
            ) from self.transaction_lost
        await self._end(commit=True)

    async def rollback(self) -> None:
        if self.in_transaction:
            await self._end(commit=False)

    async def _end(self, *, commit: bool) -> None:
        number, self._number = self._number, 0
        self._reads_alone = False
        await self._wire.end(self, number, commit=commit)

    # A savepoint's name is its connection's own: the wire has those of many.

    async def savepoint(self, name: str) -> None:
        driver, own = self._wire.driver, f"{name}_{self._number}"
        await self._run(None, lambda _: driver.savepoint(own))

    async def release_savepoint(self, name: str) -> None:
        driver, own = self._wire.driver, f"{name}_{self._number}"
        await self._run(None, lambda _: driver.release_savepoint(own))

    async def rollback_to_savepoint(self, name: str) -> None:
        driver, own = self._wire.driver, f"{name}_{self._number}"
        await self._run(None, lambda _: driver.rollback_to_savepoint(own))

    # Upkeep

    async def ping(self) -> None:
        gone = self._wire.reason_gone()
        if gone is not None:
            raise gone

    async def recover(self) -> None:
        await self._wire.enter(self, None, ends=True)
        try:
            await self._wire.refresh()
        except Error:
            self._note_loss()
        finally:
            self._wire.leave()
        self.suspect = False

    async def clean(self) -> None:
        if self.suspect:
            await self.recover()
        await self.rollback()
        self._stop_reading_alone()
        self.transaction_lost = None

    def _stop_reading_alone(self) -> None:
        if self._reads_alone:
            self._reads_alone = False
            self._wire.release_cursor(self)

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._is_shut = True
        self._number = 0
        self._wire.abandon(self)


class _SharedCursor(DriverCursor):
    def __init__(self, connection: SharedConnection, cursor: DriverCursor) -> None:
        self._connection = connection
        self._cursor = cursor

    async def fetch(self) -> Fetched:
        wire = self._connection._wire
        await wire.enter(self._connection, None)
        try:
            await wire.refresh()
            return await wire._noting(self._cursor.fetch())
        finally:
            wire.leave()

    async def close(self) -> None:
        wire = self._connection._wire
        await wire.enter(self._connection, None, ends=True)
        try:
            await wire._noting(self._cursor.close())
        finally:
            self._connection._stop_reading_alone()
            wire.leave()


def _refuse_unsupported(can: Capabilities, options: TransactionOptions) -> None:
    """A savepoint has no options, but what the backend would refuse is refused here as well."""
    wrong = None
    if options.isolation is not None and options.isolation not in can.isolation_levels:
        wrong = f"isolation={options.isolation!r}"
    elif options.deferrable and not can.deferrable:
        wrong = "deferrable=True"
    elif options.mode is not None and not can.lock_modes:
        wrong = f"mode={options.mode!r}"
    if wrong is not None:
        raise NotSupportedError(f"this backend has no transaction with {wrong}")
