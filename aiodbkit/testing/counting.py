"""Counting the statements that reach the driver, by watching it: see `aiodbkit.observation`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import ParamSpec, TypeVar

from aiodbkit.engine import Engine
from aiodbkit.errors import InterfaceError
from aiodbkit.options import count

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
        self._counter: Callable[[str], None]
        self._queries: QueryCount | None = None

    def __enter__(self) -> QueryCount:
        if self._queries is not None:
            raise InterfaceError(
                "this count has begun already: call count_queries(db) for each block"
            )
        _ = self._engine.pool  # refuses a deferred engine
        queries = self._queries = QueryCount()
        self._counter = queries.statements.append
        self._engine._observation.count(self._counter)
        return queries

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        queries = self._queries
        assert queries is not None
        self._engine._observation.stop_counting(self._counter)
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
