"""Closing ends: no admission, waiters fail now, borrowers get their grace, then the cut."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import pytest

from aiodbkit import InterfaceError, PoolClosedError
from tests.unit.pool.scripted import Script, settle, start, waiting


async def test_a_pool_that_was_not_opened_or_was_closed_lends_nothing():
    pool = Script().pool()
    with pytest.raises(PoolClosedError, match="is not open"):
        await pool.acquire()
    async with pool:
        pass
    with pytest.raises(PoolClosedError, match="was closed"):
        await pool.acquire()


async def test_a_closed_pool_can_be_opened_again():
    script = Script()
    pool = script.pool()
    for number in (1, 2):
        async with pool, pool.acquire() as lease:
            assert lease.resource.number == number


async def test_closing_closes_idle_connections_politely():
    script = Script()
    async with script.pool(min_size=3):
        pass
    assert script.calls["close"] == 3
    assert script.alive == []


async def test_those_who_wait_fail_at_once_while_a_borrower_gets_its_grace():
    script = Script()
    pool = script.pool(max_size=1)
    await pool.open()
    lease = await pool.acquire()
    waiter = start(pool.acquire())
    await waiting(pool, 1)
    closing = start(pool.close(timeout=30))
    with pytest.raises(PoolClosedError, match="was closed"):
        await waiter
    with pytest.raises(PoolClosedError):
        await pool.acquire()
    assert not lease.resource.closed
    pool.release(lease)
    await closing
    assert script.alive == []


async def test_a_borrower_that_stays_is_cut_and_told_so():
    script = Script()
    pool = script.pool()
    await pool.open()
    lease = await pool.acquire()
    await pool.close(timeout=0.01)
    assert script.alive == []
    with pytest.raises(InterfaceError, match="cut"):
        lease.resource  # noqa: B018 - looking is what is refused
    await pool.release(lease)


async def test_closing_twice_or_from_two_tasks_is_one_closing():
    script = Script()
    pool = script.pool(min_size=2)
    await pool.open()
    await asyncio.gather(pool.close(), pool.close())
    await pool.close()
    assert script.calls["close"] == 2


async def test_closing_goes_on_when_its_caller_is_cancelled():
    script = Script()
    pool = script.pool(min_size=2)
    await pool.open()
    script.hold("close")
    closing = start(pool.close())
    await script.reached("close")
    closing.cancel()
    await settle()
    assert closing.cancelled()
    script.let("close")
    await pool.close()
    assert script.alive == []


async def test_connects_in_flight_are_given_up_when_the_pool_closes():
    script = Script()
    pool = script.pool()
    await pool.open()
    script.hold("connect")
    waiter = start(pool.acquire())
    await script.reached("connect")
    await pool.close()
    assert isinstance(waiter.exception(), PoolClosedError)
    assert script.made == []
    assert pool.stats().size == 0


async def test_a_hung_close_or_clean_does_not_keep_the_pool_from_closing():
    script = Script()
    pool = script.pool(max_size=2, close_timeout=0.02, reset_timeout=0.02)
    await pool.open()
    leases = [await pool.acquire(), await pool.acquire()]
    leases[0].resource.dirty = True
    script.hold("clean")
    script.hold("close")
    for lease in leases:
        pool.release(lease)
    await pool.close(timeout=0.01)
    assert pool.stats().size == 0


def test_a_forgotten_close_does_not_hang_the_end_of_the_loop():
    program = """
        import asyncio
        from aiodbkit import Pool

        async def connect():
            if opened:
                await asyncio.Event().wait()  # a server that never answers
            opened.append(True)
            return object()

        opened = []

        async def main():
            pool = Pool(connect, max_size=2)
            await pool.open()
            lease = await pool.acquire()
            asyncio.ensure_future(pool.wait())
            await asyncio.sleep(0.01)
            lease._leave()

        asyncio.run(main())
        print("ended")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.stdout == "ended\n", result.stderr


def test_a_pool_left_open_by_a_loop_that_has_ended_starts_anew_in_the_next():
    script = Script()
    pool = script.pool()

    async def use():
        await pool.open()
        async with pool.acquire() as lease:
            return lease.resource.number

    assert asyncio.run(use()) == 1
    assert asyncio.run(use()) == 2


async def test_a_pool_of_another_loop_that_can_still_run_is_refused():
    pool = Script().pool()
    other = asyncio.new_event_loop()
    try:
        await asyncio.to_thread(other.run_until_complete, pool.open())
        with pytest.raises(InterfaceError, match="another event loop"):
            await pool.acquire()
        with pytest.raises(InterfaceError, match="another event loop"):
            await pool.open()
        await asyncio.to_thread(other.run_until_complete, pool.close())
    finally:
        other.close()
