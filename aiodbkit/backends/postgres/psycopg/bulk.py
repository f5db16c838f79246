"""Many rows at once over psycopg: pipelines and COPY, all of them or none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Sequence,
)
from itertools import islice
from typing import Any

from psycopg import pq
from psycopg.generators import copy_end, copy_from, copy_to

from aiodbkit.backends.postgres.psycopg import errors
from aiodbkit.backends.postgres.psycopg.statements import Gen, describe, run_many, run_script
from aiodbkit.backends.postgres.psycopg.values import Encode, Misfit, encode_row
from aiodbkit.backends.postgres.psycopg.wire import IN_STEP, PsycopgWire
from aiodbkit.backends.postgres.sql import argument_names, plan, refuse_unsendable, with_values
from aiodbkit.backends.postgres.sqlstates import Sent
from aiodbkit.driver import Params
from aiodbkit.errors import CommitUnknownError, DataError, Error

__all__ = ["PsycopgBulk"]

# Rows of an execute_many() that are under way at once.
_BATCH = 1000
# Bytes that are handed on together.
_CHUNK = 1 << 16
# Seconds for the ROLLBACK after refused rows; then the connection is cut, which ends them as well.
_UNDO_TIMEOUT = 2.0
_UNDO_MANY = "ROLLBACK TO SAVEPOINT aiodbkit_many; RELEASE SAVEPOINT aiodbkit_many"
_SOUND = int(pq.TransactionStatus.INTRANS)


class PsycopgBulk(PsycopgWire):
    """What brings many rows in or out."""

    __slots__ = ()

    @contextlib.asynccontextmanager
    async def _all_or_none(self, sent: Sent) -> AsyncIterator[None]:
        """For bulk work: what a deadline or a cancellation leaves unfinished cannot commit itself.

        What is interrupted is undone by `recover`.
        """
        own = self._own_savepoint if self.in_transaction else self._own_transaction
        deadline, step = asyncio.timeout(sent.timeout), "rows"
        try:
            async with deadline, own(deadline):
                yield
                step = "COMMIT"
        except TimeoutError as error:
            if not deadline.expired():  # the caller's own
                raise
            raise self._late(error, sent, step) from error

    def _late(self, error: TimeoutError, sent: Sent, step: str) -> Error:
        if step == "COMMIT" and not self._began:
            self.suspect = True
            return CommitUnknownError(
                f"COMMIT was not answered within timeout={sent.timeout} s: whether the rows "
                "are there is unknown",
                query="COMMIT",
            )
        return self._failed(error, sent)

    @contextlib.asynccontextmanager
    async def _own_transaction(self, deadline: asyncio.Timeout) -> AsyncIterator[None]:
        self._resync = "ROLLBACK"
        await self._send("BEGIN")
        try:
            yield
        except Error:
            await self._undo("ROLLBACK", deadline)
            raise
        await self.commit()
        self._resync = IN_STEP

    @contextlib.asynccontextmanager
    async def _own_savepoint(self, deadline: asyncio.Timeout) -> AsyncIterator[None]:
        """The same inside a transaction, which what the server refuses aborts as always."""
        await self._send("SAVEPOINT aiodbkit_many")
        self._resync = _UNDO_MANY
        try:
            yield
        except Error:
            if self._pgconn.transaction_status == _SOUND:
                await self._undo(_UNDO_MANY, deadline)
            raise
        await self._send("RELEASE SAVEPOINT aiodbkit_many")
        self._resync = IN_STEP

    async def _undo(self, statement: str, deadline: asyncio.Timeout) -> None:
        """Roll refused rows back. Whatever becomes of that, their own error is the one to raise."""
        if self.suspect or self.is_closed:
            return
        if not deadline.expired():
            deadline.reschedule(None)
        try:
            await self._send(statement, _UNDO_TIMEOUT)
        except Error:
            self.abort()
        self._resync = IN_STEP

    async def _execute_many(self, text: str, batch: list[Sequence[Any]], sent: Sent) -> int:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            return await self._send_many(text, batch, sent)
        except DataError as refusal:
            if refusal.sqlstate is not None:  # the server's; all others are of an encoder
                raise
            left = None if sent.timeout is None else sent.timeout - (clock() - began)
            if not await self._is_outdated_in_time(text, sent._replace(timeout=left)):
                raise
        # All of it: the rows that were sent before are undone.
        left = None if sent.timeout is None else sent.timeout - (clock() - began)
        return await self._send_many(text, batch, sent._replace(timeout=left))

    async def _is_outdated_in_time(self, text: str, sent: Sent) -> bool:
        try:
            async with asyncio.timeout(sent.timeout):
                return await self._is_outdated(text)
        except Exception as error:
            raise self._failed(error, sent) from errors.cause_of(error)

    async def _send_many(self, text: str, batch: list[Sequence[Any]], sent: Sent) -> int:
        total = 0
        async with self._all_or_none(sent):
            try:
                known, _ = await self._ready(text, batch[0], sent, len(batch), row=0)
                numbered = enumerate(batch)
                while part := list(islice(numbered, _BATCH)):
                    rows = [self._encode(known, row, sent, number) for number, row in part]
                    results = await self._run(run_many(self._pgconn, known, rows))
                    total += sum(result.command_tuples or 0 for result in results)
            except Exception as error:
                raise self._failed(error, sent) from errors.cause_of(error)
        return total

    # COPY

    async def insert_many(
        self,
        table: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        timeout: float | None,
    ) -> int:
        """COPY the rows in. An error of the caller's own iterable passes as it is."""
        names, place = ", ".join(map(_quoted, columns)), ".".join(map(_quoted, _parts(table)))
        sql = f"COPY {place} ({names}) FROM STDIN"
        refuse_unsendable(sql)
        select = f"SELECT {names} FROM {place}".encode()  # noqa: S608 - names are quoted
        sent = Sent(sql, timeout)
        async with self._all_or_none(sent):
            try:
                found = await self._run(describe(self._pgconn, select))
            except Exception as error:
                raise self._failed(error, sent) from errors.cause_of(error)
            types = [found[-1].ftype(number) for number in range(found[-1].nfields)]
            lines = _Lines(table, columns, list(map(self._encoders.of, types)), sql)
            return await self._copy_in(sql, lines.of(rows), sent)

    async def copy_in(
        self, statement: str, source: AsyncIterator[bytes], timeout: float | None
    ) -> int:
        refuse_unsendable(statement)
        sent = Sent(statement, timeout)
        async with self._all_or_none(sent):
            return await self._copy_in(statement, source, sent)

    async def _copy_in(self, sql: str, source: AsyncIterator[bytes], sent: Sent) -> int:
        try:
            await self._run(run_script(self._pgconn, sql.encode()))
        except Exception as error:
            raise self._failed(error, sent) from errors.cause_of(error)
        try:
            async for chunk in source:
                await self._copying(copy_to(self._pgconn, chunk), sent)
        except _Answered as answered:
            raise answered.error from answered.error.__cause__
        except BaseException:
            self._end_copy(copy_end(self._pgconn, b"the rows ended in an error"))
            raise
        try:
            result = await self._exchange(copy_end(self._pgconn, None))
        except Exception as error:
            raise self._failed(error, sent) from errors.cause_of(error)
        return int(result.command_tuples or 0)

    async def copy_out(
        self,
        statement: Callable[[str], str],
        query: str,
        params: Params,
        sink: Callable[[bytes], Awaitable[None]],
        timeout: float | None,
    ) -> int:
        sent = Sent(query, timeout)
        async with self._all_or_none(sent):
            if params:
                query = await self._with_literals(query, params, sent)
            sql = statement(query)
            refuse_unsendable(sql)
            try:
                await self._run(run_script(self._pgconn, sql.encode()))
            except Exception as error:
                raise self._failed(error, sent) from errors.cause_of(error)
            try:
                return await self._copy_to(sink, sent)
            except _Answered as answered:
                raise answered.error from answered.error.__cause__
            except BaseException:
                self._end_copy(_drained(self._pgconn))
                raise

    async def _copy_to(self, sink: Callable[[bytes], Awaitable[None]], sent: Sent) -> int:
        chunk = bytearray()
        while isinstance(data := await self._copying(copy_from(self._pgconn), sent), memoryview):
            chunk += data
            if len(chunk) >= _CHUNK:
                await sink(bytes(chunk))
                chunk.clear()
        if chunk:
            await sink(bytes(chunk))
        return int(data.command_tuples or 0)

    async def _copying(self, gen: Gen, sent: Sent) -> Any:
        try:
            return await self._exchange(gen)
        except Exception as error:
            failure = self._failed(error, sent)
            failure.__cause__ = errors.cause_of(error)
            raise _Answered(failure) from error

    def _end_copy(self, gen: Gen) -> None:
        """Have a COPY ended that somebody else than the server gave up."""
        self.suspect = True
        if self._pgconn.status == pq.ConnStatus.OK:
            self._exchange.leave(gen)

    async def _with_literals(self, sql: str, params: Params, sent: Sent) -> str:
        """Put the parameters' values in their places, as literals."""
        statement = plan(sql).statement
        text, args = statement.bind(params)
        if not args:
            return text
        sent = sent._replace(names=argument_names(statement, params))
        try:
            known, values = await self._ready(text, args, sent)
            oids = ", ".join(f"pg_catalog.format_type({oid}, NULL)" for oid in known.types or ())
            found = await self._run(run_script(self._pgconn, f"SELECT {oids}".encode()))
        except Exception as error:
            raise self._failed(error, sent) from errors.cause_of(error)
        escape = pq.Escaping(self._pgconn).escape_literal
        literals = [
            f"({'NULL' if value is None else bytes(escape(value)).decode()}"
            f"::{found[-1].get_value(0, number).decode()})"
            for number, value in enumerate(values)
        ]
        return with_values(text, literals)


class _Lines:
    """Makes the text of COPY of rows."""

    def __init__(
        self, table: str, columns: Sequence[str], encoders: Sequence[Encode], sql: str
    ) -> None:
        self._table, self._columns, self._encoders = table, columns, encoders
        self._sql = sql

    async def of(
        self, rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]]
    ) -> AsyncIterator[bytes]:
        lines, size, number = list[bytes](), 0, 0
        async for row in rows if isinstance(rows, AsyncIterable) else _each(rows):
            line = self._line(row, number)
            lines.append(line)
            size, number = size + len(line), number + 1
            if size > _CHUNK:
                yield b"".join(lines)
                lines, size = [], 0
        if lines:
            yield b"".join(lines)

    def _line(self, row: Sequence[Any], number: int) -> bytes:
        try:
            values = encode_row(row, self._encoders)
        except Exception as error:
            raise self._refused(error, row, number) from error
        return (
            b"\t".join([b"\\N" if value is None else _escaped(value) for value in values]) + b"\n"
        )

    def _refused(self, error: Exception, row: Sequence[Any], number: int) -> DataError:
        given = ", ".join(
            f"{column} {type(value).__name__}"
            for column, value in zip(self._columns, row, strict=False)
        )
        what = "has a value that does not fit its column"
        if isinstance(error, Misfit) and error.args:
            what = "has a text with a NUL character, which PostgreSQL's text cannot hold"
        return DataError(
            f"insert_many({self._table!r}): row {number} {what}; it was given {given}",
            query=self._sql,
        )


class _Answered(Exception):  # noqa: N818 - on its way to become the error that it holds
    """A COPY that has ended: all other errors in the middle of one have to end it."""

    def __init__(self, error: Error) -> None:
        super().__init__()
        self.error = error


async def _each(rows: Iterable[Sequence[Any]]) -> AsyncIterator[Sequence[Any]]:
    for row in rows:
        yield row


def _escaped(value: bytes) -> bytes:
    if b"\\" in value:
        value = value.replace(b"\\", b"\\\\")
    if b"\n" in value or b"\t" in value or b"\r" in value:
        value = value.replace(b"\n", b"\\n").replace(b"\t", b"\\t").replace(b"\r", b"\\r")
    return value


def _drained(pgconn: Any) -> Gen:
    while isinstance((yield from copy_from(pgconn)), memoryview):
        pass


def _parts(table: str) -> Sequence[str]:
    schema, _, name = table.rpartition(".")
    return (schema, name) if schema else (name,)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
