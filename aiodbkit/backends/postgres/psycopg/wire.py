"""What is sent over a psycopg connection, and what its failures tell: in step, suspect or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import pq

from aiodbkit.backends.postgres.abilities import Codec, PostgresDriverConnection
from aiodbkit.backends.postgres.psycopg import errors
from aiodbkit.backends.postgres.psycopg.codecs import FIND, set_codecs
from aiodbkit.backends.postgres.psycopg.exchange import Cuts, Exchange
from aiodbkit.backends.postgres.psycopg.statements import (
    Gen,
    Known,
    Statements,
    checked,
    describe,
    parameter_types,
    run_one,
    run_script,
)
from aiodbkit.backends.postgres.psycopg.values import Encoders, Misfit, encode_row, set_loaders
from aiodbkit.backends.postgres.registered import full_name
from aiodbkit.backends.postgres.sqlstates import Sent
from aiodbkit.errors import (
    ConnectionLostError,
    DatabaseError,
    DataError,
    Error,
    InternalError,
    QueryTimeoutError,
    ReadOnlyError,
)
from aiodbkit.wire import IdleSocket

__all__ = ["IN_STEP", "PsycopgWire"]

IN_STEP = "SELECT 1"
_OK = int(pq.ConnStatus.OK)
_IDLE = int(pq.TransactionStatus.IDLE)
_ACTIVE = int(pq.TransactionStatus.ACTIVE)
_OPEN = (int(pq.TransactionStatus.INTRANS), int(pq.TransactionStatus.INERROR))


class PsycopgWire(PostgresDriverConnection):
    """One psycopg connection: statements of ours, its state, its errors."""

    __slots__ = (
        "_began",
        "_encoders",
        "_exchange",
        "_pgconn",
        "_read_only",
        "_resync",
        "_socket",
        "_statements",
    )

    raw: psycopg.AsyncConnection[Any]

    def __init__(
        self, raw: psycopg.AsyncConnection[Any], cuts: Cuts, threshold: int | None
    ) -> None:
        super().__init__(raw)
        self._pgconn: Any = raw.pgconn
        self._exchange = Exchange(raw.pgconn, cuts)
        mine: Any = raw
        mine.wait = self._exchange  # statements of a user of the raw connection are ours as well
        set_loaders(raw)
        self._encoders = Encoders(raw)
        self._statements = Statements(threshold, self._encoders.of)
        self._socket = IdleSocket(self._pgconn.socket)
        self._began = self._read_only = False
        self._resync = IN_STEP  # what `recover` sends

    @property
    def is_closed(self) -> bool:
        # What waits on an idle socket may be a notice. Only its end means that nobody is there.
        return bool(self._pgconn.status != _OK or self._socket.is_dead())

    @property
    def in_transaction(self) -> bool:
        status = self._pgconn.transaction_status
        return status in _OPEN or (status == _ACTIVE and self._began)

    # Sending

    async def _run(self, gen: Gen) -> Sequence[Any]:
        """Run a generator of `statements`; return its results, of which none is an error."""
        return checked(await self._exchange(gen))

    async def _query(self, text: str, args: Sequence[Any], sent: Sent) -> Any:
        """Run one statement; return its result."""
        self._refuse_closed(sent.sql)
        known, values = await self._ready(text, args, sent)
        try:
            return (await self._run(run_one(self._pgconn, known, values)))[-1]
        except psycopg.Error as error:
            if error.sqlstate and error.sqlstate[:2] in ("0A", "26", "42"):
                self._statements.forget(text)
            if not errors.is_stale(error) or self.in_transaction:
                raise
        return await self._query(text, args, sent)

    async def _ready(
        self,
        text: str,
        args: Sequence[Any],
        sent: Sent,
        times: int = 1,
        row: int | None = None,
    ) -> tuple[Known, Sequence[bytes | None]]:
        """Return what is known of a text, after asking what is not, and the arguments encoded."""
        known = self._statements.of(text)
        if self._statements.is_due(known, times, has_args=bool(args)):
            await self._run(self._statements.introduce(self._pgconn, known))
        try:
            return known, self._encode(known, args, sent, row) if args else ()
        except DataError:
            if not await self._is_outdated(text):
                raise
        return await self._ready(text, args, sent, times, row)

    async def _is_outdated(self, text: str) -> bool:
        """Whether the types of a statement's parameters were those of before an ALTER TABLE.

        Then it is forgotten: what they refused, of which nothing was sent, may fit those of now.
        """
        known = self._statements.of(text)
        if known.types is None or self._pgconn.status != _OK:
            return False
        anew = await self._run(describe(self._pgconn, known.sql))
        if parameter_types(anew[-1]) == known.types:
            return False
        self._statements.forget(text)
        return True

    async def _query_in_time(
        self, text: str, args: Sequence[Any], timeout: float | None, sent: Sent
    ) -> Any:
        if timeout is None:
            return await self._query(text, args, sent)
        async with asyncio.timeout(timeout):
            return await self._query(text, args, sent)

    def _encode(
        self, known: Known, args: Sequence[Any], sent: Sent, row: int | None = None
    ) -> Sequence[bytes | None]:
        try:
            return encode_row(args, known.encoders)
        except Exception as error:
            raise self._misfit(error, known, args, sent, row) from error

    def _misfit(
        self, error: Exception, known: Known, args: Sequence[Any], sent: Sent, row: int | None
    ) -> Error:
        found = errors.refused_argument(args, known.encoders, sent.names, row)
        if found is None or known.types is None:
            return DataError("a parameter does not fit its type", query=sent.sql)
        index, name = found
        if isinstance(error, Misfit) and error.args:
            message = f"{name} holds a NUL character, which PostgreSQL's text cannot"
        else:
            given, wanted = type(args[index]).__name__, self._type_name(known.types[index])
            message = f"{name}: this {given} does not fit PostgreSQL's {wanted}"
        return DataError(message, query=sent.sql)

    def _type_name(self, oid: int) -> str:
        found = self.raw.adapters.types.get(oid)
        if found is None:
            return f"type {oid}"
        return found.name + ("[]" if found.array_oid == oid else "")

    def _refuse_closed(self, sql: str | None) -> None:
        if self._pgconn.status != _OK:
            raise errors.connection_lost(_CLOSED, sql, was_closed=True)

    async def _send(self, sql: str, timeout: float | None = None) -> bytes:
        """Send statements of ours; return what the last one was answered with."""
        sent = Sent(sql, timeout)
        try:
            self._refuse_closed(sql)
            async with asyncio.timeout(timeout):
                results = await self._run(run_script(self._pgconn, sql.encode()))
        except Exception as error:
            raise self._failed(error, sent) from errors.cause_of(error)
        return results[-1].command_status or b""

    async def send(self, sql: str, timeout: float | None) -> None:
        await self._send(sql, timeout)

    async def set_codecs(self, codecs: Sequence[Codec]) -> None:
        if codecs:
            wanted = [full_name(codec) for codec in codecs]
            _, found = await self.fetch(FIND, [wanted], None)
            set_codecs(self.raw, self._encoders, codecs, found)

    async def listen(
        self,
        channels: Sequence[str],
        receive: Callable[[str, str, int], None],
        lost: Callable[[], None],
    ) -> None:
        self.raw.add_notify_handler(lambda came: receive(came.channel, came.payload, came.pid))
        names = ['"' + channel.replace('"', '""') + '"' for channel in channels]
        await self._send("; ".join(f"LISTEN {name}" for name in names))
        self._exchange.listen(lost)

    async def ping(self) -> None:
        await self._send(IN_STEP)

    async def recover(self) -> None:
        await self._exchange.settle()
        # An aborted transaction refuses even this, which is an answer all the same.
        try:
            if self._resync != IN_STEP or self._pgconn.transaction_status not in (_IDLE, *_OPEN):
                await self._send(self._resync)
        except ConnectionLostError:
            raise
        except DatabaseError:
            pass
        self.suspect = False
        self._resync = IN_STEP
        if self._began and not self.in_transaction:
            self._began = False
            self.transaction_lost = InternalError("the interrupted statement had ended it")

    def abort(self) -> None:
        self._exchange.abort()

    # Failures

    def _failed(self, error: Exception, sent: Sent) -> Error:
        """Translate, and note what the error tells about the connection."""
        answer = self._translated(error, sent)
        if not self.suspect:
            self._resync = IN_STEP
        return answer

    def _translated(self, error: Exception, sent: Sent) -> Error:
        if isinstance(error, ConnectionLostError):
            return self._lost(error)
        if isinstance(error, Error):
            return error
        if isinstance(error, TimeoutError) and not error.errno:
            self.suspect = True
            return QueryTimeoutError(
                f"the statement did not finish within timeout={sent.timeout} s and was cancelled",
                query=sent.sql,
            )
        if self._pgconn.status != _OK or errors.means_broken(error):
            return self._lost(errors.connection_lost(error, sent.sql, was_closed=False))
        if isinstance(error, psycopg.Error) and error.sqlstate:
            answer = errors.answered(error, sent)
            if isinstance(answer, ReadOnlyError) and self._read_only:
                answer.is_transient = False  # it was asked for: no other server would take it
            return answer
        # What has come is read already: a value that Python cannot hold leaves nothing behind.
        reason = f"psycopg could not read the answer: {type(error).__name__}"
        return DataError(reason, query=sent.sql)

    def _lost(self, lost: ConnectionLostError) -> ConnectionLostError:
        if self._began:
            self.transaction_lost = lost
        self.abort()
        return lost


_CLOSED = psycopg.InterfaceError("it was closed before the statement was sent")
