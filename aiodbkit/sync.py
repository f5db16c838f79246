"""The verbs, streams, sessions and transactions for threads without an event loop; see `Portal`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from aiodbkit.core_statements import SQL, CoreTable
from aiodbkit.driver import ExecuteResult, Params
from aiodbkit.errors import InterfaceError
from aiodbkit.rows import Row
from aiodbkit.session import Session
from aiodbkit.stream import Stream
from aiodbkit.transaction import Hook, Transaction
from aiodbkit.verbs import Verbs

__all__ = ["SyncSession", "SyncStream", "SyncTransaction", "SyncVerbs"]

T = TypeVar("T")
S = TypeVar("S")


class Desk(Protocol):
    """Where the thread's work is done, and what is left for the thread itself to do."""

    def do(self, work: Callable[[], Awaitable[T]], /) -> T:
        """Run it in the engine's loop, wait, and return what it returns."""
        ...

    def hook(self, hook: Hook, /) -> Hook:
        """Return a hook that has a sync one run by the thread, at the next `run_hooks`."""
        ...

    def run_hooks(self) -> None: ...


class SyncVerbs:
    """The verbs for a thread without an event loop: each returns when it is done.

    As those of `Verbs`, with the same arguments and errors. An exception that reaches the waiting
    thread, as KeyboardInterrupt, cancels the statement.
    """

    _source: Verbs

    def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        raise NotImplementedError

    def execute(
        self, sql: SQL, params: Params = None, *, timeout: float | None = None
    ) -> ExecuteResult:
        """Run one statement and return what it did."""
        return self._call(partial(self._source.execute, sql, params, timeout=timeout))

    def execute_many(
        self,
        sql: SQL,
        rows: Iterable[Mapping[str, Any] | Sequence[Any]],
        *,
        timeout: float | None = None,
    ) -> ExecuteResult:
        """Run one statement for each of ``rows``: all of them take effect, or none."""
        listed = list(rows)  # here: a generator's code belongs to this thread
        return self._call(partial(self._source.execute_many, sql, listed, timeout=timeout))

    def execute_script(self, sql: str, *, timeout: float | None = None) -> None:
        """Run several statements, without parameters."""
        self._call(partial(self._source.execute_script, sql, timeout=timeout))

    @overload
    def fetch_all(
        self, sql: SQL, params: Params = None, *, into: None = None, timeout: float | None = None
    ) -> list[Row]: ...
    @overload
    def fetch_all(
        self, sql: SQL, params: Params = None, *, into: type[T], timeout: float | None = None
    ) -> list[T]: ...
    @overload
    def fetch_all(
        self,
        sql: SQL,
        params: Params = None,
        *,
        into: Callable[[Row], T],
        timeout: float | None = None,
    ) -> list[T]: ...
    def fetch_all(
        self, sql: SQL, params: Params = None, *, into: Any = None, timeout: float | None = None
    ) -> Any:
        """Return all rows, as `Row` or as ``into`` makes them."""
        return self._call(partial(self._source.fetch_all, sql, params, into=into, timeout=timeout))

    @overload
    def fetch_one(
        self, sql: SQL, params: Params = None, *, into: None = None, timeout: float | None = None
    ) -> Row | None: ...
    @overload
    def fetch_one(
        self, sql: SQL, params: Params = None, *, into: type[T], timeout: float | None = None
    ) -> T | None: ...
    @overload
    def fetch_one(
        self,
        sql: SQL,
        params: Params = None,
        *,
        into: Callable[[Row], T],
        timeout: float | None = None,
    ) -> T | None: ...
    def fetch_one(
        self, sql: SQL, params: Params = None, *, into: Any = None, timeout: float | None = None
    ) -> Any:
        """Return the first row, or None when there is none."""
        return self._call(partial(self._source.fetch_one, sql, params, into=into, timeout=timeout))

    def fetch_val(
        self,
        sql: SQL,
        params: Params = None,
        *,
        column: int | str = 0,
        timeout: float | None = None,
    ) -> Any:
        """Return one value of the first row, or None when there is no row."""
        return self._call(
            partial(self._source.fetch_val, sql, params, column=column, timeout=timeout)
        )

    def fetch_column(
        self,
        sql: SQL,
        params: Params = None,
        *,
        column: int | str = 0,
        timeout: float | None = None,
    ) -> list[Any]:
        """Return the values of one column."""
        return self._call(
            partial(self._source.fetch_column, sql, params, column=column, timeout=timeout)
        )

    @overload
    def iterate(
        self,
        sql: SQL,
        params: Params = None,
        *,
        into: None = None,
        batch_size: int = 500,
        timeout: float | None = None,
    ) -> SyncStream[Row]: ...
    @overload
    def iterate(
        self,
        sql: SQL,
        params: Params = None,
        *,
        into: type[T],
        batch_size: int = 500,
        timeout: float | None = None,
    ) -> SyncStream[T]: ...
    @overload
    def iterate(
        self,
        sql: SQL,
        params: Params = None,
        *,
        into: Callable[[Row], T],
        batch_size: int = 500,
        timeout: float | None = None,
    ) -> SyncStream[T]: ...
    def iterate(
        self,
        sql: SQL,
        params: Params = None,
        *,
        into: Any = None,
        batch_size: int = 500,
        timeout: float | None = None,
    ) -> SyncStream[Any]:
        """Return an iterator over a server-side cursor, in constant memory.

        ``with sync_db.iterate(...) as rows`` closes the cursor at the block's end; a plain
        ``for`` when it is left.
        """
        stream: Stream[Any] = self._source.iterate(
            sql, params, into=into, batch_size=batch_size, timeout=timeout
        )
        return SyncStream(self, stream, batch_size)

    def insert_many(
        self,
        table: str | CoreTable,
        rows: Iterable[Any],
        *,
        columns: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Insert rows by the backend's fastest safe way, all or none; return how many."""
        work = partial(
            self._source.insert_many, table, list(rows), columns=columns, timeout=timeout
        )
        return self._call(work)


class SyncStream(Generic[S]):
    """What `SyncVerbs.iterate` returns: an iterator, and a context manager that closes it."""

    def __init__(self, verbs: SyncVerbs, stream: Stream[S], batch_size: int) -> None:
        self._call = verbs._call
        self._stream = stream
        self._rows = _read(verbs._call, stream, batch_size)

    def __iter__(self) -> Iterator[S]:
        return self._rows

    def __next__(self) -> S:
        return next(self._rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the cursor and give the connection back. Safe to call again."""
        self._rows.close()
        self._call(self._stream.aclose)


def _read(
    call: Callable[[Callable[[], Awaitable[Any]]], Any], stream: Stream[S], batch_size: int
) -> Generator[S, None, None]:
    """Yield the rows. It knows nothing of the `SyncStream`, so that it ends when it is dropped."""

    async def next_rows() -> list[S]:  # one visit to the loop's thread for many rows
        rows: list[S] = []
        async for row in stream:
            rows.append(row)
            if len(rows) == batch_size:
                break
        return rows

    try:
        while rows := call(next_rows):
            yield from rows
    except GeneratorExit:
        # Left early. Where nobody may wait, the stream ends by being dropped with this.
        try:
            call(stream.aclose)
        except InterfaceError:
            pass
        raise


class SyncSession(SyncVerbs):
    """What ``with sync_db.session()`` gives: see `Session`."""

    _source: Session

    def __init__(self, desk: Desk, session: Session) -> None:
        self._desk = desk
        self._source = session  # pyright: ignore[reportIncompatibleVariableOverride]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self._source!r}>"

    def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        return self._desk.do(work)

    def commit(self) -> None:
        """Commit what was done so far, and give the connection back. The session goes on."""
        try:
            self._call(self._source.commit)
        finally:
            self._desk.run_hooks()

    def rollback(self) -> None:
        """Undo what was done so far, and give the connection back. The session goes on."""
        try:
            self._call(self._source.rollback)
        finally:
            self._desk.run_hooks()

    def set_rollback_only(self) -> None:
        """Roll back at the end, without an exception."""
        self._source.set_rollback_only()

    def on_commit(self, hook: Hook) -> None:
        """Call ``hook`` after the next commit: a sync one in this thread."""
        self._source.on_commit(self._desk.hook(hook))

    def on_rollback(self, hook: Hook) -> None:
        """Call ``hook`` after the next rollback: a sync one in this thread."""
        self._source.on_rollback(self._desk.hook(hook))

    @property
    def is_closed(self) -> bool:
        """Whether its block has ended."""
        return self._source.is_closed

    @property
    def in_transaction(self) -> bool:
        """Whether it holds a connection, in a transaction."""
        return self._source.in_transaction


class SyncTransaction:
    """What ``with sync_db.transaction()`` gives: see `Transaction`."""

    def __init__(self, desk: Desk, transaction: Transaction) -> None:
        self._desk = desk
        self._transaction = transaction

    def rollback(self) -> None:
        """Roll back now, and end this scope: statements in the rest of its block are refused."""
        self._desk.do(self._transaction.rollback)

    def on_commit(self, hook: Hook) -> None:
        """Call ``hook`` after the outermost commit: a sync one in this thread."""
        self._transaction.on_commit(self._desk.hook(hook))

    def on_rollback(self, hook: Hook) -> None:
        """Call ``hook`` after a rollback: a sync one in this thread."""
        self._transaction.on_rollback(self._desk.hook(hook))
