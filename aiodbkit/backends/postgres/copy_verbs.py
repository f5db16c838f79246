"""`copy_in` and `copy_out`: COPY on the task's connection, or on one taken for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from aiodbkit.backends.postgres.copying import (
    CopyOptions,
    Progress,
    call_progress,
    chunks_of,
    column_list,
    is_statement,
    sink_for,
)
from aiodbkit.driver import DriverConnection, Params
from aiodbkit.errors import InterfaceError, ProgrammingError
from aiodbkit.pool.slot import Slot
from aiodbkit.sql import Dialect, compile_sql

if TYPE_CHECKING:
    from aiodbkit.backends.postgres.engine import PostgresEngine

__all__ = ["CopyStream", "Query", "copy_bytes_in", "copy_to"]


class Query:
    """What is copied out, and how."""

    def __init__(
        self,
        source: str,
        params: Params,
        options: CopyOptions,
        quote: Callable[[str], str],
    ) -> None:
        self.sql = source
        self.params = params
        self._options = options
        self._quote = quote
        if not isinstance(cast("object", source), str):
            raise ProgrammingError(
                "copy_out() takes the name of a table or SQL text, a str, not "
                f"{type(source).__name__}"
            )
        self._is_table = not any(map(str.isspace, source.strip()))
        if is_statement(source, "out"):
            refuse_several(source)
            options.refuse_beside(source)
        elif not self._is_table:
            # In COPY's parentheses a second statement could close them.
            refuse_several(source)
            compile_sql(source, Dialect.POSTGRES).bind(params)  # tells of names that are missing
            return
        if params:
            raise ProgrammingError(
                "copy_out(): params go with a query, not with a table or a whole COPY", query=source
            )

    def statement(self, sql: str) -> str:
        """Return the COPY statement, ``sql`` being the query with its parameters filled in."""
        if is_statement(sql, "out"):
            return sql
        if self._is_table:
            return self._options.out_of(quoted_table(sql.strip(), self._quote))
        # On lines of their own: the query may end in a comment.
        return self._options.out_of(f"(\n{sql.rstrip().rstrip(';')}\n)")


def quoted_table(table: str, quote: Callable[[str], str]) -> str:
    """Return the name of a table, with its schema if it has one, quoted."""
    return ".".join(map(quote, table.split(".", 1)))


def refuse_several(sql: str) -> None:
    """Raise `ProgrammingError` unless this is one statement: COPY would run the others as well."""
    count = compile_sql(sql, Dialect.POSTGRES).count
    if count != 1:
        raise ProgrammingError(
            f"one statement is expected here, and the SQL has {count}", query=sql
        )


async def copy_bytes_in(  # noqa: PLR0917 - called by the engine alone
    engine: PostgresEngine,
    table: str,
    source: Any,
    columns: Any,
    options: CopyOptions,
    progress: Progress | None,
    timeout: float | None,
) -> int:
    """Copy bytes into a table; see `PostgresEngine.copy_in`."""
    assert engine._driver is not None
    quote = engine._driver.quote
    if not isinstance(cast("object", table), str):
        raise ProgrammingError(
            f"copy_in() of bytes takes a table's name, a str, not {type(table).__name__}"
        )
    if is_statement(table, "in"):
        refuse_several(table)
        options.refuse_beside(table)
        if columns is not None:
            raise ProgrammingError("columns= goes with a table, not with a whole COPY", query=table)
        statement = table
    else:
        names = column_list(columns, quote)
        statement = options.into(quoted_table(table, quote), names)
    limit = engine._limit(timeout)
    if (turn := engine._use()) is None:
        turn, limit = await engine._wait(limit)
    with turn as driver:
        call = engine._ability(driver, "copy_in")
        driver.feeder = asyncio.current_task()
        try:
            async with aclosing(chunks_of(source, progress)) as chunks:
                return int(await call(statement, chunks, limit))
        finally:
            driver.feeder = None


async def copy_to(
    engine: PostgresEngine, query: Query, to: Any, progress: Progress | None, timeout: float | None
) -> int:
    """Copy a query's rows to a path, a file or a callable; see `PostgresEngine.copy_out`."""
    sink = sink_for(to)
    done = 0

    async def write(data: bytes) -> None:
        nonlocal done
        await sink.write(data)
        done += len(data)
        await call_progress(progress, done)

    limit = engine._limit(timeout)
    if (turn := engine._use()) is None:
        turn, limit = await engine._wait(limit)
    try:
        with turn as driver:
            call = engine._ability(driver, "copy_out")
            driver.feeder = asyncio.current_task()
            try:
                rows = await call(query.statement, query.sql, query.params, write, limit)
            finally:
                driver.feeder = None
        await sink.finish()
    except BaseException:
        # In a task of the pool: it is to happen however often this one is cancelled.
        await asyncio.wait((engine.pool.spawn(sink.discard(), "discard"),))
        raise
    return int(rows)


class CopyStream:
    """``async with db.copy_out(...) as chunks:`` the bytes of a COPY, as the server sends them.

    Attributes:
        rows: how many there were, once all is read; None before.
    """

    def __init__(
        self, engine: PostgresEngine, query: Query, progress: Progress | None, timeout: float | None
    ) -> None:
        self._engine, self._query = engine, query
        self._progress, self._timeout = progress, timeout
        self._done = 0
        self._copying: asyncio.Task[int] | None = None
        self._turn: object = None
        self._chunk: bytes | None = None
        self._changed = asyncio.Event()  # a chunk is there, or the end
        self._wanted = asyncio.Event()
        self.rows: int | None = None

    async def __aenter__(self) -> Self:
        if self._copying is not None:
            raise InterfaceError("this copy_out() block has been entered before: call it again")
        limit = self._engine._limit(self._timeout)
        if (turn := self._engine._use()) is None:
            turn, limit = await self._engine._wait(limit)
        self._turn, driver = turn, turn.__enter__()
        try:
            call = self._engine._ability(driver, "copy_out")
        except BaseException as error:
            turn.__exit__(type(error), error, None)
            raise
        driver.feeder = asyncio.current_task()
        query = self._query
        # A call in the task: cancelled before its first line, it leaves no coroutine behind.
        work = _run(call, query.statement, query.sql, query.params, self._hand_over, limit)
        self._copying = self._engine.pool.spawn(work, "copy")
        self._copying.add_done_callback(lambda task: self._ended(task, turn, driver))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop what is not read; the connection comes back when the server has stopped, too."""
        copying = self._copying
        if copying is not None and not copying.done():
            copying.cancel()
            if isinstance(self._turn, Slot):  # it comes back by itself, however often this task is
                self._turn.holder = None  # cancelled: then nobody waits for its last holder
            await asyncio.wait((copying,))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._copying is None:
            raise InterfaceError(
                "copy_out() without to= is a block: `async with db.copy_out(...) as chunks:`"
            )
        self._wanted.set()
        while self._chunk is None and not self._copying.done():
            self._changed.clear()
            await self._changed.wait()
        chunk, self._chunk = self._chunk, None
        if chunk is not None:
            self._done += len(chunk)
            await call_progress(self._progress, self._done)
            return chunk
        if self._copying.cancelled():
            raise InterfaceError("this copy_out() block has ended: read it inside of it")
        self.rows = self._copying.result()
        raise StopAsyncIteration

    async def _hand_over(self, data: bytes) -> None:
        """Wait until the chunk before is taken: nothing piles up."""
        while self._chunk is not None or not self._wanted.is_set():
            self._wanted.clear()
            await self._wanted.wait()
        self._wanted.clear()
        self._chunk = data
        self._changed.set()

    def _ended(
        self,
        copying: asyncio.Task[int],
        turn: AbstractContextManager[DriverConnection],
        driver: DriverConnection,
    ) -> None:
        driver.feeder = None
        error = asyncio.CancelledError() if copying.cancelled() else copying.exception()
        turn.__exit__(None if error is None else type(error), error, None)
        self._changed.set()


async def _run(call: Callable[..., Awaitable[int]], *args: Any) -> int:
    return await call(*args)
