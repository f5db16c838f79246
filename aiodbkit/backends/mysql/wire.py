"""The way to the server: sending, failing, being stopped. The drivers' hazards end here.

After every call a connection is in step with the server, or it is closed:

- An interrupted await closes the driver's connection, while the statement runs on at the server and
  commits. The session is killed through a second connection, and the socket dropped at
  once: closing it would wait for a peer that may not read any more.
- A deadline does not interrupt the await, as that would close the connection too: the statement is
  stopped at the server (`Watch`), and its session and transaction live on.
- After any exception that is not one of the server's, a driver may read the answers of one
  statement as those of the next: the connection is dropped.
- The driver's flag for an open transaction is that of the last OK packet. Errors bring none, nor
  do results to aiomysql: after an error that may have ended the transaction the server is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from io import FileIO
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from aiodbkit.backends.mysql.errors import is_driver_error, is_statement_error, translate
from aiodbkit.backends.mysql.link import Answer, Link
from aiodbkit.backends.mysql.protocol import Status
from aiodbkit.backends.mysql.stop import GRACE, Stopper, Victim, Watch
from aiodbkit.driver import DriverConnection
from aiodbkit.errors import ConnectionLostError, DataError, Error, InternalError, QueryTimeoutError
from aiodbkit.sql import Dialect
from aiodbkit.wire import IdleSocket

if TYPE_CHECKING:
    from aiodbkit.backends.mysql.cursors import MySQLCursor

__all__ = ["MySQLWire", "Session"]

T = TypeVar("T")

# Plain numbers: they are used before and after each statement.
_IN_TRANSACTION = int(Status.IN_TRANSACTION)
_AUTOCOMMIT = int(Status.AUTOCOMMIT)
_NO_BACKSLASH = int(Status.NO_BACKSLASH_ESCAPES)
_TOO_BIG = 1153  # the server closes the connection after it
_INTERRUPTED = 1317


class Session(NamedTuple):
    """What set-up found out: who this is to the server, and how long a statement may be."""

    victim: Victim
    max_packet: int


class MySQLWire(DriverConnection):
    """A connection that is usable or closed, and nothing in between."""

    __slots__ = (
        "_began",
        "_busy",
        "_idle",
        "_stopper",
        "answer",
        "link",
        "session",
        "stream",
    )

    def __init__(self, link: Link, answer: Answer, session: Session, stopper: Stopper) -> None:
        super().__init__(link.raw)
        self.link = link
        self.answer = answer
        self.session = session
        self.stream: MySQLCursor | None = None  # whose rows are still on the way
        self._stopper = stopper
        self._began = False  # a transaction by begin(), not by SQL
        self._busy = False  # the server is working for it
        self._idle = IdleSocket(link.transport.get_extra_info("socket").fileno())

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"<{type(self).__name__} {self.session.victim.number}: {state}>"

    # What is known without asking

    @property
    def is_closed(self) -> bool:
        """Whether driver or socket know that the connection is dead."""
        return self.link.is_dead or self._idle.is_dead()

    @property
    def is_dead(self) -> bool:
        """Whether the event loop knows it: cheaper, but blind to what it has not read yet."""
        return self.link.is_dead

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open; always so in a session that does not autocommit."""
        status = self.raw.server_status & (_IN_TRANSACTION | _AUTOCOMMIT)
        return bool(status != _AUTOCOMMIT) and not self.link.is_closed

    @property
    def dialect(self) -> Dialect:
        """How the server reads SQL now: each OK packet tells its mode."""
        if self.raw.server_status & _NO_BACKSLASH:
            return Dialect.MYSQL_NO_BACKSLASH
        return Dialect.MYSQL

    # Sending

    async def send(self, answer: Answer, text: bytes, sql: str, watch: Watch | None = None) -> None:
        """Send one statement and read its answer."""
        if self.link.is_dead:
            raise self.died(sql)
        self._busy = True
        try:
            await answer.execute(text)
        except Exception as error:
            raise await self.failed(error, sql, watch) from error
        except BaseException:
            self.abandon()
            raise
        finally:
            self._busy = False

    async def load(
        self, text: bytes, path: bytes, file: FileIO, sql: str, watch: Watch | None
    ) -> None:
        """Send one LOAD DATA LOCAL and its file."""
        if self.link.is_dead:
            raise self.died(sql)
        await self.call(self.answer.load(text, path, file), sql, watch)

    async def call(self, work: Awaitable[T], sql: str, watch: Watch | None = None) -> T:
        """Await another call of the driver, under the same rules."""
        self._busy = True
        try:
            return await work
        except Exception as error:
            raise await self.failed(error, sql, watch) from error
        except BaseException:
            self.abandon()
            raise
        finally:
            self._busy = False

    async def command(self, sql: str) -> None:
        """Send a statement without values and without rows."""
        await self.send(self.answer, sql.encode(), sql)

    # Failing

    async def failed(self, error: Exception, sql: str, watch: Watch | None) -> Error:
        """Return the error to raise, the connection being in step or closed."""
        if not is_driver_error(error):
            self.abandon()
            if watch is not None and watch.expired:
                return self.too_late(sql, watch)
            return self._out_of_step(error, sql)
        failure = translate(error, sql)
        lost = isinstance(failure, ConnectionLostError)
        if lost or failure.code == _TOO_BIG or self.link.is_closed:
            self.lose(failure)
        await self.end_watch(watch)
        if self.in_transaction and not is_statement_error(failure):
            # Which errors end a transaction depends on the server's options: ask it.
            await self.ask_status(failure)
        if watch is not None and watch.expired and (lost or isinstance(failure, QueryTimeoutError)):
            return self.too_late(sql, watch)
        return failure

    def transaction_ended(self, reason: BaseException) -> None:
        """Take note that the transaction is gone although nobody ended it."""
        if self._began:
            self._began = False
            self.transaction_lost = reason

    def lose(self, reason: Error) -> None:
        """Drop the connection, and the transaction with it."""
        self.abort()
        self.transaction_ended(reason)

    def abandon(self) -> None:
        """Drop the connection in the middle of a statement."""
        self.lose(
            ConnectionLostError(
                "a statement was interrupted: its connection is closed, its transaction rolled back"
            )
        )

    def abort(self) -> None:
        """Drop the connection at once; what the server is doing for it is to be ended there."""
        at_work = self._busy or self.stream is not None
        if at_work and not self.link.was_cut:
            self._busy = False
            self._stopper.end_session(self.session.victim)
        self.link.abort()

    def died(self, sql: str) -> ConnectionLostError:
        """Return the error for a connection found closed before anything was sent."""
        error = ConnectionLostError(
            "the connection to MySQL had been closed by the other side, nothing was sent",
            query=sql,
            is_transient=True,
        )
        self.lose(error)
        return error

    async def ask_status(self, failure: Error | None = None) -> None:
        """Do nothing at the server: its OK packet tells whether a transaction is open.

        If that is gone, ``failure`` is what ended it.

        A KILL QUERY that came too late for its statement ends this one instead of the next.
        """
        guard = asyncio.get_running_loop().call_later(GRACE, self.abort)
        try:
            while not await self._did_nothing():
                pass
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection is of no use
            self.lose(self._out_of_step(error, "DO 0"))
        except BaseException:
            self.abandon()
            raise
        finally:
            guard.cancel()
        if not self.in_transaction:
            ended = InternalError("the transaction was ended by an error in a stream of rows")
            self.transaction_ended(failure or ended)

    async def _did_nothing(self) -> bool:
        try:
            await self.answer.execute(b"DO 0")
        except Exception as error:
            if not is_driver_error(error) or error.args[:1] != (_INTERRUPTED,):
                raise
            return False
        return True

    # Deadlines

    def watch(self, timeout: float | None) -> Watch | None:
        """Start the clock of a call."""
        if timeout is None:
            return None
        return Watch(timeout, self._stop_statement, self.abort)

    def _stop_statement(self) -> asyncio.Future[bool]:
        return self._stopper.stop_statement(self.session.victim)

    async def end_watch(self, watch: Watch | None) -> None:
        """Stop the clock; no KILL QUERY of it can hit a later statement when this returns."""
        if watch is None:
            return
        watch.cancel()
        if not watch.is_pending or self.link.is_closed:
            return
        try:
            certain = await watch.settle()
        except BaseException:
            self.abandon()
            raise
        if certain:
            await self.ask_status()
        else:
            self.lose(
                ConnectionLostError("a KILL QUERY for this connection may still be on its way")
            )

    def too_late(self, sql: str, watch: Watch) -> QueryTimeoutError:
        """Return the error for a call past its deadline."""
        what = "the server did not end it in time, its connection was closed"
        if not self.link.is_closed:
            what = "it was stopped at the server"
        return QueryTimeoutError(
            f"the statement ran past timeout={watch.limit:g} s: {what}", query=sql
        )

    def _out_of_step(self, error: BaseException, sql: str) -> Error:
        if isinstance(error, UnicodeDecodeError):
            return DataError(
                f"a value cannot be decoded ({error}); the connection was closed in the middle of "
                "the result",
                query=sql,
            )
        return ConnectionLostError(
            f"{self.link.driver} failed: {type(error).__name__}: {error}. The connection was "
            "closed, it would be out of step with the server",
            query=sql,
        )
