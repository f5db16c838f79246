"""One connection to MySQL or MariaDB: statements, many rows, transactions, upkeep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Iterable,
    Sequence,
)
from logging import WARNING
from typing import TYPE_CHECKING, Any

from aiodbkit.backends.mysql import bulk
from aiodbkit.backends.mysql.cursors import MySQLCursor, fetched
from aiodbkit.backends.mysql.files import local_file, opened
from aiodbkit.backends.mysql.link import Answer, Link
from aiodbkit.backends.mysql.protocol import MULTI_STATEMENTS_OFF, MULTI_STATEMENTS_ON
from aiodbkit.backends.mysql.sql import Traits, plan, render, script
from aiodbkit.backends.mysql.stop import GRACE, Watch
from aiodbkit.backends.mysql.warnings import log_warnings, logger
from aiodbkit.backends.mysql.wire import MySQLWire, Session
from aiodbkit.driver import DriverCursor, ExecuteResult, Fetched, Params
from aiodbkit.errors import (
    CommitUnknownError,
    ConnectionLostError,
    DataError,
    Error,
    InterfaceError,
    InternalError,
    NotSupportedError,
    TransactionScopeError,
)
from aiodbkit.options import TransactionOptions

if TYPE_CHECKING:
    from aiodbkit.backends.mysql.driver import MySQLDriver

__all__ = ["MySQLConnection"]

_SHOW_WARNINGS = b"SHOW WARNINGS"
_ROWS = "aiodbkit_rows"  # the savepoint under many rows
_CHANGES = frozenset(("CALL", "DELETE", "INSERT", "REPLACE", "UPDATE"))


class MySQLConnection(MySQLWire):
    """One connection: statements, transactions, upkeep."""

    __slots__ = ("_can_reset", "_driver", "_is_set_up", "_moved", "_set_up", "_touched")

    def __init__(
        self,
        link: Link,
        answer: Answer,
        session: Session,
        driver: MySQLDriver,
    ) -> None:
        super().__init__(link, answer, session, driver.stopper)
        self._driver = driver
        self._touched = driver.reset == "always"
        self._moved = False  # another database may be the current one
        self._is_set_up = False
        self._set_up = list(driver.set_up)
        self._can_reset = True

    @property
    def is_dirty(self) -> bool:
        """Whether `clean` has anything to do."""
        return self.suspect or self._touched or self.in_transaction or self.stream is not None

    def expose(self) -> Any:
        """Return the driver's connection; its user may do anything to the session."""
        self._touch(moves=True, again=None)
        return self.raw

    def keep_session(self) -> None:
        """Take the session as it is now for clean: a reset will make it so again."""
        self._is_set_up = True
        self._touched = self._driver.reset == "always"
        self._moved = False

    def _touch(self, *, moves: bool, again: bytes | None) -> None:
        """Note a change of the session, and how to make it again while that is set up."""
        self._touched = self._driver.reset != "never"
        self._moved = self._moved or moves
        if self._is_set_up:
            return
        if again is None:
            self._can_reset = False
            return
        with contextlib.suppress(ValueError):
            self._set_up.remove(again)
        self._set_up.append(again)

    # Statements

    async def execute(self, sql: str, params: Params, timeout: float | None) -> ExecuteResult:
        """Run one statement."""
        statement, traits = plan(sql, self.dialect)
        await self._run(traits, render(statement, params, self._driver.literals), timeout)
        answer = self.answer
        if answer.description is not None and traits.keyword not in _CHANGES:
            return ExecuteResult(0)
        return ExecuteResult(answer.rowcount, answer.lastrowid or None)

    async def fetch(
        self,
        sql: str,
        params: Params,
        timeout: float | None,
        limit: int = 0,  # noqa: ARG002
    ) -> Fetched:
        """Run one statement and return its rows: all of them, the server sends them anyway."""
        statement, traits = plan(sql, self.dialect)
        await self._run(traits, render(statement, params, self._driver.literals), timeout)
        return fetched(self.answer.description, self.answer.rows)

    async def execute_script(self, sql: str, timeout: float | None) -> None:
        """Run several statements, cut apart by the server, which knows best where."""
        traits, text = script(sql, self.dialect)
        watch = self.watch(timeout)
        try:
            self._refuse(traits, text, watch)
            async with self._multi_statements(sql):
                try:
                    await self._one(traits, text, watch)
                finally:
                    await self.end_watch(watch)
        finally:
            await self.end_watch(watch)

    @contextlib.asynccontextmanager
    async def _multi_statements(self, sql: str) -> AsyncIterator[None]:
        if self.is_dead:
            raise self.died(sql)
        await self._set_option(MULTI_STATEMENTS_ON)
        try:
            yield
        finally:
            if not self.link.is_closed:
                await self._or_lose(self._set_option(MULTI_STATEMENTS_OFF))

    async def _set_option(self, option: bytes) -> None:
        await self.call(self.link.set_option(option), "the option of several statements")

    async def open_cursor(
        self, sql: str, params: Params, timeout: float | None, batch_size: int
    ) -> DriverCursor:
        """Start a statement whose rows are read from the socket as they are asked for."""
        statement, traits = plan(sql, self.dialect)
        text = render(statement, params, self._driver.literals)
        self._refuse(traits, text, None)
        stream = MySQLCursor(self, sql, timeout, batch_size)
        await stream.open(text)
        return stream

    async def _run(self, traits: Traits, text: bytes, timeout: float | None) -> None:
        if timeout is None:
            await self._one(traits, text, None)
            return
        watch = self.watch(timeout)
        try:
            await self._one(traits, text, watch)
        finally:
            await self.end_watch(watch)

    async def _one(self, traits: Traits, text: bytes, watch: Watch | None) -> None:
        """Run a statement within the deadline of a call that may have several."""
        self._refuse(traits, text, watch)
        sql = traits.sql
        if self._driver.local_infile and (path := local_file(traits, text)) is not None:
            with opened(path, sql) as file:
                await self.load(text, path, file, sql, watch)
        else:
            await self.send(self.answer, text, sql, watch)
        if traits.has_results:
            await self.call(self.answer.drain(), sql, watch)
        if self.answer.warning_count and self._driver.log_warnings:
            await self._log_warnings(traits, self.answer.warning_count)
        if self._began and not self.in_transaction:
            reason = InternalError(
                f"{traits.keyword} ended the transaction at the server", query=sql
            )
            self.transaction_ended(reason)
        if watch is not None and watch.expired and (traits.is_read or traits.is_script):
            # MySQL's SLEEP() ends without an error. But a write that came through has taken effect.
            raise self.too_late(sql, watch)

    async def _log_warnings(self, traits: Traits, count: int) -> None:
        """Ask what the server warned of. The statement has taken effect, whatever becomes of it."""
        if traits.keyword == "SHOW" or not logger.isEnabledFor(WARNING):
            return
        answer = Answer(self.link)  # that of the statement is its caller's
        try:
            await self.send(answer, _SHOW_WARNINGS, "SHOW WARNINGS")
        except Error:
            return  # a lost connection is told to the next statement, a deadline to this one
        log_warnings(traits.sql, count, answer.rows, with_values=self._driver.log_params)

    def _refuse(self, traits: Traits, text: bytes, watch: Watch | None) -> None:
        """Raise for what must not be sent; take note of what the statement may leave behind."""
        sql = traits.sql
        if self.stream is not None:
            raise InterfaceError(
                "a cursor is open on this connection: read it to the end or close it before "
                "the next statement, or use another connection",
                query=sql,
            )
        if watch is not None and watch.expired:
            raise self.too_late(sql, watch)
        if len(text) >= self.session.max_packet:
            raise DataError(
                f"the statement has {len(text):,} bytes with its values, more than the server's "
                f"max_allowed_packet of {self.session.max_packet:,}; nothing was sent",
                query=sql,
            )
        if self._began and (traits.ends or traits.commits) and self.in_transaction:
            raise _ends_transaction(traits)
        if traits.touches:
            self._touch(moves=traits.moves, again=text if traits.replays else None)

    # Many rows

    async def execute_many(
        self, sql: str, rows: Sequence[Params], timeout: float | None
    ) -> ExecuteResult:
        """Run one statement for each of ``rows``: all of them or none."""
        statement, traits = plan(sql, self.dialect)
        text, bound = statement.bind_many(rows)
        pieces, literals = bulk.multi_row(statement), self._driver.literals
        if pieces is None:
            texts = bulk.singles(text, bound, literals, sql)
        else:
            texts = bulk.chunks(pieces, bound, literals, sql, self.session.max_packet)
        return ExecuteResult(await self._all_or_none(traits, texts, timeout))

    async def insert_many(
        self,
        table: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        timeout: float | None,
    ) -> int:
        """Insert rows by INSERTs of about a megabyte: all of them or none."""
        quote = self._driver.quote
        name = ".".join(map(quote, table.split(".")))
        head = f"INSERT INTO {name} ({', '.join(map(quote, columns))}) VALUES "  # noqa: S608
        traits = plan(head, self.dialect)[1]
        pieces = bulk.MultiRow(head.encode(), f"({', '.join(['%s'] * len(columns))})", b"")
        texts = bulk.chunks(pieces, rows, self._driver.literals, head, self.session.max_packet)
        return await self._all_or_none(traits, texts, timeout)

    async def _all_or_none(
        self, traits: Traits, texts: AsyncGenerator[bytes, None], timeout: float | None
    ) -> int:
        watch = self.watch(timeout)
        try:
            async with contextlib.aclosing(texts):
                first = await self._next(texts, traits, watch)
                second = await self._next(texts, traits, watch)
                if first is None:
                    return 0
                if second is None:
                    # A single statement takes effect as a whole anyway.
                    return await self._changed(traits, first, watch)
                self._refuse(traits, first, watch)
                async with self._unit(traits.sql, watch):
                    changed = await self._changed(traits, first, watch)
                    while second is not None:
                        changed += await self._changed(traits, second, watch)
                        second = await self._next(texts, traits, watch)
                    return changed
        finally:
            await self.end_watch(watch)

    async def _changed(self, traits: Traits, text: bytes, watch: Watch | None) -> int:
        await self._one(traits, text, watch)
        return int(self.answer.rowcount)

    async def _next(
        self, texts: AsyncIterator[bytes], traits: Traits, watch: Watch | None
    ) -> bytes | None:
        """Return the next statement; the rows in it may be long in coming."""
        if watch is None:
            return await anext(texts, None)
        limit = asyncio.timeout(watch.remaining)
        try:
            async with limit:
                return await anext(texts, None)
        except TimeoutError:
            if not limit.expired():
                raise
            raise self.too_late(traits.sql, watch) from None

    @contextlib.asynccontextmanager
    async def _unit(self, sql: str, watch: Watch | None) -> AsyncIterator[None]:
        """A savepoint in an open transaction, else a transaction: kept or undone as a whole."""
        nested = self.in_transaction
        await self.command(f"SAVEPOINT {_ROWS}" if nested else "BEGIN")
        try:
            yield
            if nested:
                await self.release_savepoint(_ROWS)
            else:
                await self._commit(sql)
        except Exception:
            await self.end_watch(watch)
            await self._undo(nested=nested)
            raise
        except BaseException:
            self.lose(ConnectionLostError("interrupted among many rows: its connection is closed"))
            raise

    async def _undo(self, *, nested: bool) -> None:
        if not self.in_transaction:
            return
        if nested:
            await self._or_lose(self.rollback_to_savepoint(_ROWS))
        else:
            await self._or_lose(self.command("ROLLBACK"))

    async def _or_lose(self, work: Awaitable[None]) -> None:
        """Clear up after a statement, whose outcome stands: what fails costs the connection."""
        try:
            async with asyncio.timeout(GRACE):
                await work
        except Error as error:
            self.lose(error)
        except TimeoutError:
            self.abandon()

    # Transactions

    async def begin(self, options: TransactionOptions) -> None:
        """Begin a transaction."""
        if options.deferrable or options.mode is not None:
            name = "deferrable" if options.deferrable else "mode"
            raise NotSupportedError(f"MySQL has no transaction option {name}")
        if self.in_transaction:
            raise TransactionScopeError("a transaction is open already: BEGIN would commit it")
        touched = self._touched
        if options.isolation is not None:
            # Of the next transaction, whichever that is: for now it is something left behind.
            self._touched = True
            await self.command(f"SET TRANSACTION ISOLATION LEVEL {options.isolation.upper()}")
        await self.command("START TRANSACTION READ ONLY" if options.read_only else "BEGIN")
        self._touched = touched
        self._began = True
        self.transaction_lost = None

    async def commit(self) -> None:
        """Commit."""
        if self.transaction_lost is not None and not self.in_transaction:
            raise InternalError(
                f"nothing was committed, the transaction was gone before: {self.transaction_lost}"
            ) from self.transaction_lost
        await self._commit("COMMIT")
        self._began = False

    async def _commit(self, sql: str) -> None:
        try:
            await self.command("COMMIT")
        except ConnectionLostError as error:
            if error.is_transient:  # it was not sent
                raise
            raise CommitUnknownError(
                "the connection broke during COMMIT: it may have taken effect, or not", query=sql
            ) from error

    async def rollback(self) -> None:
        """Roll back."""
        self._began = False
        if self.in_transaction:
            # With its connection the transaction is gone too.
            with contextlib.suppress(ConnectionLostError):
                await self.command("ROLLBACK")

    # Upkeep

    async def ping(self) -> None:
        """One round trip."""
        if self.is_dead:
            raise self.died("ping")
        await self.call(self.link.ping(), "ping")

    async def recover(self) -> None:
        """Make sure of being in step: an interrupted statement has closed the connection."""
        if self.stream is not None:
            await self.stream.close()
        if self.is_dead:
            raise ConnectionLostError("the connection was closed: its statement was interrupted")
        self.suspect = False

    async def clean(self) -> None:
        """Roll back, and reset the session if something may have been done to it."""
        await self.recover()
        await self.rollback()
        self.transaction_lost = None
        if self._touched:
            await self._reset()

    async def _reset(self) -> None:
        if not self._can_reset or (self._moved and self._driver.database is None):
            raise InterfaceError("the session cannot be made what it was: it has to be replaced")
        await self.call(self.link.reset_session(), "reset")
        if self._moved and self._driver.database is not None:
            await self.call(self.link.select_database(self._driver.database), "reset")
        async with self._multi_statements("reset"):
            for text in self._set_up:
                await self.send(self.answer, text, "reset")
                await self.call(self.answer.drain(), "reset")
        if self.link.is_closed:
            raise ConnectionLostError("the connection was lost while its session was reset")
        self._moved = False
        self._touched = self._driver.reset == "always"

    async def close(self) -> None:
        """Say goodbye to the server; cancelled, just drop the connection."""
        try:
            if not self.is_dead and self.stream is None:
                await self.link.close()
        except Exception:  # noqa: BLE001, S110 - it is gone all the same
            pass
        finally:
            self.abort()
        with contextlib.suppress(Exception):
            await self.link.said_goodbye()


def _ends_transaction(traits: Traits) -> Error:
    sql = traits.sql
    if traits.ends:
        return TransactionScopeError(
            f"{traits.ends} was not sent: an open transaction is ended by its block, or by "
            "commit() and rollback()",
            query=sql,
        )
    return NotSupportedError(
        f"{traits.commits} was not sent: on MySQL and MariaDB it would commit the open "
        "transaction; run it outside of one",
        query=sql,
    )
