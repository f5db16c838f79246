"""Counting the statements that reach the driver.

For as long as a count lasts, the engine's connections are of a class that takes notes; nothing
is there to be asked when there is none.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from aiodbkit.driver import DriverConnection
from aiodbkit.engine import Engine
from aiodbkit.errors import InterfaceError
from aiodbkit.options import count
from aiodbkit.testing.shared import SharedConnection

__all__ = ["CountBlock", "QueryCount", "count_queries"]

P = ParamSpec("P")
T = TypeVar("T")


class QueryCount:
    """The statements that were sent, in their order.

    Attributes:
        statements: the SQL of each, as the caller wrote it; an `insert_many` is
            ``"insert_many: <table>"``. BEGIN, COMMIT, ROLLBACK and savepoints are not among them.
    """

    def __init__(self) -> None:
        self.statements: list[str] = []

    @property
    def count(self) -> int:
        """How many there were so far."""
        return len(self.statements)

    def __len__(self) -> int:
        return len(self.statements)

    def __iter__(self) -> Iterator[str]:
        return iter(self.statements)

    def __repr__(self) -> str:
        return f"<QueryCount {self.count}>"

    def assert_count(self, exactly: int) -> None:
        """Fail unless there were just so many.

        Raises:
            AssertionError: lists the statements.
        """
        if self.count != exactly:
            sent = "1 statement was" if self.count == 1 else f"{self.count} statements were"
            listed = "".join(f"\n  {at}. {sql}" for at, sql in enumerate(self.statements, 1))
            raise AssertionError(f"{sent} sent, not {exactly}{':' if listed else ''}{listed}")


def count_queries(engine: Engine, *, exactly: int | None = None) -> CountBlock:
    """Count the statements that reach the engine's driver, of any task, for a ``with`` block.

    It gives a `QueryCount`. As a decorator of an async function it counts those of each call.

    Args:
        exactly: how many there have to be at the end of a block that raised nothing.

    Raises:
        AssertionError: there were more or fewer; lists them.
        InterfaceError: what is given is no engine, or on entering: it is a deferred one.
        ConfigurationError: ``exactly`` is no number of statements.
        TypeError: what is decorated is no async function.
    """
    return CountBlock(engine, exactly)


class CountBlock:
    """What `count_queries` returns: a context manager, and a decorator of async functions."""

    def __init__(self, engine: Engine, exactly: int | None) -> None:
        if not isinstance(engine, Engine):
            raise InterfaceError(f"count_queries() takes an engine, not {type(engine).__name__}")
        if exactly is not None:
            count("exactly", exactly)
        self._engine = engine
        self._exactly = exactly
        self._queries: QueryCount | None = None

    def __enter__(self) -> QueryCount:
        if self._queries is not None:
            raise InterfaceError(
                "this count has begun already: call count_queries(db) for each block"
            )
        queries = QueryCount()
        watch = _watches.get(self._engine)
        if watch is None:
            watch = _watches[self._engine] = _Watch()
        watch.add(self._engine, queries)
        self._queries = queries
        return queries

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        queries = self._queries
        assert queries is not None
        _watches[self._engine].remove(self._engine, queries)
        if exc is None and self._exactly is not None:
            queries.assert_count(self._exactly)

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Count the statements of each call."""
        if not inspect.iscoroutinefunction(function):
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(f"@count_queries() wraps async functions; {name} is not one")

        @functools.wraps(function)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            with CountBlock(self._engine, self._exactly):
                return await function(*args, **kwargs)

        return wrapper


class _Watch:
    """The counts of one engine, and its connections' classes meanwhile."""

    def __init__(self) -> None:
        self._counts: list[QueryCount] = []
        self._classes: dict[type[DriverConnection], type[DriverConnection]] = {}
        self._plain: list[tuple[DriverConnection, type[DriverConnection]]] = []
        self._inside: set[int] = set()  # connections in the middle of a call of theirs

    def add(self, engine: Engine, queries: QueryCount) -> None:
        if not self._counts:
            for slot in engine.pool._keeper.slots:
                if isinstance(driver := getattr(slot, "resource", None), DriverConnection):
                    self.take_notes_of(driver)
            engine._opened_hooks.append(self.take_notes_of)
        self._counts.append(queries)

    def remove(self, engine: Engine, queries: QueryCount) -> None:
        self._counts = [each for each in self._counts if each is not queries]
        if self._counts:
            return
        engine._opened_hooks.remove(self.take_notes_of)
        for driver, plain in self._plain:
            driver.__class__ = plain
        self._plain.clear()
        self._inside.clear()

    def take_notes_of(self, driver: DriverConnection) -> None:
        """Make a connection note its statements, until the last count has ended."""
        if isinstance(driver, SharedConnection) and self._notes(driver.real):
            return  # in a sandbox inside the count: what it sends is noted there
        plain = type(driver)
        if plain not in self._classes:
            self._classes[plain] = _noting(plain, self)
        self._plain.append((driver, plain))
        changed: Any = driver
        changed.__class__ = self._classes[plain]

    def _notes(self, driver: DriverConnection) -> bool:
        return type(driver) in self._classes.values()

    def enters(self, driver: DriverConnection, sql: str | None) -> bool:
        """Note a call, unless it is a part of another one; return whether it is noted."""
        if id(driver) in self._inside:
            return False
        self._inside.add(id(driver))
        if sql is not None:
            for each in self._counts:
                each.statements.append(sql)
        return True

    def leaves(self, driver: DriverConnection) -> None:
        self._inside.discard(id(driver))


_watches: WeakKeyDictionary[Engine, _Watch] = WeakKeyDictionary()

_STATEMENTS = ("execute", "execute_many", "execute_script", "fetch", "open_cursor")
_OTHERS = (
    "begin",
    "clean",
    "close",
    "commit",
    "ping",
    "recover",
    "release_savepoint",
    "rollback",
    "rollback_to_savepoint",
    "savepoint",
)


def _noting(plain: type[DriverConnection], watch: _Watch) -> type[DriverConnection]:
    """Return a class like ``plain`` that tells ``watch`` of its calls."""
    methods: dict[str, Any] = {"__slots__": ()}
    for name in _STATEMENTS:
        methods[name] = _noted(getattr(plain, name), watch, lambda args: str(args[0]))
    methods["insert_many"] = _noted(
        plain.insert_many, watch, lambda args: f"insert_many: {args[0]}"
    )
    for name in _OTHERS:
        methods[name] = _noted(getattr(plain, name), watch, lambda _: None)
    return type(plain.__name__, (plain,), methods)


def _noted(
    method: Callable[..., Any], watch: _Watch, sql_of: Callable[[Sequence[Any]], str | None]
) -> Callable[..., Any]:
    async def call(self: DriverConnection, *args: Any, **options: Any) -> Any:
        if not watch.enters(self, sql_of(args)):
            return await method(self, *args, **options)
        try:
            return await method(self, *args, **options)
        finally:
            watch.leaves(self)

    return call
