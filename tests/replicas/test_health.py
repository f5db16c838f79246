"""Replicas that fail: who answers instead, when they are asked again, and how all of it ends."""

from __future__ import annotations

import asyncio
from contextvars import Context

import pytest

import aiodbkit
from aiodbkit.testing.scripted import HANG, LOSE
from tests.replicas.scripted import WHERE, elsewhere, member, of, where
from tests.unit.test_read_again import engine as timed
from tests.virtual_time import virtual_time

DOWN = aiodbkit.CannotConnectError("down", is_transient=True)


def watchers():
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("watch ")]


def out(db):
    return [not state.is_available for state in db.replica_states()]


@pytest.mark.parametrize(
    "error",
    [
        DOWN,
        aiodbkit.TooManyConnectionsError("full", is_transient=True),
        aiodbkit.CannotConnectError("wrong password", is_transient=False),
    ],
    ids=["down", "full", "refused"],
)
@virtual_time
async def test_a_replica_that_cannot_be_connected_to_is_left_out(error):
    async with of(2) as db:
        db.replicas[0].script.on("connect", error=error)
        assert [await where(db) for _ in range(4)] == ["r2"] * 4
        assert out(db) == [True, False]
        (state, _) = db.replica_states()
        assert str(error) in state.error
        assert state.ejections == 1


@virtual_time
async def test_those_who_wait_for_a_replica_that_is_gone_are_answered_by_others():
    async with of(2) as db:
        assert [await where(db) for _ in range(2)] == ["r1", "r2"]  # connections that will be dead
        script = db.replicas[0].script
        script.on(WHERE, fault=LOSE)
        script.on("connect|ping", error=DOWN)
        names = await asyncio.gather(*(where(db) for _ in range(40)))
        assert set(names) == {"r2"}


@pytest.mark.parametrize("how", ["statement", "stream", "transaction", "session"])
@virtual_time
async def test_what_a_replica_loses_is_read_from_the_next(how):
    async def read() -> str:
        if how == "statement":
            return await where(db)
        if how == "stream":
            (row,) = [row async for row in db.iterate(WHERE)]
            return row.name
        block = db.transaction(read_only=True) if how == "transaction" else None
        async with block or db.session(read_only=True):
            return await where(db)

    async with of(2) as db:
        for replica in db.replicas:
            await where(replica)  # a connection is there, and looks well
        broken = "begin" if how in ("transaction", "session") else WHERE
        db.replicas[0].script.on(broken, fault=LOSE)
        assert await read() == "r2"
        db.replicas[1].script.on(broken, fault=LOSE)
        await asyncio.sleep(60)
        assert await read() == "p"
        await asyncio.sleep(60)  # until nobody looks at them
        assert not any(replica.pool.stats().in_use for replica in (db.primary_engine, *db.replicas))


@virtual_time
async def test_the_next_one_has_the_time_that_is_left():
    (slow, _), (next_one, limits) = timed(1.5, retry_reads=False), timed(0, lost=0)
    db = aiodbkit.ReplicatedEngine(member("p"), [slow, next_one])
    assert await db.fetch_val("select", timeout=4)
    assert limits == [2.5]
    await db.close()


@virtual_time
async def test_when_no_time_is_left_the_error_itself_is_raised():
    slow, _ = timed(4, retry_reads=False)
    db = aiodbkit.ReplicatedEngine(member("p"), [slow])
    with pytest.raises(aiodbkit.ConnectionLostError):
        await db.fetch_val("select", timeout=4)
    await db.close()


@virtual_time
async def test_an_error_of_the_statement_is_the_callers():
    async with of(2) as db:
        db.replicas[0].script.on("select", error=aiodbkit.ProgrammingError("no such table"))
        with pytest.raises(aiodbkit.ProgrammingError):
            await db.fetch_val("select from nowhere")
        assert out(db) == [False, False]


@virtual_time
async def test_what_a_standby_cancels_for_its_replay_is_read_elsewhere():
    async with of(2) as db:
        db.replicas[0].script.on("select", error=aiodbkit.SerializationError("conflict"), times=1)
        assert await where(db) == "r2"
        assert out(db) == [False, False]


@virtual_time
async def test_a_write_that_is_refused_as_such_is_sent_to_the_primary_once():
    async with of(2) as db:
        for replica in db.replicas:
            replica.script.on("select", error=aiodbkit.ReadOnlyError("read-only"))
        db.primary_engine.script.on("select", error=aiodbkit.ReadOnlyError("read-only, too"))
        with pytest.raises(aiodbkit.ReadOnlyError, match="too"):
            await db.fetch_val("select next_number()")
        assert db.primary_engine.script.said.count("select next_number()") == 1


@virtual_time
async def test_a_timeout_lets_the_replica_be_looked_at():
    async with of(2, probe_backoff=0.5) as db:
        script = db.replicas[0].script
        script.on("select|ping", fault=HANG)
        with pytest.raises(aiodbkit.QueryTimeoutError):
            await db.fetch_val(WHERE, timeout=1)
        await asyncio.sleep(60)
        assert out(db) == [True, False]
        script.on("select|ping", rows=[{"name": "r1"}])
        await asyncio.sleep(60)
        assert out(db) == [False, False]


@virtual_time
async def test_a_slow_statement_leaves_its_replica_in():
    async with of(1) as db:
        db.replicas[0].script.on("select slow", fault=HANG)
        with pytest.raises(aiodbkit.QueryTimeoutError):
            await db.fetch_val("select slow", timeout=1)
        await asyncio.sleep(60)
        assert out(db) == [False]
        assert not watchers()


@virtual_time
async def test_it_is_looked_at_with_growing_pauses_and_taken_back():
    async with of(1, probe_backoff=1, probe_max_backoff=60) as db:
        script = db.replicas[0].script
        script.on("connect", error=DOWN)
        assert await where(db) == "p"
        await asyncio.sleep(3600)
        looks = script.said.count("connect")
        assert 60 <= looks <= 140  # a minute apart, less up to half of it
        assert db.replica_states()[0].out_for >= 3599
        script.on("connect", rows=[])
        await asyncio.sleep(61)
        assert out(db) == [False]
        assert await where(db) == "r1"
        assert not watchers()


@virtual_time
async def test_a_replica_that_its_user_closes_is_left_out_until_it_is_opened():
    async with of(2) as db:
        await db.replicas[0].close()
        assert [await where(db) for _ in range(3)] == ["r2"] * 3
        await db.replicas[0].connect()
        assert {await where(db) for _ in range(2)} == {"r1", "r2"}


# Beginning and end.


@virtual_time
async def test_close_ends_the_looks_and_connect_begins_anew():
    db = of(1)
    async with db:
        db.replicas[0].script.on("connect", error=DOWN)
        assert await where(db) == "p"
        assert watchers()
    assert not watchers()
    with pytest.raises(aiodbkit.PoolClosedError):
        await where(db)
    db.replicas[0].script.on("connect", rows=[])
    async with db:
        assert await where(db) == "r1"
    await db.close()  # again


@virtual_time
async def test_a_close_that_is_cancelled_closes_all():
    db = of(2)
    await db.connect()
    for engine in (db.primary_engine, *db.replicas):
        await where(engine)
    release = asyncio.Event()

    async def hold() -> None:
        async with db.replicas[0].connection(), db.primary_engine.connection():
            await release.wait()

    holder = asyncio.create_task(hold(), context=Context())
    await asyncio.sleep(1)
    closing = asyncio.create_task(db.close(timeout=600))
    await asyncio.sleep(1)
    for _ in range(3):
        closing.cancel()
        await asyncio.sleep(0)
    assert closing.done()
    release.set()
    await holder
    await asyncio.sleep(60)
    for engine in (db.primary_engine, *db.replicas):
        assert engine.pool.stats().size == 0
        assert engine.pool.was_closed


@virtual_time
async def test_a_connect_that_is_cancelled_leaves_nothing_open():
    replica = member("r1", min_size=1, connect_timeout=3600)
    replica.script.on("connect", fault=HANG)
    db = aiodbkit.ReplicatedEngine(member("p", min_size=1), [replica])
    connecting = asyncio.create_task(db.connect())
    await asyncio.sleep(1)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert not db.is_connected
    assert db.primary_engine.pool.stats().size == replica.pool.stats().size == 0


def test_a_replica_is_looked_at_in_the_next_event_loop_too():
    """The first loop took the task that looked with it."""
    db = of(1, probe_backoff=0.01)

    async def until_it_is_back() -> None:
        while await elsewhere(db) != "r1":
            await asyncio.sleep(0.01)
        await db.close()

    db.replicas[0].script.on("connect", error=DOWN)
    assert asyncio.run(where(db)) == "p"
    db.replicas[0].script.on("connect", rows=[])
    asyncio.run(asyncio.wait_for(until_it_is_back(), 30))


@pytest.mark.parametrize("how", ["statement", "stream", "transaction", "session"])
@virtual_time
async def test_a_replica_with_too_many_waiters_is_passed_over_and_the_primary_is_spared(how):
    members = [member(f"r{n}", max_size=1, max_waiting=1) for n in (1, 2)]

    async def read(db):
        if how == "statement":
            return await where(db)
        if how == "stream":
            (row,) = [row async for row in db.iterate(WHERE)]
            return row.name
        async with getattr(db, how)(read_only=True) as block:
            return await (where(db) if how == "transaction" else block.fetch_val(WHERE))

    async with aiodbkit.ReplicatedEngine(member("p"), members) as db:
        one, two = db.replicas
        async with one.pool.acquire():
            waits = asyncio.create_task(one.fetch_val(WHERE))
            await asyncio.sleep(1)
            assert [await asyncio.create_task(read(db)) for _ in range(4)] == ["r2"] * 4
            async with two.pool.acquire():
                waits_too = asyncio.create_task(two.fetch_val(WHERE))
                await asyncio.sleep(1)
                with pytest.raises(aiodbkit.PoolOverloadedError):
                    await read(db)
        assert (await waits, await waits_too) == ("r1", "r2")
        assert out(db) == [False, False]
        assert db.primary_engine.script.said == []
