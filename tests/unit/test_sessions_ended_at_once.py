"""Sessions and transactions that two tasks end at once, and hooks whose caller is gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from aiodbkit import Error, OperationalError, QueryTimeoutError, TransactionScopeError
from tests.unit.pool.scripted import settle, start
from tests.unit.stepping import Cut, each_pair, each_step, two_awaits
from tests.unit.test_engine_cancelled_everywhere import assert_whole
from tests.unit.test_sessions_cancelled import SessionStage, engine, usable
from tests.virtual_time import virtual_time

# Two tasks end one session


def joined(session: Any, how: str) -> asyncio.Task[None]:
    return start(getattr(session, how)())


@pytest.mark.parametrize("how", ["commit", "rollback"])
@virtual_time
async def test_two_tasks_that_end_a_session_alike_both_wait_for_the_one_answer(how: str) -> None:
    db = engine()
    heard: list[str] = []

    async def hook() -> None:
        await asyncio.sleep(0.01)
        heard.append(how)

    async with db.session() as session:
        await session.execute("first")
        getattr(session, f"on_{how}")(hook)
        db.server.hold(how)
        first = joined(session, how)
        await db.server.reached(how)
        second = joined(session, how)
        await settle()
        assert not second.done()
        db.server.let(how)
        await second
        assert heard == [how], "its hooks have run, too"
        await first
        assert db.server.calls[how] == 1
        await session.execute("second")
        assert session.in_transaction
    assert db.server.committed == (["first", "second"] if how == "commit" else ["second"])
    assert heard == [how]
    await usable(db)


@virtual_time
async def test_the_end_of_the_block_waits_for_a_commit_of_another_task_and_tells_its_failure() -> (
    None
):
    db = engine()
    db.server.hold("commit")
    db.server.fail("commit", OperationalError("refused"))
    tasks = []
    with pytest.raises(OperationalError, match="refused"):
        async with db.session() as session:
            await session.execute("never")
            tasks.append(joined(session, "commit"))
            await db.server.reached("commit")
            asyncio.get_running_loop().call_later(1, db.server.let, "commit")
    with pytest.raises(OperationalError, match="refused"):
        await tasks[0]
    assert db.server.committed == []
    await usable(db)


@virtual_time
async def test_who_rolls_back_while_another_task_commits_is_not_left_in_the_belief() -> None:
    db = engine()
    async with db.session() as session:
        await session.execute("kept")
        db.server.hold("commit")
        first = joined(session, "commit")
        await db.server.reached("commit")
        second = joined(session, "rollback")
        await settle()
        db.server.let("commit")
        with pytest.raises(TransactionScopeError, match=r"rollback.*it is committed"):
            await second
        await first
        await session.execute("next")
    assert db.server.committed == ["kept", "next"]
    await usable(db)


@virtual_time
async def test_who_commits_while_another_task_rolls_back_is_told_that_nothing_was() -> None:
    db = engine()
    async with db.session() as session:
        await session.execute("never")
        db.server.hold("rollback")
        first = joined(session, "rollback")
        await db.server.reached("rollback")
        second = joined(session, "commit")
        await settle()
        db.server.let("rollback")
        with pytest.raises(TransactionScopeError, match="nothing was committed"):
            await second
        await first
    assert db.server.committed == []
    await usable(db)


@virtual_time
async def test_an_exception_in_the_block_says_that_another_task_has_committed() -> None:
    db = engine()
    tasks = []
    with pytest.raises(RuntimeError, match="stop") as caught:
        async with db.session() as session:
            await session.execute("kept")
            db.server.hold("commit")
            tasks.append(joined(session, "commit"))
            await db.server.reached("commit")
            asyncio.get_running_loop().call_later(1, db.server.let, "commit")
            raise RuntimeError("stop")
    assert "it is committed" in caught.value.__notes__[0]
    await tasks[0]
    assert db.server.committed == ["kept"]
    await usable(db)


@pytest.mark.parametrize("gone", [0, 1])
@virtual_time
async def test_one_of_two_that_commit_may_be_cancelled_and_the_other_sees_the_answer(
    gone: int,
) -> None:
    db = engine(reset_timeout=1)
    heard: list[str] = []
    async with db.session() as session:
        await session.execute("first")
        session.on_commit(lambda: heard.append("commit"))
        db.server.hold("commit")
        tasks = [joined(session, "commit"), joined(session, "commit")]
        await db.server.reached("commit")
        await settle()
        tasks[gone].cancel()
        await asyncio.wait(tasks, timeout=2)  # no deadline while somebody waits
        assert not tasks[1 - gone].done()
        db.server.let("commit")
        await tasks[1 - gone]
        assert heard == ["commit"]
    assert db.server.committed == ["first"]
    await usable(db)


@virtual_time
async def test_a_statement_that_comes_during_a_commit_belongs_to_the_next_unit() -> None:
    db = engine()
    async with db.session() as session:
        await session.execute("first")
        db.server.hold("commit")
        commit = joined(session, "commit")
        await db.server.reached("commit")
        with pytest.raises(QueryTimeoutError, match="commit"):
            await session.execute("in vain", timeout=1)
        statement = start(session.execute("second"))
        await settle()
        db.server.let("commit")
        await statement
        await commit
        assert db.server.committed == ["first"]
        await session.rollback()
    assert db.server.committed == ["first"]
    await usable(db)


@virtual_time
async def test_at_any_turn_of_a_commit_a_statement_is_of_this_unit_or_the_next() -> None:
    for turns in range(15):
        db = engine()
        async with db.session() as session:
            await session.execute("first")
            commit = start(session.commit())
            for _ in range(turns):
                await asyncio.sleep(0)
            await session.execute("second")
            await commit
            session.set_rollback_only()
        assert db.server.committed in (["first"], ["first", "second"])
        await usable(db)


# The hooks of a unit in which nothing ran


@pytest.mark.parametrize("how", ["commit", "rollback"])
@pytest.mark.parametrize("midway", [True, False])
@virtual_time
async def test_hooks_of_an_empty_unit_run_to_their_end_though_the_caller_is_cancelled(
    midway: bool, how: str
) -> None:
    db = engine()
    heard: list[str] = []
    at_work, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        at_work.set()
        await go_on.wait()
        await db.execute("of a hook")
        heard.append("slow")

    async def work() -> None:
        async with db.session() as session:
            register = getattr(session, f"on_{how}")
            register(slow)
            register(lambda: heard.append("last"))
            register(ended.set)
            if midway:
                await getattr(session, how)()
            elif how == "rollback":
                session.set_rollback_only()

    task = asyncio.create_task(work())
    await at_work.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    go_on.set()
    await ended.wait()
    assert heard == ["slow", "last"]
    assert db.server.committed == ["of a hook"]
    await usable(db)


@pytest.mark.parametrize("first_statement", [True, False])
@virtual_time
async def test_a_hook_that_fails_behind_a_cancelled_caller_is_logged(
    first_statement: bool, caplog: pytest.LogCaptureFixture
) -> None:
    db = engine()
    at_work, go_on = asyncio.Event(), asyncio.Event()

    async def fail() -> None:
        at_work.set()
        await go_on.wait()
        raise RuntimeError("a hook")

    async def work() -> None:
        async with db.session() as session:
            if first_statement:
                await session.execute("kept")
            session.on_commit(fail)

    task = asyncio.create_task(work())
    await at_work.wait()
    task.cancel()
    await asyncio.wait([task])
    go_on.set()
    await settle()
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["a hook"]
    await usable(db)


# Transactions


@virtual_time
async def test_a_manual_transaction_that_two_tasks_commit_is_committed_once() -> None:
    db = engine()
    async with db.connection() as connection:
        await connection.begin()
        await connection.execute("first")
        db.server.hold("commit")
        first = start(connection.commit())
        await db.server.reached("commit")
        second = start(connection.commit())
        third = start(connection.rollback())
        await settle()
        assert not second.done()
        db.server.let("commit")
        await asyncio.gather(first, second)
        with pytest.raises(TransactionScopeError, match="it is committed"):
            await third
        assert db.server.calls["commit"] == 1
    assert db.server.committed == ["first"]
    await usable(db)


@virtual_time
async def test_a_manual_commit_during_a_rollback_is_told_that_nothing_was_committed() -> None:
    db = engine()
    async with db.connection() as connection:
        await connection.begin()
        await connection.execute("never")
        db.server.hold("rollback")
        first = start(connection.rollback())
        await db.server.reached("rollback")
        second = start(connection.commit())
        await settle()
        db.server.let("rollback")
        await first
        with pytest.raises(TransactionScopeError, match="nothing was committed"):
            await second
    assert db.server.committed == []
    await usable(db)


@virtual_time
async def test_a_block_that_ends_while_its_rollback_is_under_way_waits_for_that() -> None:
    db = engine()
    heard: list[str] = []
    async with db.transaction() as tx:
        await db.execute("never")
        tx.on_rollback(lambda: heard.append("rollback"))
        db.server.hold("rollback")
        rollback = start(tx.rollback())
        await db.server.reached("rollback")
        asyncio.get_running_loop().call_later(1, db.server.let, "rollback")
    assert db.server.committed == []
    assert heard == ["rollback"]
    await rollback
    await usable(db)


@virtual_time
async def test_a_swallowed_cancellation_of_rollback_leaves_the_block_silently() -> None:
    db = engine()

    async def work() -> None:
        async with db.transaction() as tx:
            await db.execute("never")
            with suppress(asyncio.CancelledError):
                await tx.rollback()

    db.server.hold("rollback")
    task = asyncio.create_task(work())
    await db.server.reached("rollback")
    task.cancel()
    asyncio.get_running_loop().call_later(1, db.server.let, "rollback")
    await task
    assert db.server.calls["rollback"] == 1
    assert db.server.committed == []
    await usable(db)


# At each await


class EndedAtOnce(SessionStage):
    """Two tasks work in one session and end it at once; its hooks may run only if all is kept."""

    async def committer(self, session: Any, go: asyncio.Event) -> None:
        await go.wait()
        with suppress(Error):
            await session.commit()

    async def owner(self) -> None:
        go = asyncio.Event()
        try:
            async with self.db.session() as session:
                self.begun += 1
                session.on_commit(lambda: self.hooks_run.append("commit"))
                session.on_rollback(lambda: self.hooks_run.append("rollback"))
                self.start(self.committer(session, go), "second")
                await session.execute("first")
                await session.execute("second")
                go.set()
                await asyncio.sleep(0)
        finally:
            go.set()

    async def empty(self) -> None:
        """Nothing is ever sent but by the hooks, which must run all the same."""

        async def slow() -> None:
            await two_awaits()
            await self.db.execute("hook")
            self.hooks_run.append("slow")

        async with self.db.session() as session:
            for ending in (session.commit, session.rollback):
                self.begun += 1
                for register in (session.on_commit, session.on_rollback):
                    register(slow)
                    register(lambda: self.hooks_run.append("last"))
                await ending()
            self.begun += 1
            session.on_commit(slow)
            session.on_commit(lambda: self.hooks_run.append("last"))
            session.on_rollback(lambda: self.hooks_run.append("last"))


async def perform_empty(cuts: list[Cut]) -> int:
    stage = EndedAtOnce(cuts)
    with stage.watching():
        await stage.db.connect()
        stage.start(stage.empty(), "victim")
        await stage.ended()
        stage.judge()
        await settle()
        stage.server.is_slow = False
        await stage.db.close()
        await settle()
    assert stage.hooks_run.count("last") == stage.begun
    assert stage.hooks_run.count("slow") == stage.server.committed.count("hook")
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return stage.reached


@pytest.mark.parametrize("kind", ["edge", "level"])
def test_no_hook_of_a_session_in_which_nothing_ran_is_lost_at_any_await(kind: str) -> None:
    assert each_step(perform_empty, "victim", kind)
    assert each_pair(perform_empty, "victim", "victim", (kind, "edge"))


async def perform(cuts: list[Cut]) -> int:
    stage = EndedAtOnce(cuts)
    with stage.watching():
        await stage.db.connect()
        stage.start(stage.owner(), "victim")
        stage.start(stage.unit(), "other")
        await stage.ended()
        stage.judge()
        stage.server.is_slow = False
        await assert_whole(stage)
        await stage.db.close()
        await settle()
    said = [text for text in stage.server.committed if text in ("first", "second")]
    assert said.count("first") == said.count("second"), "a part was committed"
    assert stage.hooks_run.count("commit") <= said.count("first")
    assert not stage.server.overlaps
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return stage.reached


@pytest.mark.parametrize("victim", ["victim", "second"])
@pytest.mark.parametrize("kind", ["edge", "level"])
def test_either_of_two_that_end_a_session_is_cancelled_at_each_await(
    victim: str, kind: str
) -> None:
    assert each_step(perform, victim, kind)


def test_both_tasks_that_end_a_session_are_cancelled_at_each_pair_of_awaits() -> None:
    assert each_pair(perform, "victim", "second")
    assert each_pair(perform, "second", "victim")


@pytest.mark.parametrize("how", ["commit", "rollback"])
@virtual_time
async def test_a_nested_block_whose_opening_was_under_way_says_nothing_after_the_end(
    how: str,
) -> None:
    """Its connection is another borrower's by then."""
    db = engine()

    async def end(session: Any) -> None:
        await db.server.reached("execute")
        asyncio.get_running_loop().call_later(1, db.server.let, "execute")
        await getattr(session, how)()

    async with db.session() as session:
        await session.execute("first")
        await db.server.reached("execute")
        db.server.hold("execute")  # the SAVEPOINT
        ending = start(end(session))
        with pytest.raises(TransactionScopeError, match="around this one has ended"):
            async with session.transaction():
                with suppress(TransactionScopeError):
                    await ending
                said_before = db.server.calls["execute"]
        assert db.server.calls["execute"] == said_before
    if how == "commit":
        with pytest.raises(TransactionScopeError, match="reverse order"):
            ending.result()
    assert db.server.committed == []
    await usable(db)
