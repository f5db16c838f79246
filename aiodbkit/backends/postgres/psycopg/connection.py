"""PostgreSQL over psycopg.

What psycopg leaves to its callers, and what is done about it:

- A cancelled task awaits the end of its statement, and cancelled once more it drops the
  connection with the statement running: see `Exchange`.
- What is left of a cancelled call is run to its end: PREPARE and the statement are two calls.
- A parameter's type is guessed from the Python value: the server is asked instead, and asked anew
  when a value does not fit what it said, which may be of before an ALTER TABLE.
- COMMIT of a failed transaction rolls back without an error: its answer is read.
- ``finish()`` leaves the statement running, and tasks waiting: a CancelRequest is sent along, and
  they are told.
- The simple protocol takes several statements: they are counted before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer

from aiodbkit.backends.postgres.psycopg import errors
from aiodbkit.backends.postgres.psycopg.bulk import PsycopgBulk
from aiodbkit.backends.postgres.psycopg.cursor import FetchedCursor, ServerCursor
from aiodbkit.backends.postgres.psycopg.exchange import Cuts
from aiodbkit.backends.postgres.psycopg.statements import Known, run_one, run_script
from aiodbkit.backends.postgres.psycopg.wire import IN_STEP
from aiodbkit.backends.postgres.sql import (
    RESET,
    Plan,
    argument_names,
    begin_statement,
    plan,
    script_control,
)
from aiodbkit.backends.postgres.sqlstates import Sent
from aiodbkit.driver import DriverCursor, ExecuteResult, Fetched, Params
from aiodbkit.errors import (
    CommitUnknownError,
    ConnectionLostError,
    InterfaceError,
    InternalError,
    TransactionScopeError,
)
from aiodbkit.options import TransactionOptions

__all__ = ["PsycopgConnection"]

_ROWS = int(pq.ExecStatus.TUPLES_OK)
_IN_TRANSACTION = int(pq.TransactionStatus.INTRANS)


class PsycopgConnection(PsycopgBulk):
    """One psycopg connection."""

    __slots__ = ("_cursors", "_exposed", "_reset", "_set_up", "_setting_up", "_touched", "_warn")

    def __init__(
        self,
        raw: psycopg.AsyncConnection[Any],
        cuts: Cuts,
        reset: str,
        threshold: int | None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(raw, cuts, threshold)
        self._reset = reset
        self._warn = warn  # of a statement that touches a session which is not one's own
        self._touched = self._exposed = False
        self._setting_up = True
        # What set the session up, to be done again after a reset; None is what cannot be.
        self._set_up: list[tuple[str, Params] | None] = []
        self._cursors = 0

    @property
    def is_dirty(self) -> bool:
        return self.suspect or self._touched or self.in_transaction

    @property
    def has_sound_transaction(self) -> bool:
        """Whether a transaction is open that takes statements."""
        return bool(self._pgconn.transaction_status == _IN_TRANSACTION)

    def expose(self) -> psycopg.AsyncConnection[Any]:
        """Hand out psycopg's connection: nobody knows what will be done with it."""
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
        self,
        sql: str,
        params: Params,
        timeout: float | None,
        limit: int = 0,  # noqa: ARG002 - libpq reads a result as a whole
    ) -> Fetched:
        known = plan(sql)
        if known.special:
            self._prepare_for(known, params)
        text, args = known.statement.bind(params)
        names = argument_names(known.statement, params) if args else ()
        return await self._fetched(text, args, Sent(sql, timeout, names))

    async def _fetched(self, text: str, args: Sequence[Any], sent: Sent) -> Fetched:
        try:
            return self._rows(await self._query_in_time(text, args, sent.timeout, sent))
        except Exception as error:
            raise self._failed(error, sent) from errors.cause_of(error)

    def _rows(self, result: Any) -> Fetched:
        if result.status != _ROWS:
            return (), ()
        transformer = Transformer(self.raw)
        transformer.set_pgresult(result)
        names = tuple([result.fname(number).decode() for number in range(result.nfields)])
        return names, transformer.load_rows(0, result.ntuples, tuple)

    async def execute(self, sql: str, params: Params, timeout: float | None) -> ExecuteResult:
        known = plan(sql)
        if known.special:
            self._prepare_for(known, params)
        text, args = known.statement.bind(params)
        names = argument_names(known.statement, params) if args else ()
        sent = Sent(sql, timeout, names)
        try:
            result = await self._query_in_time(text, args, timeout, sent)
        except Exception as error:
            raise self._failed(error, sent) from errors.cause_of(error)
        count = result.command_tuples
        return ExecuteResult(-1 if count is None else count)

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
        sent = Sent(sql, timeout, argument_names(known.statement, rows[0]))
        return ExecuteResult(await self._execute_many(text, batch, sent))

    async def open_cursor(
        self, sql: str, params: Params, timeout: float | None, batch_size: int
    ) -> DriverCursor:
        known = plan(sql)
        if known.special:
            self._prepare_for(known, params)
        text, args = known.statement.bind(params)
        sent = Sent(sql, timeout, argument_names(known.statement, params) if args else ())
        if not _is_declarable(known):
            names, rows = await self._fetched(text, args, sent)
            return FetchedCursor(names, rows, batch_size)
        self._cursors += 1
        name = f"aiodbkit_{self._cursors}"
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(timeout):
                inner, values = await self._ready(text, args, sent)
                declared = Known(f"DECLARE {name} NO SCROLL CURSOR FOR {text}")
                declared.types = inner.types
                await self._run(run_one(self._pgconn, declared, values))
        except Exception as error:
            raise self._failed(error, sent) from errors.cause_of(error)
        left = None if timeout is None else timeout - (clock() - began)
        return ServerCursor(self, name, sent, batch_size, left)

    async def _fetch_more(self, sql: bytes, sent: Sent, left: float | None) -> Fetched:
        try:
            async with asyncio.timeout(left):
                results = await self._run(run_script(self._pgconn, sql))
            return self._rows(results[-1])
        except Exception as error:
            raise self._failed(error, sent) from errors.cause_of(error)

    # Transactions

    async def begin(self, options: TransactionOptions) -> None:
        statement = begin_statement(options)
        if self.suspect:
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
            closed = psycopg.InterfaceError("it was closed before COMMIT")
            raise self._lost(errors.connection_lost(closed, "COMMIT", was_closed=True))
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
        if status != b"COMMIT":
            raise InternalError(
                f"PostgreSQL answered COMMIT with {status.decode()}: nothing was committed, "
                "because an earlier statement of the transaction had failed and its error was "
                "swallowed; let it leave the block, or run what may fail in a nested transaction "
                "(a savepoint)",
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
        await self._exchange.settle()
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
        if self._exposed:
            await self._take_back()
        await self._send(RESET)
        for sql, params in filter(None, self._set_up):
            if params is None:
                await self._send(sql)
            else:
                await self.execute(sql, params, None)

    async def _take_back(self) -> None:
        """Make the raw connection what it was; one that is left in a pipeline is not."""
        raw: Any = self.raw
        if self._pgconn.pipeline_status:
            raise InterfaceError("the raw connection was left in pipeline mode")
        if not raw.autocommit:
            await raw.set_autocommit(True)
        raw._notify_handlers.clear()
        raw._notice_handlers.clear()
        await raw.execute("DEALLOCATE ALL")  # by psycopg, which forgets its own as well
        self._statements.forget_all()

    async def close(self) -> None:
        if self._pgconn.status == 0:
            await self._exchange.settle()
        self.abort()


def _is_declarable(known: Plan) -> bool:
    """Whether a cursor can be declared: for queries only, and such as write nothing themselves."""
    statement = known.statement
    if statement.keyword in ("with", "values", "table"):
        return statement.is_read
    return statement.keyword == "select" and " into " not in f" {statement.sql.lower()} "
