"""Contract §3: connections, task-local and re-entrant."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

import aiodbkit

from .dialects import Dialect
from .support import FLOORS, alone, assert_whole, verbs_on

People = list[tuple[int, str, int | None]]


async def test_the_inner_block_gets_the_same_connection(db: aiodbkit.Engine) -> None:
    async with db.connection() as outer, db.connection() as inner:
        assert inner.raw is outer.raw
        assert db.pool.stats().in_use == 1
        assert await inner.fetch_val("select 1") == 1


async def test_the_end_of_an_inner_block_leaves_the_outer_one_usable(
    db: aiodbkit.Engine,
) -> None:
    async with db.connection() as outer:
        async with db.connection():
            pass
        assert await outer.fetch_val("select 1") == 1
        assert db.pool.stats().in_use == 1
    assert db.pool.stats().in_use == 0


async def test_verbs_on_the_engine_use_the_tasks_connection(one: aiodbkit.Engine) -> None:
    async with one.connection() as conn:
        assert await one.fetch_val("select 2") == 2
        await one.execute("create table seen (id integer)")
        assert await conn.fetch_val("select count(*) from seen") == 0
        assert [row[0] async for row in one.iterate("select 3")] == [3]


async def test_a_verb_outside_of_a_block_gives_its_connection_back_at_once(
    db: aiodbkit.Engine,
) -> None:
    assert await db.fetch_val("select 1") == 1
    assert db.current_connection() is None
    assert db.pool.stats().in_use == 0


async def test_current_connection_is_the_tasks_own_or_none(db: aiodbkit.Engine) -> None:
    assert db.current_connection() is None
    async with db.connection() as conn:
        current = db.current_connection()
        assert current is not None
        assert current.raw is conn.raw
    assert db.current_connection() is None
    async with db.transaction():
        current = db.current_connection()
        assert current is not None
        assert current.in_transaction
    assert db.current_connection() is None


async def test_a_child_task_takes_its_own_connection(db: aiodbkit.Engine) -> None:
    async def child(parents: Any) -> None:
        assert db.current_connection() is None
        assert await db.fetch_val("select 1") == 1
        async with db.connection() as own:
            assert own.raw is not parents

    async with db.connection() as conn:
        await alone(child(conn.raw))
        await asyncio.gather(child(conn.raw), child(conn.raw))
        async with asyncio.TaskGroup() as group:
            group.create_task(child(conn.raw))


async def test_a_childs_connection_is_not_the_parents(db: aiodbkit.Engine) -> None:
    inside, leave = asyncio.Event(), asyncio.Event()

    async def child() -> None:
        async with db.connection():
            inside.set()
            await leave.wait()

    task = asyncio.create_task(child())
    await inside.wait()
    assert db.current_connection() is None
    leave.set()
    await task


VERBS: dict[str, tuple[Any, ...]] = {
    "execute": ("select 1",),
    "execute_many": ("select :n", [{"n": 1}]),
    "execute_script": ("select 1",),
    "fetch_all": ("select 1",),
    "fetch_one": ("select 1",),
    "fetch_val": ("select 1",),
    "fetch_column": ("select 1",),
    "insert_many": ("people", [{"id": 1}]),
    "begin": (),
    "commit": (),
    "rollback": (),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_connection_is_refused_after_its_block(verb: str, db: aiodbkit.Engine) -> None:
    async with db.connection() as conn:
        pass
    with pytest.raises(aiodbkit.InterfaceError):
        await getattr(conn, verb)(*VERBS[verb])
    with pytest.raises(aiodbkit.InterfaceError):
        async for _ in conn.iterate("select 1"):
            pass
    with pytest.raises(aiodbkit.InterfaceError):
        _ = conn.raw
    assert conn.is_closed


async def test_it_is_refused_although_another_task_has_it_again(one: aiodbkit.Engine) -> None:
    async with one.connection() as stale:
        raw = stale.raw
    async with one.connection() as fresh:
        assert fresh.raw is raw
        with pytest.raises(aiodbkit.InterfaceError):
            await stale.fetch_val("select 1")
        assert await fresh.fetch_val("select 1") == 1


async def test_states_are_told(db: aiodbkit.Engine, sql: Dialect) -> None:
    async with db.connection() as conn:
        kinds = {kind.__module__.partition(".")[0] for kind in type(conn.raw).__mro__}
        assert kinds & set(sql.drivers)
        assert not conn.is_closed
        assert not conn.in_transaction
        async with db.transaction():
            assert conn.in_transaction
        assert not conn.in_transaction


async def test_a_connection_handed_to_two_tasks_serves_them_in_turns(
    db: aiodbkit.Engine,
) -> None:
    async def ask(conn: aiodbkit.Connection, number: int) -> None:
        for n in range(number, number + 10):
            assert await conn.fetch_val("select :n + 0", {"n": n}) == n

    async with db.connection() as conn:
        await asyncio.gather(*(ask(conn, 100 * number) for number in range(10)))
        assert db.pool.stats().in_use == 1


async def test_a_slow_statement_of_one_task_makes_the_other_wait(
    db: aiodbkit.Engine, sql: Dialect
) -> None:
    finished: list[str] = []

    async def run(conn: aiodbkit.Connection, name: str, statement: str) -> None:
        await conn.fetch_val(statement)
        finished.append(name)

    async with db.connection() as conn, asyncio.TaskGroup() as group:
        group.create_task(run(conn, "slow", sql.slow(0.2)))
        await asyncio.sleep(0)
        group.create_task(run(conn, "quick", "select 1"))
    assert finished == ["slow", "quick"]


async def test_a_task_cancelled_in_the_queue_of_a_connection_leaves_it_in_step(
    db: aiodbkit.Engine, sql: Dialect
) -> None:
    async with db.connection() as conn:
        first = asyncio.create_task(conn.fetch_val(sql.slow(0.2)))
        await asyncio.sleep(0)
        second = asyncio.create_task(conn.fetch_val("select 2"))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await conn.fetch_val("select 3") == 3
        await first


@pytest.mark.parametrize("floor", ["engine", "connection"])
async def test_fifty_tasks_never_see_each_others_rows(
    floor: str, make_engine: Any, sql: Dialect
) -> None:
    db = await make_engine(max_size=5)

    async def worker(number: int) -> None:
        for turn in range(20):
            mine = number * 1000 + turn
            async with verbs_on(db, floor) as on:
                given = {"n": mine}
                found = await on.fetch_val(f"select cast(:n as {sql.integer})", given)
                assert found == mine
                assert await on.fetch_all(f"select {mine} as a, '{mine}' as b") == [
                    (mine, str(mine))
                ]

    await asyncio.gather(*(worker(number) for number in range(50)))
    assert db.pool.stats().size <= 5
    await assert_whole(db)


async def test_execution_context_is_a_separate_connection_in_a_transaction(
    db: aiodbkit.Engine, people: People
) -> None:
    async with db.connection() as outer:
        with pytest.raises(RuntimeError, match="undo"):
            async with db.execution_context() as inner:
                assert db.current_connection() is not None
                assert inner.in_transaction
                assert inner.raw is not outer.raw
                await db.execute("delete from people")
                raise RuntimeError("undo")
        assert not outer.in_transaction
        current = db.current_connection()
        assert current is not None
        assert current.raw is outer.raw
    assert await db.fetch_val("select count(*) from people") == 4


async def test_execution_context_commits_and_goes_without_a_transaction_when_told(
    db: aiodbkit.Engine, people: People
) -> None:
    async with db.execution_context():
        await db.execute("delete from people where id = 1")
    with pytest.raises(RuntimeError, match="late"):
        async with db.execution_context(transaction=False) as conn:
            assert not conn.in_transaction
            await db.execute("delete from people where id = 2")
            raise RuntimeError("late")
    assert await db.fetch_val("select count(*) from people") == 2


async def test_execution_context_decorates_async_functions(
    db: aiodbkit.Engine, people: People
) -> None:
    @db.execution_context()
    async def clear(limit: int, *, fail: bool = False) -> int:
        """Delete people."""
        current = db.current_connection()
        assert current is not None
        assert current.in_transaction
        done = await db.execute("delete from people where id <= :id", {"id": limit})
        if fail:
            raise RuntimeError("undo")
        return done.rows_affected

    with pytest.raises(RuntimeError, match="undo"):
        await clear(3, fail=True)
    assert await clear(2) == 2
    assert await clear(2) == 0
    assert clear.__name__ == "clear"
    assert clear.__doc__ == "Delete people."
    assert inspect.iscoroutinefunction(clear)
    assert await db.fetch_val("select count(*) from people") == 2


async def test_connection_decorates_async_functions(db: aiodbkit.Engine) -> None:
    @db.connection()
    async def both(a: int, b: int = 2) -> tuple[Any, Any]:
        current = db.current_connection()
        assert current is not None
        assert db.pool.stats().in_use == 1
        return await db.fetch_val(f"select {a}"), await db.fetch_val(f"select {b}")

    assert await both(1) == (1, 2)
    assert await both(3, b=4) == (3, 4)
    assert list(inspect.signature(both).parameters) == ["a", "b"]
    assert db.current_connection() is None
    assert await asyncio.gather(alone(both(5)), alone(both(6)), return_exceptions=True)
    assert db.pool.stats().in_use == 0


async def test_a_finished_scope_of_the_parent_is_no_scope_for_its_child(
    db: aiodbkit.Engine, people: People
) -> None:
    ended = asyncio.Event()

    async def outliving() -> int:
        await ended.wait()
        assert db.current_connection() is None
        async with db.transaction():
            await db.execute("delete from people where id = 1")
        return await db.fetch_val("select count(*) from people")

    async with db.transaction():
        child = asyncio.create_task(outliving())
        await asyncio.sleep(0)
        await db.execute("delete from people where id = 4")
    ended.set()
    assert await child == 2


async def test_a_body_that_fails_gives_the_connection_back(one: aiodbkit.Engine) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError, match="body"):
            async with one.connection():
                raise RuntimeError("body")
    await assert_whole(one)


async def test_session_state_of_one_borrower_is_not_met_by_the_next(
    one: aiodbkit.Engine, sql: Dialect
) -> None:
    change, shown_by, changed = sql.session_sql
    before = await one.fetch_val(shown_by)
    assert str(before) != changed
    async with one.connection() as conn:
        await conn.execute(change)
        assert str(await conn.fetch_val(shown_by)) == changed
    assert await one.fetch_val(shown_by) == before


@pytest.mark.parametrize("floor", FLOORS)
async def test_two_engines_do_not_share_their_scopes(
    floor: str, db: aiodbkit.Engine, make_engine: Any
) -> None:
    other = await make_engine()
    async with verbs_on(db, floor):
        assert other.current_connection() is None
        async with other.connection() as conn:
            assert not conn.in_transaction
            assert await other.fetch_val("select 1") == 1


async def test_twenty_tasks_with_fifty_writes_each_lose_none_and_see_no_lock_error(
    make_engine: Any, people: People
) -> None:
    db = await make_engine(max_size=5)
    await db.execute("create table counters (id integer primary key, n integer)")
    await db.insert_many("counters", [(n, 0) for n in range(20)], columns=["id", "n"])

    async def worker(number: int) -> None:
        for turn in range(50):
            if turn % 10 == 0:
                async with db.transaction():
                    await db.execute("update counters set n = n + 1 where id = :i", {"i": number})
            else:
                await db.execute("update counters set n = n + 1 where id = :i", {"i": number})

    await asyncio.gather(*(worker(number) for number in range(20)))
    assert await db.fetch_column("select n from counters") == [50] * 20
