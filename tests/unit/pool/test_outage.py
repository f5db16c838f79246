"""While the server is away: one prober, the reason for those who wait, a gentle start after."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from itertools import pairwise

import pytest

from aiodbkit import CannotConnectError, PoolTimeoutError, RetryPolicy
from tests.unit.pool.scripted import Script, about, assert_whole, fill, now, start
from tests.virtual_time import virtual_time

REFUSED = ConnectionRefusedError("restarting")


async def use(pool, seconds=0.0):
    async with pool.acquire():
        await asyncio.sleep(seconds)


async def caller(pool, until, dice, is_dirty):
    """Come again and again, as a busy service does."""
    while now() < until:
        with suppress(PoolTimeoutError, ConnectionRefusedError):
            async with pool.acquire(timeout=1) as lease:
                await asyncio.sleep(dice.uniform(0.001, 0.02))
                lease.resource.dirty = is_dirty


async def outage(script, pool, *, seconds=10.0, seed, callers=50, is_dirty=False):
    """Let callers work for a second, then kill the server for a while; return the attempts."""
    dice = random.Random(seed)
    began = now() + 1.0
    tasks = [start(caller(pool, began + seconds, dice, is_dirty)) for _ in range(callers)]
    await asyncio.sleep(began - now())
    before = script.calls["connect"]
    script.kill()
    script.broken["connect"] = REFUSED
    await asyncio.sleep(seconds)
    attempts = script.calls["connect"] - before
    del script.broken["connect"]
    await asyncio.wait(tasks)
    return attempts


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("connect_takes", [0.0, 0.05])
@pytest.mark.parametrize("is_dirty", [False, True])
@virtual_time
async def test_ten_seconds_of_refused_connects_make_at_most_fifteen_attempts(
    is_dirty, connect_takes, seed
):
    random.seed(seed)
    script = Script(connect=connect_takes)
    async with script.pool(max_size=10) as pool:
        assert await outage(script, pool, seed=seed, is_dirty=is_dirty) <= 15
        await assert_whole(pool, script)


@pytest.mark.parametrize("is_dirty", [False, True])
@virtual_time
async def test_a_big_pool_makes_no_more_attempts_than_a_small_one(is_dirty):
    random.seed(1)
    script = Script(connect=0.02)
    async with script.pool(max_size=40) as pool:
        assert await outage(script, pool, seed=1, callers=80, is_dirty=is_dirty) <= 15


@pytest.mark.parametrize("seed", range(4))
@virtual_time
async def test_connects_that_hang_make_few_attempts_too(seed):
    random.seed(seed)
    script = Script(connect=0.02)
    async with script.pool(max_size=10, connect_timeout=0.5) as pool:
        tasks = [start(caller(pool, now() + 11, random.Random(seed), False)) for _ in range(50)]
        await asyncio.sleep(1)
        before = script.calls["connect"]
        script.kill()
        script.hold("connect")
        await asyncio.sleep(10)
        assert script.calls["connect"] - before <= 15
        script.let("connect")
        await asyncio.wait(tasks)
        await asyncio.sleep(6)
        await assert_whole(pool, script)


@virtual_time
async def test_those_who_wait_for_a_connect_that_hangs_fail_at_their_own_deadline():
    script = Script()
    async with script.pool(max_size=4, connect_timeout=0.4) as pool:
        await fill(pool, 1)
        script.kill()
        script.hold("connect")
        began = now()
        with pytest.raises(PoolTimeoutError) as caught:
            await pool.acquire(timeout=1)
        assert now() - began == about(1)
        assert isinstance(caught.value.__cause__, CannotConnectError)
        assert "connect_timeout=0.4 s" in str(caught.value)
        script.let("connect")


@virtual_time
async def test_an_outage_makes_few_attempts_and_its_reason_reaches_those_who_wait():
    script = Script()
    async with script.pool(max_size=4) as pool:
        await fill(pool, 1)
        script.kill()
        script.broken["connect"] = REFUSED
        began = now()
        callers = [start(pool.acquire(timeout=0.3)) for _ in range(20)]
        await asyncio.wait(callers)
        assert now() - began == about(0.3)
        assert script.calls["connect"] < 10
        for each in callers:
            error = each.exception()
            assert isinstance(error, PoolTimeoutError)
            assert error.__cause__ is REFUSED
            assert "restarting" in str(error)
        del script.broken["connect"]
        await assert_whole(pool, script)


@virtual_time
async def test_an_error_does_not_blame_an_outage_that_is_over():
    script = Script()
    async with script.pool(max_size=1) as pool:
        await fill(pool, 1)
        script.kill()
        script.fail("connect", REFUSED)
        async with pool.acquire():
            with pytest.raises(PoolTimeoutError) as caught:
                await start(pool.acquire(timeout=1))
        assert caught.value.__cause__ is None
        assert "restarting" not in str(caught.value)


@virtual_time
async def test_connect_retry_sets_the_pace():
    script = Script()
    policy = RetryPolicy(backoff=0.5, max_backoff=3, jitter=False)
    async with script.pool(max_size=1, connect_retry=policy) as pool:
        await fill(pool, 1)
        script.kill()
        script.broken["connect"] = REFUSED
        began = now()
        with pytest.raises(PoolTimeoutError):
            await pool.acquire(timeout=12)
        attempts = [instant - began for instant in script.instants["connect"][1:]]
        assert attempts == about([0, 0.5, 1.5, 3.5, 6.5, 9.5])


@virtual_time
async def test_jitter_shortens_a_pause_by_half_at_most():
    script = Script()
    policy = RetryPolicy(backoff=1, max_backoff=1)
    async with script.pool(max_size=1, connect_retry=policy) as pool:
        await fill(pool, 1)
        script.kill()
        script.broken["connect"] = REFUSED
        with pytest.raises(PoolTimeoutError):
            await pool.acquire(timeout=20)
    first, *more = script.instants["connect"][1:]
    pauses = [later - earlier for earlier, later in pairwise([first, *more])]
    assert min(pauses) >= 0.5
    assert max(pauses) <= 1 + 1e-6
    assert len(set(pauses)) > 1


@virtual_time
async def test_nobody_probes_a_server_for_whom_nobody_waits():
    script = Script()
    async with script.pool(max_size=2) as pool:
        await fill(pool, 1)
        script.kill()
        script.broken["connect"] = REFUSED
        with pytest.raises(PoolTimeoutError):
            await pool.acquire(timeout=1)
        before = script.calls["connect"]
        await asyncio.sleep(3600)
        assert script.calls["connect"] <= before + 1


@virtual_time
async def test_connects_that_fail_together_are_one_failure():
    script = Script(connect=0.05)
    policy = RetryPolicy(backoff=0.1, jitter=False)
    async with script.pool(max_size=6, connect_retry=policy) as pool:
        await fill(pool, 6)
        script.kill()
        script.fail("connect", *[REFUSED] * 6)  # away for a moment only
        began = now()
        await asyncio.gather(*(use(pool) for _ in range(6)))
        # Six connects of 50 ms failed, then after a pause of 100 ms the prober got through.
        assert now() - began == about(0.05 + 0.1 + 0.05)


@virtual_time
async def test_the_retries_of_a_first_connect_are_not_used_up_by_callers_side_by_side():
    script = Script(connect=0.05)
    policy = RetryPolicy(max_retries=1, backoff=0.1, jitter=False)
    script.fail("connect", *[REFUSED] * 6)
    async with script.pool(max_size=6, connect_retry=policy) as pool:
        await asyncio.gather(*(use(pool) for _ in range(6)))


@virtual_time
async def test_after_an_outage_growth_restarts_with_one_then_two_then_four():
    script = Script(connect=0.05)
    policy = RetryPolicy(backoff=0.1, jitter=False)
    async with script.pool(max_size=7, connect_retry=policy) as pool:
        await fill(pool, 1)
        script.kill()
        script.fail("connect", *[REFUSED] * 6)  # the wave that finds it out
        await asyncio.gather(*(use(pool, 1.0) for _ in range(40)))
        begun = Counter(round(instant, 3) for instant in script.instants["connect"])
        assert list(begun.values())[-3:] == [1, 2, 4]


@virtual_time
async def test_never_more_than_one_connect_is_in_flight_during_an_outage():
    script = Script(connect=0.05)
    async with script.pool(max_size=10) as pool:
        await fill(pool, 10)
        script.kill()
        script.broken["connect"] = REFUSED
        callers = [start(pool.acquire(timeout=20)) for _ in range(30)]
        await asyncio.wait(callers)
        instants = script.instants["connect"]
    # The wave that found out is first; after it each attempt stands alone.
    later = [instant for instant in instants if instant > instants[10] + 0.05]
    assert len(later) >= 2
    assert all(b - a >= 0.05 for a, b in pairwise(later))


@virtual_time
async def test_a_returned_connection_serves_while_connects_fail():
    script = Script()
    async with script.pool(max_size=2) as pool:
        held = await pool.acquire()
        script.broken["connect"] = REFUSED
        began = now()
        waiter = start(pool.acquire(timeout=10))
        await asyncio.sleep(0.25)
        pool.release(held)
        assert (await waiter).resource.number == 1
        assert now() - began == about(0.25)
        pool.release(await waiter)
