"""How many connections are opened, and when; in virtual time, to the millisecond."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.unit.pool.scripted import Script, about, now
from tests.virtual_time import virtual_time


async def run_jobs(pool, lengths):
    """Run jobs that all ask at once; return when each was served and when it ended."""
    began, served, ended = now(), [], []

    async def job(length):
        async with pool.acquire():
            served.append(now() - began)
            await asyncio.sleep(length)
        ended.append(now() - began)

    await asyncio.gather(*map(job, lengths))
    return served, ended


@virtual_time
async def test_twenty_long_jobs_are_served_within_three_connect_times():
    async with Script(connect=0.05).pool(max_size=20) as pool:
        served, _ = await run_jobs(pool, [10] * 20)
    assert max(served) <= 0.15


@virtual_time
async def test_twenty_long_jobs_are_served_within_three_connect_times_beside_idle_ones():
    async with Script(connect=0.05).pool(min_size=2, max_size=20) as pool:
        await run_jobs(pool, [0.002] * 2)
        served, _ = await run_jobs(pool, [10] * 20)
    assert max(served) <= 0.15


@virtual_time
async def test_a_burst_of_short_jobs_opens_few_connections():
    script = Script(connect=0.15)
    async with script.pool(max_size=10) as pool:
        await run_jobs(pool, [0.002] * 50)
    assert len(script.made) < 7


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", ["even", "long tail"])
@virtual_time
async def test_a_burst_of_uneven_short_jobs_opens_few_connections(shape, seed):
    dice = random.Random(seed)
    script = Script(connect=0.15)
    if shape == "even":
        lengths = [dice.uniform(0.0005, 0.0035) for _ in range(50)]
    else:
        lengths = [dice.expovariate(1 / 0.002) for _ in range(50)]
    async with script.pool(max_size=10) as pool:
        await run_jobs(pool, lengths)
    assert len(script.made) < 7


@virtual_time
async def test_bursts_of_short_jobs_that_come_again_and_again_open_few_connections():
    script = Script(connect=0.15)
    async with script.pool(max_size=10) as pool:
        for _ in range(10):
            await run_jobs(pool, [0.002] * 50)
            await asyncio.sleep(0.1)
    assert len(script.made) < 7


@pytest.mark.parametrize(
    ("min_size", "ends"),
    [
        (2, [0.25, 0.25, 0.35, 0.35, 0.5, 0.5, 0.6, 0.6]),
        (0, [0.35, 0.35, 0.35, 0.35, 0.6, 0.6, 0.6, 0.6]),
    ],
)
@virtual_time
async def test_a_growing_pool_serves_at_the_earliest_time_that_its_size_allows(min_size, ends):
    script = Script(connect=0.1)
    async with script.pool(min_size=min_size, max_size=4) as pool:
        await asyncio.sleep(1)  # past the pause after each success
        _, ended = await run_jobs(pool, [0.25] * 8)
    assert ended == about(ends)
    assert len(script.made) == 4


@virtual_time
async def test_no_more_connections_are_opened_than_there_are_callers():
    script = Script(connect=0.05)
    async with script.pool(max_size=10) as pool:
        await run_jobs(pool, [1.0] * 3)
        assert script.calls["connect"] == 3
        await asyncio.sleep(60)
    assert script.calls["connect"] == 3


@virtual_time
async def test_the_minimum_is_opened_side_by_side():
    began = now()
    async with Script(connect=0.2).pool(min_size=8) as pool:
        assert now() - began == about(0.2)
        assert pool.stats().idle == 8
