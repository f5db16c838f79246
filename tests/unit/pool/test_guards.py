"""Leaks, forks and unruly callables: noticed, named, survived."""

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
)
from tests.unit.pool.scripted import Script, assert_whole, settle, start, waiting
from tests.virtual_time import virtual_time


@virtual_time
async def test_a_connection_held_too_long_is_logged_with_its_origin_and_again_when_it_is_back(
    caplog,
):
    caplog.set_level(logging.WARNING, logger="aiodbkit.pool")
    async with Script().pool(leak_after=60, name="orders") as pool:

        async def hold():
            async with pool.acquire():
                await asyncio.sleep(1000)

        await asyncio.create_task(hold(), name="report-job")
    # Told once, within a quarter of leak_after, and once more at the end.
    first, second = (record.getMessage() for record in caplog.records)
    held = float(first.removeprefix("orders: a connection is held for ").split(" s ")[0])
    assert 60 < held <= 75
    assert "by task 'report-job', longer than leak_after=60 s" in first
    assert "test_guards.py:" in first
    assert ".hold" in first
    assert second == "orders: the connection came back after 1000.0 s"


@virtual_time
async def test_a_connection_given_back_in_time_is_not_logged(caplog):
    async with Script().pool(leak_after=30) as pool:
        async with pool.acquire():
            pass
        pool._report_leaks(1e9)
    assert caplog.records == []


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


@virtual_time
async def test_a_connect_that_is_cancelled_from_inside_is_a_failed_connect():
    script = Script()
    script.fail("connect", asyncio.CancelledError())
    async with script.pool(max_size=1) as pool:
        with pytest.raises(CannotConnectError, match="cancelled from inside"):
            await pool.acquire(timeout=30)
        await assert_whole(pool, script)


@virtual_time
async def test_a_check_for_dirt_that_fails_costs_the_connection_and_no_slot():
    script = Script()
    pool = Pool(script.connect, close=script.close, is_dirty=lambda _: 1 / 0, max_size=1)
    async with pool:
        for number in (1, 2):
            async with pool.acquire() as lease:
                assert lease.resource.number == number


@virtual_time
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


@virtual_time
async def test_the_minimum_is_restored_beside_a_borrowed_connection_without_a_busy_loop():
    script = Script()
    async with script.pool(min_size=2, max_size=3) as pool:
        for _ in range(3):
            async with pool.acquire():
                pass
        async with pool.acquire():
            await pool.expire()
            await asyncio.sleep(10)  # never over, were something asked again without a pause
            assert pool.stats().idle >= 1
        assert script.calls["connect"] <= 5


@virtual_time
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
@virtual_time
async def test_a_timeout_that_is_none_is_refused(timeout):
    async with Script().pool() as pool:
        with pytest.raises(ConfigurationError, match="timeout"):
            pool.acquire(timeout=timeout)
        with pytest.raises(ConfigurationError, match="timeout"):
            await pool.close(timeout=timeout)
