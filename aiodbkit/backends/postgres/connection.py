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
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Any

import asyncpg

from aiodbkit.backends.postgres import errors
from aiodbkit.backends.postgres.connect import Cuts, socket_of
from aiodbkit.backends.postgres.copy import feed, refused_row
from aiodbkit.backends.postgres.cursor import Deadline, PostgresCursor
from aiodbkit.backends.postgres.errors import Sent
from aiodbkit.backends.postgres.sql import (
    RESET,
    Plan,
    argument_names,
    begin_statement,
    plan,
    refuse_unsendable,
    script_control,
)
from aiodbkit.driver import DriverConnection, DriverCursor, ExecuteResult, Fetched, Params
from aiodbkit.errors import (
    CommitUnknownError,
    ConnectionLostError,
    DatabaseError,
    DataError,
    Error,
    InterfaceError,
    InternalError,
    QueryTimeoutError,
    ReadOnlyError,
    TransactionScopeError,
)
from aiodbkit.options import TransactionOptions
from aiodbkit.wire import IdleSocket

__all__ = ["PostgresConnection"]

_IN_STEP = "SELECT 1"
# Seconds for the ROLLBACK after refused rows; then the connection is cut, which ends them as well.
_UNDO_TIMEOUT = 2.0
_UNDO_MANY = "ROLLBACK TO SAVEPOINT aiodbkit_many; RELEASE SAVEPOINT aiodbkit_many"


class PostgresConnection(DriverConnection):
    """One asyncpg connection."""

    __slots__ = (
        "_began",
        "_cuts",
        "_exposed",
        "_read_only",
        "_reset",
        "_resync",
        "_set_up",
        "_setting_up",
        "_socket",
        "_touched",
    )

    raw: asyncpg.Connection[Any]

    def __init__(self, raw: asyncpg.Connection[Any], cuts: Cuts, reset: str) -> None:
        super().__init__(raw)
        sock = socket_of(raw)
        self._cuts = cuts
        self._socket = None if sock is None else IdleSocket(sock.fileno())
        self._began = self._read_only = False  # asyncpg forgets them together with the connection
        self._resync = _IN_STEP  # what `recover` sends
        self._reset = reset
        self._touched = self._exposed = False
        self._setting_up = True
        # What set the session up, to be done again after a reset; None is what cannot be.
        self._set_up: list[tuple[str, Params] | None] = []

    @property
    def is_closed(self) -> bool:
        # What waits on an idle socket may be a notice. Only its end means that nobody is there.
        return self.raw.is_closed() or (self._socket is not None and self._socket.is_dead())

    @property
    def in_transaction(self) -> bool:
        return not self.raw.is_closed() and self.raw.is_in_transaction()

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
        async with self._all_or_none(timeout) as deadline:
            try:
                await self._send_many(text, batch, deadline.left)
            except Exception as error:
                sent = Sent(sql, timeout, argument_names(known.statement, rows[0]), batch)
                raise self._failed(error, sent, text) from error
        return ExecuteResult(-1)

    def _all_or_none(
        self, timeout: float | None
    ) -> contextlib.AbstractAsyncContextManager[Deadline]:
        own = self._own_savepoint if self.in_transaction else self._own_transaction
        return own(Deadline(timeout))

    @contextlib.asynccontextmanager
    async def _own_transaction(self, deadline: Deadline) -> AsyncIterator[Deadline]:
        """For bulk work: what a deadline or a cancellation leaves unfinished cannot commit itself.

        An interrupted one is ended by `recover`.
        """
        self._resync = "ROLLBACK"
        await self._send("BEGIN", deadline.timeout)
        try:
            yield deadline
        except Error:
            if not self.suspect and not self.is_closed:
                await self._undo()
            raise
        try:
            async with asyncio.timeout(deadline.left):
                await self.commit()
        except TimeoutError as error:
            self.suspect = True
            raise CommitUnknownError(
                f"COMMIT was not answered within timeout={deadline.timeout} s: whether the rows "
                "are there is unknown",
                query="COMMIT",
            ) from error
        self._resync = _IN_STEP

    async def _undo(self) -> None:
        """Roll refused rows back. Whatever becomes of that, their own error is the one to raise."""
        try:
            await self._send("ROLLBACK", _UNDO_TIMEOUT)
        except Error:
            self.abort()

    @contextlib.asynccontextmanager
    async def _own_savepoint(self, deadline: Deadline) -> AsyncIterator[Deadline]:
        """The same inside a transaction.

        What the server refuses leaves that as any other statement does; all else `recover` undoes.
        """
        await self._send("SAVEPOINT aiodbkit_many", deadline.timeout)
        self._resync = _UNDO_MANY
        yield deadline
        await self._send("RELEASE SAVEPOINT aiodbkit_many", deadline.timeout, deadline.left)
        self._resync = _IN_STEP

    async def _send_many(
        self, text: str, batch: list[Sequence[Any]], timeout: float | None
    ) -> None:
        sending = asyncio.ensure_future(self.raw.executemany(text, batch, timeout=timeout))
        try:
            await asyncio.wait((sending,))
        except BaseException:
            if not sending.done():
                self.abort()
                sending.cancel()
            sending.add_done_callback(_heard)
            raise
        sending.result()

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
            raise self._failed(error, sent, text) from error
        return PostgresCursor(self, cursor, Sent(sql, timeout), batch_size, deadline.left)

    async def insert_many(
        self,
        table: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        timeout: float | None,
    ) -> int:
        """COPY the rows in. An error of the caller's own iterable passes as it is."""
        sql = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        refuse_unsendable(sql)
        async with self._all_or_none(timeout) as deadline:
            return await self._copy_in(sql, table, columns, rows, deadline)

    async def _copy_in(
        self,
        sql: str,
        table: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        deadline: Deadline,
    ) -> int:
        schema, _, name = table.rpartition(".")
        source = feed(rows)
        try:
            # asyncpg's own timeout does not reach a COPY that waits for room in the socket.
            async with asyncio.timeout(deadline.left):
                status = await self.raw.copy_records_to_table(
                    name, schema_name=schema or None, columns=columns, records=source
                )
        except Exception as error:
            if error is source.error:
                self.suspect = True
                raise
            refused = refused_row(error, table, columns, source, sql)
            if refused is None or self.raw.is_closed():
                raise self._failed(error, Sent(sql, deadline.timeout)) from error
            self.suspect = True  # asyncpg has asked the server to cancel the COPY
            raise refused from error
        return int(status.rpartition(" ")[2])

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
        self._resync = _IN_STEP
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

    async def _send(self, sql: str, timeout: float | None = None, left: float | None = None) -> str:
        """Send a statement of ours, for what earlier ones have ``left`` of ``timeout``, if any."""
        try:
            return await self.raw.execute(sql, timeout=timeout if left is None else left)
        except Exception as error:
            raise self._failed(error, Sent(sql, timeout)) from error

    # Upkeep

    async def ping(self) -> None:
        await self._send(_IN_STEP)

    async def recover(self) -> None:
        # asyncpg sends nothing before it has seen the end of what it cancelled. An aborted
        # transaction refuses even this, which is an answer all the same.
        try:
            await self._send(self._resync)
        except ConnectionLostError:
            raise
        except DatabaseError:
            pass
        self.suspect = False
        self._resync = _IN_STEP
        if self._began and not self.in_transaction:
            self._began = False
            self.transaction_lost = InternalError("the interrupted statement had ended it")

    async def clean(self) -> None:
        if self.suspect or self.in_transaction:
            await self._send("ROLLBACK")
        if self._touched:
            await self._reset_session()
        self._touched = self._reset == "always"
        self._began = self._read_only = self._exposed = self.suspect = False
        self._resync = _IN_STEP
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

    def abort(self) -> None:
        self._cuts.cut(self.raw)

    # Errors

    def _failed(self, error: Exception, sent: Sent, text: str = "") -> Error:
        """Translate, and note what the error tells about the connection."""
        answer = self._translated(error, sent, text)
        if not self.suspect:
            self._resync = _IN_STEP
        return answer

    def _translated(self, error: Exception, sent: Sent, text: str) -> Error:
        if isinstance(error, TimeoutError) and not error.errno:
            self.suspect = True
            return QueryTimeoutError(
                f"the statement did not finish within timeout={sent.timeout} s and was cancelled",
                query=sent.sql,
            )
        if self.raw.is_closed() or errors.means_broken(error):
            return self._lost(error, sent.sql)
        if errors.is_refused_argument(error):
            self.suspect = True
            refusal = errors.refused_argument(error, sent, self._expected_types(text))
            # The types may be those of before an ALTER TABLE.
            self.raw._drop_local_statement_cache()  # type: ignore[attr-defined]
            return refusal
        if isinstance(error, asyncpg.PostgresError):
            answer = errors.answered(error, sent)
            if isinstance(answer, ReadOnlyError) and self._read_only:
                answer.is_transient = False  # it was asked for: no other server would take it
            return answer
        self.suspect = True
        reason = f"asyncpg could not read the answer: {type(error).__name__}"
        return DataError(reason, query=sent.sql)

    def _lost(self, error: Exception, sql: str | None) -> ConnectionLostError:
        lost = errors.connection_lost(error, sql)
        if self._began:
            self.transaction_lost = lost
        self.abort()
        return lost

    def _expected_types(self, text: str) -> Sequence[str]:
        """What the server said of the parameters as it prepared the statement, if still cached."""
        try:
            raw: Any = self.raw
            key = text, raw._protocol.get_record_class(), False
            return [expected.name for expected in raw._stmt_cache.get(key)._get_parameters()]
        except (AttributeError, TypeError):  # private to asyncpg, and only for a better message
            return ()


def _heard(task: asyncio.Task[None]) -> None:
    """Fetch the error of a task that nobody waits for, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()
