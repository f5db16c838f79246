"""Contract §5: sessions and child tasks; the verbs are those of `test_sessions`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aiodbkit

from .support import alone, assert_whole
from .test_sessions import ADD, COUNT, VERBS, People, in_use, verbs


@pytest.fixture(autouse=True)
async def _people(people: People) -> None:
    """Every test here works on the four people."""


@verbs
async def test_a_childs_verb_on_the_engine_names_the_ways_out(
    verb: str, db: aiodbkit.Engine
) -> None:
    async with db.session() as session:
        assert await session.fetch_val(COUNT) == 4
        with pytest.raises(aiodbkit.TransactionScopeError) as caught:
            await alone(VERBS[verb](db))
        for way_out in ('child_tasks="own"', 'child_tasks="share"'):
            assert way_out in str(caught.value)
        assert await session.fetch_val(COUNT) == 4
    assert await db.fetch_val(COUNT) == 4


@verbs
async def test_while_a_session_holds_nothing_a_childs_verb_takes_its_own_connection(
    verb: str, one: aiodbkit.Engine
) -> None:
    reads = verb.startswith("fetch") or verb == "iterate"
    async with one.session() as session:
        await alone(VERBS[verb](one))
        assert not session.in_transaction, "the child's statement was none of the session's"
        await session.rollback()
        assert await session.fetch_val(COUNT) == (4 if reads else 5)
        await session.commit()
        assert await alone(one.fetch_val(COUNT)) == (4 if reads else 5), "nothing is held again"
    await assert_whole(one)


async def test_a_child_that_began_before_the_first_statement_is_told_once_there_is_one(
    db: aiodbkit.Engine,
) -> None:
    free, began, refused = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def child() -> Any:
        assert await db.fetch_val(COUNT) == 4
        free.set()
        await began.wait()
        with pytest.raises(aiodbkit.TransactionScopeError):
            await db.fetch_val(COUNT)
        refused.set()

    async with db.session() as session:
        task = asyncio.create_task(child())
        await free.wait()
        await session.execute(ADD, {"id": 5})
        began.set()
        await refused.wait()
        await task
    assert await db.fetch_val(COUNT) == 5
    await assert_whole(db)


async def test_a_session_of_nothing_inside_a_transaction_lets_no_child_out_of_that(
    db: aiodbkit.Engine,
) -> None:
    async with db.transaction(), db.session():
        with pytest.raises(aiodbkit.TransactionScopeError):
            await alone(db.fetch_val(COUNT))
    async with db.session() as outer:
        await outer.execute(ADD, {"id": 5})
        async with db.session():
            with pytest.raises(aiodbkit.TransactionScopeError):
                await alone(db.fetch_val(COUNT))
        outer.set_rollback_only()
    await assert_whole(db)


async def test_a_childs_session_beside_one_that_holds_nothing_is_its_own(
    db: aiodbkit.Engine,
) -> None:
    async def endpoint() -> None:
        async with db.session() as session:
            await session.execute(ADD, {"id": 5})

    async with db.session() as session:  # as a middleware that runs the rest in a child task
        await alone(endpoint())
        assert await session.fetch_val(COUNT) == 5, "the child has committed"
        session.set_rollback_only()
    assert await db.fetch_val(COUNT) == 5
    await assert_whole(db)


async def test_a_session_that_has_not_begun_is_not_repeated_by_retry(db: aiodbkit.Engine) -> None:
    """What fails in there has begun it by then, and only all of it can be repeated."""
    calls: list[int] = []

    @db.retry(max_retries=3, backoff=0)
    async def job() -> None:
        calls.append(await db.fetch_val(COUNT))
        raise aiodbkit.SerializationError("again", is_transient=True)

    async with db.session():
        with pytest.raises(aiodbkit.SerializationError):
            await job()
    assert calls == [4]


@pytest.mark.parametrize("around", ["session", "transaction"])
async def test_a_childs_session_is_no_silent_way_out_of_the_parents(
    around: str, db: aiodbkit.Engine
) -> None:
    async def child() -> Any:
        async with db.session(read_only=True) as session:
            return await session.fetch_val(COUNT)

    for child_tasks in ("error", "share"):
        modes: Any = child_tasks
        async with getattr(db, around)(child_tasks=modes):
            await db.fetch_val(COUNT)
            with pytest.raises(aiodbkit.TransactionScopeError):
                await alone(child())
    async with getattr(db, around)(child_tasks="own"):
        await db.execute(ADD, {"id": 5})
        assert await alone(child()) == 4
    assert await db.fetch_val(COUNT) == 5
    await assert_whole(db)


async def test_own_gives_the_child_its_own_connection(db: aiodbkit.Engine) -> None:
    async with db.session(child_tasks="own") as session:
        await session.execute("delete from people where id = 1")
        assert await alone(db.fetch_val(COUNT)) == 4
        assert await session.fetch_val(COUNT) == 3


async def test_share_makes_the_children_part_of_the_session(one: aiodbkit.Engine) -> None:
    async with one.session(child_tasks="share") as session:
        await asyncio.gather(*(one.execute(ADD, {"id": number}) for number in range(5, 15)))
        assert in_use(one) == 1
        assert await session.fetch_val(COUNT) == 14
        await session.rollback()
    assert await one.fetch_val(COUNT) == 4
    await assert_whole(one)


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_session_handed_over_works_in_turns(has_begun: bool, one: aiodbkit.Engine) -> None:
    async with one.session() as session:
        if has_begun:
            await session.fetch_val(COUNT)
        await asyncio.gather(*(session.execute(ADD, {"id": number}) for number in range(5, 15)))
        assert in_use(one) == 1
        assert await one.fetch_val(COUNT) == 14
        await session.rollback()
    assert await one.fetch_val(COUNT) == 4
    await assert_whole(one)


async def test_a_nested_session_handed_over_stays_in_what_is_around_it(
    one: aiodbkit.Engine,
) -> None:
    async with one.transaction() as tx:
        async with one.session() as session:
            await asyncio.gather(*(session.execute(ADD, {"id": number}) for number in (5, 6)))
        assert await one.fetch_val(COUNT) == 6
        await tx.rollback()
    async with one.session() as outer, one.session() as inner:
        await alone(inner.execute(ADD, {"id": 5}))
        assert in_use(one) == 1
        outer.set_rollback_only()
    assert await one.fetch_val(COUNT) == 4
    await assert_whole(one)


async def test_a_child_that_outlives_the_session_is_free_again(db: aiodbkit.Engine) -> None:
    ended = asyncio.Event()

    async def outliving() -> Any:
        await ended.wait()
        return await db.fetch_val(COUNT)

    async with db.session() as session:
        child = asyncio.create_task(outliving())
        await session.execute("delete from people where id = 1")
    ended.set()
    assert await child == 3
