"""Release is a local act; what was left dirty is cleaned by the pool, with a deadline."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import InterfaceError
from tests.unit.pool.scripted import Script, assert_whole, settle, start, waiting


async def test_a_clean_connection_is_given_back_without_a_call_to_the_driver():
    async with (script := Script()).pool(max_size=1) as pool:
        for _ in range(3):
            async with pool.acquire():
                pass
        assert dict(script.calls) == {"connect": 1}


async def test_a_dirty_connection_is_cleaned_before_it_is_lent_again():
    async with (script := Script()).pool(max_size=1) as pool:
        async with pool.acquire() as lease:
            lease.resource.dirty = True
        async with pool.acquire() as lease:
            assert lease.resource.number == 1
            assert not lease.resource.dirty
        assert script.calls["clean"] == 1


async def test_a_slow_reset_delays_nobody_who_can_be_served_otherwise():
    async with (script := Script()).pool(max_size=2) as pool:
        lease = await pool.acquire()
        lease.resource.dirty = True
        script.hold("clean")
        await pool.release(lease)
        async with pool.acquire() as other:
            assert other.resource.number == 2
        script.let("clean")
        await assert_whole(pool, script)


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


async def test_a_hung_reset_costs_its_deadline_and_a_new_connection_but_no_slot():
    async with (script := Script()).pool(max_size=1, reset_timeout=0.02) as pool:
        async with pool.acquire() as lease:
            lease.resource.dirty = True
            script.hold("clean")
        async with pool.acquire() as lease:
            assert lease.resource.number == 2
        script.let("clean")
        await assert_whole(pool, script)


async def test_a_hung_close_costs_its_deadline_but_no_slot():
    async with (script := Script()).pool(max_size=1, max_uses=1, close_timeout=0.02) as pool:
        script.hold("close")
        async with pool.acquire():
            pass
        async with pool.acquire() as lease:
            assert lease.resource.number == 2
        script.let("close")


async def test_a_lease_released_twice_is_refused_and_the_pool_unharmed():
    async with (script := Script()).pool(max_size=1) as pool:
        lease = await pool.acquire()
        await pool.release(lease)
        with pytest.raises(InterfaceError, match="released twice"):
            await pool.release(lease)
        await assert_whole(pool, script)


async def test_a_lease_released_again_after_its_slot_was_lent_anew_is_refused():
    async with Script().pool(max_size=1) as pool:
        stale = await pool.acquire()
        pool.release(stale)
        current = await pool.acquire()
        with pytest.raises(InterfaceError, match="released twice"):
            pool.release(stale)
        assert pool.stats().in_use == 1
        assert current.resource.number == 1
        pool.release(current)


async def test_a_lease_used_after_release_is_refused():
    async with Script().pool() as pool:
        async with pool.acquire() as lease:
            pass
        with pytest.raises(InterfaceError, match="used after it was released"):
            lease.resource  # noqa: B018 - looking is what is refused


async def test_a_lease_of_another_pool_is_refused_and_stays_good():
    async with (
        Script().pool(name="one") as one,
        Script().pool(name="two") as two,
        one.acquire() as lease,
    ):
        with pytest.raises(InterfaceError, match="belongs to another pool, one, not to two"):
            two.release(lease)
        assert lease.resource.number == 1


async def test_releasing_what_is_no_lease_is_refused():
    async with Script().pool() as pool:
        with pytest.raises(InterfaceError, match="not str"):
            pool.release("connection")


async def test_an_acquire_block_cannot_be_entered_twice_at_once():
    async with Script().pool() as pool:
        acquire = pool.acquire()
        async with acquire:
            with pytest.raises(InterfaceError, match="already in use"):
                async with acquire:
                    pass


async def test_a_lease_may_be_released_inside_its_own_block():
    async with (script := Script()).pool(max_size=1) as pool:
        async with pool.acquire() as lease:
            await pool.release(lease)
        await assert_whole(pool, script)


async def test_a_forgotten_lease_is_reported_and_its_slot_comes_back():
    async with (script := Script()).pool(max_size=1) as pool:

        async def forget():
            await pool.acquire()

        with pytest.warns(ResourceWarning, match="never released"):
            await forget()
        await assert_whole(pool, script)


async def test_an_exception_in_the_block_gives_the_connection_back():
    async with (script := Script()).pool(max_size=1) as pool:
        with pytest.raises(ZeroDivisionError):
            async with pool.acquire():
                raise ZeroDivisionError
        await assert_whole(pool, script)


async def test_without_a_way_to_clean_a_dirty_resource_is_replaced():
    from aiodbkit import Pool

    script = Script()
    pool = Pool(script.connect, close=script.close, is_dirty=lambda resource: resource.dirty)
    async with pool:
        async with pool.acquire() as lease:
            lease.resource.dirty = True
        async with pool.acquire() as lease:
            assert lease.resource.number == 2
        await settle()
        assert script.made[0].closed
    await asyncio.sleep(0)
