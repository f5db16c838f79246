"""Deadlocks, leaks, overloads and forks: noticed, named, survived."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import pytest

from aiodbkit import (
    CannotConnectError,
    ConfigurationError,
    Pool,
    PoolOverloadedError,
    PoolTimeoutError,
)
from aiodbkit.pool.shedding import Shedder
from tests.unit.pool.scripted import Script, assert_whole, settle, start, waiting


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


async def test_a_task_that_waits_for_itself_is_told_at_once():
    async with Script().pool(max_size=1) as pool, pool.acquire():
        with pytest.raises(PoolTimeoutError, match="deadlock"):
            await pool.acquire(timeout=30)


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


async def test_a_connection_held_too_long_is_logged_with_its_origin_and_again_when_it_is_back(
    caplog,
):
    caplog.set_level(logging.WARNING, logger="aiodbkit.pool")
    async with Script().pool(leak_after=0.01, name="orders") as pool, pool.acquire():
        while not caplog.records:
            await asyncio.sleep(0.01)
    first, second = (record.getMessage() for record in caplog.records)
    assert "orders: a connection is held for" in first
    assert "test_guards.py:" in first
    assert "came back after" in second


async def test_a_connection_given_back_in_time_is_not_logged(caplog):
    async with Script().pool(leak_after=30) as pool:
        async with pool.acquire():
            pass
        pool.report_leaks(1e9)
    assert caplog.records == []


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


async def test_an_overloaded_pool_refuses_those_who_waited_too_long_and_says_why():
    async with Script().pool(max_size=1, shed_after=0.01, name="orders") as pool:
        held = await pool.acquire()
        waiters = [start(pool.acquire(timeout=30)) for _ in range(3)]
        done, _ = await asyncio.wait(waiters, return_when=asyncio.FIRST_EXCEPTION)
        error = done.pop().exception()
        assert isinstance(error, PoolOverloadedError)
        assert "orders is overloaded: refused after" in str(error)
        assert "shed_after=0.01 s" in str(error)
        pool.release(held)
        for waiter in waiters:
            if not waiter.done() or waiter.exception() is None:
                pool.release(await waiter)
        await settle()
        assert pool.stats().overloads >= 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_a_forked_child_starts_with_an_empty_pool_and_leaves_its_parents_alone():
    script = Script()
    async with script.pool(min_size=2) as pool:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            stats = pool.stats()
            ok = (stats.size, stats.idle, pool._loop) == (0, 0, None)
            ok = ok and script.calls["close"] == 0
            os._exit(0 if ok else 1)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        await assert_whole_of_two(pool)


async def assert_whole_of_two(pool):
    async with pool.acquire() as one, pool.acquire() as two:
        assert {one.resource.number, two.resource.number} == {1, 2}


async def test_a_connect_that_is_cancelled_from_inside_is_a_failed_connect():
    script = Script()
    script.fail("connect", asyncio.CancelledError())
    async with script.pool(max_size=1) as pool:
        with pytest.raises(CannotConnectError, match="cancelled from inside"):
            await pool.acquire(timeout=30)
        await assert_whole(pool, script)


async def test_a_check_for_dirt_that_fails_costs_the_connection_and_no_slot():
    script = Script()
    pool = Pool(script.connect, close=script.close, is_dirty=lambda _: 1 / 0, max_size=1)
    async with pool:
        for number in (1, 2):
            async with pool.acquire() as lease:
                assert lease.resource.number == number


async def test_a_pool_that_shrinks_while_it_connects_keeps_to_its_new_size():
    script = Script()
    async with script.pool(max_size=5) as pool:
        script.hold("connect")
        callers = [start(pool.acquire()) for _ in range(5)]
        await waiting(pool, 5)
        await pool.resize(max_size=2)
        script.let("connect")
        for caller in callers:
            pool.release(await caller)
        await settle()
        assert pool.stats().size <= 2


async def test_the_minimum_is_restored_beside_a_borrowed_connection_without_a_busy_loop():
    script = Script()
    async with script.pool(min_size=2, max_size=3) as pool:
        for _ in range(3):
            async with pool.acquire():
                pass
        async with pool.acquire():
            await pool.expire()
            while pool.stats().idle < 1:
                await asyncio.sleep(0.001)
            assert pool._dispatch_timer is None or pool._dispatch_timer.cancelled()


async def test_a_close_that_will_not_be_cancelled_does_not_keep_the_pool_from_closing():
    stuck = asyncio.Event()

    async def close(resource):
        while not stuck.is_set():
            try:
                await stuck.wait()
            except asyncio.CancelledError:
                pass

    pool = Pool(Script().connect, close=close, close_timeout=0.01)
    await pool.open()
    async with pool.acquire():
        pass
    await pool.close(timeout=0.01)
    assert pool.was_closed
    stuck.set()
    await settle()


@pytest.mark.parametrize("timeout", ["2", float("nan"), -1, True])
async def test_a_timeout_that_is_none_is_refused(timeout):
    async with Script().pool() as pool:
        with pytest.raises(ConfigurationError, match="timeout"):
            pool.acquire(timeout=timeout)
        with pytest.raises(ConfigurationError, match="timeout"):
            await pool.close(timeout=timeout)
