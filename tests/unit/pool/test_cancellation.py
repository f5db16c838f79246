"""Cancelled at every turn of the loop, once or by a scope that goes on: no slot is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest

from aiodbkit import PoolClosedError
from tests.unit.pool.scripted import Script, assert_whole, settle, start, waiting

OPTIONS = {
    "plain": {},
    "checked": {"check": "always"},
    "used up": {"max_uses": 1},
}


async def use(pool, dirty, got):
    """One whole use; every await of the caller is in here."""
    async with pool.acquire() as lease:
        got.append(lease.resource.number)
        await asyncio.sleep(0)
        lease.resource.dirty = dirty
        await asyncio.sleep(0)


async def level(pool, dirty, got, scopes):
    with anyio.CancelScope() as scope:
        scopes.append(scope)
        await use(pool, dirty, got)


@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("kind", ["edge", "edge twice", "level"])
async def test_a_use_cancelled_at_any_turn_leaves_the_pool_whole(kind, options, dirty):
    for turn in range(14):
        script = Script()
        async with script.pool(max_size=2, **options) as pool:
            async with pool.acquire() as lease:  # one is there, one has to be opened
                lease.resource.dirty = dirty
            got: list[int] = []
            scopes: list[anyio.CancelScope] = []
            work = level(pool, dirty, got, scopes) if kind == "level" else use(pool, dirty, got)
            others = [asyncio.create_task(use(pool, dirty, got)) for _ in range(2)]
            victim = asyncio.create_task(work)
            more = [asyncio.create_task(use(pool, dirty, got)) for _ in range(2)]
            for _ in range(turn):
                await asyncio.sleep(0)
            if kind == "level":
                for scope in scopes:
                    scope.cancel()
            else:
                delivered = victim.cancel()
                if kind == "edge twice":
                    await asyncio.sleep(0)
                    victim.cancel()
            with suppress(asyncio.CancelledError):
                await victim
            if kind != "level" and delivered:
                assert victim.cancelled()
            await asyncio.gather(*others, *more)
            assert pool.stats().size <= 2
            await assert_whole(pool, script)
        assert script.alive == []


async def test_cancelled_in_the_moment_of_the_hand_off_the_slot_goes_to_the_next_in_line():
    async with (script := Script()).pool(max_size=1) as pool:
        held = await pool.acquire()
        first, second = start(pool.acquire()), start(pool.acquire())
        await waiting(pool, 2)
        pool.release(held)  # the first has its slot from now on, and has not run yet
        first.cancel()
        lease = await second
        assert first.cancelled()
        pool.release(lease)
        await assert_whole(pool, script)


async def test_holders_and_waiters_cancelled_together_lose_nothing():
    async with (script := Script()).pool(max_size=3) as pool:
        got: list[int] = []
        tasks = [asyncio.create_task(use(pool, True, got)) for _ in range(30)]
        for _ in range(5):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert pool.stats().waiting == 0
        await assert_whole(pool, script)


@pytest.mark.parametrize("call", ["connect", "ping", "clean", "close"])
async def test_an_open_cancelled_or_closed_in_the_middle_of_a_call_leaves_nothing(call):
    script = Script()
    pool = script.pool(
        max_size=1, check="always", max_uses=2, reset_timeout=0.02, close_timeout=0.02
    )
    await pool.open()
    if call != "connect":
        async with pool.acquire() as lease:
            lease.resource.dirty = call == "clean"
            if call == "clean":
                script.hold(call)
    if call != "clean":
        script.hold(call)
    caller = asyncio.create_task(use(pool, False, []))
    await script.reached(call)
    caller.cancel()
    await settle()
    await pool.close(timeout=0.01)
    with pytest.raises(PoolClosedError):
        await pool.acquire()
    assert pool.stats().size == 0
    assert script.alive == []


async def test_an_open_that_is_cancelled_leaves_nothing_open():
    script = Script()
    pool = script.pool(min_size=2)
    script.hold("connect")
    opening = start(pool.open())
    await script.reached("connect")
    opening.cancel()
    with suppress(asyncio.CancelledError):
        await opening
    await pool.close()
    assert script.made == []
    assert pool.was_closed
