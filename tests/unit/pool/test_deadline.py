"""One absolute deadline through the wait, the connect, the hook and the check."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import PoolTimeoutError
from tests.unit.pool.scripted import Script, about, assert_whole, fill, now, start
from tests.virtual_time import virtual_time


async def fails_at(pool, timeout):
    began = now()
    with pytest.raises(PoolTimeoutError):
        await pool.acquire(timeout=timeout)
    return now() - began


@virtual_time
async def test_a_failed_check_and_a_connect_share_one_deadline():
    script = Script(connect=0.6, ping=0.6)
    async with script.pool(max_size=1, check="always") as pool:
        await fill(pool, 1)
        script.kill(unnoticed=True)
        assert await fails_at(pool, 1.0) == about(1.0)
        # The connect that began at 0.6 s goes on, and serves the next one at 1.2 s.
        began = now()
        async with pool.acquire() as lease:
            assert lease.resource.number == 2
            assert now() - began == about(0.2)


@virtual_time
async def test_a_wait_and_a_cleaning_share_one_deadline():
    script = Script(clean=0.6)
    async with script.pool(max_size=1) as pool:
        lease = await pool.acquire()
        lease.resource.dirty = True
        caller = start(fails_at(pool, 1.0))
        await asyncio.sleep(0.6)
        pool.release(lease)
        assert await caller == about(1.0)
        await assert_whole(pool, script)


@virtual_time
async def test_a_connect_and_the_hook_before_the_loan_share_one_deadline():
    async def prepare(resource):
        await asyncio.sleep(0.6)

    script = Script(connect=0.6)
    async with script.pool(max_size=1, prepare=prepare) as pool:
        assert await fails_at(pool, 1.0) == about(1.0)
        await asyncio.sleep(1)
        assert script.calls["connect"] == 1
        assert pool.stats().idle == 1


@virtual_time
async def test_several_failed_connects_share_one_deadline():
    script = Script(connect=0.3)
    async with script.pool(max_size=1) as pool:
        await fill(pool, 1)
        script.kill()
        script.broken["connect"] = ConnectionRefusedError("restarting")
        assert await fails_at(pool, 2.5) == about(2.5)


@virtual_time
async def test_deadlines_of_waiters_are_their_own_in_whatever_order_they_came():
    async with Script().pool(max_size=1) as pool, pool.acquire():
        limits = [3.0, 1.0, 2.0, 0.5, 0.0]
        calls = [asyncio.create_task(fails_at(pool, limit)) for limit in limits]
        assert await asyncio.gather(*calls) == about(limits)


@virtual_time
async def test_without_a_timeout_of_its_own_a_call_has_acquire_timeout():
    async with Script().pool(max_size=1, acquire_timeout=7) as pool, pool.acquire():
        assert await start(fails_at(pool, None)) == about(7)
