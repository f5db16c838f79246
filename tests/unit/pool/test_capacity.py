"""Whatever frees capacity serves the next in line, and connects belong to the pool."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import CannotConnectError, PoolTimeoutError, RetryPolicy
from tests.unit.pool.scripted import Script, about, assert_whole, fill, now, settle, start, waiting
from tests.virtual_time import virtual_time

PACE = RetryPolicy(backoff=0.1, jitter=False)


async def served_at(pool):
    """Use a connection for no time; return after what wait."""
    began = now()
    async with pool.acquire():
        return now() - began


@virtual_time
async def test_a_timed_out_acquire_does_not_abort_the_connect_and_the_next_caller_gets_it():
    script = Script(connect=0.2)
    async with script.pool(max_size=1) as pool:
        began = now()
        with pytest.raises(PoolTimeoutError):
            await pool.acquire(timeout=0.1)
        assert now() - began == about(0.1)
        async with pool.acquire(timeout=0.11) as lease:
            assert now() - began == about(0.2)
            assert lease.resource.number == 1
        assert script.calls["connect"] == 1


@virtual_time
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


@virtual_time
async def test_a_failed_connect_is_raised_at_once_in_a_pool_that_never_had_a_connection():
    script = Script()
    script.fail("connect", ConnectionRefusedError("nobody listens"))
    async with script.pool() as pool:
        with pytest.raises(ConnectionRefusedError, match="nobody listens"):
            await pool.acquire()
        await assert_whole(pool, script)


@virtual_time
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


@virtual_time
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


@virtual_time
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


@virtual_time
async def test_a_connection_that_was_used_up_is_replaced_for_the_waiter():
    async with Script().pool(max_size=1, max_uses=1) as pool:
        lease = await pool.acquire()
        waiter = start(pool.acquire())
        await waiting(pool, 1)
        pool.release(lease)
        assert (await waiter).resource.number == 2
        pool.release(await waiter)


@virtual_time
async def test_growing_the_pool_serves_the_waiter():
    async with Script().pool(max_size=1) as pool:
        held = await pool.acquire()
        waiter = start(pool.acquire())
        await waiting(pool, 1)
        await pool.resize(max_size=2)
        assert (await waiter).resource.number == 2
        pool.release(held)
        pool.release(await waiter)


@virtual_time
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


@virtual_time
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


@virtual_time
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


@virtual_time
async def test_the_minimum_is_restored_after_a_connection_was_lost():
    async with (script := Script()).pool(min_size=2) as pool:
        async with pool.acquire() as lease:
            lease.resource.dirty = True
            script.fail("clean", OSError("broken"))
        await settle()
        assert pool.stats().idle == 2
        assert len(script.made) == 3


@virtual_time
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


@virtual_time
async def test_a_return_serves_the_waiter_in_that_moment():
    async with Script().pool(max_size=1) as pool:
        held = await pool.acquire()
        waiter = start(served_at(pool))
        await asyncio.sleep(0.3)
        pool.release(held)
        assert await waiter == about(0.3)


@virtual_time
async def test_the_end_of_a_failed_connect_lets_the_next_one_begin():
    script = Script(connect=0.2)
    async with script.pool(max_size=1, connect_retry=PACE) as pool:
        await fill(pool, 1)
        script.kill()
        script.fail("connect", ConnectionRefusedError("gone for a moment"))
        first, second = start(served_at(pool)), start(served_at(pool))
        # Failed at 0.2 s, tried again after a pause of 0.1 s.
        assert await first == about(0.5)
        assert await second == about(0.5)


@virtual_time
async def test_the_discard_of_what_could_not_be_cleaned_serves_the_waiter():
    script = Script(connect=0.2, clean=0.1)
    script.fail("clean", OSError("broken"))
    async with script.pool(max_size=1) as pool:
        lease = await pool.acquire()
        lease.resource.dirty = True
        waiter = start(served_at(pool))
        await waiting(pool, 1)
        pool.release(lease)
        assert await waiter == about(0.3)


@virtual_time
async def test_a_bigger_max_size_serves_the_waiter_after_one_connect():
    async with Script(connect=0.2).pool(max_size=1) as pool, pool.acquire():
        await asyncio.sleep(1)
        waiter = start(served_at(pool))
        await waiting(pool, 1)
        await pool.resize(max_size=2)
        assert await waiter == about(0.2)


@virtual_time
async def test_a_connection_that_expired_in_use_is_replaced_for_the_waiter():
    script = Script(connect=0.2)
    async with script.pool(max_size=1, max_lifetime=10) as pool:
        lease = await pool.acquire()
        waiter = start(served_at(pool))
        await asyncio.sleep(20)
        pool.release(lease)
        assert await waiter == about(20.2)
        assert len(script.made) == 2


@virtual_time
async def test_a_connection_that_expired_idle_is_not_lent():
    script = Script(connect=0.2)
    async with script.pool(max_size=1, max_lifetime=2, idle_timeout=None) as pool:
        await fill(pool, 1)
        await asyncio.sleep(2)
        async with pool.acquire() as lease:
            assert lease.resource.number > 1


@virtual_time
async def test_a_hook_that_fails_frees_its_connection_for_the_next_waiter():
    fails = [LookupError("not today")]

    async def prepare(resource):
        if fails:
            raise fails.pop()

    async with Script(connect=0.2).pool(max_size=1, prepare=prepare) as pool:
        first, second = start(served_at(pool)), start(served_at(pool))
        with pytest.raises(LookupError, match="not today"):
            await first
        assert await second == about(0.4)


@virtual_time
async def test_a_waiter_that_gives_up_passes_on_the_connection_it_was_given():
    async with Script().pool(max_size=1) as pool:
        held = await pool.acquire()
        first, second = start(served_at(pool)), start(served_at(pool))
        await waiting(pool, 2)
        pool.release(held)
        first.cancel()
        assert await second == about(0)
