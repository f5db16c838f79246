"""How many connections are opened, and when; in virtual time, to the millisecond."""

from __future__ import annotations

import asyncio

from tests.unit.pool.scripted import Script
from tests.virtual_time import virtual_time


def now():
    return asyncio.get_running_loop().time()


@virtual_time
async def test_twenty_long_jobs_are_served_within_three_connect_times():
    script = Script(connect=0.05)

    async def job(pool):
        async with pool.acquire():
            served.append(now() - began)
            await asyncio.sleep(10)

    async with script.pool(max_size=20) as pool:
        served, began = [], now()
        await asyncio.gather(*(job(pool) for _ in range(20)))
    assert max(served) <= 0.15
