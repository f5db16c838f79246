"""Whatever frees capacity serves the next in line, and connects belong to the pool."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import CannotConnectError, PoolTimeoutError
from tests.unit.pool.scripted import Script, assert_whole, settle, start, waiting


async def test_a_timed_out_acquire_does_not_abort_the_connect_and_the_next_caller_gets_it():
    script = Script()
    async with script.pool(max_size=1) as pool:
        script.hold("connect")
        with pytest.raises(PoolTimeoutError):
            await pool.acquire(timeout=0.01)
        second = start(pool.acquire())
        await waiting(pool, 1)
        script.let("connect")
        assert (await second).resource.number == 1
        assert script.calls["connect"] == 1
        pool.release(await second)


async def test_a_cancelled_acquire_does_not_abort_the_connect():
    script = Script()
    async with script.pool(max_size=1) as pool:
        script.hold("connect")
        first = start(pool.acquire())
        await script.reached("connect")
        first.cancel()
        await settle()
        script.let("connect")
        async with pool.acquire() as lease:
            assert lease.resource.number == 1
    assert script.calls["connect"] == 1


async def test_a_failed_connect_is_raised_at_once_in_a_pool_that_never_had_a_connection():
    script = Script()
    script.fail("connect", ConnectionRefusedError("nobody listens"))
    async with script.pool() as pool:
        with pytest.raises(ConnectionRefusedError, match="nobody listens"):
            await pool.acquire()
        await assert_whole(pool, script)


async def test_every_waiter_gets_an_error_of_its_own_when_no_connection_can_be_had():
    script = Script()
    script.fail("connect", *(CannotConnectError("no such database") for _ in range(3)))
    async with script.pool(max_size=3) as pool:
        script.hold("connect")
        tasks = [start(pool.acquire()) for _ in range(3)]
        await waiting(pool, 3)
        script.let("connect")
        await asyncio.wait(tasks)
        errors = [task.exception() for task in tasks]
    assert [str(error) for error in errors] == ["no such database"] * 3
    assert len({id(error) for error in errors}) == 3


async def test_a_connection_that_cannot_be_cleaned_is_replaced_for_the_waiter():
    script = Script()
    script.fail("clean", OSError("broken"))
    async with script.pool(max_size=1) as pool:
        lease = await pool.acquire()
        lease.resource.dirty = True
        waiter = start(pool.acquire())
        await waiting(pool, 1)
        pool.release(lease)
        assert (await waiter).resource.number == 2
        pool.release(await waiter)


async def test_a_connection_that_died_in_use_is_replaced_for_the_waiter():
    async with (script := Script()).pool(max_size=1) as pool:
        lease = await pool.acquire()
        lease.resource.dead = True
        waiter = start(pool.acquire())
        await waiting(pool, 1)
        pool.release(lease)
        assert (await waiter).resource.number == 2
        pool.release(await waiter)
    assert len(script.made) == 2


async def test_a_connection_that_was_used_up_is_replaced_for_the_waiter():
    async with Script().pool(max_size=1, max_uses=1) as pool:
        lease = await pool.acquire()
        waiter = start(pool.acquire())
        await waiting(pool, 1)
        pool.release(lease)
        assert (await waiter).resource.number == 2
        pool.release(await waiter)


async def test_growing_the_pool_serves_the_waiter():
    async with Script().pool(max_size=1) as pool:
        held = await pool.acquire()
        waiter = start(pool.acquire())
        await waiting(pool, 1)
        await pool.resize(max_size=2)
        assert (await waiter).resource.number == 2
        pool.release(held)
        pool.release(await waiter)


async def test_shrinking_the_pool_closes_what_is_too_much_now_or_on_return():
    async with (script := Script()).pool(max_size=3) as pool:
        leases = await asyncio.gather(*(pool.acquire() for _ in range(3)))
        pool.release(leases[0])
        await pool.resize(max_size=1)
        await settle()
        assert len(script.alive) == 2
        pool.release(leases[1])
        pool.release(leases[2])
        await settle()
        assert pool.stats().size == 1
        await assert_whole(pool, script)


async def test_expired_connections_are_replaced_idle_ones_now_and_borrowed_ones_on_return():
    async with (script := Script()).pool(max_size=2) as pool:
        leases = await asyncio.gather(pool.acquire(), pool.acquire())
        pool.release(leases[0])
        await pool.expire()
        pool.release(leases[1])
        await settle()
        assert script.alive == []
        async with pool.acquire() as lease:
            assert lease.resource.number == 3


async def test_the_minimum_is_opened_at_once_and_a_failure_leaves_nothing_open():
    script = Script()
    async with script.pool(min_size=3) as pool:
        assert pool.stats().idle == 3
    script = Script()
    script.fail("connect", ConnectionRefusedError("nobody listens"))
    pool = script.pool(min_size=3)
    with pytest.raises(ConnectionRefusedError):
        await pool.open()
    await pool.close()
    assert script.alive == []


async def test_the_minimum_is_restored_after_a_connection_was_lost():
    async with (script := Script()).pool(min_size=2) as pool:
        async with pool.acquire() as lease:
            lease.resource.dirty = True
            script.fail("clean", OSError("broken"))
        await settle()
        assert pool.stats().idle == 2
        assert len(script.made) == 3


async def test_a_burst_of_short_jobs_opens_few_connections():
    script = Script()

    async def job(pool):
        async with pool.acquire():
            await settle()

    async with script.pool(max_size=10) as pool:
        script.hold("connect")
        jobs = [asyncio.create_task(job(pool)) for _ in range(50)]
        await waiting(pool, 50)
        script.let("connect")
        await asyncio.gather(*jobs)
    assert len(script.made) < 7


async def test_there_are_never_more_connections_than_max_size():
    script = Script()

    async def job(pool, number):
        async with pool.acquire() as lease:
            await settle()
            lease.resource.dirty = number % 3 == 0
            lease.resource.dead = number % 7 == 0
            assert pool.stats().size <= 4

    async with script.pool(max_size=4, max_uses=5) as pool:
        await asyncio.gather(*(job(pool, number) for number in range(200)))
        await assert_whole(pool, script)


async def test_an_outage_makes_few_attempts_and_its_reason_reaches_those_who_wait():
    script = Script()
    async with script.pool(max_size=4) as pool:
        async with pool.acquire() as lease:
            lease.resource.dead = True
        script.fail("connect", *(ConnectionRefusedError("restarting") for _ in range(1000)))
        callers = [start(pool.acquire(timeout=0.3)) for _ in range(20)]
        await asyncio.wait(callers)
        assert script.calls["connect"] < 10
        for caller in callers:
            error = caller.exception()
            assert isinstance(error, PoolTimeoutError)
            assert isinstance(error.__cause__, ConnectionRefusedError)
            assert "restarting" in str(error)
        script.errors["connect"].clear()
        await assert_whole(pool, script)
