"""A pool may be opened again and again: what one life of it left behind never enters the next."""

from __future__ import annotations

import asyncio
import gc
from threading import get_ident

import pytest

from aiodbkit import CannotConnectError, InterfaceError, Pool, PoolClosedError
from aiodbkit.options import RetryPolicy
from tests.forking import forks, in_a_child
from tests.unit.pool.scripted import Script, assert_whole, now, settle, start, waiting
from tests.virtual_time import run_in_virtual_time, virtual_time


def held_by_an_ended_loop(pool):
    """Return the lease that was held when the loop of the pool ended."""

    async def first_life():
        await pool.open()
        return await pool.acquire()

    return run_in_virtual_time(first_life)


@pytest.mark.parametrize("how", ["released", "forgotten"])
def test_a_lease_of_an_ended_loop_does_not_enter_the_next_life(how):
    script = Script()
    pool = script.pool(max_size=2)
    leases = [held_by_an_ended_loop(pool)]

    async def next_life():
        async with pool:
            if how == "released":
                pool.release(leases.pop())
            else:
                leases.clear()
                with pytest.warns(ResourceWarning, match="never released"):
                    gc.collect()
            await settle()
            assert pool.stats().size == 0
            async with pool.acquire() as lease:
                assert lease.resource.number == 2
            assert pool.stats().in_use == 0

    run_in_virtual_time(next_life)


def test_a_lease_of_an_ended_loop_is_refused_once_its_pool_was_opened_again():
    pool = Script().pool()
    lease = held_by_an_ended_loop(pool)

    async def next_life():
        async with pool:
            with pytest.raises(InterfaceError, match="its event loop has ended"):
                _ = lease.resource
            pool.release(lease)

    run_in_virtual_time(next_life)


@forks
def test_a_lease_held_at_a_fork_does_not_enter_the_pool_of_the_child():
    pool = Script().pool(max_size=1)

    async def open_and_hold():
        await pool.open()
        return await pool.acquire()

    async def child():
        async with pool:
            with pytest.raises(InterfaceError, match="the process was forked"):
                _ = lease.resource
            pool.release(lease)
            async with pool.acquire() as mine:
                return mine.resource.number

    async def parent():
        async with pool:
            assert lease.resource.number == 1
            pool.release(lease)

    with asyncio.Runner() as runner:
        lease = runner.run(open_and_hold())
        assert in_a_child(child) == "2"
        runner.run(parent())


# Two loops at once


@pytest.mark.parametrize(
    "call",
    [
        lambda pool: pool.check(),
        lambda pool: pool.resize(max_size=5),
        lambda pool: pool.expire(),
        lambda pool: pool.drain(timeout=1),
    ],
    ids=["check", "resize", "expire", "drain"],
)
def test_what_changes_a_pool_is_refused_from_another_loop(call):
    script = Script()
    pool = script.pool(min_size=2, max_size=3)

    async def from_another_loop():
        with pytest.raises(InterfaceError, match="belongs to another event loop"):
            await call(pool)

    async def own_loop():
        assert (pool.stats().idle, pool.stats().max_size) == (2, 3)
        assert script.calls["ping"] == script.calls["close"] == 0
        await pool.close()

    with asyncio.Runner() as runner:
        runner.run(pool.open())
        asyncio.run(from_another_loop())
        runner.run(own_loop())


async def test_a_lease_released_in_another_thread_is_taken_back_by_the_loop_for_the_next_in_line():
    threads = []

    def is_dirty(_resource):  # asked first of all when one comes back
        threads.append(get_ident())
        return False

    script = Script()
    async with Pool(script.connect, is_dirty=is_dirty, max_size=1) as pool:
        lease = await pool.acquire()
        waiter = start(pool.acquire())
        await waiting(pool, 1)
        await asyncio.to_thread(pool.release, lease)
        pool.release(await waiter)
        assert threads == [get_ident()] * 2
        await assert_whole(pool, script)


# Opening and closing at once


@pytest.mark.parametrize("while_it", ["connects", "pauses"])
@virtual_time
async def test_a_pool_closed_while_it_opens_says_so_and_nothing_of_it_is_left(while_it):
    script = Script(connect=1)
    if while_it == "pauses":
        script.fail("connect", CannotConnectError("not yet", is_transient=True))
    retry = RetryPolicy(max_retries=3, backoff=10, max_backoff=10, jitter=False)
    pool = script.pool(min_size=1, connect_retry=retry)
    opening = start(pool.open())
    await asyncio.sleep(0.5 if while_it == "connects" else 5)
    await pool.close()
    with pytest.raises(PoolClosedError, match="was closed while it was opening"):
        await opening
    await asyncio.sleep(100)
    assert script.calls["connect"] == 1
    assert not script.alive
    assert not pool.is_open
    timers = asyncio.get_running_loop()._scheduled
    assert [timer for timer in timers if not timer.cancelled()] == []


@virtual_time
async def test_a_connect_that_will_not_be_cancelled_does_not_enter_the_next_life():
    script = Script()
    stubborn = True

    async def connect():
        end = now() + 100
        while stubborn and now() < end:
            try:
                await asyncio.sleep(end - now())
            except asyncio.CancelledError:
                pass
        return await script.connect()

    pool = Pool(connect, close=script.close, max_size=2)
    await pool.open()
    caller = start(pool.acquire())
    await waiting(pool, 1)
    await pool.close(timeout=0)
    with pytest.raises(PoolClosedError):
        await caller
    stubborn = False
    async with pool:
        async with pool.acquire() as lease:
            assert lease.resource.number == 1
        await asyncio.sleep(200)  # now the late one has come
        assert script.made[1].closed
        assert (pool.stats().size, pool.stats().idle) == (1, 1)
        await assert_whole(pool, script)


@virtual_time
async def test_when_opening_has_failed_nothing_is_left_open():
    script = Script(close=1)
    script.fail("connect", OSError("refused"))
    with pytest.raises(OSError, match="refused"):
        await script.pool(min_size=2).open()
    assert script.made
    assert not script.alive
