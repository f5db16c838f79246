"""Contract §4: what a transaction is asked for, its callbacks, and its decorator form."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any, get_args

import pytest

import aiodbkit
from aiodbkit.options import Isolation

from .support import assert_whole

ADD = "insert into people (id, name) values (:id, 'new')"
IDS = "select id from people where id > 4 order by id"
People = list[tuple[int, str, int | None]]


class StopError(Exception):
    """Leaves a body."""


async def add(db: Any, number: int) -> None:
    await db.execute(ADD, {"id": number})


@pytest.fixture(autouse=True)
async def _people(people: People) -> None:
    """Every test here works on the four people."""


@pytest.mark.parametrize("level", get_args(Isolation))
async def test_an_isolation_level_is_used_or_refused(
    level: Any, one: aiodbkit.Engine, can: Any
) -> None:
    if level in can.isolation_levels:
        async with one.transaction(isolation=level):
            await add(one, 5)
        assert await one.fetch_column(IDS) == [5]
    else:
        with pytest.raises(aiodbkit.NotSupportedError, match=level):
            async with one.transaction(isolation=level):
                pytest.fail("the body ran")
    await assert_whole(one)


async def test_an_isolation_level_lasts_for_its_transaction_only(
    db: aiodbkit.Engine, can: Any
) -> None:
    """With a snapshot the second look equals the first one; afterwards it does not."""
    level: Any = "repeatable read" if "repeatable read" in can.isolation_levels else "serializable"
    async with db.pool.acquire() as other:
        async with db.transaction(isolation=level, read_only=True):
            assert await db.fetch_column(IDS) == []
            await add(other, 5)
            assert await db.fetch_column(IDS) == []
        assert await db.fetch_column(IDS) == [5]


async def test_an_unknown_isolation_level_is_refused_by_name(db: aiodbkit.Engine) -> None:
    level: Any = "snapshot"
    with pytest.raises(aiodbkit.ConfigurationError, match=r"isolation.*snapshot"):
        async with db.transaction(isolation=level):
            pass


async def test_read_only_refuses_a_write_and_is_over_afterwards(one: aiodbkit.Engine) -> None:
    with pytest.raises(aiodbkit.ReadOnlyError):
        async with one.transaction(read_only=True):
            assert await one.fetch_val("select count(*) from people") == 4
            await add(one, 5)
    await add(one, 6)
    assert await one.fetch_column(IDS) == [6]


async def test_deferrable_is_used_or_refused(db: aiodbkit.Engine, can: Any) -> None:
    scope = db.transaction(isolation="serializable", read_only=True, deferrable=True)
    if can.deferrable:
        async with scope:
            assert await db.fetch_val("select count(*) from people") == 4
    else:
        with pytest.raises(aiodbkit.NotSupportedError, match="deferrable"):
            async with scope:
                pytest.fail("the body ran")
    await assert_whole(db)


@pytest.mark.parametrize("mode", ["deferred", "immediate", "exclusive"])
async def test_a_lock_mode_is_used_or_refused(mode: Any, db: aiodbkit.Engine, can: Any) -> None:
    if can.lock_modes:
        async with db.transaction(mode=mode):
            await add(db, 5)
        assert await db.fetch_column(IDS) == [5]
    else:
        with pytest.raises(aiodbkit.NotSupportedError, match="mode"):
            async with db.transaction(mode=mode):
                pytest.fail("the body ran")
    await assert_whole(db)


@pytest.mark.parametrize(
    "wish", [{"isolation": "serializable"}, {"read_only": True}, {"deferrable": True}]
)
async def test_a_nested_scope_cannot_ask_for_what_only_the_outermost_can_give(
    wish: dict[str, Any], db: aiodbkit.Engine
) -> None:
    async with db.transaction():
        with pytest.raises(aiodbkit.Error, match="|".join(wish)):
            async with db.transaction(**wish):
                pytest.fail("the body ran")


async def test_callbacks_run_in_order_after_the_commit(db: aiodbkit.Engine) -> None:
    calls: list[Any] = []

    async def told() -> None:
        calls.append(("async", await db.fetch_column(IDS)))

    async with db.transaction() as tx:
        tx.on_commit(lambda: calls.append("first"))
        tx.on_commit(told)
        tx.on_commit(lambda: calls.append("last"))
        tx.on_rollback(lambda: calls.append("rolled back"))
        await add(db, 5)
        assert calls == []
    assert calls == ["first", ("async", [5]), "last"]


async def leave(how: str, tx: aiodbkit.Transaction) -> None:
    if how == "error":
        raise StopError
    if how == "signal":
        raise aiodbkit.Rollback
    if how == "midway":
        await tx.rollback()


@pytest.mark.parametrize("how", ["error", "midway", "signal", "force"])
async def test_on_rollback_runs_after_every_kind_of_rollback(how: str, db: aiodbkit.Engine) -> None:
    calls: list[Any] = []

    async def told() -> None:
        calls.append(await db.fetch_column(IDS))

    try:
        async with db.transaction(force_rollback=how == "force") as tx:
            tx.on_commit(lambda: calls.append("committed"))
            tx.on_rollback(lambda: calls.append("first"))
            tx.on_rollback(told)
            await add(db, 5)
            await leave(how, tx)
    except StopError:
        assert how == "error"
    assert calls == ["first", []]


async def test_callbacks_of_a_nested_scope_wait_for_the_outermost_commit(
    db: aiodbkit.Engine,
) -> None:
    calls: list[str] = []
    async with db.transaction() as outer:
        outer.on_commit(lambda: calls.append("outer before"))
        async with db.transaction() as inner:
            inner.on_commit(lambda: calls.append("inner"))
        assert calls == []
        outer.on_commit(lambda: calls.append("outer after"))
    assert calls == ["outer before", "inner", "outer after"]


async def test_callbacks_of_a_rolled_back_savepoint_are_dropped(db: aiodbkit.Engine) -> None:
    calls: list[str] = []
    async with db.transaction() as outer:
        outer.on_commit(lambda: calls.append("outer"))
        with pytest.raises(StopError):
            async with db.transaction() as inner:
                inner.on_commit(lambda: calls.append("inner"))
                inner.on_rollback(lambda: calls.append("inner undone"))
                async with db.transaction() as innermost:
                    innermost.on_commit(lambda: calls.append("innermost"))
                raise StopError
        assert calls == ["inner undone"]
    assert calls == ["inner undone", "outer"]


async def test_an_outer_rollback_runs_the_callbacks_of_kept_savepoints(
    db: aiodbkit.Engine,
) -> None:
    calls: list[str] = []
    with pytest.raises(StopError):
        async with db.transaction():
            async with db.transaction() as inner:
                inner.on_commit(lambda: calls.append("committed"))
                inner.on_rollback(lambda: calls.append("undone"))
            raise StopError
    assert calls == ["undone"]


async def test_on_commit_sees_no_transaction_and_may_open_one(db: aiodbkit.Engine) -> None:
    async def follow_up() -> None:
        current = db.current_connection()
        assert current is None or not current.in_transaction
        async with db.transaction():
            await add(db, 6)

    async with db.transaction() as tx:
        await add(db, 5)
        tx.on_commit(follow_up)
    assert await db.fetch_column(IDS) == [5, 6]


async def test_the_decorator_runs_the_function_in_a_transaction(db: aiodbkit.Engine) -> None:
    @db.transaction()
    async def insert(number: int, *, fail: bool = False) -> str:
        """Insert a row."""
        await add(db, number)
        if fail:
            raise StopError
        return f"added {number}"

    assert await insert(5) == "added 5"
    assert await insert(number=6) == "added 6"
    with pytest.raises(StopError):
        await insert(7, fail=True)
    assert await db.fetch_column(IDS) == [5, 6]
    assert (insert.__name__, insert.__doc__) == ("insert", "Insert a row.")
    assert list(inspect.signature(insert).parameters) == ["number", "fail"]
    assert inspect.iscoroutinefunction(insert)


async def test_decorated_functions_nest_and_recurse(db: aiodbkit.Engine) -> None:
    @db.transaction()
    async def dive(depth: int) -> None:
        await add(db, 10 + depth)
        if depth < 3:
            await dive(depth + 1)

    async with db.transaction() as tx:
        await dive(0)
        assert await db.fetch_column(IDS) == [10, 11, 12, 13]
        await tx.rollback()
    assert await db.fetch_column(IDS) == []


async def test_the_decorator_works_on_methods(db: aiodbkit.Engine) -> None:
    class Service:
        @db.transaction()
        async def insert(self, number: int) -> None:
            await add(db, number)

    await Service().insert(5)
    assert await db.fetch_column(IDS) == [5]


async def test_a_callback_that_fails_is_told_and_stops_no_other(db: aiodbkit.Engine) -> None:
    calls: list[str] = []

    def fail() -> None:
        raise StopError

    with pytest.raises(StopError):
        async with db.transaction() as tx:
            await add(db, 5)
            tx.on_commit(lambda: calls.append("before"))
            tx.on_commit(fail)
            tx.on_commit(lambda: calls.append("after"))
    assert calls == ["before", "after"]
    assert await db.fetch_column(IDS) == [5]
    await assert_whole(db)


async def test_a_decorated_function_serves_many_tasks_at_once(db: aiodbkit.Engine) -> None:
    @db.transaction()
    async def insert(number: int) -> int:
        await add(db, number)
        if number % 3 == 0:
            raise StopError
        return number

    results = await asyncio.gather(*(insert(n) for n in range(10, 40)), return_exceptions=True)
    kept = [n for n in range(10, 40) if n % 3]
    assert [result for result in results if isinstance(result, int)] == kept
    assert await db.fetch_column(IDS) == kept


def test_an_engine_decorates_before_there_is_an_event_loop() -> None:
    db = aiodbkit.create_engine("sqlite://")

    @db.transaction(isolation="serializable")
    async def work() -> Any:
        return await db.fetch_val("select 42")

    async def program() -> Any:
        async with db:
            return await work()

    assert asyncio.run(program()) == 42


@pytest.mark.parametrize("form", ["transaction", "connection", "execution_context"])
async def test_only_async_functions_can_be_decorated(form: str, db: aiodbkit.Engine) -> None:
    def plain() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    for function in (plain, generator, async_generator):
        with pytest.raises(TypeError, match=function.__name__):
            getattr(db, form)()(function)


async def test_retry_belongs_to_the_decorator_form(db: aiodbkit.Engine) -> None:
    with pytest.raises(TypeError, match=r"again|repeat|twice|decorator"):
        async with db.transaction(retry=aiodbkit.RetryPolicy(max_retries=2)):
            pytest.fail("the body ran")
    assert await db.fetch_val("select 1") == 1
