"""PostgreSQL over asyncpg.

What asyncpg leaves to its callers, and what is done about it:

- After a cancelled or timed-out call a task of asyncpg's sends the CancelRequest: the connection
  is ``suspect``, and `recover` waits for the end of that.
- A refused argument leaves the server without a Sync, its implicit transaction open: ``suspect``.
- ``executemany`` swallows a cancellation while it sends: it runs in a task of its own, and the
  connection is cut.
- In a transaction, ``executemany`` keeps the rows before a refused one, and a COPY whose rows end
  in an error aborts it: a savepoint undoes both.
- COMMIT of a failed transaction rolls back without an error: its answer is read.
- ``terminate()`` leaves the statement running: a CancelRequest is sent along.
- ``execute`` without arguments takes several statements: they are counted before.
- A transaction is still "open" on a dead connection: that one is not asked.
- A COPY to the client that is left early may be out of step: it is read to its end, see `bulk`.
- A cached statement keeps the parameters' types of before an ``ALTER TABLE``, so that its encoder
  refuses what fits the new ones, and COPY would write one type's bytes into a column of another:
  the statement is prepared anew, see `_is_outdated`, and for COPY each time, see `bulk`.
- ``add_listener()`` may drop what comes together with the answer to LISTEN, see `wire`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from aiodbkit.backends.postgres.bulk import PostgresBulk
from aiodbkit.backends.postgres.connect import Cuts
from aiodbkit.backends.postgres.cursor import Deadline, PostgresCursor
from aiodbkit.backends.postgres.errors import Sent
from aiodbkit.backends.postgres.sql import (
    RESET,
    Plan,
    argument_names,
    begin_statement,
    plan,
    script_control,
)
from aiodbkit.backends.postgres.wire import IN_STEP
from aiodbkit.driver import DriverCursor, ExecuteResult, Fetched, Params
from aiodbkit.errors import (
    CommitUnknownError,
    ConnectionLostError,
    DataError,
    InterfaceError,
    InternalError,
    TransactionScopeError,
)
from aiodbkit.options import TransactionOptions

__all__ = ["PostgresConnection"]


class PostgresConnection(PostgresBulk):
    """One asyncpg connection."""

    __slots__ = (
        "_exposed",
        "_reset",
        "_set_up",
        "_setting_up",
        "_touched",
        "_warn",
    )

    def __init__(
        self,
        raw: asyncpg.Connection[Any],
        cuts: Cuts,
        reset: str,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(raw, cuts)
        self._reset = reset
        self._warn = warn  # of a statement that touches a session which is not one's own
        self._touched = self._exposed = False
        self._setting_up = True
        # What set the session up, to be done again after a reset; None is what cannot be.
        self._set_up: list[tuple[str, Params] | None] = []

    @property
    def is_dirty(self) -> bool:
        return self.suspect or self._touched or self.in_transaction

    def expose(self) -> asyncpg.Connection[Any]:
        """Hand out asyncpg's connection: nobody knows what will be done with it."""
        self._touch(None)
        self._exposed = True
        return self.raw

    def keep_session(self) -> None:
        self._setting_up = self._exposed = False
        self._touched = self._reset == "always"

    def _touch(self, by: tuple[str, Params] | None) -> None:
        if self._setting_up:
            self._set_up.append(by)
        if self._warn is not None and by is not None:
            self._warn(by[0])
        self._touched = self._reset != "never"

    # Statements

    async def fetch(
        self, sql: str, params: Params, timeout: float | None, limit: int = 0
    ) -> Fetched:
        known = plan(sql)
        if known.special:
            self._prepare_for(known, params)
        text, args = known.statement.bind(params)
        try:
            # A row limit would leave locks untaken and writes undone; a mere read has neither.
            if limit == 1 and known.statement.is_read:
                row = await self.raw.fetchrow(text, *args, timeout=timeout)
                return ((), ()) if row is None else (tuple(row.keys()), (row,))
            rows = await self.raw.fetch(text, *args, timeout=timeout)
        except Exception as error:
            sent = Sent(sql, timeout, argument_names(known.statement, params), args)
            if await self._is_outdated(error, sent, text):
                return await self.fetch(sql, params, timeout, limit)
            raise self._failed(error, sent, text) from error
        return (tuple(rows[0].keys()) if rows else ()), rows

    async def execute(self, sql: str, params: Params, timeout: float | None) -> ExecuteResult:
        known = plan(sql)
        if known.special:
            self._prepare_for(known, params)
        text, args = known.statement.bind(params)
        try:
            status = await self.raw.execute(text, *args, timeout=timeout)
        except Exception as error:
            sent = Sent(sql, timeout, argument_names(known.statement, params), args)
            if await self._is_outdated(error, sent, text):
                return await self.execute(sql, params, timeout)
            raise self._failed(error, sent, text) from error
        count = status.rpartition(" ")[2]
        return ExecuteResult(int(count) if count.isdecimal() else -1)

    def _prepare_for(self, known: Plan, params: Params) -> None:
        if known.touches:
            self._touch((known.statement.sql, params))
        if known.ends and self._began:
            raise TransactionScopeError(
                f"{known.ends} would begin or end a transaction inside the open one: leave that to "
                "its block, or to begin(), commit() and rollback()",
                query=known.statement.sql,
            )

    async def execute_script(self, sql: str, timeout: float | None) -> None:
        """Run several statements; outside a transaction they are one, unless they say otherwise."""
        control = script_control(sql)
        if control is None:
            return
        if control and (self._began or self.in_transaction):
            raise TransactionScopeError(
                f"the script holds {control}, which would begin or end a transaction inside the "
                "open one: run it outside of it, or without",
                query=sql,
            )
        self._touch((sql, None))
        await self._send(sql, timeout)

    async def execute_many(
        self, sql: str, rows: Sequence[Params], timeout: float | None
    ) -> ExecuteResult:
        known = plan(sql)
        if known.special:
            self._prepare_for(known, None)
        text, batch = known.statement.bind_many(rows)
        is_outdated, left = False, timeout
        try:
            async with self._all_or_none(timeout) as deadline:
                try:
                    await self._send_many(text, batch, deadline.left)
                except Exception as error:
                    sent = Sent(sql, timeout, argument_names(known.statement, rows[0]), batch)
                    is_outdated, left = await self._is_outdated(error, sent, text), deadline.left
                    raise self._failed(error, sent, text) from error
        except DataError:
            if not is_outdated:
                raise
            await self.recover()  # rows before the refused one may have been sent
            return await self.execute_many(sql, rows, left)
        return ExecuteResult(-1)

    async def open_cursor(
        self, sql: str, params: Params, timeout: float | None, batch_size: int
    ) -> DriverCursor:
        known = plan(sql)
        if known.special:
            self._prepare_for(known, params)
        text, args = known.statement.bind(params)
        deadline = Deadline(timeout)
        try:
            # asyncpg's own timeout is for each of the two things that it does here.
            async with asyncio.timeout(timeout):
                cursor = await self.raw.cursor(text, *args)
        except Exception as error:
            sent = Sent(sql, timeout, argument_names(known.statement, params), args)
            if await self._is_outdated(error, sent, text):
                return await self.open_cursor(sql, params, timeout, batch_size)
            raise self._failed(error, sent, text) from error
        return PostgresCursor(self, cursor, Sent(sql, timeout), batch_size, deadline.left)

    # Transactions

    async def begin(self, options: TransactionOptions) -> None:
        statement = begin_statement(options)
        if self.suspect:  # an implicit transaction left open would refuse ISOLATION LEVEL
            await self.recover()
        if self.in_transaction:
            raise InterfaceError("a transaction is already open on this connection")
        self.transaction_lost = None
        self._resync = "ROLLBACK"  # if interrupted: nobody would know of the transaction
        await self._send(statement)
        self._resync = IN_STEP
        self._began, self._read_only = True, options.read_only

    async def commit(self) -> None:
        if self.is_closed:  # nothing can be in doubt yet
            raise self._lost(asyncpg.InterfaceError("it was closed before COMMIT"), "COMMIT")
        try:
            status = await self._send("COMMIT")
        except ConnectionLostError as error:
            raise CommitUnknownError(
                f"the connection broke during COMMIT, which may have taken effect: {error}",
                sqlstate=error.sqlstate,
                query="COMMIT",
            ) from error.__cause__
        finally:
            self._began = self.in_transaction
        if status != "COMMIT":
            raise InternalError(
                f"PostgreSQL answered COMMIT with {status}: nothing was committed, because an "
                "earlier statement of the transaction had failed and its error was swallowed; let "
                "it leave the block, or run what may fail in a nested transaction (a savepoint)",
                query="COMMIT",
            )

    async def rollback(self) -> None:
        with contextlib.suppress(ConnectionLostError):  # it is rolled back then, too
            await self._send("ROLLBACK")
        self._began = False

    async def rollback_to_savepoint(self, name: str) -> None:
        await self._send(f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}")

    # Upkeep

    async def clean(self) -> None:
        if self.suspect or self.in_transaction:
            await self._send("ROLLBACK")
        if self._touched:
            await self._reset_session()
        self._touched = self._reset == "always"
        self._began = self._read_only = self._exposed = self.suspect = False
        self._resync = IN_STEP
        self.transaction_lost = None

    async def _reset_session(self) -> None:
        if None in self._set_up:
            raise InterfaceError(
                "on_connect used the raw connection: the session cannot be set up like that again"
            )
        if self._exposed:  # asyncpg's reset forgets listeners and transactions left open as well
            try:
                await self.raw.reset()
            except Exception as error:
                raise self._failed(error, Sent(None)) from error
        await self._send(RESET)
        for sql, params in filter(None, self._set_up):
            if params is None:
                await self._send(sql)
            else:
                await self.execute(sql, params, None)

    async def close(self) -> None:
        try:
            await self.raw.close()
        except BaseException as error:
            self.abort()
            if not isinstance(error, Exception):
                raise
