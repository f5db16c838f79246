"""What a pool is made of may raise where it must not: that is logged, and costs no slot."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import InterfaceError, Pool
from tests.unit.pool.scripted import Script, assert_whole, settle, start, waiting
from tests.virtual_time import virtual_time


def pool_of_unruly(script, **options):
    """A pool whose ``is_closed`` raises for the resources that are dirty."""

    def is_closed(resource):
        if resource.dirty:
            raise RuntimeError("is_closed is broken")
        return resource.closed

    return Pool(script.connect, close=script.close, is_closed=is_closed, **options)


@virtual_time
async def test_an_idle_resource_whose_is_closed_raises_counts_as_closed(caplog):
    script = Script()
    async with pool_of_unruly(script, max_size=1) as pool:
        async with pool.acquire() as lease:
            lease.resource.dirty = True
        async with pool.acquire(timeout=1) as lease:
            assert lease.resource.number == 2
        assert "is_closed() failed" in caplog.text
        await assert_whole(pool, script)


@virtual_time
async def test_who_waits_for_a_resource_whose_is_closed_raises_is_served_by_another_one(caplog):
    script = Script()
    async with pool_of_unruly(script, max_size=1) as pool:
        lease = await pool.acquire()
        waiter = start(pool.acquire(timeout=1))
        await waiting(pool, 1)
        lease.resource.dirty = True
        pool.release(lease)
        pool.release(await waiter)
        assert "is_closed() failed" in caplog.text
        await assert_whole(pool, script)


def pool_that_cannot_abort(script, **options):
    def abort(_resource):
        raise RuntimeError("abort is broken")

    return Pool(script.connect, close=script.close, abort=abort, **options)


@virtual_time
async def test_an_abort_that_raises_after_a_polite_close_costs_no_slot(caplog):
    script = Script()
    async with pool_that_cannot_abort(script, max_size=1, max_uses=1) as pool:
        for number in (1, 2, 3):
            async with pool.acquire(timeout=1) as lease:
                assert lease.resource.number == number
        assert "abort() failed" in caplog.text


@virtual_time
async def test_an_abort_that_raises_does_not_keep_a_pool_from_closing(caplog):
    script = Script()
    pool = pool_that_cannot_abort(script, max_size=1)
    await pool.open()
    lease = await pool.acquire()
    await pool.close(timeout=1)
    assert pool.was_closed
    assert "abort() failed" in caplog.text
    pool.release(lease)
    async with pool:
        await assert_whole(pool, script)


def test_an_abort_that_raises_does_not_keep_the_next_loop_from_opening(caplog):
    pool = pool_that_cannot_abort(Script(), min_size=1)
    asyncio.run(pool.open())  # never closed

    async def next_life():
        async with pool:
            assert pool.stats().idle == 1

    asyncio.run(next_life())
    assert "abort() failed" in caplog.text


@virtual_time
async def test_an_on_failure_that_raises_hides_no_error_and_costs_no_slot(caplog):
    script = Script()

    def on_failure(_resource, _error):
        raise RuntimeError("on_failure is broken")

    async with Pool(script.connect, on_failure=on_failure, max_size=1) as pool:
        with pytest.raises(ZeroDivisionError), await pool.wait():
            raise ZeroDivisionError
        assert "on_failure() failed" in caplog.text
        await assert_whole(pool, script)


@virtual_time
async def test_a_hook_that_is_cancelled_from_inside_is_an_error_of_its_caller():
    script = Script()

    async def prepare(_resource):
        if len(script.made) < 20:  # so that one who tries again and again comes to an end
            raise asyncio.CancelledError

    async with Pool(script.connect, close=script.close, prepare=prepare) as pool:
        with pytest.raises(InterfaceError, match="cancelled from inside"):
            await pool.acquire(timeout=1)
        await settle()
        assert script.calls["connect"] == 1
        assert pool.stats().size == 0


@virtual_time
async def test_a_hook_that_hangs_names_the_option_that_ended_it():
    script = Script()
    script.hold("prepare")

    async def prepare(_resource):
        await script._play("prepare")

    async with Pool(script.connect, prepare=prepare, max_size=1, check_timeout=3) as pool:
        with pytest.raises(InterfaceError, match=r"within check_timeout=3 s"):
            await pool.acquire()
        script.let("prepare")
        await assert_whole(pool, script)
