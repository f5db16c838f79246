"""Callers that go about it in an unusual way are served, or told what is wrong."""

from __future__ import annotations

import asyncio
import sys
import warnings

import pytest

from aiodbkit import (
    ConfigurationError,
    InterfaceError,
    Pool,
    PoolOverloadedError,
    PoolTimeoutError,
)
from aiodbkit.options import PoolOptions, RetryPolicy
from tests.unit.pool.scripted import Script, about, assert_whole, fill, now, settle, start, waiting
from tests.unit.scripted_driver import ScriptedEngine, Server
from tests.virtual_time import virtual_time

# Options


def test_a_lifetime_of_nothing_is_refused_by_name():
    with pytest.raises(ConfigurationError, match="max_lifetime"):
        Script().pool(max_lifetime=0)


def test_options_and_keywords_are_both_applied():
    pool = Pool(Script().connect, options=PoolOptions(min_size=2, name="orders"), max_size=3)
    assert (pool.name, pool.min_size, pool.max_size) == ("orders", 2, 3)


@pytest.mark.parametrize("options", [None, PoolOptions()])
def test_a_keyword_that_nobody_knows_is_refused(options):
    with pytest.raises(TypeError, match="max_sice"):
        Pool(Script().connect, options=options, max_sice=3)


async def test_a_number_beyond_all_floats_is_no_timeout():
    async with Script().pool() as pool:
        with pytest.raises(ConfigurationError, match="timeout"):
            pool.acquire(timeout=10**400)
    with pytest.raises(ConfigurationError, match="acquire_timeout"):
        Script().pool(acquire_timeout=10**400)


# Leases


@pytest.mark.parametrize("must_wait", [False, True])
@virtual_time
async def test_one_acquire_serves_one_block_and_the_second_one_is_refused(must_wait):
    script = Script(connect=1)
    async with script.pool(max_size=2) as pool:
        if not must_wait:
            await fill(pool, 2)
        shared = pool.acquire()

        async def use():
            async with shared:
                await asyncio.sleep(1)

        first, second = await asyncio.gather(use(), use(), return_exceptions=True)
        assert first is None
        assert isinstance(second, InterfaceError)
        assert "call acquire() for each block" in str(second)
        await assert_whole(pool, script)


@virtual_time
async def test_an_acquire_whose_wait_was_in_vain_can_be_entered_again():
    async with Script().pool(max_size=1) as pool:
        held = await pool.acquire()
        again = pool.acquire(timeout=1)
        with pytest.raises(PoolTimeoutError):
            async with again:
                pass
        pool.release(held)
        async with again as lease:
            assert lease.resource.number == 1


@virtual_time
async def test_a_forgotten_lease_comes_back_although_warnings_are_errors(monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: unraisable.append(type(it.exc_value)))
    script = Script()
    async with script.pool(max_size=1) as pool:

        async def forget():
            await pool.acquire()

        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            await forget()
        assert unraisable == [ResourceWarning]
        await assert_whole(pool, script)


@virtual_time
async def test_rows_that_another_task_reads_to_their_end_are_no_deadlock():
    async with ScriptedEngine(Server(), max_size=1) as db:
        rows = db.iterate("numbers", batch_size=2).__aiter__()
        await anext(rows)

        async def read_on():
            return len([row async for row in rows])

        reader = start(read_on())
        assert await db.fetch_val("number", timeout=5) == 1
        assert await reader == 9


# Draining and resizing


@virtual_time
async def test_who_drains_a_pool_and_holds_a_connection_of_it_is_told_so_at_once():
    async with Script().pool(max_size=2) as pool, pool.acquire():
        began = now()
        async with asyncio.timeout(60):
            with pytest.raises(InterfaceError, match="this task holds itself"):
                await pool.drain()
        assert now() == began
        with pytest.raises(PoolTimeoutError):  # with a bound it may be tried
            await pool.drain(timeout=3)
        assert now() - began == about(3)


@pytest.mark.parametrize("work", ["clean", "ping"])
@virtual_time
async def test_a_pool_that_shrinks_while_its_connections_are_worked_on_keeps_as_many_as_it_may(
    work,
):
    script = Script()
    async with script.pool(max_size=10) as pool:
        leases = [await pool.acquire() for _ in range(10)]
        script.hold(work)
        script.hold("close")
        for lease in leases:
            lease.resource.dirty = work == "clean"
            pool.release(lease)
        checking = start(pool.check())
        await settle()
        await pool.resize(max_size=5)
        script.let(work)
        await checking
        await settle()
        script.let("close")
        await settle()
        assert (pool.stats().size, pool.stats().idle) == (5, 5)
        await assert_whole(pool, script)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks begin later on this Python")
@virtual_time
async def test_with_eager_tasks_connections_are_renewed_as_with_others():
    script = Script(connect=1)
    async with script.pool(max_size=3, min_size=1, max_lifetime=10, acquire_timeout=1) as pool:
        script.times.clear()  # connects take no time from now on: eager tasks end where they begin
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        for _ in range(50):
            await asyncio.sleep(1)
            async with pool.acquire():
                assert pool.stats().in_use == 1
        assert 5 <= script.calls["connect"] <= 20
        assert len(script.alive) == pool.stats().size == pool.stats().idle
        await assert_whole(pool, script)


# What is said


class Unsorted(float):
    """A time that nobody may sort: thousands of refusals in a second must cost little."""

    def __lt__(self, other):
        raise AssertionError("the times were sorted")


@virtual_time
async def test_a_refusal_does_not_sort_the_times_of_the_past():
    async with Script().pool(max_size=1, max_waiting=1) as pool, pool.acquire():
        waiter = start(pool.acquire(timeout=3))
        await waiting(pool, 1)
        for times in (pool._wait_times, pool._hold_times, pool._keeper.connect_times):
            times.extend([Unsorted(1), Unsorted(2)])
        with pytest.raises(PoolOverloadedError, match="1 waiting"):
            await asyncio.create_task(pool.acquire()._hand_out())
        with pytest.raises(PoolTimeoutError, match="1 of 1 in use"):
            await waiter


@virtual_time
async def test_a_failure_without_text_is_named_by_its_type():
    script = Script()
    script.broken["connect"] = OSError()
    async with script.pool(connect_retry=RetryPolicy(max_retries=100)) as pool:
        with pytest.raises(PoolTimeoutError, match=r"attempt to connect failed: OSError\(\)"):
            await pool.acquire(timeout=1)
