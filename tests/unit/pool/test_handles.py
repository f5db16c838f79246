"""A lease is good for one acquire; each misuse has a message of its own and harms no pool."""

from __future__ import annotations

import pytest

from aiodbkit import InterfaceError
from tests.unit.pool.scripted import Script, assert_whole
from tests.virtual_time import virtual_time


@virtual_time
async def test_a_lease_released_twice_is_refused_and_the_pool_unharmed():
    async with (script := Script()).pool(max_size=1) as pool:
        lease = await pool.acquire()
        await pool.release(lease)
        with pytest.raises(InterfaceError, match="released twice"):
            await pool.release(lease)
        await assert_whole(pool, script)


@virtual_time
async def test_a_lease_released_again_after_its_slot_was_lent_anew_is_refused():
    async with Script().pool(max_size=1) as pool:
        stale = await pool.acquire()
        pool.release(stale)
        current = await pool.acquire()
        with pytest.raises(InterfaceError, match="released (twice|before)"):
            pool.release(stale)
        assert pool.stats().in_use == 1
        assert current.resource.number == 1
        pool.release(current)


@virtual_time
async def test_a_lease_used_after_release_is_refused():
    async with Script().pool() as pool:
        async with pool.acquire() as lease:
            pass
        with pytest.raises(InterfaceError, match="used after it was released"):
            lease.resource  # noqa: B018 - looking is what is refused


@virtual_time
async def test_a_lease_of_another_pool_is_refused_and_stays_good():
    async with (
        Script().pool(name="one") as one,
        Script().pool(name="two") as two,
        one.acquire() as lease,
    ):
        with pytest.raises(InterfaceError, match="belongs to another pool, one, not to two"):
            two.release(lease)
        assert lease.resource.number == 1


@virtual_time
async def test_releasing_what_is_no_lease_is_refused():
    async with Script().pool() as pool:
        with pytest.raises(InterfaceError, match="not str"):
            pool.release("connection")


@virtual_time
async def test_an_acquire_block_cannot_be_entered_twice_at_once():
    async with Script().pool() as pool:
        acquire = pool.acquire()
        async with acquire:
            with pytest.raises(InterfaceError, match="already in use"):
                async with acquire:
                    pass


@virtual_time
async def test_a_lease_may_be_released_inside_its_own_block():
    async with (script := Script()).pool(max_size=1) as pool:
        async with pool.acquire() as lease:
            await pool.release(lease)
        await assert_whole(pool, script)


def refusal(call):
    with pytest.raises(InterfaceError) as caught:
        call()
    return str(caught.value)


@virtual_time
async def test_four_misuses_have_four_messages():
    async with (
        (script := Script()).pool(max_size=1, name="one") as pool,
        Script().pool(name="two") as other,
    ):
        lease = await pool.acquire()
        elsewhere = refusal(lambda: other.release(lease))
        pool.release(lease)
        twice = refusal(lambda: pool.release(lease))
        used = refusal(lambda: lease.resource)
        async with pool.acquire() as current:
            lent_again = refusal(lambda: pool.release(lease))
            assert current.resource.number == 1
        assert len({elsewhere, twice, used, lent_again}) == 4
        await assert_whole(pool, script)
