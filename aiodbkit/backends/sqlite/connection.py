"""One connection to SQLite: the jobs that a statement needs, and what they leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import aiosqlite

from aiodbkit.backends.sqlite.cursor import SQLiteCursor, Started
from aiodbkit.backends.sqlite.errors import INTERRUPT, IOERR, cause_of, primary_code, translate
from aiodbkit.backends.sqlite.session import Session, Settings, SetUp, restore, with_look
from aiodbkit.backends.sqlite.special import SpecialWork
from aiodbkit.backends.sqlite.statements import (
    begin_statement,
    is_atomic,
    is_loose,
    kind,
    refuse_control,
    single,
    touches,
    writes,
)
from aiodbkit.backends.sqlite.thread import (
    Stuck,
    Until,
    WorkerThread,
    gone,
    interrupted,
    timed_out,
    until,
)
from aiodbkit.backends.sqlite.turns import WriteTurn
from aiodbkit.backends.sqlite.values import rows_to_sqlite, to_sqlite
from aiodbkit.backends.sqlite.worker import (
    Job,
    Stopped,
    Work,
    atomically,
    change,
    change_many,
    end,
    first_word,
    query,
    run_all,
    run_loose,
    split_script,
    start_cursor,
    start_transaction,
    undo,
    undoable,
)
from aiodbkit.driver import DriverCursor, ExecuteResult, Fetched, Params
from aiodbkit.errors import (
    CommitUnknownError,
    Error,
    InternalError,
    LockTimeoutError,
    OperationalError,
)
from aiodbkit.options import TransactionOptions
from aiodbkit.sql import Statement

__all__ = ["SQLiteConnection"]

# In memory an open cursor keeps everybody from writing: most results are read at once there.
_MEMORY_BATCH = 10_000


class SQLiteConnection(SpecialWork):
    """One connection of aiosqlite.

    What is known of it changes in the event loop only, after a job has come back.
    """

    __slots__ = (
        "_began",
        "_cursors",
        "_deferred",
        "_exposed",
        "_looked",
        "_owned",
        "_read_only",
        "_session",
        "_settings",
        "_thread",
        "_touched",
        "_turn",
    )

    raw: aiosqlite.Connection

    def __init__(
        self,
        raw: aiosqlite.Connection,
        thread: WorkerThread,
        turn: WriteTurn,
        settings: Settings,
    ) -> None:
        super().__init__(raw)
        self._thread = thread
        self._turn = turn
        self._settings = settings
        self._cursors = thread.cursors
        self._began = False  # a transaction is open, as far as the caller knows
        self._owned = False  # by `begin`: SQL of the user's is not to end it
        self._deferred = True  # it takes the lock with its first write, too late to wait for it
        self._read_only = False
        self._undo_to_savepoint = False  # an `insert_many` inside it is half done
        self._session: Session | None = None  # None: unknown, `clean` cannot put it back
        self._looked: Session | None = None  # after the last statement that changed it
        self._touched = settings.reset == "always"
        self._exposed = False

    async def open(self, work: SetUp) -> None:
        """Set a new connection up; the errors are sqlite3's."""
        if self._settings.session is not None:
            await self._thread.open(work)
            self._session = self._settings.session
        else:
            _, self._session = await self._thread.open(partial(with_look, work=work))

    # What is known for free

    @property
    def is_closed(self) -> bool:
        return self._thread.is_closed

    @property
    def in_transaction(self) -> bool:
        return self._thread.in_transaction

    def disown(self) -> None:
        self._turn.forget_task(self)

    @property
    def is_dirty(self) -> bool:
        return (
            self.suspect
            or self._touched
            or self._read_only
            or bool(self._cursors)
            or self.in_transaction
            or self._turn.is_held_by(self)
        )

    def expose(self) -> aiosqlite.Connection:
        self._touch()
        self._exposed = True
        return self.raw

    def keep_session(self) -> None:
        if self._exposed:
            self._session = None
        elif self._looked is not None:
            self._session = self._looked
        self._exposed = False
        self._touched = self._settings.reset == "always"

    def _touch(self) -> None:
        self._touched = self._settings.reset != "never"

    # Statements

    async def execute(self, sql: str, params: Params, timeout: float | None) -> ExecuteResult:
        statement = single(sql)
        text, args = statement.bind(params)
        args = to_sqlite(args, params, sql)
        work = partial(change, text=text, args=args, keyword=kind(statement))
        result: ExecuteResult = await self._perform(statement, work, until(timeout))
        return result

    async def execute_many(
        self, sql: str, rows: Sequence[Params], timeout: float | None
    ) -> ExecuteResult:
        limit = until(timeout)
        statement = single(sql)
        text, bound = statement.bind_many(rows)
        args = rows_to_sqlite(bound, rows.__getitem__, sql)
        work: Work = partial(change_many, text=text, rows=args, keyword=kind(statement))
        if self.in_transaction:
            work = partial(undoable, work=work)
        return ExecuteResult(await self._perform(statement, work, limit))

    async def fetch(
        self, sql: str, params: Params, timeout: float | None, limit: int = 0
    ) -> Fetched:
        statement = single(sql)
        text, args = statement.bind(params)
        if args:
            args = to_sqlite(args, params, sql)
        is_read = statement.is_read
        work = partial(query, text=text, args=args, limit=limit if is_read else 0)
        if not is_read or timeout is not None or self._settings.in_memory:
            fetched: Fetched = await self._perform(statement, work, until(timeout))
            return fetched
        # The warm path: what `_run` does, without its frames.
        thread = self._thread
        if thread.is_closed:
            raise gone(sql)
        job = thread.job = Job(work, thread.cursors)
        try:
            await thread.send(job)
        except Exception as error:  # noqa: BLE001 - raised as ours
            self._fail(error, sql, None)
        except BaseException:
            thread.stop()
            self.suspect = True
            raise
        return job.result  # type: ignore[no-any-return]

    async def execute_script(self, sql: str, timeout: float | None) -> None:
        """Run several statements.

        Inside a transaction they are a part of it. Outside, the script is a transaction: all of it
        or nothing. But one with PRAGMA, VACUUM, ATTACH or transactions of its own runs as it
        stands, statement by statement; it has to end its transactions itself.

        Raises:
            TransactionScopeError: BEGIN, COMMIT or ROLLBACK inside an open transaction; nothing
                was done.
            ProgrammingError: a script that leaves its own transaction open; it is rolled back.
        """
        statements = list(split_script(sql))
        words = {first_word(statement) for statement in statements}
        work: Work = partial(run_all, statements=statements)
        if self.in_transaction:
            refuse_control(sql, statements)
        elif is_loose(words):
            work = partial(run_loose, statements=statements)
        else:
            work = partial(atomically, work=work)
        await self._carry_out(
            sql, work, until(timeout), takes_turn=True, touched=touches(sql, words)
        )

    async def open_cursor(
        self, sql: str, params: Params, timeout: float | None, batch_size: int
    ) -> DriverCursor:
        statement = single(sql)
        make = partial(
            SQLiteCursor,
            open_ones=self._cursors,
            run=self._continue,
            sql=sql,
            timeout=timeout,
            batch_size=batch_size,
        )
        if not statement.is_read:  # left half read, it would be half done
            columns, rows = await self.fetch(sql, params, timeout)
            return make(Started(None, columns, rows), size=batch_size)
        text, args = statement.bind(params)
        args = to_sqlite(args, params, sql)
        size = max(batch_size, _MEMORY_BATCH) if self._settings.in_memory else batch_size
        work = partial(start_cursor, text=text, args=args, size=size, open_ones=self._cursors)
        return make(Started(*await self._perform(statement, work, until(timeout))), size=size)

    # How a statement gets to the thread: the turn, then one job

    async def _perform(self, statement: Statement, work: Work, limit: Until | None) -> Any:
        if statement.is_read and not self._settings.in_memory:
            return await self._run(work, statement.sql, limit)
        if self._owned:
            refuse_control(statement.sql, (statement.text,))
        elif is_atomic(statement) and not self.in_transaction:
            work = partial(atomically, work=work)
        return await self._carry_out(
            statement.sql,
            work,
            limit,
            takes_turn=self._settings.in_memory or (writes(statement) and not self._read_only),
            touched=touches(statement.sql, (statement.keyword,)),
        )

    async def _carry_out(
        self, sql: str, work: Work, limit: Until | None, *, takes_turn: bool, touched: bool
    ) -> Any:
        if touched:
            self._touch()
            work = partial(with_look, work=work)
        if takes_turn:
            await self._take_turn(sql, limit)
        result = await self._continue(work, sql, limit)
        if touched:
            result, self._looked = result
        return result

    async def _continue(self, work: Work, sql: str, limit: Until | None) -> Any:
        try:
            return await self._run(work, sql, limit)
        finally:
            self._settle()

    async def _take_turn(self, sql: str, limit: Until | None) -> None:
        if self._turn.try_take(self):
            return
        deadline = None if limit is None else limit.at
        try:
            await self._turn.take(self, self._settings.lock_timeout, deadline)
        except LockTimeoutError as error:
            error.query = sql
            raise
        except TimeoutError:
            raise timed_out(sql, limit, while_="another connection of this process wrote") from None

    def _settle(self) -> None:
        """Note after a job whether a transaction is open; without one, others may write."""
        if self.suspect:
            return
        self._began = self.in_transaction
        if self._began:
            return
        self._owned, self._deferred = False, True
        if not (self._settings.in_memory and self._cursors):
            self._turn.give_back(self)

    async def _run(
        self,
        work: Work,
        sql: str | None = None,
        limit: Until | None = None,
        *,
        is_protected: bool = False,
    ) -> Any:
        if self._thread.is_closed:
            raise gone(sql)
        try:
            return await self._thread.run(work, limit, is_protected=is_protected)
        except Exception as error:  # noqa: BLE001 - raised as ours
            self._fail(error, sql, limit)
        except BaseException:
            self.suspect = True
            raise

    def _fail(self, error: Exception, sql: str | None, limit: Until | None) -> NoReturn:
        """Raise the error of a job."""
        failure = self._failure(error, sql, limit)
        if failure is None or failure is error:
            raise error
        raise failure from cause_of(error)

    def _failure(self, error: Exception, sql: str | None, limit: Until | None) -> Error | None:
        """Translate an error of a job, and note what it tells about the transaction."""
        failure: Error | None
        if isinstance(error, Stuck):
            self.suspect = True
        if self._thread.is_closed:
            failure = gone(sql)
        elif isinstance(error, Stopped) or self._was_interrupted(error):
            job = self._thread.job
            by_others = job is not None and job.was_interrupted
            failure = interrupted(sql) if by_others else timed_out(sql, limit)
        else:
            failure = translate(error, sql, upgrading=self._deferred and self._began)
        if self._began and not self.in_transaction:
            self._began = False
            self.transaction_lost = failure or error
        return failure

    def _was_interrupted(self, error: Exception) -> bool:
        return self._thread.was_stopped and primary_code(error) == INTERRUPT

    # Transactions

    async def begin(self, options: TransactionOptions) -> None:
        statement = begin_statement(options)
        deferred = statement == "BEGIN DEFERRED"
        if not deferred:
            await self._take_turn(statement, None)
        work = partial(start_transaction, statement=statement, read_only=options.read_only)
        try:
            await self._run(work, statement, is_protected=True)
            self._read_only = options.read_only
            self.transaction_lost = None
        finally:
            self._settle()
        self._owned, self._deferred = True, deferred

    async def commit(self) -> None:
        if not self.in_transaction:
            raise InternalError(
                "there is nothing to commit: SQLite has rolled the transaction back before",
                query="COMMIT",
            ) from self.transaction_lost
        await self._end("COMMIT")

    async def rollback(self) -> None:
        if self.in_transaction or self._read_only:
            await self._end("ROLLBACK")

    async def _end(self, how: str) -> None:
        # From here on nobody counts on the transaction: interrupted before it is decided, the
        # end is a rollback.
        self._began = False
        self._turn.forget_task(self)
        read_only = self._read_only
        work = partial(end, how=how, cursors=self._cursors, read_only=read_only)
        try:
            await self._run(work, how, is_protected=True)
            self._read_only = False
        except OperationalError as error:
            if how == "COMMIT" and error.__cause__ and primary_code(error.__cause__) == IOERR:
                raise CommitUnknownError(
                    f"the disk failed during COMMIT, which may have taken effect: {error}",
                    code=error.code,
                    query=how,
                ) from error.__cause__
            raise
        finally:
            self._settle()

    # Upkeep

    async def ping(self) -> None:
        await self._run(partial(query, text="select 1", args=(), limit=0), "select 1")

    async def recover(self) -> None:
        self._turn.forget_task(self)
        await self._thread.drain()
        self.suspect = False
        known = self._began
        await self._undo()
        if known and not self.in_transaction:
            self.transaction_lost = InternalError(
                "SQLite rolled the transaction back when its statement was interrupted"
            )
        self._settle()

    async def _undo(self) -> None:
        """Undo what was left half done; a transaction that nobody counts on goes as a whole."""
        if self.in_transaction and (self._undo_to_savepoint or not self._began):
            work = partial(undo, to_savepoint=self._began)
            await self._run(work, "ROLLBACK", is_protected=True)
        self._undo_to_savepoint = False

    async def clean(self) -> None:
        self._turn.forget_task(self)
        if self.is_closed:
            raise gone(None)
        if self.suspect:
            await self.recover()
        if self._touched and self._session is None:
            raise InternalError(
                "the session was changed through the raw connection when it was set up, so it "
                "cannot be put back: the connection is replaced"
            )
        if self.is_dirty:
            session = self._session if self._touched else None
            put_back = partial(restore, session=session, read_only=self._read_only)
            await self._run(partial(put_back, cursors=self._cursors), is_protected=True)
        self._read_only = self._exposed = False
        self._touched = self._settings.reset == "always"
        self.transaction_lost = None
        self._settle()

    async def close(self) -> None:
        try:
            await self._thread.close()
        finally:
            self._turn.give_back(self)

    def abort(self) -> None:
        self._thread.abort()
        self._turn.give_back(self)
