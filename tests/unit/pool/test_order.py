"""First come, first served; a waiter keeps its place; nobody overtakes."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.unit.pool.scripted import Script, fill, now, settle, start, waiting
from tests.virtual_time import virtual_time


async def served(pool, order, name):
    async with pool.acquire():
        order.append(name)
        await settle()


@virtual_time
async def test_waiters_are_served_in_the_order_in_which_they_came():
    order: list[int] = []
    async with Script().pool(max_size=1) as pool:
        first = await pool.acquire()
        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(served(pool, order, number)))
            await waiting(pool, number + 1)
        pool.release(first)
        await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


@virtual_time
async def test_a_newcomer_does_not_overtake_a_waiter_that_was_just_served():
    order: list[str] = []
    async with Script().pool(max_size=1) as pool:
        first = await pool.acquire()
        waiter = asyncio.create_task(served(pool, order, "waiter"))
        await waiting(pool, 1)
        pool.release(first)
        # The waiter has not run yet, and the newcomer asks before it does.
        await served(pool, order, "newcomer")
        await waiter
    assert order == ["waiter", "newcomer"]


@virtual_time
async def test_a_task_that_acquires_again_and_again_starves_nobody():
    order: list[str] = []

    async def greedy(pool):
        for _ in range(20):
            await served(pool, order, "greedy")

    async with Script().pool(max_size=1) as pool:
        first = await pool.acquire()
        greed = asyncio.create_task(greedy(pool))
        await waiting(pool, 1)
        modest = asyncio.create_task(served(pool, order, "modest"))
        await waiting(pool, 2)
        pool.release(first)
        await asyncio.gather(greed, modest)
    assert order.index("modest") == 1


@virtual_time
async def test_the_most_recently_used_connection_is_lent_first():
    async with Script().pool(max_size=3) as pool:
        leases = await asyncio.gather(*(pool.acquire() for _ in range(3)))
        last = leases[1].resource
        for lease in (leases[0], leases[2], leases[1]):
            pool.release(lease)
        async with pool.acquire() as lease:
            assert lease.resource is last


@virtual_time
async def test_a_waiter_keeps_its_place_through_a_failed_check():
    script = Script()
    order: list[str] = []
    async with script.pool(max_size=1, check="always") as pool:
        async with pool.acquire() as lease:
            lease.resource.answers = False
        script.hold("ping")
        first = asyncio.create_task(served(pool, order, "first"))
        await script.reached("ping")
        second = asyncio.create_task(served(pool, order, "second"))
        await waiting(pool, 2)
        script.let("ping")
        await asyncio.gather(first, second)
    assert order == ["first", "second"]
    assert len(script.made) == 2


@virtual_time
async def test_a_waiter_keeps_its_place_through_a_failed_connect_when_others_are_in_use():
    script = Script()
    order: list[str] = []
    async with script.pool(max_size=2) as pool:
        held = await pool.acquire()
        script.fail("connect", ConnectionRefusedError("gone for a moment"))
        first = asyncio.create_task(served(pool, order, "first"))
        second = asyncio.create_task(served(pool, order, "second"))
        await waiting(pool, 2)
        await script.reached("connect")
        await settle()
        pool.release(held)
        await asyncio.gather(first, second)
    assert order == ["first", "second"]


@virtual_time
async def test_a_waiter_that_timed_out_does_not_swallow_the_connection():
    async with Script().pool(max_size=1) as pool:
        held = await pool.acquire()
        impatient = start(pool.acquire(timeout=0))
        patient = start(pool.acquire(timeout=30))
        await waiting(pool, 1)
        pool.release(held)
        pool.release(await patient)
        assert isinstance(impatient.exception(), TimeoutError)


@pytest.mark.parametrize("seed", range(3))
@virtual_time
async def test_sixty_tasks_over_five_connections_wait_alike(seed):
    dice = random.Random(seed)
    waits: list[float] = []

    async def work(pool, until):
        while now() < until:
            asked = now()
            async with pool.acquire():
                waits.append(now() - asked)
                await asyncio.sleep(dice.uniform(0.0025, 0.0075))

    async with Script().pool(max_size=5) as pool:
        await asyncio.gather(*(work(pool, now() + 3) for _ in range(60)))
    waits = sorted(waits[60:])  # without the first round, in which the line is formed
    p50, p99 = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
    assert len(waits) > 2500
    assert p99 / p50 <= 1.3
    assert waits[0] > 0.5 * p50  # and nobody was let in before others


@virtual_time
async def test_a_newcomer_does_not_overtake_while_a_connection_is_checked_or_opened():
    script = Script(connect=0.2, ping=0.2)
    order: list[str] = []
    async with script.pool(max_size=1, check="always") as pool:
        await fill(pool, 1)
        script.made[0].answers = False
        first = asyncio.create_task(served(pool, order, "first"))
        newcomers = []
        for number in range(5):  # some come during the ping, some during the connect
            await asyncio.sleep(0.07)
            newcomers.append(asyncio.create_task(served(pool, order, f"newcomer {number}")))
        await asyncio.gather(first, *newcomers)
    assert order == ["first"] + [f"newcomer {number}" for number in range(5)]
