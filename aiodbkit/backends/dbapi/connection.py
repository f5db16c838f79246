"""One connection of a DB-API 2.0 module, seen from the event loop."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Any, NoReturn

from aiodbkit.backends.dbapi.batches import batches, timed_out
from aiodbkit.backends.dbapi.cursor import BufferedCursor, DBAPICursor, NamedCursor
from aiodbkit.backends.dbapi.errors import translate
from aiodbkit.backends.dbapi.paramstyle import bind, bind_many
from aiodbkit.backends.dbapi.statements import (
    Traits,
    insert_sql,
    refuse_inside,
    script,
    traits,
)
from aiodbkit.backends.dbapi.thread import (
    Deadline,
    Stopped,
    Stuck,
    Work,
    WorkerThread,
    deadline,
)
from aiodbkit.backends.dbapi.worker import Worker
from aiodbkit.driver import DriverConnection, DriverCursor, ExecuteResult, Fetched, Params
from aiodbkit.errors import (
    CommitUnknownError,
    ConnectionLostError,
    DeadlockError,
    Error,
    InterfaceError,
    InternalError,
    OperationalError,
    ReadOnlyError,
)
from aiodbkit.options import TransactionOptions
from aiodbkit.sql import Dialect
from aiodbkit.wire import IdleSocket

__all__ = ["DBAPIConnection"]

_INSERT_BATCH = 500
_cursor_numbers = count(1)


class DBAPIConnection(DriverConnection):
    """A connection and its thread, on which alone it is used."""

    __slots__ = (
        "_began",
        "_family",
        "_is_gone",
        "_probe",
        "_read_only",
        "_reset",
        "_socket",
        "_style",
        "_tells_closed",
        "_tells_open",
        "_thread",
        "_touched",
        "_undo_to_savepoint",
        "_worker",
    )

    def __init__(self, thread: WorkerThread, worker: Worker, reset: str) -> None:
        super().__init__(worker.raw)
        self._thread, self._worker = thread, worker
        self._family = worker.family
        self._style = worker.module.paramstyle
        self._reset = reset
        self._touched = reset == "always"
        self._began = self._read_only = self._is_gone = False
        self._undo_to_savepoint = False
        self._tells_closed = isinstance(getattr(worker.raw, "closed", None), int)
        self._tells_open = isinstance(getattr(worker.raw, "open", None), int)
        self._socket = _twin_of_socket(worker.raw)
        self._probe = None if self._socket is None else IdleSocket(self._socket.fileno())

    # What is known for free

    @property
    def is_closed(self) -> bool:
        return (
            self._is_gone
            or not self._thread.is_alive
            or (self._tells_closed and bool(self.raw.closed))
            or (self._tells_open and not self.raw.open)
            or (self._probe is not None and self._probe.is_dead())
        )

    @property
    def in_transaction(self) -> bool:
        return not self._is_gone and self._worker.in_transaction

    @property
    def is_dirty(self) -> bool:
        return (
            self.suspect
            or self._touched
            or self._worker.in_transaction
            or bool(self._worker.cursors)
        )

    def expose(self) -> Any:
        """Hand out the module's connection: nobody knows what will be done with it."""
        self._touched = self._reset != "never"
        return self.raw

    def keep_session(self) -> None:
        self._touched = self._reset == "always"

    # Statements

    async def execute(self, sql: str, params: Params, timeout: float | None) -> ExecuteResult:
        known = self._prepare(sql)
        text, args = bind(known.statement, params, self._style)
        work = partial(
            self._worker.change,
            text=text,
            args=args,
            inserts=known.inserts,
            in_unit=self._needs_unit(known),
        )
        limit = deadline(timeout)
        result: ExecuteResult = await self._run(work, sql, limit, is_read=known.statement.is_read)
        return result

    async def fetch(
        self, sql: str, params: Params, timeout: float | None, limit: int = 0
    ) -> Fetched:
        known = self._prepare(sql)
        text, args = bind(known.statement, params, self._style)
        is_read = known.statement.is_read
        work = partial(
            self._worker.fetch,
            text=text,
            args=args,
            limit=limit if is_read else 0,
            in_unit=self._needs_unit(known),
        )
        fetched: Fetched = await self._run(work, sql, deadline(timeout), is_read=is_read)
        return fetched

    async def execute_many(
        self, sql: str, rows: Sequence[Params], timeout: float | None
    ) -> ExecuteResult:
        known = self._prepare(sql)
        text, bound = bind_many(known.statement, rows, self._style)
        work = partial(self._worker.change_many, text=text, rows=bound, inserts=known.inserts)
        return ExecuteResult(await self._run(work, sql, deadline(timeout)))

    async def execute_script(self, sql: str, timeout: float | None) -> None:
        """Run several statements.

        Outside a transaction they are one, all of it or nothing, unless the script has transactions
        of its own or the database cannot undo what is in it: then they run one by one.
        """
        known = script(sql, self._family)
        self._touched = self._touched or (known.touches and self._reset != "never")
        statements = known.statements
        work: Work = partial(
            self._worker.run_all, statements=statements, in_unit=len(statements) > 1
        )
        if self.in_transaction:
            refuse_inside(known, sql)
        elif known.is_loose:
            work = partial(self._worker.run_loose, statements=statements)
        await self._run(work, sql, deadline(timeout))

    async def open_cursor(
        self, sql: str, params: Params, timeout: float | None, batch_size: int
    ) -> DriverCursor:
        known = self._prepare(sql)
        if not known.statement.is_read:
            return BufferedCursor(await self.fetch(sql, params, timeout), batch_size)
        text, args = bind(known.statement, params, self._style)
        limit = deadline(timeout)
        if self._family.dialect is Dialect.POSTGRES and known.statement.keyword != "show":
            return await self._declare(sql, text, args, timeout, limit, batch_size)
        work = partial(self._worker.open_cursor, text=text, args=args, size=batch_size)
        cursor, first = await self._run(work, sql, limit, is_read=True)
        return DBAPICursor(
            self._worker, self._run, cursor, first, sql=sql, timeout=timeout, size=batch_size
        )

    async def _declare(  # noqa: PLR0917
        self,
        sql: str,
        text: str,
        args: Any,
        timeout: float | None,
        limit: Deadline | None,
        size: int,
    ) -> DriverCursor:
        name = f"aiodbkit_{next(_cursor_numbers)}"
        text = f"DECLARE {name} NO SCROLL CURSOR FOR {text}"
        work = partial(self._worker.change, text=text, args=args, inserts=False, in_unit=False)
        await self._run(work, sql, limit, is_read=True)
        return NamedCursor(
            self._worker, self._run, name, sql=sql, timeout=timeout, first_by=limit, size=size
        )

    async def insert_many(
        self,
        table: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        timeout: float | None,
    ) -> int:
        """Insert by ``executemany``. An error of the caller's own iterable passes as it is."""
        sql = insert_sql(table, list(columns), self._family)
        limit = deadline(timeout)
        try:
            to_savepoint = await self._run(self._worker.begin_unit, sql, limit)
            self._undo_to_savepoint = to_savepoint
            done = await self._insert_all(sql, rows, limit)
            keep = partial(self._worker.end_unit, to_savepoint=to_savepoint)
            await self._run(keep, sql, limit)
            self._undo_to_savepoint = False
            return done
        except Exception:
            if not self.suspect and not self.is_closed:
                await self._undo()
            raise
        except BaseException:
            self.suspect = True  # also if it was the source of the rows that was cancelled
            raise

    async def _insert_all(
        self,
        sql: str,
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        limit: Deadline | None,
    ) -> int:
        done = 0
        statement = traits(sql, self._family).statement
        async with contextlib.aclosing(batches(rows, _INSERT_BATCH, sql, limit)) as source:
            async for batch in source:
                text, bound = bind_many(statement, batch, self._style)
                work = partial(self._worker.add_rows, text=text, rows=bound, inserts=True)
                await self._run(work, sql, limit)
                done += len(batch)
        return done

    async def _undo(self) -> None:
        work = partial(self._worker.undo_unit, to_savepoint=self._undo_to_savepoint)
        if self._undo_to_savepoint or not self._began:
            await self._run(work)
        self._undo_to_savepoint = False

    def _prepare(self, sql: str) -> Traits:
        """Look at a statement; refuse what must not be sent, note what it may leave behind."""
        known = traits(sql, self._family)
        if self._began and (known.control or known.commits):
            refuse_inside(known, sql)
        if known.touches and self._reset != "never":
            self._touched = True
        return known

    def _needs_unit(self, known: Traits) -> bool:
        """Whether it could not be stopped at the server, but can be taken back."""
        return known.is_change and self._thread.cancel is None

    # How work gets to the thread

    async def _run(
        self,
        work: Work,
        sql: str | None = None,
        limit: Deadline | None = None,
        *,
        is_read: bool = False,
    ) -> Any:
        if self.is_closed:
            self._lose(_gone(sql))
        try:
            result = await self._thread.run(partial(self._worker.step, work), limit)
        except Exception as error:  # noqa: BLE001 - raised as ours
            self._fail(error, sql, limit)
        except BaseException:
            self.suspect = True
            raise
        if self._thread.was_stopped:
            self.suspect = True  # what was to stop it may still be on its way
            if is_read:
                raise timed_out(sql, limit)
        self._note_end(InternalError("a statement ended the transaction", query=sql))
        return result

    def _fail(self, error: Exception, sql: str | None, limit: Deadline | None) -> NoReturn:
        failure = self._failure(error, sql, limit)
        if isinstance(failure, ConnectionLostError):
            self._lose(failure, error)
        if isinstance(failure, DeadlockError) and not self._worker.tells:
            self._worker.forget()
        self._note_end(failure)
        if failure is error:
            raise error
        raise failure from error

    def _failure(self, error: Exception, sql: str | None, limit: Deadline | None) -> Error:
        if isinstance(error, Stuck):
            self.suspect = True
            if error.decided:
                return CommitUnknownError(_slow_commit(limit), query=sql)
            return timed_out(sql, limit, can_stop=self._thread.cancel is not None)
        if self._thread.was_stopped:
            self.suspect = True
            if isinstance(error, Stopped) or not self.is_closed:
                return timed_out(sql, limit)
        failure = translate(error, sql, self._worker.module)
        # What a statement did wrong it did wrong, even if the connection was lost after that.
        is_vague = isinstance(failure, OperationalError | InterfaceError)
        if is_vague and not isinstance(failure, ConnectionLostError) and self.is_closed:
            failure = ConnectionLostError(f"the connection was lost: {failure}", query=sql)
        if isinstance(failure, ReadOnlyError) and self._read_only:
            failure.is_transient = False  # it was asked for: no other server would take it
        return failure

    def _lose(self, lost: ConnectionLostError, cause: BaseException | None = None) -> NoReturn:
        if self._began:
            self.transaction_lost = self.transaction_lost or lost
        in_doubt = self._worker.is_committing and not lost.is_transient
        self._began = False
        self.abort()
        if in_doubt:
            raise CommitUnknownError(
                f"the connection broke during COMMIT, which may have taken effect: {lost}",
                sqlstate=lost.sqlstate,
                code=lost.code,
                query=lost.query,
            ) from cause
        raise lost from cause

    def _note_end(self, reason: Error) -> None:
        """Note that a transaction is gone which nobody has ended."""
        if self._began and not self.suspect and not self._worker.in_transaction:
            self._began = False
            self.transaction_lost = reason

    # Transactions

    async def begin(self, options: TransactionOptions) -> None:
        how = self._family.begin(options)
        if self.in_transaction:
            raise InterfaceError("a transaction is already open on this connection")
        await self._run(partial(self._worker.begin, how=how), "BEGIN")
        self.transaction_lost = None
        self._began, self._read_only = True, options.read_only

    async def commit(self) -> None:
        if self.transaction_lost is not None and not self.in_transaction:
            raise InternalError(
                f"nothing was committed, the transaction was gone before: {self.transaction_lost}"
            ) from self.transaction_lost
        self._began = False
        await self._run(self._worker.commit, "COMMIT")

    async def rollback(self) -> None:
        self._began = False
        if self.in_transaction:
            # With its connection the transaction is gone too.
            with contextlib.suppress(ConnectionLostError):
                await self._run(self._worker.rollback, "ROLLBACK")

    # Upkeep

    async def ping(self) -> None:
        await self._run(self._worker.ping, "ping")

    async def recover(self) -> None:
        """Wait until the statement has ended: there is no way to end its thread."""
        await self._thread.drain()
        if self.is_closed:
            self._lose(_gone(None))
        began = self._began
        await self._run(partial(self._worker.sync, keeps_transaction=began))
        self.suspect = False
        if self._undo_to_savepoint:
            await self._undo()
        if began and not self.in_transaction:
            self._began = False
            self.transaction_lost = InternalError("the interrupted statement had ended it")

    async def clean(self) -> None:
        self._began = False
        if self.suspect:
            await self.recover()
        if self._touched:
            raise InterfaceError(
                "the session may have been changed, and no DB-API module can put it back: the "
                "connection is replaced"
            )
        if self.in_transaction or self._worker.cursors:
            await self._run(self._worker.rollback, "ROLLBACK")
        self._read_only = self._undo_to_savepoint = False
        self.transaction_lost = None

    async def close(self) -> None:
        if self._is_gone:
            return
        try:
            await self._thread.close(self._worker.close)
        except BaseException as error:
            self.abort()
            if not isinstance(error, Exception):
                raise
        self._let_go()

    def abort(self) -> None:
        if self._is_gone:
            return
        self._thread.abandon(self._worker.close)
        if self._thread.is_busy and self._socket is not None:
            with contextlib.suppress(OSError):  # what waits for an answer shall wait no more
                self._socket.shutdown(socket.SHUT_RDWR)
        self._let_go()

    def _let_go(self) -> None:
        self._is_gone = True
        self._probe = None
        if self._socket is not None:
            self._socket.close()


def _twin_of_socket(raw: Any) -> socket.socket | None:
    """Return the connection's socket, under a number of our own: theirs may be closed any time."""
    try:
        number = raw.fileno() if callable(getattr(raw, "fileno", None)) else raw._sock.fileno()
        twin = os.dup(number)
    except Exception:  # noqa: BLE001 - it has none, or does not show it
        return None
    try:
        return socket.socket(fileno=twin)
    except OSError:
        os.close(twin)
        return None


def _gone(sql: str | None) -> ConnectionLostError:
    return ConnectionLostError(
        "the connection had been closed: nothing was sent", query=sql, is_transient=True
    )


def _slow_commit(limit: Deadline | None) -> str:
    within = "" if limit is None else f" within timeout={limit.timeout:g} s"
    return f"COMMIT was not answered{within}: whether it took effect is unknown"
