"""Tasks that wait for each other's connections are told so, by name."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import PoolTimeoutError
from tests.unit.pool.scripted import Script, about, assert_whole, now, start, waiting
from tests.virtual_time import virtual_time


@virtual_time
async def test_when_every_holder_waits_for_another_connection_the_last_is_told_at_once():
    async with (script := Script()).pool(max_size=2) as pool:
        both_hold = asyncio.Barrier(2)

        async def greedy():
            async with pool.acquire():
                await both_hold.wait()
                async with pool.acquire(timeout=30):
                    pass

        tasks = [asyncio.create_task(greedy(), name=name) for name in ("left", "right")]
        await asyncio.wait(tasks)
        # One is refused and gives its connection back, so the other one is served.
        (error,) = filter(None, (task.exception() for task in tasks))
        assert isinstance(error, PoolTimeoutError)
        assert "deadlock" in str(error)
        assert "'left'" in str(error)
        assert "'right'" in str(error)
        await assert_whole(pool, script)


@virtual_time
async def test_a_task_that_waits_for_itself_is_told_at_once():
    async with Script().pool(max_size=1) as pool, pool.acquire():
        with pytest.raises(PoolTimeoutError, match="deadlock"):
            await pool.acquire(timeout=30)


@virtual_time
async def test_a_holder_that_waits_beside_one_that_works_is_served():
    async with (script := Script()).pool(max_size=2) as pool:
        working = await pool.acquire()

        async def greedy():
            async with pool.acquire(), pool.acquire():
                pass

        task = asyncio.create_task(greedy())
        await waiting(pool, 1)
        await asyncio.create_task(_release(pool, working))
        await task
        await assert_whole(pool, script)


async def _release(pool, lease):
    await pool.release(lease)


@virtual_time
async def test_a_task_that_waits_while_it_holds_a_connection_is_told_so():
    async with Script().pool(max_size=2) as pool:
        other = await start(pool.acquire())
        async with pool.acquire():
            began = now()
            with pytest.raises(PoolTimeoutError, match="while it holds one itself") as caught:
                await pool.acquire(timeout=2)
            assert now() - began == about(2)
            assert repr(asyncio.current_task().get_name()) in str(caught.value)
        pool.release(other)
