"""Counting the statements that reach the driver.

For as long as a count lasts, the engine's connections are of a class that takes notes; nothing
is there to be asked when there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from aiodbkit.driver import DriverConnection
from aiodbkit.engine import Engine
from aiodbkit.errors import InterfaceError
from aiodbkit.options import count
from aiodbkit.testing.shared import SharedConnection

__all__ = ["QueryCount", "count_queries"]


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
            listed = "".join(f"\n  {at}. {sql}" for at, sql in enumerate(self.statements, 1))
            raise AssertionError(f"{self.count} statements were sent, not {exactly}:{listed}")


@contextmanager
def count_queries(engine: Engine, *, exactly: int | None = None) -> Iterator[QueryCount]:
    """Count the statements that reach the engine's driver, of any task, for a ``with`` block.

    Args:
        exactly: how many there have to be at the end of a block that raised nothing.

    Raises:
        AssertionError: there were more or fewer; lists them.
    """
    if not isinstance(engine, Engine):
        raise InterfaceError(f"count_queries() takes an engine, not {type(engine).__name__}")
    if exactly is not None:
        count("exactly", exactly)
    queries = QueryCount()
    watch = _watches.get(engine)
    if watch is None:
        watch = _watches[engine] = _Watch()
    watch.add(engine, queries)
    try:
        yield queries
    finally:
        watch.remove(engine, queries)
    if exactly is not None:
        queries.assert_count(exactly)


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
