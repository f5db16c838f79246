"""Contract §5: sessions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aiodbkit

from .dialects import Dialect
from .support import assert_whole

ADD = "insert into people (id, name) values (:id, 'new')"
COUNT = "select count(*) from people"
People = list[tuple[int, str, int | None]]


async def read(on: Any) -> list[int]:
    return [row.id async for row in on.iterate("select id from people order by id", batch_size=2)]


VERBS: dict[str, Any] = {
    "execute": lambda on: on.execute(ADD, {"id": 5}),
    "execute_many": lambda on: on.execute_many(ADD, [{"id": 5}]),
    "execute_script": lambda on: on.execute_script("insert into people (id, name) values (5, 'x')"),
    "fetch_all": lambda on: on.fetch_all("select id from people"),
    "fetch_one": lambda on: on.fetch_one("select id from people"),
    "fetch_val": lambda on: on.fetch_val(COUNT),
    "fetch_column": lambda on: on.fetch_column("select id from people"),
    "insert_many": lambda on: on.insert_many("people", [{"id": 5, "name": "x"}]),
    "iterate": read,
}
verbs = pytest.mark.parametrize("verb", VERBS)


@pytest.fixture(autouse=True)
async def _people(people: People) -> None:
    """Every test here works on the four people."""


def in_use(db: aiodbkit.Engine) -> int:
    return db.pool.stats().in_use


# A connection for as long as it is needed


async def test_a_session_without_a_statement_takes_no_connection(db: aiodbkit.Engine) -> None:
    acquired = db.pool.stats().acquired
    async with db.session() as session:
        assert not session.in_transaction
        assert not session.is_closed
        assert db.current_connection() is None
        assert in_use(db) == 0
    assert session.is_closed
    assert db.pool.stats().acquired == acquired


@verbs
async def test_the_first_statement_takes_one_and_begins_and_the_end_commits(
    verb: str, one: aiodbkit.Engine
) -> None:
    async with one.session() as session:
        assert in_use(one) == 0
        await VERBS[verb](session)
        assert in_use(one) == 1
        assert session.in_transaction
        conn = one.current_connection()
        assert conn is not None
        assert conn.in_transaction
    assert in_use(one) == 0
    assert conn.is_closed
    reads = verb.startswith("fetch") or verb == "iterate"
    assert await one.fetch_val(COUNT) == (4 if reads else 5)
    await assert_whole(one)


@verbs
async def test_a_verb_of_the_engine_runs_in_the_tasks_session(
    verb: str, one: aiodbkit.Engine
) -> None:
    async with one.session() as session:
        await VERBS[verb](one)
        assert session.in_transaction
        await one.execute(ADD, {"id": 6})
        assert await session.fetch_val(COUNT) == await one.fetch_val(COUNT) >= 5
        await session.rollback()
    assert await one.fetch_val(COUNT) == 4
    await assert_whole(one)


async def test_an_exception_rolls_back_and_gives_back(one: aiodbkit.Engine) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        async with one.session() as session:
            await session.execute(ADD, {"id": 5})
            raise RuntimeError("stop")
    assert in_use(one) == 0
    assert await one.fetch_val(COUNT) == 4
    await assert_whole(one)


async def test_rollback_as_an_exception_leaves_the_block_silently(one: aiodbkit.Engine) -> None:
    async with one.session() as session:
        await session.execute(ADD, {"id": 5})
        raise aiodbkit.Rollback
    assert await one.fetch_val(COUNT) == 4


async def test_a_cancelled_session_is_rolled_back(one: aiodbkit.Engine) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with one.session() as session:
            await session.execute(ADD, {"id": 5})
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await one.fetch_val(COUNT) == 4
    await assert_whole(one)


async def test_commit_midway_gives_the_connection_back_at_once(one: aiodbkit.Engine) -> None:
    with pytest.raises(RuntimeError):
        async with one.session() as session:
            await session.execute(ADD, {"id": 5})
            await session.commit()
            assert in_use(one) == 0
            assert one.current_connection() is None
            await session.execute(ADD, {"id": 6})
            assert in_use(one) == 1
            raise RuntimeError
    assert await one.fetch_val(COUNT) == 5
    await assert_whole(one)


async def test_rollback_midway_gives_the_connection_back_at_once(one: aiodbkit.Engine) -> None:
    async with one.session() as session:
        await session.execute(ADD, {"id": 5})
        await session.rollback()
        assert in_use(one) == 0
        await session.execute(ADD, {"id": 6})
    assert await one.fetch_column("select id from people where id > 4") == [6]
    await assert_whole(one)


async def test_commit_and_rollback_of_nothing_take_no_connection(db: aiodbkit.Engine) -> None:
    acquired = db.pool.stats().acquired
    async with db.session() as session:
        await session.commit()
        await session.rollback()
    assert db.pool.stats().acquired == acquired


async def test_set_rollback_only_rolls_back_at_the_end_without_an_exception(
    one: aiodbkit.Engine,
) -> None:
    async with one.session() as session:
        session.set_rollback_only()
        await session.execute(ADD, {"id": 5})
        assert session.is_rollback_only
        assert await session.fetch_val(COUNT) == 5
        with pytest.raises(
            aiodbkit.TransactionScopeError, match=r"set_rollback_only.*rollback\(\)"
        ):
            await session.commit()
        assert await session.fetch_val(COUNT) == 5, "the refused commit() has done nothing"
    assert await one.fetch_val(COUNT) == 4


async def test_rollback_takes_set_rollback_only_back(one: aiodbkit.Engine) -> None:
    async with one.session() as session:
        await session.execute(ADD, {"id": 5})
        session.set_rollback_only()
        await session.rollback()
        assert not session.is_rollback_only
        await session.execute(ADD, {"id": 6})
    assert await one.fetch_column("select id from people where id > 4") == [6]


async def test_a_read_only_session_reads_and_refuses_to_write(
    one: aiodbkit.Engine, sql: Dialect
) -> None:
    async with one.session(read_only=True) as session:
        assert await session.fetch_val(COUNT) == 4
        with pytest.raises(aiodbkit.ReadOnlyError) as caught:
            await session.execute(ADD, {"id": 5})
        assert sql.read_only_code in (caught.value.sqlstate, caught.value.code)
        await session.rollback()
        assert await session.fetch_val(COUNT) == 4
    await one.execute(ADD, {"id": 5})  # the connection may write again
    assert await one.fetch_val(COUNT) == 5


async def test_isolation_is_that_of_each_of_its_transactions(db: aiodbkit.Engine, can: Any) -> None:
    if "repeatable read" not in can.isolation_levels:
        with pytest.raises(aiodbkit.NotSupportedError, match="repeatable read"):
            async with db.session(isolation="repeatable read") as session:
                await session.fetch_val(COUNT)
        await assert_whole(db)
        return
    async with db.session(isolation="repeatable read") as session:
        for before in (4, 5):
            assert await session.fetch_val(COUNT) == before
            async with db.pool.acquire() as other:
                await other.execute(ADD, {"id": before + 1})
            assert await session.fetch_val(COUNT) == before
            await session.commit()


# Nested


async def test_a_transaction_inside_is_a_savepoint(one: aiodbkit.Engine) -> None:
    async with one.session() as session:
        await session.execute(ADD, {"id": 5})
        async with one.transaction() as tx:
            await one.execute(ADD, {"id": 6})
            await tx.rollback()
        async with session.transaction():
            await session.execute(ADD, {"id": 7})
        async with session.transaction(force_rollback=True):
            await session.execute(ADD, {"id": 8})
        with pytest.raises(RuntimeError):
            async with one.transaction():
                await one.execute(ADD, {"id": 9})
                raise RuntimeError
    assert await one.fetch_column("select id from people where id > 4 order by id") == [5, 7]
    await assert_whole(one)


async def test_a_transaction_may_be_the_first_of_a_session(one: aiodbkit.Engine) -> None:
    async with one.session() as session:
        async with one.transaction():
            await session.execute(ADD, {"id": 5})
        session.set_rollback_only()
    assert await one.fetch_val(COUNT) == 4, "the transaction was a savepoint of the session"
    await assert_whole(one)


async def test_a_session_inside_is_a_savepoint(one: aiodbkit.Engine) -> None:
    async with one.session() as outer:
        async with one.session() as inner:
            await inner.execute(ADD, {"id": 5})
        async with one.session() as inner:
            await inner.execute(ADD, {"id": 6})
            await inner.rollback()
            await inner.execute(ADD, {"id": 7})
            await inner.commit()
            await one.execute(ADD, {"id": 8})
            inner.set_rollback_only()
        async with one.session():
            pass
        assert await outer.fetch_val(COUNT) == 6
        assert in_use(one) == 1
    assert await one.fetch_column("select id from people where id > 4 order by id") == [5, 7]
    await assert_whole(one)


async def test_a_session_in_a_transaction_or_a_connection_uses_that(one: aiodbkit.Engine) -> None:
    async with one.transaction() as tx:
        async with one.session(read_only=True) as session:
            await session.execute(ADD, {"id": 5})  # the transaction around it may
        await tx.rollback()
    assert await one.fetch_val(COUNT) == 4
    async with one.connection() as conn:
        async with one.session() as session:
            await session.execute(ADD, {"id": 6})
            assert conn.in_transaction
        assert not conn.in_transaction
        assert not conn.is_closed
        assert await conn.fetch_val(COUNT) == 5
    await assert_whole(one)


async def test_a_connection_in_a_session_is_the_sessions(one: aiodbkit.Engine) -> None:
    async with one.session() as session:
        async with one.connection() as conn:
            await conn.execute(ADD, {"id": 5})
            assert conn.in_transaction
        assert in_use(one) == 1
        await session.rollback()
    assert await one.fetch_val(COUNT) == 4


async def test_options_of_a_nested_one_that_cannot_be_kept_are_refused(
    one: aiodbkit.Engine,
) -> None:
    async with one.session() as outer:
        await outer.fetch_val(COUNT)
        with pytest.raises(aiodbkit.TransactionScopeError, match="outermost"):
            async with one.session(isolation="serializable") as inner:
                await inner.fetch_val(COUNT)
        await outer.execute(ADD, {"id": 5})
    assert await one.fetch_val(COUNT) == 5


# Hooks


async def test_hooks_run_after_the_connection_was_given_back(one: aiodbkit.Engine) -> None:
    heard: list[Any] = []

    async def look() -> None:
        heard.append((in_use(one), await one.fetch_val(COUNT)))

    async with one.session() as session:
        session.on_commit(look)  # before the first statement
        session.on_rollback(lambda: heard.append("never"))
        await session.execute(ADD, {"id": 5})
        session.on_commit(lambda: heard.append("second"))
        assert heard == []
    assert heard == [(0, 5), "second"]


async def test_hooks_belong_to_the_unit_in_which_they_were_given(one: aiodbkit.Engine) -> None:
    heard: list[str] = []
    async with one.session() as session:
        await session.execute(ADD, {"id": 5})
        session.on_commit(lambda: heard.append("first commit"))
        session.on_rollback(lambda: heard.append("never"))
        await session.commit()
        assert heard == ["first commit"]
        await session.execute(ADD, {"id": 6})
        session.on_commit(lambda: heard.append("never"))
        session.on_rollback(lambda: heard.append("rollback"))
        await session.rollback()
        assert heard == ["first commit", "rollback"]
    assert heard == ["first commit", "rollback"]


async def test_hooks_of_an_empty_unit_run_too(db: aiodbkit.Engine) -> None:
    heard: list[str] = []
    async with db.session() as session:
        session.on_commit(lambda: heard.append("commit"))
        await session.commit()
        session.on_rollback(lambda: heard.append("rollback"))
        session.on_commit(lambda: heard.append("never"))
        await session.rollback()
        session.on_commit(lambda: heard.append("end"))
    with pytest.raises(RuntimeError):
        async with db.session() as session:
            session.on_rollback(lambda: heard.append("exception"))
            session.on_commit(lambda: heard.append("never"))
            raise RuntimeError
    assert heard == ["commit", "rollback", "end", "exception"]
    assert in_use(db) == 0


async def test_the_hooks_of_a_nested_session_wait_for_the_outermost_commit(
    one: aiodbkit.Engine,
) -> None:
    heard: list[str] = []
    async with one.session() as outer:
        async with one.session() as inner:
            await inner.execute(ADD, {"id": 5})
            inner.on_commit(lambda: heard.append("inner"))
        assert heard == []
        outer.on_commit(lambda: heard.append("outer"))
    assert heard == ["inner", "outer"]


async def test_a_hook_that_fails_is_told_after_the_others_and_the_commit_stands(
    one: aiodbkit.Engine,
) -> None:
    heard: list[str] = []

    def fail() -> None:
        raise RuntimeError("a hook")

    for first_statement in (True, False):
        with pytest.raises(RuntimeError, match="a hook"):
            async with one.session() as session:
                if first_statement:
                    await session.execute(ADD, {"id": 5})
                session.on_commit(fail)
                session.on_commit(lambda: heard.append("after it"))
    assert heard == ["after it", "after it"]
    assert await one.fetch_val(COUNT) == 5
    await assert_whole(one)


async def test_a_commit_that_fails_is_a_rollback(one: aiodbkit.Engine, sql: Dialect) -> None:
    if sql.deferred_key is None:
        pytest.skip("no constraint is checked at COMMIT")
    await one.execute("create table parents (id integer primary key)")
    await one.execute(
        "create table children (id integer primary key, parent integer references parents (id) "
        f"{sql.deferred_key})"
    )
    heard: list[str] = []
    for midway in (True, False):
        with pytest.raises(aiodbkit.ForeignKeyViolationError):
            async with one.session() as session:
                await session.execute(ADD, {"id": 5})
                await session.execute("insert into children values (1, 99)")
                session.on_commit(lambda: heard.append("never"))
                session.on_rollback(lambda: heard.append("undone"))
                if midway:
                    await session.commit()
        assert in_use(one) == 0
    assert heard == ["undone", "undone"]
    assert await one.fetch_val(COUNT) == 4
    async with one.session() as session:
        await session.execute("insert into children values (1, 99)")
        with pytest.raises(aiodbkit.ForeignKeyViolationError):
            await session.commit()
        await session.execute(ADD, {"id": 6})  # it goes on, anew
    assert await one.fetch_val(COUNT) == 5
    await assert_whole(one)


# After its block


@verbs
async def test_after_its_block_a_session_refuses_and_says_what_to_do(
    verb: str, db: aiodbkit.Engine
) -> None:
    async with db.session() as session:
        await session.fetch_val(COUNT)
    with pytest.raises(aiodbkit.SessionClosedError) as caught:
        await VERBS[verb](session)
    for said in ("background task", "streaming response", "async with db.session() as session:"):
        assert said in str(caught.value)
    assert await db.fetch_val(COUNT) == 4


async def test_after_its_block_all_else_is_refused_too(db: aiodbkit.Engine) -> None:
    async with db.session() as session:
        pass
    for call in (session.set_rollback_only, session.transaction):
        with pytest.raises(aiodbkit.SessionClosedError):
            call()
    for hook in (session.on_commit, session.on_rollback):
        with pytest.raises(aiodbkit.SessionClosedError):
            hook(lambda: None)
    for ending in (session.commit, session.rollback):
        with pytest.raises(aiodbkit.SessionClosedError):
            await ending()
    with pytest.raises(aiodbkit.InterfaceError, match="entered before"):
        async with session:
            pass


async def test_before_its_block_a_session_says_how_to_enter_it(db: aiodbkit.Engine) -> None:
    session = db.session()
    with pytest.raises(aiodbkit.InterfaceError, match="async with") as caught:
        await session.fetch_val(COUNT)
    assert not isinstance(caught.value, aiodbkit.SessionClosedError)


async def test_a_stream_that_outlives_its_session_is_refused(one: aiodbkit.Engine) -> None:
    async with one.session() as session:
        rows = session.iterate("select id from people order by id", batch_size=1)
        assert (await anext(rows)).id == 1
    with pytest.raises(aiodbkit.InterfaceError):
        await anext(rows)
    await assert_whole(one)


async def test_an_unknown_choice_is_refused_by_name(db: aiodbkit.Engine) -> None:
    choice: Any = "inherit"
    with pytest.raises(aiodbkit.ConfigurationError, match=r"child_tasks.*inherit"):
        db.session(child_tasks=choice)
    with pytest.raises(aiodbkit.ConfigurationError, match=r"isolation.*inherit"):
        db.session(isolation=choice)


# Time


async def test_a_statement_in_a_session_keeps_its_timeout(
    one: aiodbkit.Engine, sql: Dialect
) -> None:
    async with one.session() as session:
        with pytest.raises(aiodbkit.QueryTimeoutError):
            await session.fetch_all(sql.slow(20), timeout=0.1)
        await session.rollback()
        assert await session.fetch_val(COUNT) == 4
    await assert_whole(one)


async def test_the_wait_for_a_connection_counts_and_leaves_the_session_usable(
    one: aiodbkit.Engine,
) -> None:
    async with one.session() as session:
        async with one.execution_context(transaction=False):
            with pytest.raises(aiodbkit.PoolTimeoutError):
                await session.fetch_val(COUNT, timeout=0.05)
        assert await session.fetch_val(COUNT) == 4
    await assert_whole(one)
