"""Cancellation, edge (`task.cancel()`) and level (anyio): nothing is lost, nothing is mixed up.

The delays are drawn from seeded generators, so that the cancels fall everywhere and a failing
case can be run again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest

import aiodbkit

from .dialects import Dialect
from .support import assert_whole

ROUNDS = 40
SIZE = 3
INSERT = "insert into steps (round, step) values (:round, :step)"
Work = Callable[[aiodbkit.Engine, int], Awaitable[Any]]


@pytest.fixture
async def steps(make_engine: Any, sql: Dialect) -> aiodbkit.Engine:
    """An engine of three connections with a table of rounds and their steps."""
    db: aiodbkit.Engine = await make_engine(max_size=SIZE, acquire_timeout=30)
    await db.execute(f"create table steps ({sql.key}, round integer, step integer)")
    return db


async def fetch_val(db: aiodbkit.Engine, turn: int) -> None:
    assert await db.fetch_val(f"select {turn}") == turn


async def fetch_all(db: aiodbkit.Engine, turn: int) -> None:
    given = {"turn": turn}
    found = await db.fetch_all("select round, step from steps where round = :turn", given)
    assert all(row.round == turn for row in found)


async def execute_many(db: aiodbkit.Engine, turn: int) -> None:
    await db.execute_many(INSERT, [{"round": turn, "step": step} for step in range(200)])


async def insert_many(db: aiodbkit.Engine, turn: int) -> None:
    async def rows() -> AsyncIterator[tuple[int, int]]:
        for step in range(200):
            if step % 50 == 0:
                await asyncio.sleep(0)
            yield turn, step

    await db.insert_many("steps", rows(), columns=["round", "step"])


async def execute_script(db: aiodbkit.Engine, turn: int) -> None:
    async with db.transaction():
        await db.execute_script(
            ";".join(f"insert into steps (round) values ({turn})" for _ in "ab")
        )


async def iterate(db: aiodbkit.Engine, turn: int) -> None:
    async with db.iterate("select round, step from steps", batch_size=20) as rows:
        async for row in rows:
            assert len(row) == 2


async def connection(db: aiodbkit.Engine, turn: int) -> None:
    async with db.connection() as conn:
        for n in range(3):
            assert await conn.fetch_val(f"select {turn + n}") == turn + n


async def transaction(db: aiodbkit.Engine, turn: int) -> None:
    async with db.transaction():
        for step in range(3):
            await db.execute(INSERT, {"round": turn, "step": step})


async def savepoints(db: aiodbkit.Engine, turn: int) -> None:
    async with db.transaction():
        await db.execute(INSERT, {"round": turn, "step": 0})
        async with db.transaction():
            await db.execute(INSERT, {"round": turn, "step": 1})
        async with db.transaction() as inner:
            await db.execute(INSERT, {"round": turn, "step": 2})
            await inner.rollback()


async def manual(db: aiodbkit.Engine, turn: int) -> None:
    async with db.connection() as conn:
        await conn.begin()
        await conn.execute(INSERT, {"round": turn, "step": 0})
        await conn.execute(INSERT, {"round": turn, "step": 1})
        await conn.commit()


# How many rows a round leaves behind when its work is done; otherwise there are none.
WORKS: dict[str, tuple[Work, int]] = {
    "fetch_val": (fetch_val, 0),
    "fetch_all": (fetch_all, 0),
    "execute_many": (execute_many, 200),
    "insert_many": (insert_many, 200),
    "execute_script": (execute_script, 2),
    "iterate": (iterate, 0),
    "connection": (connection, 0),
    "transaction": (transaction, 3),
    "savepoints": (savepoints, 2),
    "manual": (manual, 2),
}


async def assert_whole_rounds(db: aiodbkit.Engine, rows: int, done: set[int]) -> None:
    """Every round is there as a whole or not at all, and a finished one is there."""
    await assert_whole(db)
    found = dict(
        tuple(row) for row in await db.fetch_all("select round, count(*) from steps group by round")
    )
    assert {turn: count for turn, count in found.items() if count != rows} == {}
    if rows:
        assert done <= set(found)


@pytest.mark.parametrize("name", WORKS)
async def test_a_task_cancelled_anywhere_leaves_the_engine_whole(
    name: str, steps: aiodbkit.Engine
) -> None:
    work, rows = WORKS[name]
    chance, done = random.Random(f"edge {name}"), set()
    for turn in range(ROUNDS):
        task = asyncio.ensure_future(work(steps, turn))
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
        await asyncio.sleep(chance.choice([0, 0, chance.random() / 200]))
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
            done.add(turn)
    await assert_whole_rounds(steps, rows, done)


@pytest.mark.parametrize("name", WORKS)
async def test_a_task_cancelled_twice_leaves_the_engine_whole(
    name: str, steps: aiodbkit.Engine
) -> None:
    work, rows = WORKS[name]
    chance, done = random.Random(f"twice {name}"), set()
    for turn in range(ROUNDS):
        task = asyncio.ensure_future(work(steps, turn))
        for _ in range(2):
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
            done.add(turn)
    await assert_whole_rounds(steps, rows, done)


@pytest.mark.parametrize("name", WORKS)
async def test_a_cancelled_scope_of_anyio_leaves_the_engine_whole(
    name: str, steps: aiodbkit.Engine
) -> None:
    work, rows = WORKS[name]
    chance, done = random.Random(f"level {name}"), set()
    for turn in range(ROUNDS):
        with anyio.move_on_after(chance.random() / 100) as scope:
            await work(steps, turn)
        if not scope.cancelled_caught:
            done.add(turn)
    await assert_whole_rounds(steps, rows, done)


async def test_a_crowd_that_is_cancelled_while_it_waits_leaves_the_engine_whole(
    steps: aiodbkit.Engine,
) -> None:
    chance = random.Random("crowd")
    names = list(WORKS)
    tasks = [
        asyncio.ensure_future(WORKS[chance.choice(names)][0](steps, turn)) for turn in range(120)
    ]
    pending = set(tasks)
    while pending:
        chance.choice(sorted(pending, key=tasks.index)).cancel()
        _, pending = await asyncio.wait(pending, timeout=chance.random() / 500)
    for task in tasks:
        if not task.cancelled():
            task.result()
    await assert_whole(steps)


async def test_move_on_after_leaves_a_slow_statement_in_time(
    one: aiodbkit.Engine, sql: Dialect
) -> None:
    with anyio.fail_after(20):
        with anyio.move_on_after(0.1) as scope:
            await one.fetch_val(sql.slow(60))
        assert scope.cancelled_caught
        await assert_whole(one)


async def test_a_cancelled_write_does_not_happen_behind_the_callers_back(
    db: aiodbkit.Engine, sql: Dialect
) -> None:
    await db.execute("create table late (id integer)")
    task = asyncio.create_task(db.execute(sql.slow_insert("late", 3)))
    await asyncio.sleep(0.3)  # the statement is at the server by now, or it never will be
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # DDL waits for whatever still runs on the table.
    await db.execute("alter table late add column settled integer")
    assert await db.fetch_val("select count(*) from late") == 0
    await assert_whole(db)


async def test_a_cancelled_statement_in_a_transaction_undoes_all_of_it(
    db: aiodbkit.Engine, sql: Dialect
) -> None:
    await db.execute("create table late (id integer)")

    async def body() -> None:
        async with db.transaction():
            await db.execute("insert into late (id) values (0)")
            with anyio.move_on_after(0.1):
                await db.fetch_val(sql.slow(60))
            await db.execute("insert into late (id) values (2)")

    try:
        await body()
        kept = 2
    except aiodbkit.DatabaseError:
        kept = 0
    assert await db.fetch_val("select count(*) from late") == kept
    await assert_whole(db)


async def test_a_connection_kept_over_a_cancelled_statement_is_in_step_or_closed(
    db: aiodbkit.Engine, sql: Dialect
) -> None:
    async with db.connection() as conn:
        with anyio.move_on_after(0.1) as scope:
            await conn.fetch_val(sql.slow(60))
        assert scope.cancelled_caught
        try:
            assert await conn.fetch_val("select 41") == 41
        except aiodbkit.ConnectionLostError:
            assert conn.is_closed
    await assert_whole(db)


async def test_a_cancelled_wait_for_a_connection_keeps_nobody_elses_place(
    one: aiodbkit.Engine,
) -> None:
    order: list[int] = []

    async def waiter(number: int) -> None:
        async with one.connection():
            order.append(number)

    async with one.connection():
        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(waiter(number)))
            await asyncio.sleep(0)
        for number in (0, 2, 5):
            tasks[number].cancel()
    await asyncio.wait(tasks)
    assert order == [1, 3, 4]
    await assert_whole(one)


async def test_a_wait_cancelled_while_the_connection_arrives_does_not_lose_it(
    one: aiodbkit.Engine,
) -> None:
    for turns in range(8):
        async with one.connection():
            waiter = asyncio.create_task(one.fetch_val("select 1"))
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
    await assert_whole(one)


async def test_a_task_whose_transactions_were_cancelled_waits_for_their_end_and_goes_on(
    one: aiodbkit.Engine, sql: Dialect
) -> None:
    """A connection that is still being rolled back is not one that the task holds."""
    await one.execute(f"create table steps ({sql.key}, round integer, step integer)")
    for turn in range(300):
        with anyio.move_on_after(turn % 40 / 8000):
            await transaction(one, turn)
    await assert_whole_rounds(one, 3, set())


async def test_closing_while_tasks_are_cancelled_ends(make_engine: Any) -> None:
    db = await make_engine(max_size=SIZE)
    tasks = [asyncio.ensure_future(fetch_val(db, turn)) for turn in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    with anyio.fail_after(20):
        await db.close(timeout=5)
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            assert isinstance(error, aiodbkit.InterfaceError)
