"""Sessions that the server drops for their idleness: nobody meets error 2006 outside a transaction.

``wait_timeout`` is a second, and the witness waits until the server has ended the session.
"""

from __future__ import annotations

import asyncio

import pytest

import aiodbkit
from tests.faults.mysql_support import run, until

SHORT = ["set session wait_timeout = 1"]


@pytest.fixture
async def make(mysql_engine):
    async def make(**options):
        return await mysql_engine(session_sql=SHORT, max_size=2, **options)

    return make


@pytest.fixture
def dropped(witness):
    """Wait until the server has ended a session, and the event loop has run."""

    async def dropped(number):
        async def gone():
            sessions = await run(witness, "show processlist")
            return number not in [session[0] for session in sessions]

        await until(gone)

    return dropped


ME = "select connection_id()"


@pytest.mark.parametrize("check", ["idle", "never"])
async def test_a_verb_finds_a_new_session_in_place_of_a_dropped_one(check, make, dropped):
    db = await make(check=check)
    first = await db.fetch_val(ME)
    await dropped(first)
    second = await db.fetch_val(ME)
    assert second != first
    await dropped(second)
    assert await db.execute("do 1") == (0, None)


@pytest.mark.parametrize(
    "verb",
    [
        lambda db: db.fetch_val("select 1"),
        lambda db: db.execute("do 1"),
        lambda db: db.execute_script("do 1; do 2"),
        lambda db: db.execute_many("select :n", [{"n": 1}, {"n": 2}]),
        lambda db: db.insert_many("notes", [{"id": 1}]),
    ],
    ids=["fetch_val", "execute", "execute_script", "execute_many", "insert_many"],
)
async def test_no_verb_meets_it(verb, make, dropped):
    db = await make(check="never")
    await db.execute("create table notes (id int)")
    await dropped(await db.fetch_val(ME))
    await verb(db)


async def test_a_connection_block_taken_later_has_a_live_one(make, dropped):
    db = await make(check="never")
    await dropped(await db.fetch_val(ME))
    async with db.connection() as conn:
        assert await conn.fetch_val("select 1") == 1


async def test_a_transaction_begun_later_has_a_live_one(make, dropped):
    db = await make(check="never")
    await dropped(await db.fetch_val(ME))
    async with db.transaction():
        assert await db.fetch_val("select 1") == 1


async def test_a_stream_begun_later_has_a_live_one(make, dropped):
    db = await make(check="never")
    await dropped(await db.fetch_val(ME))
    async with db.iterate("select 1 as n") as rows:
        assert [row.n async for row in rows] == [1]


async def test_a_task_with_a_connection_of_its_own_gets_another_one(make, dropped):
    db = await make(persistent=True, check="never")
    first = await db.fetch_val(ME)
    await dropped(first)
    assert await db.fetch_val(ME) != first
    assert await db.execute("do 1") == (0, None)


async def test_a_session_that_has_committed_goes_on(make, dropped):
    db = await make(check="never")
    async with db.session() as session:
        first = await session.fetch_val(ME)
        await session.commit()
        await dropped(first)
        assert await session.fetch_val(ME) != first


async def test_an_idle_block_is_told_so_in_plain_words_and_may_be_repeated(make, dropped):
    """Its session's state is gone with it: another one in its place would be a lie."""
    db = await make()
    async with db.connection() as conn:
        await dropped(await conn.fetch_val(ME))
        with pytest.raises(aiodbkit.ConnectionLostError, match="nothing was sent") as told:
            await conn.fetch_val("select 1")
        assert told.value.is_transient
        assert conn.is_closed
    assert await db.fetch_val("select 1") == 1


@pytest.mark.parametrize("how", ["transaction", "session"])
async def test_in_a_transaction_it_is_a_lost_connection_and_the_block_cannot_go_on(
    how, make, dropped
):
    db = await make()
    await db.execute("create table notes (id int)")
    with pytest.raises(aiodbkit.Error):
        async with getattr(db, how)():
            await db.execute("insert into notes values (1)")
            await dropped(await db.fetch_val(ME))
            with pytest.raises(aiodbkit.ConnectionLostError):
                await db.execute("insert into notes values (2)")
            with pytest.raises(aiodbkit.Error) as told:
                await db.execute("insert into notes values (3)")
            assert "2006" not in str(told.value)
    assert await db.fetch_column("select id from notes") == []


async def test_many_tasks_after_a_pause_all_find_sessions(mysql_engine, dropped):
    db = await mysql_engine(session_sql=SHORT, min_size=4, max_size=4, check="never")

    async def number():
        async with db.connection():
            found = await db.fetch_val(ME)
            await meet.wait()
            return found

    meet = asyncio.Barrier(4)
    first = await asyncio.gather(*(number() for _ in range(4)))
    for each in first:
        await dropped(each)
    second = await asyncio.gather(*(number() for _ in range(4)))
    assert not set(first) & set(second)
