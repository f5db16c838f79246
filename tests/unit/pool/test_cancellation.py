"""Cancelled at chosen moments; at every await there is: `test_cancelled_everywhere`."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import PoolClosedError
from tests.unit.pool.scripted import Script, assert_whole, settle, start, waiting


async def use(pool):
    async with pool.acquire():
        pass


async def test_cancelled_in_the_moment_of_the_hand_off_the_slot_goes_to_the_next_in_line():
    async with (script := Script()).pool(max_size=1) as pool:
        held = await pool.acquire()
        first, second = start(pool.acquire()), start(pool.acquire())
        await waiting(pool, 2)
        pool.release(held)  # the first has its slot from now on, and has not run yet
        first.cancel()
        lease = await second
        assert first.cancelled()
        pool.release(lease)
        await assert_whole(pool, script)


@pytest.mark.parametrize("call", ["connect", "ping", "clean", "close"])
async def test_an_open_cancelled_or_closed_in_the_middle_of_a_call_leaves_nothing(call):
    script = Script()
    pool = script.pool(
        max_size=1, check="always", max_uses=2, reset_timeout=0.02, close_timeout=0.02
    )
    await pool.open()
    if call != "connect":
        async with pool.acquire() as lease:
            lease.resource.dirty = call == "clean"
            if call == "clean":
                script.hold(call)
    if call != "clean":
        script.hold(call)
    caller = asyncio.create_task(use(pool))
    await script.reached(call)
    caller.cancel()
    await settle()
    await pool.close(timeout=0.01)
    with pytest.raises(PoolClosedError):
        await pool.acquire()
    assert pool.stats().size == 0
    assert script.alive == []
