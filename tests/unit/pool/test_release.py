"""Release is a local act; what was left dirty is cleaned by the pool, with a deadline."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import Pool
from tests.unit.pool.scripted import Script, about, assert_whole, now, settle, start, waiting
from tests.virtual_time import virtual_time


@virtual_time
async def test_a_clean_connection_is_given_back_without_a_call_to_the_driver():
    async with (script := Script()).pool(max_size=1) as pool:
        for _ in range(3):
            async with pool.acquire():
                pass
        assert dict(script.calls) == {"connect": 1}


@virtual_time
async def test_a_dirty_connection_is_cleaned_before_it_is_lent_again():
    async with (script := Script()).pool(max_size=1) as pool:
        async with pool.acquire() as lease:
            lease.resource.dirty = True
        async with pool.acquire() as lease:
            assert lease.resource.number == 1
            assert not lease.resource.dirty
        assert script.calls["clean"] == 1


@virtual_time
async def test_a_slow_reset_delays_nobody_who_can_be_served_otherwise():
    async with (script := Script(connect=0.2, clean=4)).pool(max_size=2) as pool:
        lease = await pool.acquire()
        lease.resource.dirty = True
        began = now()
        await pool.release(lease)
        assert now() == began
        async with pool.acquire() as other:
            assert now() - began == about(0.2)
            assert other.resource.number == 2
        assert pool.stats().idle == 1
        await asyncio.sleep(4)
        assert pool.stats().idle == 2
        await assert_whole(pool, script)


@virtual_time
async def test_a_connection_that_is_being_cleaned_counts_against_max_size():
    async with (script := Script()).pool(max_size=1) as pool:
        lease = await pool.acquire()
        lease.resource.dirty = True
        script.hold("clean")
        pool.release(lease)
        waiter = start(pool.acquire())
        await waiting(pool, 1)
        await settle()
        assert script.calls["connect"] == 1
        script.let("clean")
        assert (await waiter).resource.number == 1
        pool.release(await waiter)


@virtual_time
async def test_a_hung_reset_costs_its_deadline_and_a_new_connection_but_no_slot():
    async with (script := Script()).pool(max_size=1, reset_timeout=3) as pool:
        async with pool.acquire() as lease:
            lease.resource.dirty = True
            script.hold("clean")
        began = now()
        async with pool.acquire() as lease:
            assert now() - began == about(3)
            assert lease.resource.number == 2
        script.let("clean")
        await assert_whole(pool, script)


@virtual_time
async def test_a_hung_close_costs_its_deadline_but_no_slot():
    async with (script := Script()).pool(max_size=1, max_uses=1, close_timeout=3) as pool:
        script.hold("close")
        async with pool.acquire():
            pass
        began = now()
        async with pool.acquire() as lease:
            assert now() - began == about(3)
            assert lease.resource.number == 2
        script.let("close")


@virtual_time
async def test_a_forgotten_lease_is_reported_and_its_slot_comes_back():
    async with (script := Script()).pool(max_size=1) as pool:

        async def forget():
            await pool.acquire()

        with pytest.warns(ResourceWarning, match="never released"):
            await forget()
        await assert_whole(pool, script)


@virtual_time
async def test_an_exception_in_the_block_gives_the_connection_back():
    async with (script := Script()).pool(max_size=1) as pool:
        with pytest.raises(ZeroDivisionError):
            async with pool.acquire():
                raise ZeroDivisionError
        await assert_whole(pool, script)


@virtual_time
async def test_without_a_way_to_clean_a_dirty_resource_is_replaced():
    script = Script()
    pool = Pool(script.connect, close=script.close, is_dirty=lambda resource: resource.dirty)
    async with pool:
        async with pool.acquire() as lease:
            lease.resource.dirty = True
        async with pool.acquire() as lease:
            assert lease.resource.number == 2
        await settle()
        assert script.made[0].closed
