"""Contract §5: what is no use of a session, and how it is told; the verbs: `test_sessions`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest

import aiodbkit

from .support import alone, assert_whole
from .test_sessions import ADD, COUNT, People, in_use

NEW = "select id from people where id > 4 order by id"


@pytest.fixture(autouse=True)
async def _people(people: People) -> None:
    """Every test here works on the four people."""


async def send_email() -> None:
    """What a user would run after a commit."""


@pytest.mark.parametrize("register", ["on_commit", "on_rollback"])
@pytest.mark.parametrize("on", ["session", "session that has begun", "transaction"])
async def test_what_cannot_be_called_is_no_hook(
    register: str, on: str, one: aiodbkit.Engine
) -> None:
    async with one.session() as session:
        if on != "session":
            await session.fetch_val(COUNT)
        async with session.transaction() as tx:
            accept = getattr(tx if on == "transaction" else session, register)
            for hook in (None, 3, "send_email"):
                with pytest.raises(TypeError, match=rf"{register}\(\) takes a function.*{hook!r}"):
                    accept(hook)
            with pytest.raises(TypeError, match="coroutine.*pass the async function itself"):
                accept(send_email())
        await session.execute(ADD, {"id": 5})
    assert await one.fetch_val(COUNT) == 5
    await assert_whole(one)


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize("inner", ["transaction", "session"])
async def test_a_session_is_not_ended_around_a_nested_block(
    ending: str, inner: str, one: aiodbkit.Engine
) -> None:
    """The rest of that block would run outside of it, in the next unit of work, and be kept."""
    async with one.session() as session:
        await session.execute(ADD, {"id": 5})
        async with getattr(one, inner)():
            await one.execute(ADD, {"id": 6})
            with pytest.raises(
                aiodbkit.TransactionScopeError, match=rf"{ending}\(\): a nested transaction"
            ):
                await getattr(session, ending)()
            await one.execute(ADD, {"id": 7})
        assert await session.fetch_column(NEW) == [5, 6, 7], "nothing was undone"
        await getattr(session, ending)()
    assert await one.fetch_column(NEW) == ([5, 6, 7] if ending == "commit" else [])
    await assert_whole(one)


async def test_an_outer_session_that_ends_before_an_inner_one_keeps_nothing_of_either(
    one: aiodbkit.Engine,
) -> None:
    outer, inner = one.session(), one.session()
    await outer.__aenter__()
    await outer.execute(ADD, {"id": 5})
    await inner.__aenter__()
    await inner.execute(ADD, {"id": 6})
    with pytest.raises(aiodbkit.TransactionScopeError, match="reverse order"):
        await outer.__aexit__(None, None, None)
    with pytest.raises(aiodbkit.InterfaceError):
        await inner.execute(ADD, {"id": 7})
    with pytest.raises(aiodbkit.TransactionScopeError, match="around this one has ended"):
        await inner.__aexit__(None, None, None)
    assert await one.fetch_column(NEW) == []
    assert one.current_connection() is None
    await assert_whole(one)


async def test_the_end_of_a_session_that_was_not_entered_says_so(one: aiodbkit.Engine) -> None:
    with pytest.raises(aiodbkit.InterfaceError, match="not entered.*async with"):
        await one.session().__aexit__(None, None, None)


async def test_a_childs_transaction_in_a_session_handed_over_is_refused(
    one: aiodbkit.Engine,
) -> None:
    async def child(session: aiodbkit.Session) -> None:
        async with session.transaction():
            await session.execute(ADD, {"id": 5})

    async with one.session() as session:
        with pytest.raises(aiodbkit.TransactionScopeError, match="one of this task inside it"):
            await alone(child(session))
        assert await session.fetch_val(COUNT) == 4
    await assert_whole(one)


async def test_the_sessions_connection_is_not_committed_by_hand(one: aiodbkit.Engine) -> None:
    async with one.session() as session:
        await session.execute(ADD, {"id": 5})
        conn = one.current_connection()
        assert conn is not None
        for call in (conn.commit, conn.rollback, conn.begin):
            with pytest.raises(aiodbkit.TransactionScopeError):
                await call()
        with pytest.raises(aiodbkit.TransactionScopeError):
            await session.execute("commit")
        session.set_rollback_only()
    assert await one.fetch_val(COUNT) == 4
    await assert_whole(one)


# Where a generator's session ends


async def test_a_session_in_a_generator_that_is_closed_by_another_task_is_rolled_back(
    one: aiodbkit.Engine,
) -> None:
    async def rows() -> AsyncGenerator[int, None]:
        async with one.session() as session:
            await session.execute(ADD, {"id": 5})
            yield 1

    generator = rows()
    await alone(anext(generator))  # type: ignore[arg-type]
    await alone(generator.aclose())
    assert in_use(one) == 0
    assert await one.fetch_val(COUNT) == 4, "this task was never in the session"
    here = rows()
    await anext(here)
    await alone(here.aclose())
    assert one.current_connection() is None
    assert await one.fetch_val(COUNT) == 4
    await assert_whole(one)


async def test_sessions_of_two_engines_have_nothing_to_do_with_each_other(
    one: aiodbkit.Engine, make_engine: Any
) -> None:
    other = await make_engine(max_size=1)
    async with one.session() as first, other.session(read_only=True) as second:
        assert await second.fetch_val("select 1") == 1
        assert in_use(one) == 0
        await one.execute(ADD, {"id": 5})
        await second.commit()
        assert (in_use(one), in_use(other)) == (1, 0)
        assert await first.fetch_val(COUNT) == 5
    assert await one.fetch_val(COUNT) == 5


# Hooks


async def test_a_hook_works_outside_of_the_session_midway_as_at_its_end(
    one: aiodbkit.Engine,
) -> None:
    for midway in (True, False):
        for first_statement in (True, False):

            async def hook() -> None:
                await one.execute(ADD, {"id": 6})
                assert in_use(one) == 0, "that was a statement for itself"

            async with one.session() as session:
                if first_statement:
                    await session.execute(ADD, {"id": 5})
                session.on_commit(hook)
                if midway:
                    await session.commit()
                    await session.rollback()
            assert await one.fetch_column(NEW) == ([5, 6] if first_statement else [6])
            await one.execute("delete from people where id > 4")
    await assert_whole(one)


async def test_a_hook_may_use_the_session_that_goes_on(one: aiodbkit.Engine) -> None:
    heard: list[str] = []

    async with one.session() as session:

        async def hook() -> None:
            await session.execute(ADD, {"id": 6})
            session.on_commit(lambda: heard.append("second"))
            await session.commit()
            heard.append("first")

        await session.execute(ADD, {"id": 5})
        session.on_commit(hook)
        await session.commit()
        assert heard == ["second", "first"]
        session.set_rollback_only()
    assert await one.fetch_column(NEW) == [5, 6]
    await assert_whole(one)


@pytest.mark.parametrize("eager", [False, True])
async def test_a_hook_in_a_connection_block_works_on_that_connection(
    eager: bool, one: aiodbkit.Engine, request: pytest.FixtureRequest
) -> None:
    if eager:
        if sys.version_info < (3, 12):
            pytest.skip("eager tasks came with Python 3.12")
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        request.addfinalizer(lambda: loop.set_task_factory(None))
    async with one.connection() as conn:
        for opened in (one.transaction(), one.session()):
            seen: list[Any] = []

            async def hook(seen: list[Any] = seen) -> None:
                seen.append((one.current_connection(), await one.fetch_val(COUNT)))

            async with opened as unit:
                await one.fetch_val(COUNT)
                unit.on_commit(hook)
            assert seen == [(conn, 4)]
    await assert_whole(one)
