"""What the pool does to its connections by itself, and when: age, idleness, uses, checks."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import PoolTimeoutError
from tests.unit.pool.scripted import Script, assert_whole, settle
from tests.virtual_time import virtual_time


def now():
    return asyncio.get_running_loop().time()


async def fill(pool, number):
    """Have ``number`` connections open and idle."""
    leases = await asyncio.gather(*(pool.acquire() for _ in range(number)))
    for lease in leases:
        pool.release(lease)
    await settle()


# Age


@virtual_time
async def test_an_old_connection_is_replaced_before_it_is_closed_and_nobody_waits():
    script = Script(connect=0.2)
    async with script.pool(max_size=2, max_lifetime=100, idle_timeout=None) as pool:
        await fill(pool, 1)
        for _ in range(1_000):
            began = now()
            async with pool.acquire() as lease:
                assert now() == began, "a caller waited for a connect"
                assert not lease.resource.closed
            assert len(script.alive) >= 1
            await asyncio.sleep(0.5)
        assert script.most_alive == 2
        assert 5 <= len(script.made) <= 7


@virtual_time
async def test_a_connection_that_is_held_is_replaced_beside_it_and_closed_on_return():
    script = Script(connect=0.2)
    async with script.pool(max_size=2, max_lifetime=100, idle_timeout=None) as pool:
        async with pool.acquire() as lease:
            await asyncio.sleep(101)
            assert [resource.number for resource in script.alive] == [1, 2]
            assert not lease.resource.closed
        await settle()
        assert [resource.number for resource in script.alive] == [2]


@virtual_time
async def test_without_room_an_old_connection_is_closed_first_and_the_bound_is_kept():
    script = Script(connect=0.2)
    async with script.pool(min_size=1, max_size=1, max_lifetime=100) as pool:
        await asyncio.sleep(150)
        assert script.most_alive == 1
        assert [resource.number for resource in script.alive] == [2]
        await assert_whole(pool, script)


@virtual_time
async def test_no_connection_is_lent_beyond_its_lifetime_though_no_successor_can_be_opened():
    script = Script(connect=0.2)
    async with script.pool(max_size=2, max_lifetime=100, idle_timeout=None) as pool:
        await fill(pool, 1)
        script.fail("connect", *(ConnectionRefusedError() for _ in range(3)))
        await asyncio.sleep(101)
        async with pool.acquire() as lease:
            assert lease.resource.number > 1
        assert script.made[0].closed


@virtual_time
async def test_connections_opened_together_do_not_expire_together():
    script = Script(connect=0.2)
    async with script.pool(min_size=20, max_size=40, max_lifetime=1_000) as pool:
        closed_at = {}
        while len(closed_at) < 20:
            await asyncio.sleep(1)
            for resource in script.made[:20]:
                if resource.closed:
                    closed_at.setdefault(resource.number, now())
            assert len([resource for resource in script.made if not resource.closed]) >= 20
        assert max(closed_at.values()) <= 2_001
        assert max(closed_at.values()) - min(closed_at.values()) > 30
        await assert_whole(pool, script)


# Uses


@virtual_time
async def test_a_used_up_connection_is_replaced_before_the_next_caller_comes():
    script = Script(connect=0.2)
    async with script.pool(max_size=2, max_uses=100) as pool:
        await fill(pool, 1)
        for _ in range(99):
            async with pool.acquire():
                pass
        await asyncio.sleep(1)
        assert [resource.number for resource in script.alive] == [2]
        began = now()
        async with pool.acquire() as lease:
            assert lease.resource.number == 2
        assert now() == began


@virtual_time
async def test_a_small_number_of_uses_is_exact_and_a_large_one_has_jitter():
    async def uses(most):
        script = Script()
        async with script.pool(max_size=1, max_uses=most) as pool:
            number = 0
            while len(script.made) < 2:
                async with pool.acquire():
                    number += 1
                await settle()
        return number

    small = [await uses(3) for _ in range(20)]
    large = [await uses(100) for _ in range(20)]
    assert set(small) <= {3, 4}  # the fourth use is the second connection's first
    assert all(90 <= number <= 101 for number in large)
    assert len(set(large)) > 3


# Idleness


@virtual_time
async def test_what_nobody_needs_is_closed_down_to_the_minimum_at_its_time():
    script = Script()
    async with script.pool(min_size=2, max_size=8, idle_timeout=60, max_lifetime=None) as pool:
        await fill(pool, 8)
        await asyncio.sleep(50)
        assert len(script.alive) == 8
        await asyncio.sleep(12)
        assert len(script.alive) == 2
        await asyncio.sleep(1_000)
        assert len(script.alive) == 2
        assert script.calls["connect"] == 8


@virtual_time
async def test_a_pool_of_short_lived_connections_shrinks_all_the_same():
    script = Script(connect=0.2)
    async with script.pool(max_size=8, idle_timeout=60, max_lifetime=20) as pool:
        await fill(pool, 4)
        await asyncio.sleep(75)
        assert script.alive == []


# Background checks


@virtual_time
async def test_an_idle_connection_that_dies_unseen_is_found_before_a_caller_meets_it():
    script = Script(connect=0.2, ping=0.001)
    async with script.pool(min_size=3, max_size=4, check_after=30, idle_timeout=None) as pool:
        for resource in script.alive:
            resource.answers = False
        await asyncio.sleep(31)
        assert [resource.number for resource in script.alive] == [4, 5, 6]
        began = now()
        async with pool.acquire() as lease:
            assert lease.resource.answers
        assert now() == began


@virtual_time
async def test_idle_connections_are_pinged_once_for_each_check_after_and_used_ones_not():
    script = Script()
    async with script.pool(min_size=2, max_size=2, check_after=30, max_lifetime=None) as pool:
        for _ in range(300):
            async with pool.acquire():
                pass
            await asyncio.sleep(1)
        # One is used all the time, the other one never.
        assert 9 <= script.calls["ping"] <= 10


@pytest.mark.parametrize(("options", "pings"), [({"check": "never"}, 0), ({"check_after": 0}, 60)])
@virtual_time
async def test_no_background_check_where_none_is_wanted_and_one_a_second_at_most(options, pings):
    script = Script()
    async with script.pool(min_size=1, max_size=1, **options):
        await asyncio.sleep(60.5)
        assert script.calls["ping"] == pytest.approx(pings, abs=5)


@virtual_time
async def test_a_background_check_does_not_make_a_connection_look_used():
    script = Script()
    async with script.pool(max_size=2, check_after=10, idle_timeout=100) as pool:
        await fill(pool, 2)
        await asyncio.sleep(101)
        assert script.alive == []


@virtual_time
async def test_a_background_check_does_not_run_the_hook_of_a_loan():
    script = Script()
    prepared = []

    async def prepare(resource):
        prepared.append(resource.number)

    async with script.pool(min_size=2, max_size=2, check_after=10, prepare=prepare) as pool:
        await asyncio.sleep(61)
        await pool.check()
        assert script.calls["ping"] > 4
        assert prepared == []
        async with pool.acquire():
            assert len(prepared) == 1


# Asked for


@virtual_time
async def test_expiry_spread_over_seconds_replaces_them_one_after_the_other():
    script = Script(connect=0.2)
    async with script.pool(min_size=10, max_size=11, max_lifetime=None) as pool:
        await pool.expire(over=100)
        for second in range(10, 110, 10):
            await asyncio.sleep(10)
            replaced = sum(resource.closed for resource in script.made[:10])
            assert replaced == pytest.approx(second / 10, abs=1)
            assert len(script.alive) in (10, 11)
        await asyncio.sleep(1)
        assert all(resource.closed for resource in script.made[:10])
        assert len(script.made) == 20
        assert script.most_alive == 11


@virtual_time
async def test_a_connection_that_was_being_opened_when_all_were_expired_is_not_lent():
    script = Script(connect=0.2)
    async with script.pool(max_size=2) as pool:
        caller = asyncio.create_task(use(pool))
        await asyncio.sleep(0.1)
        await pool.expire()
        assert await caller == 2


async def use(pool):
    async with pool.acquire() as lease:
        return lease.resource.number


@virtual_time
async def test_drain_returns_when_the_last_old_connection_is_closed_and_serves_meanwhile():
    script = Script(connect=0.2, close=0.1)
    async with script.pool(min_size=2, max_size=4) as pool:
        lease = await pool.acquire()
        draining = asyncio.create_task(pool.drain())
        await asyncio.sleep(5)
        assert not draining.done()
        assert await use(pool) > 2
        pool.release(lease)
        released = now()
        await draining
        assert now() == pytest.approx(released + 0.1)
        assert script.made[0].closed
        assert script.made[1].closed
        await assert_whole(pool, script)


@virtual_time
async def test_a_drain_that_borrowers_do_not_let_end_says_who_they_are():
    script = Script()
    async with script.pool(min_size=2, max_size=4) as pool:
        lease = await pool.acquire()
        asyncio.current_task().set_name("the nightly report")
        with pytest.raises(PoolTimeoutError, match=r"1 of the old .* 'the nightly report'"):
            await pool.drain(timeout=2)
        pool.release(lease)
        await settle()
        assert script.made[0].closed
