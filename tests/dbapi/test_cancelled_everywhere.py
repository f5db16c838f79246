"""Work over real modules, cancelled at every await: nothing is half done, nothing is lost.

Tasks are stepped as in `tests.unit.stepping`, but in real time: the work is done by threads.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from functools import partial
from itertools import count

import pytest

import aiodbkit
from aiodbkit import DBAPIEngine
from tests.contract.support import assert_whole
from tests.unit.stepping import OWN, Cut, Stage

pytestmark = [pytest.mark.leaves_sessions, pytest.mark.timeout(120)]

SET_UP = "create table steps (id integer primary key, n integer not null)"


class DBAPIStage(Stage):
    # Of connecting, of COMMIT and of coming back in step.
    told = (
        aiodbkit.CannotConnectError,
        aiodbkit.CommitUnknownError,
        aiodbkit.ConnectionLostError,
        aiodbkit.InternalError,
        aiodbkit.OperationalError,
    )


async def transaction(db, hooks):
    async with db.transaction() as tx:
        tx.on_commit(lambda: hooks.append("commit"))
        await db.execute("insert into steps values (:i, 1)", {"i": 1})
        with suppress(ZeroDivisionError):
            async with db.transaction():
                await db.execute("insert into steps values (3, 1)")
                raise ZeroDivisionError
        await db.execute("insert into steps values (:i, 1)", {"i": 2})


async def statements(db, hooks):
    await db.execute_many("insert into steps values (:i, 1)", [{"i": 1}, {"i": 2}])
    hooks.append("commit")
    assert await db.fetch_val("select count(*) from steps") == 2


async def rows_from_elsewhere(db, hooks):
    async def rows():
        for number in (1, 2):
            await asyncio.sleep(0)
            yield number, 1

    async with aclosing(rows()) as source:
        await db.insert_many("steps", source, columns=["id", "n"])
    hooks.append("commit")


async def stream_in_a_transaction(db, hooks):
    async with db.transaction() as tx:
        tx.on_commit(lambda: hooks.append("commit"))
        await db.execute("insert into steps values (1, 1)")
        await db.execute("insert into steps values (2, 1)")
        async for row in db.iterate("select id from steps order by id", batch_size=1):
            assert row.id == 1
            break


async def a_changed_session(db, hooks):
    """Its connection is not cleaned but replaced."""
    async with db.connection() as conn:
        assert conn.raw is not None
    await statements(db, hooks)


WORK = [transaction, statements, rows_from_elsewhere, stream_in_a_transaction, a_changed_session]


async def perform(module, arguments, work, cuts):
    stage, hooks = DBAPIStage(cuts), []
    async with asyncio.timeout(30):
        async with DBAPIEngine(module, max_size=1, min_size=1, **arguments) as db:
            with stage.watching():
                stage.start(work(db, hooks), "victim")
                await stage.ended()
                stage.judge()
            # What a commit that was cut off has come to is known when its connection is back.
            await assert_whole(db)
            kept = await db.fetch_column("select id from steps order by id")
            await db.execute("delete from steps")
        left = asyncio.all_tasks() - {asyncio.current_task()}
    assert kept in ([], [1, 2])
    assert not hooks or kept == [1, 2], "it was told that this was committed"
    assert not left
    return stage.reached


def cancel_at_each_step(module, arguments, work, victim, kind):
    """Return how many steps there were."""
    played = 0
    for woken in (False, True):
        for at in count():
            cut = Cut(victim, at, kind, woken)
            try:
                if not asyncio.run(perform(module, arguments, work, [cut])):
                    break
            except BaseException as error:
                error.add_note(f"cancelled: {cut}")
                raise
            played += 1
    return played


@pytest.fixture
def steps(module, connect_args):
    """What plays work on a table of this database."""

    async def set_up():
        async with DBAPIEngine(module, **connect_args) as db:
            await db.execute(SET_UP)

    asyncio.run(set_up())
    return partial(cancel_at_each_step, module, connect_args)


@pytest.mark.parametrize("kind", ["edge", "level"])
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_cancelled_at_each_await_work_is_done_or_not_and_the_pool_is_whole(steps, work, kind):
    assert steps(work, "victim", kind)


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_of_cancelled_tasks_of_the_engine_users_hear_by_an_error_at_most(steps, work):
    steps(work, OWN, "edge")
