"""Contract §3: child tasks of a task that is in a transaction."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

import aiodbkit

from .dialects import Dialect
from .support import alone, assert_whole

ADD = "insert into people (id, name) values (:id, 'new')"
COUNT = "select count(*) from people"
People = list[tuple[int, str, int | None]]


@pytest.fixture(autouse=True)
async def _people(people: People) -> None:
    """Every test here works on the four people."""


def calls(db: aiodbkit.Engine) -> dict[str, Any]:
    """Every way to reach the database through the engine, as coroutine functions."""

    async def iterate() -> None:
        async for _ in db.iterate(COUNT):
            pass

    async def connection() -> None:
        async with db.connection() as conn:
            await conn.fetch_val(COUNT)

    async def transaction() -> None:
        async with db.transaction():
            await db.fetch_val(COUNT)

    return {
        "execute": lambda: db.execute("delete from people"),
        "execute_many": lambda: db.execute_many(ADD, [{"id": 5}]),
        "execute_script": lambda: db.execute_script("delete from people"),
        "fetch_all": lambda: db.fetch_all("select id from people"),
        "fetch_one": lambda: db.fetch_one("select id from people"),
        "fetch_val": lambda: db.fetch_val(COUNT),
        "fetch_column": lambda: db.fetch_column("select id from people"),
        "insert_many": lambda: db.insert_many("people", [{"id": 5, "name": "x"}]),
        "iterate": iterate,
        "connection": connection,
        "transaction": transaction,
    }


@pytest.mark.parametrize(
    "call",
    [
        "execute",
        "execute_many",
        "execute_script",
        "fetch_all",
        "fetch_one",
        "fetch_val",
        "fetch_column",
        "insert_many",
        "iterate",
        "connection",
        "transaction",
    ],
)
async def test_a_childs_call_in_the_parents_transaction_names_the_three_ways_out(
    call: str, db: aiodbkit.Engine
) -> None:
    async with db.transaction():
        with pytest.raises(aiodbkit.TransactionScopeError) as caught:
            await alone(calls(db)[call]())
        for way_out in ('child_tasks="own"', 'child_tasks="share"', "conn"):
            assert way_out in str(caught.value)
        assert await db.fetch_val(COUNT) == 4
    assert await db.fetch_val(COUNT) == 4
    await assert_whole(db)


async def test_gather_a_task_group_and_anyio_are_all_child_tasks(db: aiodbkit.Engine) -> None:
    async with db.transaction():
        results = await asyncio.gather(
            db.fetch_val(COUNT), db.fetch_val(COUNT), return_exceptions=True
        )
        assert {type(result) for result in results} == {aiodbkit.TransactionScopeError}
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(db.execute("delete from people"))
        assert caught.group_contains(aiodbkit.TransactionScopeError)
        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as anyio_group:
                anyio_group.start_soon(db.execute, "delete from people")
        assert caught.group_contains(aiodbkit.TransactionScopeError)
        with pytest.raises(aiodbkit.TransactionScopeError):
            await asyncio.wait_for(alone(db.fetch_val(COUNT)), 5)
    assert await db.fetch_val(COUNT) == 4


async def test_a_grandchild_is_told_too(db: aiodbkit.Engine) -> None:
    async with db.transaction():
        with pytest.raises(aiodbkit.TransactionScopeError):
            await alone(alone(db.fetch_val(COUNT)))


async def test_own_gives_the_child_its_own_connection_outside_the_transaction(
    db: aiodbkit.Engine, can: Any
) -> None:
    async with db.transaction(child_tasks="own") as tx:
        await db.execute("delete from people where id = 1")
        assert await alone(db.fetch_val(COUNT)) == 4
        assert await asyncio.gather(db.fetch_val(COUNT), db.fetch_val(COUNT)) == [4, 4]
        if can.concurrent_writers:
            await alone(db.execute(ADD, {"id": 5}))
        await tx.rollback()
    assert await db.fetch_val(COUNT) == (5 if can.concurrent_writers else 4)


async def test_share_makes_the_children_part_of_the_transaction(db: aiodbkit.Engine) -> None:
    async def child(number: int) -> Any:
        await db.execute(ADD, {"id": number})
        return await db.fetch_val("select id from people where id = :id", {"id": number})

    async with db.transaction(child_tasks="share") as tx:
        assert await asyncio.gather(*(child(n) for n in range(5, 15))) == [*range(5, 15)]
        assert db.pool.stats().in_use == 1
        assert await db.fetch_val(COUNT) == 14
        await tx.rollback()
    assert await db.fetch_val(COUNT) == 4


@pytest.mark.parametrize("child_tasks", ["own", "share"])
async def test_the_engine_takes_the_default_for_its_transactions(
    child_tasks: str, make_engine: Any
) -> None:
    db = await make_engine(child_tasks=child_tasks)
    async with db.transaction() as tx:
        await db.execute("delete from people where id = 1")
        assert await alone(db.fetch_val(COUNT)) == (4 if child_tasks == "own" else 3)
        await tx.rollback()
    async with db.transaction(child_tasks="error"):
        with pytest.raises(aiodbkit.TransactionScopeError):
            await alone(db.fetch_val(COUNT))


async def test_an_unknown_choice_is_refused_by_name(make_engine: Any, db: aiodbkit.Engine) -> None:
    choice: Any = "inherit"
    with pytest.raises(aiodbkit.ConfigurationError, match=r"child_tasks.*inherit"):
        await make_engine(child_tasks=choice)
    with pytest.raises(aiodbkit.ConfigurationError, match=r"child_tasks.*inherit"):
        async with db.transaction(child_tasks=choice):
            pass


async def test_a_connection_handed_over_works_inside_the_transaction(
    db: aiodbkit.Engine,
) -> None:
    async def child(conn: aiodbkit.Connection, number: int) -> None:
        await conn.execute(ADD, {"id": number})

    async with db.connection() as conn, db.transaction() as tx:
        await asyncio.gather(*(child(conn, number) for number in range(5, 10)))
        assert await db.fetch_val(COUNT) == 9
        await tx.rollback()
    assert await db.fetch_val(COUNT) == 4


async def test_a_child_whose_parent_holds_a_mere_connection_is_free(db: aiodbkit.Engine) -> None:
    async with db.connection():
        await alone(db.execute(ADD, {"id": 5}))
        assert await db.fetch_val(COUNT) == 5


async def test_a_child_made_before_the_transaction_is_free(
    db: aiodbkit.Engine, sql: Dialect
) -> None:
    go = asyncio.Event()

    async def sibling() -> Any:
        await go.wait()
        return await db.fetch_val(COUNT)

    task = asyncio.create_task(sibling())
    async with db.transaction():
        await db.execute("delete from people where id = 1")
        go.set()
        assert await task == 4


async def test_a_childs_own_transaction_is_its_own_scope(db: aiodbkit.Engine) -> None:
    """A child of the child is judged by the child's transaction, not by the grandparent's."""

    async def child() -> None:
        async with db.transaction(child_tasks="share", read_only=True):
            assert await alone(db.fetch_val(COUNT)) == 4

    async with db.transaction(child_tasks="own"):
        await db.execute("delete from people where id = 1")
        await alone(child())


async def test_a_child_that_outlives_the_transaction_is_free_again(db: aiodbkit.Engine) -> None:
    ended = asyncio.Event()

    async def outliving() -> Any:
        with pytest.raises(aiodbkit.TransactionScopeError):
            await db.fetch_val(COUNT)
        ended_before = ended.is_set()
        await ended.wait()
        return ended_before, await db.fetch_val(COUNT)

    async with db.transaction() as tx:
        child = asyncio.create_task(outliving())
        await db.execute("delete from people where id = 1")
        await tx.rollback()
    ended.set()
    ended_before, count = await child
    assert (ended_before, count) == (False, 4)


async def test_a_manual_transaction_and_an_execution_context_are_scopes_too(
    db: aiodbkit.Engine,
) -> None:
    async with db.connection() as conn:
        await conn.begin()
        with pytest.raises(aiodbkit.TransactionScopeError):
            await alone(db.fetch_val(COUNT))
        await conn.rollback()
        assert await alone(db.fetch_val(COUNT)) == 4
    async with db.execution_context():
        with pytest.raises(aiodbkit.TransactionScopeError):
            await alone(db.fetch_val(COUNT))
    async with db.execution_context(transaction=False):
        assert await alone(db.fetch_val(COUNT)) == 4


async def test_a_failing_group_of_sharing_children_undoes_the_transaction(
    one: aiodbkit.Engine,
) -> None:
    async def fail() -> None:
        await one.execute(ADD, {"id": 6})
        raise RuntimeError("stop")

    with pytest.raises(ExceptionGroup) as caught:
        async with one.transaction(child_tasks="share"), asyncio.TaskGroup() as group:
            group.create_task(one.execute(ADD, {"id": 5}))
            group.create_task(fail())
            for _ in range(30):
                group.create_task(one.fetch_val(COUNT))
    assert caught.group_contains(RuntimeError, match="stop")
    assert await one.fetch_val(COUNT) == 4
    await assert_whole(one)
