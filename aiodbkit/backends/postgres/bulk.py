"""Many rows at once over asyncpg: executemany and COPY, all of them or none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

from aiodbkit.backends.postgres.copy import feed, refused_row
from aiodbkit.backends.postgres.cursor import Deadline
from aiodbkit.backends.postgres.errors import Sent
from aiodbkit.backends.postgres.sql import argument_names, plan, refuse_unsendable, with_values
from aiodbkit.backends.postgres.wire import IN_STEP, PostgresWire
from aiodbkit.driver import Params
from aiodbkit.errors import CommitUnknownError, Error

__all__ = ["PostgresBulk"]

# Seconds for the ROLLBACK after refused rows; then the connection is cut, which ends them as well.
_UNDO_TIMEOUT = 2.0
_UNDO_MANY = "ROLLBACK TO SAVEPOINT aiodbkit_many; RELEASE SAVEPOINT aiodbkit_many"


class PostgresBulk(PostgresWire):
    """What brings many rows in or out."""

    __slots__ = ()

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
        self._resync = IN_STEP

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
        self._resync = IN_STEP

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
        target = ".".join(_quoted(part) for part in (schema, name) if part)
        names = ", ".join(map(_quoted, columns))
        source = feed(rows)
        try:
            # asyncpg's own timeout does not reach a COPY that waits for room in the socket.
            async with asyncio.timeout(deadline.left):
                # copy_records_to_table() would keep the columns' types in its cache, and after an
                # ALTER TABLE write one type's bytes into another's column: rubbish, or an end of
                # the connection. Asked in the transaction, the table cannot change before the end.
                question = f"SELECT {names} FROM {target} LIMIT 1"  # noqa: S608 - names, quoted
                look = await self.raw.prepare(question, name="")
                status: str = await self._copying._protocol.copy_in(
                    f"COPY {target} ({names}) FROM STDIN (FORMAT binary)",
                    *(None, None, source, look._state, None),  # type: ignore[attr-defined]
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

    async def copy_in(
        self, statement: str, source: AsyncIterator[bytes], timeout: float | None
    ) -> int:
        refuse_unsendable(statement)
        chunks = _Source(source)
        async with self._all_or_none(timeout) as deadline:
            try:
                # asyncpg's own timeout does not reach a COPY that waits for room in the socket.
                async with asyncio.timeout(deadline.left):
                    status: str = await self._copying._copy_in(statement, chunks, None)
            except Exception as error:
                if error is chunks.error:
                    self.suspect = True
                    raise
                raise self._failed(error, Sent(statement, timeout)) from error
        return int(status.rpartition(" ")[2])

    async def copy_out(
        self,
        statement: Callable[[str], str],
        query: str,
        params: Params,
        sink: Callable[[bytes], Awaitable[None]],
        timeout: float | None,
    ) -> int:
        # A transaction of its own for what is prepared first: a pooler may change servers between.
        async with self._all_or_none(timeout) as deadline:
            if params:
                query = await self._with_literals(query, params, deadline)
            sql, target = statement(query), _Sink(sink)
            refuse_unsendable(sql)
            try:
                async with asyncio.timeout(deadline.left):
                    status = await self._pump(sql, target)
            except Exception as error:
                if error is target.error:
                    self.suspect = True
                    raise
                raise self._failed(error, Sent(query, timeout)) from error
        return int(status.rpartition(" ")[2])

    async def _pump(self, sql: str, target: _Sink) -> str:
        """Hand on what a COPY sends, in the caller's task: asyncpg's own goes on to its end.

        Left early, asyncpg would take the next piece of data for the end of it.
        """
        pieces = _Pieces()
        copying = asyncio.ensure_future(self._copying._copy_out(sql, pieces.put, None))
        copying.add_done_callback(pieces.end)
        try:
            while (data := await pieces.get()) is not None:
                await target.write(data)
        except BaseException:
            pieces.discard()
            self._draining = [copying, *self._cuts.cancel(self.raw)]
            raise
        status: str = copying.result()
        return status

    @property
    def _copying(self) -> Any:
        """Where asyncpg runs a COPY statement as it stands, which it has no public name for."""
        return self.raw

    async def _with_literals(self, sql: str, params: Params, deadline: Deadline) -> str:
        """Put the parameters' values in their places, as literals that the server has written."""
        known = plan(sql)
        text, args = known.statement.bind(params)
        if not args:
            return text
        try:
            async with asyncio.timeout(deadline.left):
                known_as = (await self.raw.prepare(text, name="")).get_parameters()
                types = list(map(_type_name, known_as))
                wanted = (
                    f"quote_nullable(${number}::{name}::text)"
                    for number, name in enumerate(types, start=1)
                )
                literals = await self.raw.fetchrow(f"SELECT {', '.join(wanted)}", *args)
        except Exception as error:
            names = argument_names(known.statement, params)
            sent = Sent(sql, deadline.timeout, names, args)
            raise self._failed(error, sent, text) from error
        assert literals is not None
        return with_values(text, [f"({literals[i]}::{name})" for i, name in enumerate(types)])


class _Source:
    """Remembers whether an error was the source's own."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.error: BaseException | None = None

    def __aiter__(self) -> _Source:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self.error = error
            raise


class _Sink:
    """The same for what takes the bytes of a COPY."""

    def __init__(self, sink: Callable[[bytes], Awaitable[None]]) -> None:
        self._sink = sink
        self.error: BaseException | None = None

    async def write(self, data: bytes) -> None:
        try:
            await self._sink(data)
        except Exception as error:
            self.error = error
            raise


class _Pieces:
    """One piece of data at a time, from the task of asyncpg's COPY to the one who wants it."""

    def __init__(self) -> None:
        self._data: bytes | None = None
        self._is_over = self._is_unwanted = False
        self._came, self._went = asyncio.Event(), asyncio.Event()

    async def put(self, data: bytearray) -> None:
        """Return when it was taken: asyncpg reads no further meanwhile."""
        if self._is_unwanted:
            return
        self._data = bytes(data)
        self._went.clear()
        self._came.set()
        await self._went.wait()

    async def get(self) -> bytes | None:
        """Return the next piece, None after the last."""
        while self._data is None and not self._is_over:
            self._came.clear()
            await self._came.wait()
        data, self._data = self._data, None
        self._went.set()
        return data

    def discard(self) -> None:
        """Let the rest go by."""
        self._is_unwanted = True
        self._went.set()

    def end(self, copying: asyncio.Future[str]) -> None:
        """Nothing more comes."""
        self._is_over = True
        self._came.set()
        if not copying.cancelled():
            copying.exception()  # whoever waits for it has it; nobody may be left to


def _type_name(kind: Any) -> str:
    """Return a type's name for a cast; asyncpg writes that of an array with brackets."""
    name = kind.name
    name = f"_{name[:-2]}" if name.endswith("[]") else name
    return f"{_quoted(kind.schema)}.{_quoted(name)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _heard(task: asyncio.Task[None]) -> None:
    """Fetch the error of a task that nobody waits for, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()
