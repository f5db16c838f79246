"""What the cases need: an engine each, a table of people, and a look at what is left behind."""

from __future__ import annotations

import asyncio
import threading
import unittest
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any, ClassVar, overload

from aiodbkit.engine import Engine
from aiodbkit.errors import Error

__all__ = ["ADD", "NAMES", "PEOPLE", "Suite", "case", "raises"]

PEOPLE = [(1, "Ann", 7), (2, "Bob", 7), (3, "Cy", 8), (4, "Dee", None)]
NAMES = "select name from conformance order by id"
ADD = "insert into conformance (id, name, team) values (:id, :name, :team)"

_SECONDS = 60  # for a case: one that hangs is one that failed
_SECONDS_TO_END = 10  # for a thread whose connection was closed

Check = Callable[[Any, Engine], Awaitable[None]]


class Suite:
    """The base of the suite: what a backend's author fills in.

    Attributes:
        columns: of the table that the cases use. It has to have an integer key ``id``, a text
            ``name`` that is unique and not null, and an integer ``team``.
        types: the type of a column for each kind of value; a kind that is left out is not tested.
        positional: the placeholder of the n-th parameter (from 1), in the driver's own style.
        slow: a SELECT of one row that takes about so many seconds; None where there is none.
        wrong: what is no statement of the database.
        session: a statement that changes the session, and a SELECT of one value that shows it;
            None where sessions cannot be changed.
    """

    columns: ClassVar[str] = (
        "id integer primary key, name varchar(40) not null unique, team integer"
    )
    types: ClassVar[Mapping[str, str]] = {
        "integer": "integer",
        "bigint": "bigint",
        "float": "double precision",
        "text": "varchar(200)",
    }
    wrong: ClassVar[str] = "selec 1"
    session: ClassVar[tuple[str, str] | None] = None

    def positional(self, number: int) -> str:  # noqa: ARG002 - the common one has no number
        return "?"

    def slow(self, seconds: float) -> str | None:  # noqa: ARG002
        return None

    def create_engine(self, **options: Any) -> Engine:
        """Return a new engine on a database that the suite may use, with these options."""
        raise NotImplementedError("ConformanceSuite: create_engine() has to return your engine")

    # For the cases

    def skip(self, why: str) -> None:
        """End a case that this backend has nothing for; pytest and unittest show the reason."""
        raise unittest.SkipTest(why)

    def slow_statement(self, seconds: float) -> str:
        """Return what takes so long, or skip the case."""
        statement = self.slow(seconds)
        if statement is None:
            raise unittest.SkipTest("slow() names no statement that takes its time")
        return statement

    def session_change(self) -> tuple[str, str]:
        """Return what changes the session and what shows it, or skip the case."""
        if self.session is None:
            raise unittest.SkipTest("session names no statement that changes a session")
        return self.session

    async def names(self, db: Any) -> list[str]:
        """Return the names in the table, as the database has them for ``db``."""
        found: list[str] = await db.fetch_column(NAMES)
        return found


@overload
def case(check: Check, /) -> Callable[[Any], None]: ...
@overload
def case(**options: Any) -> Callable[[Check], Callable[[Any], None]]: ...
def case(check: Check | None = None, /, **options: Any) -> Any:
    """Make a test of an async check: with an engine of these options and a table of people."""
    if check is None:
        return lambda check: _test(check, options)
    return _test(check, options)


def _test(check: Check, options: Mapping[str, Any]) -> Callable[[Any], None]:
    def test(self: Suite) -> None:
        before = set(threading.enumerate())
        asyncio.run(_run(self, check, options))
        _assert_no_thread_left(before)

    # Not by functools.wraps: pytest would take the check's parameters for fixtures.
    name, document = getattr(check, "__name__", "test"), check.__doc__
    test.__name__, test.__doc__, test.__module__ = name, document, check.__module__
    test.__qualname__ = getattr(check, "__qualname__", name)
    return test


async def _run(suite: Suite, check: Check, options: Mapping[str, Any]) -> None:
    async with asyncio.timeout(_SECONDS):
        db = suite.create_engine(**{"max_size": 3, "acquire_timeout": 20, **options})
        assert isinstance(db, Engine), f"create_engine() returned {db!r}, which is no engine"
        try:
            await db.connect()
            await _create_table(suite, db)
            await check(suite, db)
            await _assert_whole(db)
            await db.execute("drop table conformance")
        finally:
            await db.close(timeout=5)
        await _assert_nothing_left()


async def _create_table(suite: Suite, db: Engine) -> None:
    try:
        await db.execute("drop table conformance")  # of a case that failed
    except Error:
        pass
    await db.execute(f"create table conformance ({suite.columns})")
    await db.execute_many(
        ADD, [{"id": key, "name": name, "team": team} for key, name, team in PEOPLE]
    )


async def _assert_whole(db: Engine) -> None:
    """Every connection can be had at once, none is in a transaction, each answers for itself."""
    size = db.pool.stats().max_size
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(db.pool.acquire(timeout=20)) for _ in range(size)]
        assert not any(conn.in_transaction for conn in held), "a connection is in a transaction"
        answers = await asyncio.gather(
            *(conn.fetch_val(f"select {1000 + n}") for n, conn in enumerate(held))
        )
        assert answers == [1000 + n for n in range(size)], "a connection gave another's answer"
    stats = db.pool.stats()
    assert (stats.in_use, stats.waiting) == (0, 0), f"not all came back: {stats}"


async def _assert_nothing_left() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=1)
    assert not left, f"tasks were left behind by close(): {left}"


def _assert_no_thread_left(before: set[threading.Thread]) -> None:
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(_SECONDS_TO_END)
    names = [thread.name for thread in left if thread.is_alive()]
    assert not names, f"threads were left behind by close(): {names}"


@contextmanager
def raises(*kinds: type[BaseException]) -> Iterator[list[Any]]:
    """Fail unless the block raises one of ``kinds``; the error is the list's one item."""
    caught: list[Any] = []
    wanted = " or ".join(kind.__name__ for kind in kinds)
    try:
        yield caught
    except kinds as error:
        caught.append(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} was raised, not {wanted}: {error}") from error
    else:
        raise AssertionError(f"{wanted} was not raised")
