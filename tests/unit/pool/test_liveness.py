"""Dead connections: found for free at every loan, by a ping only after idleness."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.pool.scripted import Script, assert_whole, settle
from tests.virtual_time import virtual_time


async def several(pool, number):
    """Open ``number`` connections and give them all back."""
    for lease in await asyncio.gather(*(pool.acquire() for _ in range(number))):
        pool.release(lease)


@virtual_time
async def test_a_connection_known_to_be_dead_is_replaced_without_the_caller_noticing():
    async with (script := Script()).pool(max_size=1) as pool:
        await several(pool, 1)
        script.made[0].dead = True
        async with pool.acquire() as lease:
            assert lease.resource.number == 2
        assert script.calls["ping"] == 0


@virtual_time
async def test_a_connection_is_pinged_only_after_it_was_idle_for_check_after():
    async with (script := Script()).pool(max_size=1, check_after=30) as pool:
        await several(pool, 1)
        async with pool.acquire():
            pass
        assert script.calls["ping"] == 0
    async with (script := Script()).pool(max_size=1, check_after=0) as pool:
        await several(pool, 1)
        async with pool.acquire():
            pass
        assert script.calls["ping"] == 1


@virtual_time
async def test_check_never_does_not_ping_and_check_always_pings_each_time():
    async with (script := Script()).pool(check="never", check_after=0) as pool:
        await several(pool, 1)
        await several(pool, 1)
        assert script.calls["ping"] == 0
    async with (script := Script()).pool(check="always") as pool:
        for _ in range(4):
            await several(pool, 1)
        assert script.calls["ping"] == 3


@pytest.mark.parametrize("how", ["raises", "returns False", "hangs"])
@virtual_time
async def test_a_connection_that_fails_its_ping_is_replaced(how):
    async with (script := Script()).pool(check="always", check_timeout=0.02) as pool:
        await several(pool, 1)
        if how == "raises":
            script.fail("ping", OSError("gone"))
        elif how == "returns False":
            script.made[0].answers = False
        else:
            script.hold("ping")
        async with pool.acquire() as lease:
            assert lease.resource.number == 2
        if how == "hangs":
            script.let("ping")
        assert script.made[0].closed


@virtual_time
async def test_after_one_dead_connection_the_idle_ones_are_checked_side_by_side():
    async with (script := Script()).pool(max_size=8, check_after=0) as pool:
        await several(pool, 6)
        number = len(script.made)
        for resource in script.made:
            resource.answers = False
        script.hold("ping")
        caller = asyncio.create_task(several(pool, 1))
        await script.reached("ping")
        script.let("ping")
        script.hold("ping")
        await settle()
        # All the others are being asked at the same time, none after the other.
        assert script.calls["ping"] == number
        script.let("ping")
        await caller
        assert len(script.made) == number + 1


@virtual_time
async def test_recovery_does_not_depend_on_how_many_connections_died():
    for number in (2, 8, 32):
        async with (script := Script()).pool(max_size=number) as pool:
            leases = [await pool.acquire() for _ in range(number)]
            for lease in leases:
                pool.release(lease)
            for resource in script.made:
                resource.dead = True
            async with pool.acquire() as lease:
                assert lease.resource.number == number + 1
            assert script.calls["ping"] == 0


@virtual_time
async def test_check_now_pings_all_idle_connections_and_drops_the_dead():
    async with (script := Script()).pool(max_size=4) as pool:
        leases = [await pool.acquire() for _ in range(4)]
        for lease in leases:
            pool.release(lease)
        script.made[1].answers = False
        await pool.check()
        assert pool.stats().idle == 3
        assert script.made[1].closed
        await assert_whole(pool, script)


@virtual_time
async def test_idle_connections_above_the_minimum_are_closed_after_idle_timeout():
    async with (script := Script()).pool(max_size=4, min_size=1, idle_timeout=0.05) as pool:
        leases = [await pool.acquire() for _ in range(4)]
        for lease in leases:
            pool.release(lease)
        while len(script.alive) > 1:
            await script.reached("close")
        assert pool.stats().size == 1


@virtual_time
async def test_an_old_connection_is_replaced_when_it_is_not_in_use():
    async with (script := Script()).pool(max_size=1, max_lifetime=0.05) as pool:
        async with pool.acquire() as lease:
            await asyncio.sleep(0.06)
            assert not lease.resource.closed
        async with pool.acquire() as lease:
            assert lease.resource.number == 2
        assert script.made[0].closed


@virtual_time
async def test_a_hook_before_each_loan_runs_each_time_and_its_error_reaches_the_caller():
    prepared: list[int] = []
    fails = False

    async def prepare(resource):
        prepared.append(resource.number)
        if fails:
            raise LookupError("not today")

    script = Script()
    async with script.pool(max_size=1, prepare=prepare) as pool:
        for _ in range(3):
            async with pool.acquire():
                pass
        assert prepared == [1, 1, 1]
        fails = True
        with pytest.raises(LookupError, match="not today"):
            await pool.acquire()
        fails = False
        async with pool.acquire() as lease:
            assert lease.resource.number == 2


@virtual_time
async def test_a_hook_before_each_loan_is_no_reason_to_ping():
    async def prepare(resource):
        pass

    for check in ("never", "idle"):
        async with (script := Script()).pool(max_size=1, prepare=prepare, check=check) as pool:
            for _ in range(3):
                await several(pool, 1)
            assert script.calls["ping"] == 0
