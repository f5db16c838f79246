"""Classes that tell: what an engine's connections and its pool are while somebody watches them.

An object becomes one of them, and what it was again, by its ``__class__``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic, perf_counter
from typing import Any, Protocol, TypeVar

from aiodbkit.driver import DriverConnection, DriverCursor, ExecuteResult, Fetched
from aiodbkit.events import PoolEventKind, QueryVerb, TransactionEventKind
from aiodbkit.pool.core import PoolCore
from aiodbkit.pool.slot import Slot, SlotState

__all__ = ["watched_connection", "watched_pool"]

T = TypeVar("T")


class _Watch(Protocol):
    """Who is told; see `aiodbkit.observation`."""

    log_params: bool

    def is_inside(self, driver: DriverConnection) -> bool: ...
    def enter(self, driver: DriverConnection) -> bool: ...
    def leave(self, driver: DriverConnection) -> None: ...
    def wait_of(self, driver: DriverConnection) -> float: ...
    def tell_sent(self, sql: str) -> None: ...
    def wants_query(self, duration: float) -> bool: ...
    def tell_query(self, **told: Any) -> None: ...
    def tell_transaction(self, **told: Any) -> None: ...
    def tell_pool(
        self, pool: PoolCore[Any], kind: PoolEventKind, duration: float = 0.0
    ) -> None: ...


# The pool


def watched_pool(plain: type[Any], watch: _Watch) -> type[Any]:
    """Return a class like ``plain`` that tells of loans; of all else a pool tells by itself."""

    def take(self: PoolCore[Any]) -> Slot[Any] | None:
        slot: Slot[Any] | None = plain.take(self)
        if slot is not None:
            watch.tell_pool(self, "acquired")
        return slot

    def give_back(self: PoolCore[Any], slot: Slot[Any]) -> None:
        if slot.state is SlotState.LENT:  # told first: it may go to the next in line at once
            watch.tell_pool(self, "released", monotonic() - slot.since)
        plain.give_back(self, slot)

    return type(plain.__name__, (plain,), {"take": take, "give_back": give_back})


# Connections

_TRANSACTIONS: dict[str, TransactionEventKind] = {
    "begin": "begin",
    "commit": "commit",
    "rollback": "rollback",
    "savepoint": "savepoint",
    "release_savepoint": "release",
    "rollback_to_savepoint": "rollback to",
}
_STATEMENTS: tuple[QueryVerb, ...] = (
    "execute",
    "execute_many",
    "execute_script",
    "fetch",
    "insert_many",
)
_OF_SOME_DRIVERS: tuple[QueryVerb, ...] = ("copy_in", "copy_out")
_SILENT = ("close", "ping", "recover")


def watched_connection(plain: type[DriverConnection], watch: _Watch) -> type[DriverConnection]:
    """Return a class like ``plain`` that tells of its calls, not of what they are made of."""
    methods: dict[str, Any] = {"__slots__": ()}
    for verb in _STATEMENTS:
        methods[verb] = _statement(getattr(plain, verb), watch, verb)
    for verb in _OF_SOME_DRIVERS:
        if hasattr(plain, verb):
            methods[verb] = _statement(getattr(plain, verb), watch, verb)
    for name, kind in _TRANSACTIONS.items():
        methods[name] = _transaction(getattr(plain, name), watch, kind)
    for name in _SILENT:
        methods[name] = _silent(getattr(plain, name), watch)
    methods["open_cursor"] = _opening(plain.open_cursor, watch)
    methods["clean"] = _cleaning(plain.clean, watch)
    return type(plain.__name__, (plain,), methods)


class _Statement:
    """A statement on its way, and what will be told of it."""

    __slots__ = (
        "_began",
        "_duration",
        "_in_transaction",
        "_params",
        "_sql",
        "_verb",
        "_wait",
        "_watch",
        "is_told",
    )

    def __init__(
        self, watch: _Watch, driver: DriverConnection, verb: QueryVerb, args: tuple[Any, ...]
    ) -> None:
        self._watch = watch
        self._verb = verb
        # A copy_out comes with what makes a COPY of the query, and then the query.
        sql = args[1] if verb == "copy_out" else args[0]
        self._sql = f"{verb}: {sql}" if verb in ("insert_many", "copy_out") else str(sql)
        # What is inserted or copied is still to come, and a script has no parameters.
        has_params = watch.log_params and verb in ("execute", "execute_many", "fetch", "iterate")
        self._params = args[1] if has_params and len(args) > 1 else None
        self._wait = watch.wait_of(driver)
        self._in_transaction = driver.in_transaction
        self._duration = 0.0
        self.is_told = False
        watch.tell_sent(self._sql)
        self.go_on(driver)

    def pause(self, driver: DriverConnection) -> None:
        """The driver has returned, for good or until the next batch is asked for."""
        self._duration += perf_counter() - self._began
        self._watch.leave(driver)

    def go_on(self, driver: DriverConnection) -> bool:
        """The driver is called; False if that is a part of another call."""
        self._began = perf_counter()
        return self._watch.enter(driver)

    def end(self, rows: int, error: BaseException | None = None) -> None:
        """Tell of it, once."""
        if self.is_told:
            return
        self.is_told = True
        if not self._watch.wants_query(self._duration):
            return
        self._watch.tell_query(
            verb=self._verb,
            sql=self._sql,
            params=self._params,
            duration=self._duration,
            wait=self._wait,
            rows=rows,
            error=error,
            in_transaction=self._in_transaction,
        )


def _statement(method: Callable[..., Any], watch: _Watch, verb: QueryVerb) -> Callable[..., Any]:
    async def call(self: DriverConnection, *args: Any, **options: Any) -> Any:
        if watch.is_inside(self):
            return await method(self, *args, **options)
        statement = _Statement(watch, self, verb, args)
        try:
            result = await method(self, *args, **options)
        except BaseException as error:
            statement.pause(self)
            statement.end(-1, error)
            raise
        statement.pause(self)
        statement.end(_rows_of(result))
        return result

    return call


def _rows_of(result: Any) -> int:
    if isinstance(result, ExecuteResult):
        return result.rows_affected
    if isinstance(result, tuple):  # what a fetch returns
        return len(result[1])
    return result if isinstance(result, int) else -1


def _opening(method: Callable[..., Any], watch: _Watch) -> Callable[..., Any]:
    async def open_cursor(self: DriverConnection, *args: Any, **options: Any) -> DriverCursor:
        if watch.is_inside(self):
            cursor: DriverCursor = await method(self, *args, **options)
            return cursor
        statement = _Statement(watch, self, "iterate", args)
        try:
            cursor = await method(self, *args, **options)
        except BaseException as error:
            statement.pause(self)
            statement.end(-1, error)
            raise
        statement.pause(self)
        return _WatchedCursor(cursor, self, statement)

    return open_cursor


class _WatchedCursor(DriverCursor):
    """A cursor whose statement is told when it is closed, has failed, or is dropped."""

    def __init__(
        self, cursor: DriverCursor, driver: DriverConnection, statement: _Statement
    ) -> None:
        self._cursor = cursor
        self._driver = driver
        self._statement = statement
        self._rows = 0
        self._loop = asyncio.get_running_loop()

    async def fetch(self) -> Fetched:
        batch = await self._part(self._cursor.fetch)
        self._rows += len(batch[1])
        return batch

    async def close(self) -> None:
        await self._part(self._cursor.close)
        self._statement.end(self._rows)

    async def _part(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await a part of the statement."""
        if not self._statement.go_on(self._driver):
            return await work()
        try:
            result = await work()
        except BaseException as error:
            self._statement.pause(self._driver)
            self._statement.end(-1, error)
            raise
        self._statement.pause(self._driver)
        return result

    def __del__(self) -> None:
        # With its connection, or its loop: nobody will close it any more. The garbage collector
        # may run in any thread.
        end, rows = self._statement.end, self._rows
        if self._statement.is_told:
            return
        if asyncio._get_running_loop() is self._loop:
            end(rows)
        else:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(end, rows)


def _transaction(
    method: Callable[..., Any], watch: _Watch, kind: TransactionEventKind
) -> Callable[..., Any]:
    async def call(self: DriverConnection, *args: Any, **options: Any) -> Any:
        if not watch.enter(self):
            return await method(self, *args, **options)
        return await _step(self, watch, kind, lambda: method(self, *args, **options))

    return call


async def _step(
    driver: DriverConnection,
    watch: _Watch,
    kind: TransactionEventKind,
    work: Callable[[], Awaitable[T]],
) -> T:
    """Await a step of a transaction that was entered, and tell how it ended."""
    wait = watch.wait_of(driver)
    began = perf_counter()
    failure: BaseException | None = None
    try:
        return await work()
    except BaseException as error:
        failure = error
        raise
    finally:
        duration = perf_counter() - began
        watch.leave(driver)
        watch.tell_transaction(kind=kind, duration=duration, wait=wait, error=failure)


def _cleaning(method: Callable[..., Any], watch: _Watch) -> Callable[..., Any]:
    """What nobody ended is rolled back by the pool, before the next loan."""
    silently = _silent(method, watch)

    async def clean(self: DriverConnection) -> None:
        if self.in_transaction and watch.enter(self):
            await _step(self, watch, "rollback", lambda: method(self))
        else:
            await silently(self)

    return clean


def _silent(method: Callable[..., Any], watch: _Watch) -> Callable[..., Any]:
    async def call(self: DriverConnection, *args: Any, **options: Any) -> Any:
        if not watch.enter(self):
            return await method(self, *args, **options)
        try:
            return await method(self, *args, **options)
        finally:
            watch.leave(self)

    return call
