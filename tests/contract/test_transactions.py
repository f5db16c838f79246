"""Contract §4: transactions. Commit, roll back, nest, and give back a clean connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aiodbkit

from .dialects import Dialect
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


async def test_success_commits(db: aiodbkit.Engine) -> None:
    async with db.transaction():
        await add(db, 5)
        await add(db, 6)
    assert await db.fetch_column(IDS) == [5, 6]


@pytest.mark.parametrize(
    "error", [StopError, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]
)
async def test_any_exception_rolls_back_and_goes_on(
    error: type[BaseException], one: aiodbkit.Engine
) -> None:
    with pytest.raises(error):
        async with one.transaction():
            await add(one, 5)
            raise error
    assert await one.fetch_column(IDS) == []
    await assert_whole(one)


async def test_cancellation_rolls_back(one: aiodbkit.Engine) -> None:
    inside = asyncio.Event()

    async def body() -> None:
        async with one.transaction():
            await add(one, 5)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await one.fetch_column(IDS) == []
    await assert_whole(one)


async def test_a_body_cancelled_twice_still_rolls_back(one: aiodbkit.Engine) -> None:
    inside = asyncio.Event()

    async def body() -> None:
        async with one.transaction():
            await add(one, 5)
            inside.set()
            await asyncio.Event().wait()

    for turns in range(6):
        inside.clear()
        task = asyncio.create_task(body())
        await inside.wait()
        task.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await one.fetch_column(IDS) == []
    await assert_whole(one)


async def test_a_body_that_catches_its_cancellation_is_cancelled_again_in_the_commit(
    one: aiodbkit.Engine,
) -> None:
    inside = asyncio.Event()

    async def body() -> None:
        async with one.transaction():
            await add(one, 5)
            await add(one, 6)
            inside.set()

    for turns in range(4):
        inside.clear()
        task = asyncio.create_task(body())
        await inside.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        found = await one.fetch_column(IDS)
        assert found in ([], [5, 6])
        if not task.cancelled():
            task.result()
            assert found == [5, 6]
        await one.execute("delete from people where id > 4")
    await assert_whole(one)


async def test_an_inner_failure_is_undone_and_the_outer_work_kept(db: aiodbkit.Engine) -> None:
    async with db.transaction():
        await add(db, 5)
        with pytest.raises(StopError):
            async with db.transaction():
                await add(db, 6)
                async with db.transaction():
                    await add(db, 7)
                raise StopError
        async with db.transaction():
            await add(db, 8)
    assert await db.fetch_column(IDS) == [5, 8]


async def test_an_inner_database_error_leaves_the_outer_transaction_usable(
    db: aiodbkit.Engine,
) -> None:
    async with db.transaction():
        await add(db, 5)
        with pytest.raises(aiodbkit.UniqueViolationError):
            async with db.transaction():
                await add(db, 6)
                await add(db, 1)
        await add(db, 7)
    assert await db.fetch_column(IDS) == [5, 7]


async def test_an_outer_failure_undoes_the_inner_work(db: aiodbkit.Engine) -> None:
    with pytest.raises(StopError):
        async with db.transaction():
            async with db.transaction():
                await add(db, 5)
            raise StopError
    assert await db.fetch_column(IDS) == []


async def test_ten_levels_and_many_siblings(db: aiodbkit.Engine) -> None:
    async def dive(depth: int) -> None:
        async with db.transaction() as tx:
            await add(db, 10 + depth)
            if depth < 9:
                await dive(depth + 1)
            if depth % 2:
                await tx.rollback()

    async with db.transaction():
        await dive(0)
        for number in range(30, 50):
            async with db.transaction():
                await add(db, number)
    assert await db.fetch_column(IDS) == [10, *range(30, 50)]


async def test_rollback_leaves_its_own_block_silently(db: aiodbkit.Engine) -> None:
    async with db.transaction():
        await add(db, 5)
        async with db.transaction():
            await add(db, 6)
            raise aiodbkit.Rollback
        await add(db, 7)
    async with db.transaction():
        await add(db, 8)
        raise aiodbkit.Rollback
    assert await db.fetch_column(IDS) == [5, 7]


async def test_rollback_midway_ends_the_scope_and_refuses_what_follows(
    one: aiodbkit.Engine,
) -> None:
    async with one.transaction() as tx:
        await add(one, 5)
        await tx.rollback()
        with pytest.raises(aiodbkit.InterfaceError, match="rolled back"):
            await add(one, 6)
        with pytest.raises(aiodbkit.InterfaceError, match="rolled back"):
            await one.fetch_val("select 1")
        with pytest.raises(aiodbkit.InterfaceError, match="rolled back"):
            async with one.transaction():
                pass
    assert await one.fetch_column(IDS) == []


async def test_an_inner_rollback_midway_leaves_the_outer_scope_alone(
    db: aiodbkit.Engine,
) -> None:
    async with db.transaction():
        await add(db, 5)
        async with db.transaction() as inner:
            await add(db, 6)
            await inner.rollback()
            with pytest.raises(aiodbkit.InterfaceError, match="rolled back"):
                await add(db, 7)
        await add(db, 8)
    assert await db.fetch_column(IDS) == [5, 8]


async def test_force_rollback_rolls_back_at_the_end(db: aiodbkit.Engine) -> None:
    async with db.transaction(force_rollback=True):
        await add(db, 5)
        async with db.transaction():
            await add(db, 6)
        assert await db.fetch_column(IDS) == [5, 6]
    assert await db.fetch_column(IDS) == []
    async with db.transaction():
        await add(db, 7)
        async with db.transaction(force_rollback=True):
            await add(db, 8)
    assert await db.fetch_column(IDS) == [7]


async def test_other_connections_see_nothing_before_the_commit(db: aiodbkit.Engine) -> None:
    async with db.pool.acquire() as other:
        async with db.transaction():
            await add(db, 5)
            assert await other.fetch_column(IDS) == []
        assert await other.fetch_column(IDS) == [5]


async def test_a_transaction_of_a_connection_is_the_tasks_transaction(
    db: aiodbkit.Engine,
) -> None:
    with pytest.raises(StopError):
        async with db.connection() as conn, conn.transaction():
            await add(conn, 5)
            await add(db, 6)
            raise StopError
    assert await db.fetch_column(IDS) == []


async def test_a_swallowed_error_never_makes_a_commit_lie(one: aiodbkit.Engine, can: Any) -> None:
    """Either the rest of the transaction is committed, or the block says that it is not."""
    if not can.error_aborts_transaction:
        async with one.transaction():
            await add(one, 5)
            with pytest.raises(aiodbkit.UniqueViolationError):
                await add(one, 1)
        assert await one.fetch_column(IDS) == [5]
        return
    with pytest.raises(aiodbkit.InternalError):
        async with one.transaction():
            await add(one, 5)
            with pytest.raises(aiodbkit.UniqueViolationError):
                await add(one, 1)
    assert await one.fetch_column(IDS) == []
    await assert_whole(one)


async def test_a_failing_commit_raises_and_leaves_a_clean_connection(
    one: aiodbkit.Engine, can: Any, sql: Dialect
) -> None:
    if not can.deferred_constraints or sql.deferred_key is None:
        pytest.skip("this backend checks no constraint at COMMIT")
    await one.execute(
        f"create table pets (id integer, owner integer references people (id) {sql.deferred_key})"
    )
    ended = []
    with pytest.raises(aiodbkit.ForeignKeyViolationError):
        async with one.transaction() as tx:
            tx.on_commit(lambda: ended.append("committed"))
            tx.on_rollback(lambda: ended.append("rolled back"))
            await one.execute("insert into pets (id, owner) values (1, 99)")
            await add(one, 5)
    assert ended == ["rolled back"]
    assert await one.fetch_column(IDS) == []
    assert await one.fetch_val("select count(*) from pets") == 0
    await assert_whole(one)
    async with one.transaction():
        await add(one, 6)
    assert await one.fetch_column(IDS) == [6]


async def test_transactions_of_two_tasks_do_not_mix(make_engine: Any) -> None:
    db = await make_engine(max_size=4)

    async def work(number: int) -> None:
        async with db.transaction() as tx:
            await add(db, number)
            await add(db, number + 1)
            if number % 4 == 0:
                await tx.rollback()

    numbers = range(100, 180, 2)
    await asyncio.gather(*(work(number) for number in numbers))
    kept = [n for n in numbers if n % 4]
    assert await db.fetch_column(IDS) == sorted([*kept, *(n + 1 for n in kept)])
    await assert_whole(db)


async def test_a_scope_cannot_be_entered_twice(db: aiodbkit.Engine) -> None:
    scope = db.transaction()
    async with scope:
        pass
    with pytest.raises(aiodbkit.InterfaceError):
        async with scope:
            pass


async def test_run_in_transaction_takes_no_sync_function(db):
    with pytest.raises(TypeError, match="async functions"):
        await db.run_in_transaction(lambda: 3)


@pytest.mark.parametrize("name", ["read_only", "deferrable"])
def test_a_flag_that_is_none_is_refused(db, name):
    with pytest.raises(aiodbkit.ConfigurationError, match=name):
        db.transaction(**{name: "yes"})
