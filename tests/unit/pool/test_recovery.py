"""After a restart of the server: one connect and one round trip, however many died."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.pool.scripted import Script, about, assert_whole, fill, now, start
from tests.virtual_time import virtual_time

CONNECT, PING = 0.05, 0.001
SIZES = [2, 8, 32]


async def first_acquire(pool):
    """Return how long the first caller waits for a live connection."""
    began = now()
    async with pool.acquire() as lease:
        assert not lease.resource.dead
        assert lease.resource.answers
        return now() - began


@pytest.mark.parametrize("number", SIZES)
@virtual_time
async def test_deaths_that_the_driver_knows_of_cost_one_connect(number):
    script = Script(connect=CONNECT, ping=PING)
    async with script.pool(max_size=number) as pool:
        await fill(pool, number)
        script.kill()
        assert await first_acquire(pool) == about(CONNECT)
        assert script.calls["connect"] == number + 1
        assert script.calls["ping"] == 0
        assert pool.stats().size == 1


@pytest.mark.parametrize("number", SIZES)
@virtual_time
async def test_deaths_that_only_a_ping_finds_cost_one_connect_and_one_round_trip(number):
    script = Script(connect=CONNECT, ping=PING)
    async with script.pool(max_size=number, check="always") as pool:
        await fill(pool, number)
        script.kill(unnoticed=True)
        assert await first_acquire(pool) <= CONNECT + PING + 1e-6
        await asyncio.sleep(1)
        assert script.calls["ping"] == number
        assert script.calls["connect"] == number + 1


@pytest.mark.parametrize("number", SIZES)
@virtual_time
async def test_pings_that_hang_cost_check_timeout_once(number):
    script = Script(connect=CONNECT, ping=PING)
    async with script.pool(max_size=number, check="always", check_timeout=2) as pool:
        await fill(pool, number)
        script.kill(unnoticed=True)
        script.hold("ping")
        # In a full pool: until a slot is free, and another check has shown to be slow as well.
        assert await first_acquire(pool) <= 2 + 3 * CONNECT + 1e-6


@virtual_time
async def test_one_known_death_makes_the_idle_ones_suspects_that_are_asked_side_by_side():
    script = Script(connect=CONNECT, ping=PING)
    async with script.pool(max_size=8) as pool:
        await fill(pool, 8)
        script.kill(unnoticed=True)
        script.made[0].dead = True  # lent next: the stack's top is the last one given back
        for resource in script.made:
            resource.dead = True
            if resource.number < 8:
                resource.dead = False
        # Fresh as they are, none of the half-open ones is lent.
        assert await first_acquire(pool) <= CONNECT + PING + 1e-6


@virtual_time
async def test_many_callers_after_a_restart_are_served_in_order():
    script = Script(connect=CONNECT, ping=PING)
    order: list[int] = []

    async def caller(pool, number):
        async with pool.acquire():
            order.append(number)
            await asyncio.sleep(0.01)

    async with script.pool(max_size=8, check="always") as pool:
        await fill(pool, 8)
        script.kill(unnoticed=True)
        await asyncio.gather(*(caller(pool, number) for number in range(40)))
    assert order == list(range(40))


@virtual_time
async def test_one_dead_connection_does_not_cost_the_live_ones():
    script = Script(connect=CONNECT, ping=PING)
    async with script.pool(max_size=8, check="always") as pool:
        await fill(pool, 8)
        script.made[-1].answers = False
        assert await first_acquire(pool) <= CONNECT + PING + 1e-6
        await asyncio.sleep(1)
        assert [resource for resource in script.made[:8] if resource.closed] == [script.made[7]]


@virtual_time
async def test_a_connection_that_dies_in_use_makes_the_idle_ones_suspects():
    script = Script(connect=CONNECT, ping=PING)
    async with script.pool(max_size=4) as pool:
        await fill(pool, 4)
        waiter = None
        async with pool.acquire() as lease:
            script.kill(unnoticed=True)
            lease.resource.dead = True
            held = [await pool.acquire() for _ in range(3)]
            waiter = start(pool.acquire())
            await asyncio.sleep(0)
        # The dead one's return opens a new one for the waiter.
        assert (await waiter).resource.number == 5
        pool.release(await waiter)
        for lease in held:
            pool.release(lease)


@virtual_time
async def test_a_ping_into_a_black_hole_delays_a_caller_by_little_more_than_a_connect():
    script = Script(connect=0.04)
    async with script.pool(max_size=2, check="always", check_timeout=5) as pool:
        await fill(pool, 1)
        script.hold("ping")
        began = now()
        async with pool.acquire() as lease:
            assert lease.resource.number == 2
            assert now() - began == about(0.08 + 0.04)
        await asyncio.sleep(6)
        script.let("ping")
        assert script.made[0].closed
        await assert_whole(pool, script)
