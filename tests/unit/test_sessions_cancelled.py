"""Sessions cancelled at every await, and the races that need a scripted server.

How tasks are stepped: `tests.unit.stepping`; the stage and what must hold at its end are those of
`tests.unit.test_engine_cancelled_everywhere`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from aiodbkit import (
    CommitUnknownError,
    ConnectionLostError,
    OperationalError,
    QueryTimeoutError,
    SessionClosedError,
)
from tests.unit.pool.scripted import settle
from tests.unit.scripted_driver import ScriptedEngine, Server
from tests.unit.stepping import EVERYONE, MIXED_MOMENTS, OWN, Cut, each_pair, each_step, play
from tests.unit.test_engine_cancelled_everywhere import (
    ScriptedStage,
    assert_all_or_nothing,
    assert_whole,
)
from tests.virtual_time import virtual_time

KINDS = ["edge", "level"]


class SessionStage(ScriptedStage):
    """What users do with sessions."""

    async def unit(self) -> None:
        async with self.db.session() as session:
            await self._three(session)

    async def nested(self) -> None:
        async with self.db.session(), self.db.transaction(), self.db.session() as inner:
            await self._three(inner)

    async def midway(self) -> None:
        async with self.db.session() as session:
            await self._three(session)
            await session.commit()
            await session.execute("never")
            await session.rollback()
            await self._three(session)

    async def undone(self) -> None:
        async with self.db.session() as session:
            await session.execute("never")
            session.set_rollback_only()

    async def handed_over(self) -> None:
        """Two tasks are the first to ask; their owner waits for them as a group does."""
        async with self.db.session() as session, asyncio.TaskGroup() as group:
            group.create_task(session.execute("shared"))
            group.create_task(session.execute("shared"))

    async def streamed(self) -> None:
        async with self.db.session() as session:
            async for row in session.iterate("select", batch_size=4):
                if row.number == 5:
                    break
            await session.commit()
            await session.fetch_val("select")

    async def _three(self, session: Any) -> None:
        await session.execute("first")
        session.on_commit(lambda: self.hooks_run.append("commit"))
        session.on_rollback(lambda: self.hooks_run.append("rollback"))
        self.begun += 1
        await session.execute("second")
        await self.db.execute("third")


ACTS = ["unit", "nested", "midway", "undone", "streamed"]
acts = pytest.mark.parametrize("act", ACTS)


async def perform(act: str, options: dict[str, Any], cuts: list[Cut]) -> int:
    """Play ``act`` beside others to its end; then nothing is lost, and the engine closes."""
    stage = SessionStage(cuts, **options)
    with stage.watching():
        await stage.db.connect()
        stage.start(getattr(stage, act)(), "victim")
        stage.start(stage.unit(), "other")
        stage.start(stage.connection())
        await stage.ended()
        stage.judge()
        stage.server.is_slow = False
        await assert_whole(stage)
        await stage.db.close()
        await settle()
    assert not stage.complaints, stage.complaints
    assert not stage.server.overlaps, stage.server.overlaps
    assert all(connection.is_closed for connection in stage.server.connections)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert_all_or_nothing(stage, cuts)
    return stage.reached


@acts
def test_uncancelled_a_session_ends_well(act: str) -> None:
    play(partial(perform, act, {}), [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"max_size": 1}], ids=["plain", "one"])
@acts
def test_a_session_cancelled_at_each_await(act: str, options: dict[str, Any], kind: str) -> None:
    assert each_step(partial(perform, act, options), "victim", kind)


@acts
def test_a_session_cancelled_twice_at_each_pair_of_awaits(act: str) -> None:
    performance = partial(perform, act, {})
    assert each_pair(performance, "victim", "victim", ("edge", "level"), MIXED_MOMENTS)


@acts
def test_the_engines_own_tasks_or_all_are_cancelled_at_each_await(act: str) -> None:
    assert each_step(partial(perform, act, {}), OWN)
    assert each_step(partial(perform, act, {}), EVERYONE)


def test_a_session_handed_over_is_cancelled_at_each_await_of_its_owner() -> None:
    async def cancelled(cuts: list[Cut]) -> int:
        stage = SessionStage(cuts)
        with stage.watching():
            await stage.db.connect()
            stage.start(stage.handed_over(), "victim")
            await stage.ended()
            stage.server.is_slow = False
            await assert_whole(stage)
            await stage.db.close()
            await settle()
        assert len(stage.server.committed) in (0, 2), "a part was committed"
        assert not stage.server.overlaps
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return stage.reached

    assert each_step(cancelled, "victim")


# Races


def engine(**options: Any) -> ScriptedEngine:
    return ScriptedEngine(Server(), **{"max_size": 1, **options})


async def usable(db: ScriptedEngine) -> None:
    """The only connection is there for the next one, out of any transaction."""
    await settle()
    assert db.pool.stats().in_use == 0
    async with db.connection() as connection:
        assert not connection.in_transaction
        assert await connection.fetch_val("select") is not None
    await db.close()


@pytest.mark.parametrize("call", ["connect", "begin"])
@virtual_time
async def test_a_session_that_ends_while_another_task_begins_it_leaks_nothing(call: str) -> None:
    db = engine()
    db.server.hold(call)
    async with db.session() as session:
        task = asyncio.create_task(session.execute("late"))
        await db.server.reached(call)
    db.server.let(call)
    with pytest.raises(SessionClosedError):
        await task
    assert db.server.committed == []
    await usable(db)


@virtual_time
async def test_a_nested_session_that_ends_while_another_task_begins_it_leaves_the_outer_whole() -> (
    None
):
    db = engine()
    async with db.session() as outer:
        await outer.execute("first")
        db.server.hold("execute")  # its SAVEPOINT
        async with db.session() as inner:
            task = asyncio.create_task(inner.execute("late"))
            await db.server.reached("execute")
            await db.server.reached("execute")
        db.server.let("execute")
        with pytest.raises(SessionClosedError):
            await task
        await outer.execute("second")
    said = [text for text in db.server.committed if "aiodbkit_1" not in text]
    assert said == ["first", "second"]
    await usable(db)


@virtual_time
async def test_the_first_of_two_tasks_begins_and_the_second_waits_for_it() -> None:
    db = engine()
    db.server.hold("begin")
    async with db.session() as session:
        tasks = [asyncio.create_task(session.execute(str(n))) for n in range(3)]
        await db.server.reached("begin")
        tasks[0].cancel()  # who begins is gone: the next one does it
        await asyncio.wait(tasks[:1])
        db.server.let("begin")
        await asyncio.gather(*tasks[1:])
    assert db.server.committed == ["1", "2"]
    await usable(db)


@pytest.mark.parametrize("call", ["connect", "begin", "execute"])
@virtual_time
async def test_a_timeout_covers_the_wait_for_the_connection_begin_and_the_statement(
    call: str,
) -> None:
    db = engine(acquire_timeout=100, connect_timeout=100)
    db.server.hold(call)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with db.session() as session:
        if call == "execute":  # the scripted driver leaves a statement's own deadline to a test
            await session.fetch_val("select")
            task = asyncio.create_task(session.execute("first"))
            await db.server.reached("execute")
        with pytest.raises((QueryTimeoutError, OperationalError)) as caught:
            await session.execute("second", timeout=2)
        assert isinstance(caught.value, TimeoutError)
        assert loop.time() - began == pytest.approx(2)
        db.server.let(call)
        if call == "execute":
            await task
        await session.rollback()
        await session.execute("third")
    assert db.server.committed == ["third"]
    await usable(db)


@virtual_time
async def test_a_timeout_covers_the_wait_for_another_task_that_begins() -> None:
    db = engine()
    db.server.hold("begin")
    async with db.session() as session:
        first = asyncio.create_task(session.execute("first"))
        await db.server.reached("begin")
        with pytest.raises(QueryTimeoutError, match="another task"):
            await session.execute("second", timeout=2)
        db.server.let("begin")
        await first
    assert db.server.committed == ["first"]
    await usable(db)


# Lost connections


@virtual_time
async def test_a_connection_lost_in_a_session_undoes_the_unit_and_the_next_one_is_new() -> None:
    db = engine()
    heard: list[str] = []
    async with db.session() as session:
        await session.execute("gone")
        session.on_rollback(lambda: heard.append("undone"))
        db.server.connections[0].lost = True
        with pytest.raises(ConnectionLostError):
            await session.execute("gone")
        with pytest.raises(ConnectionLostError, match="transaction is gone"):
            await session.execute("gone")
        with pytest.raises(ConnectionLostError, match="nothing was committed"):
            await session.commit()
        assert heard == ["undone"]
        assert db.pool.stats().in_use == 0
        await session.execute("anew")
    assert db.server.committed == ["anew"]
    assert len(db.server.connections) == 2
    await usable(db)


@virtual_time
async def test_a_lost_connection_that_was_swallowed_is_told_at_the_end() -> None:
    db = engine()
    with pytest.raises(ConnectionLostError, match="nothing was committed"):
        async with db.session() as session:
            await session.execute("gone")
            db.server.connections[0].lost = True
            with pytest.raises(ConnectionLostError):
                await session.execute("gone")
    assert session.is_closed
    assert db.server.committed == []
    await usable(db)


@pytest.mark.parametrize("midway", [True, False])
@virtual_time
async def test_an_unknown_commit_is_told_and_runs_no_hook(midway: bool) -> None:
    db = engine()
    heard: list[str] = []
    db.server.fail("commit", CommitUnknownError("lost during COMMIT"))
    with pytest.raises(CommitUnknownError):
        async with db.session() as session:
            await session.execute("perhaps")
            session.on_commit(lambda: heard.append("commit"))
            session.on_rollback(lambda: heard.append("rollback"))
            if midway:
                await session.commit()
    assert heard == []
    await usable(db)


@virtual_time
async def test_a_failing_commit_and_a_failing_hook_are_both_told() -> None:
    db = engine()

    def fail() -> None:
        raise RuntimeError("a hook")

    db.server.fail("commit", OperationalError("refused"))
    with pytest.raises(OperationalError, match="refused") as caught:
        async with db.session() as session:
            await session.execute("never")
            session.on_rollback(fail)
    assert caught.value.__notes__ == ["and then a hook failed: RuntimeError: a hook"]
    await usable(db)


@virtual_time
async def test_a_begin_that_fails_gives_the_connection_back_and_may_be_tried_again() -> None:
    db = engine()
    db.server.fail("begin", OperationalError("not now"))
    heard: list[str] = []
    async with db.session() as session:
        session.on_commit(lambda: heard.append("commit"))
        with pytest.raises(OperationalError, match="not now"):
            await session.execute("first")
        assert db.pool.stats().in_use == 0
        assert not session.in_transaction
        await session.execute("second")
    assert db.server.committed == ["second"]
    assert heard == ["commit"]
    await usable(db)
