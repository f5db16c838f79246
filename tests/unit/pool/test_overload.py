"""Too many callers: refused at once by max_waiting, or when the line stands by shed_after."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import PoolOverloadedError
from aiodbkit.pool.shedding import Shedder
from tests.unit.pool.scripted import Script, fill, now, settle, start, waiting
from tests.virtual_time import virtual_time

SIZE, HOLD, TARGET = 5, 0.01, 0.05  # seconds; the capacity is 500 a second


class Load:
    """Callers that come at a rate of their own, whether or not they are served in time."""

    def __init__(self, pool):
        self.pool = pool
        self.waits: list[float] = []  # of those who were served
        self.refused: list[PoolOverloadedError] = []
        self.tasks: list[asyncio.Task] = []

    async def job(self):
        began = now()
        try:
            async with self.pool.acquire():
                self.waits.append(now() - began)
                await asyncio.sleep(HOLD)
        except PoolOverloadedError as error:
            self.refused.append(error)

    def burst(self, number):
        self.tasks += [start(self.job()) for _ in range(number)]

    async def stream(self, rate, seconds):
        until = now() + seconds
        while now() < until:
            self.burst(1)
            await asyncio.sleep(1 / rate)

    async def ended(self):
        await asyncio.gather(*self.tasks)


@virtual_time
async def test_at_twice_the_capacity_waits_stay_near_the_target_and_all_of_it_is_used():
    async with Script().pool(max_size=SIZE, shed_after=TARGET, acquire_timeout=30) as pool:
        load = Load(pool)
        await load.stream(rate=1000, seconds=10)
        served = len(load.waits)
        await load.ended()
        settled = sorted(load.waits[1000:served])  # after the first two seconds
        assert settled[-1] <= 2 * TARGET + HOLD
        assert max(load.waits) < 1
        assert served >= 0.99 * 10 * SIZE / HOLD
        assert len(load.waits) + len(load.refused) == len(load.tasks)
        assert pool.stats().overloads == len(load.refused)
        assert pool.stats().timeouts == 0


@virtual_time
async def test_below_the_capacity_nobody_is_refused():
    async with Script().pool(max_size=SIZE, shed_after=TARGET) as pool:
        load = Load(pool)
        await load.stream(rate=450, seconds=5)
        await load.ended()
        assert load.refused == []


@pytest.mark.parametrize("offset", [0.0, 0.13, 0.44, 0.49])
@virtual_time
async def test_a_burst_that_drains_within_an_interval_sheds_nothing(offset):
    async with Script().pool(max_size=SIZE, shed_after=TARGET) as pool:
        load = Load(pool)
        await pool.resize(min_size=SIZE)
        await settle()
        load.burst(SIZE + 1)  # the first interval begins
        await asyncio.sleep(offset)
        load.burst(200)  # 0.4 s of work for an interval of 0.5 s
        await load.ended()
        assert load.refused == []
        assert max(load.waits) > 0.35


@virtual_time
async def test_a_line_that_was_empty_in_between_does_not_stand():
    async with Script().pool(max_size=SIZE, shed_after=TARGET) as pool:
        load = Load(pool)
        for pause in (0.44, 0.58, 0.5, 0.57):
            load.burst(200)
            await asyncio.sleep(pause)
        await load.ended()
        assert load.refused == []


@virtual_time
async def test_one_who_is_refused_learns_the_pool_the_depth_the_wait_and_the_holders():
    async with Script().pool(max_size=1, shed_after=0.01, name="orders") as pool:

        async def hold():
            async with pool.acquire():
                await asyncio.sleep(5)

        holder = asyncio.create_task(hold(), name="report-job")
        await settle()
        load = Load(pool)
        load.burst(3)
        await load.ended()
        await holder
        text = str(load.refused[0])
    assert text.startswith("orders is overloaded: refused after 0.")
    assert "shed_after=0.01 s" in text
    assert "1 of 1 in use" in text
    assert "waiting" in text
    assert "held by task 'report-job' for 0." in text


def test_a_burst_that_is_served_within_an_interval_sheds_nothing():
    shedder = Shedder(0.05)
    assert shedder.longest_wait(0.0, 0.4) is None
    assert shedder.longest_wait(0.1, 0.01) is None  # short for a moment: no standing queue
    assert shedder.longest_wait(0.6, 0.4) is None


def test_a_queue_that_stands_for_a_whole_interval_sheds_until_one_goes_well():
    shedder = Shedder(0.05)
    for moment in range(6):
        shedder.longest_wait(moment / 10, 0.2)
    assert shedder.longest_wait(0.6, 0.2) == 0.1
    assert shedder.longest_wait(0.7, 0.02) == 0.1
    assert shedder.longest_wait(1.2, 0.02) is None


def test_what_happened_long_ago_does_not_count():
    shedder = Shedder(0.05)
    for moment in range(5):
        shedder.longest_wait(moment / 10, 0.2)
    assert shedder.longest_wait(100.0, 0.2) is None


@virtual_time
async def test_an_overload_is_refused_at_once_with_the_numbers():
    async with Script().pool(max_size=1, max_waiting=2, name="orders") as pool:
        held = await pool.acquire()
        waiters = [start(pool.acquire()) for _ in range(2)]
        await waiting(pool, 2)
        with pytest.raises(PoolOverloadedError, match="orders is overloaded: max_waiting=2"):
            await pool.acquire()
        pool.release(held)
        for waiter in waiters:
            pool.release(await waiter)


@virtual_time
async def test_those_who_were_admitted_are_served_though_later_ones_are_refused():
    async with Script().pool(max_size=1, max_waiting=5) as pool:
        await fill(pool, 1)
        load = Load(pool)
        load.burst(20)
        await load.ended()
        assert len(load.waits) == 6
        assert len(load.refused) == 14
        assert "held by" in str(load.refused[0])


@virtual_time
async def test_those_who_wait_for_a_slow_connect_are_no_overload():
    script = Script(connect=0.3)
    async with script.pool(max_size=4, shed_after=0.01) as pool:
        leases = await asyncio.gather(*(pool.acquire(timeout=5) for _ in range(4)))
        assert pool.stats().overloads == 0
        for lease in leases:
            pool.release(lease)
