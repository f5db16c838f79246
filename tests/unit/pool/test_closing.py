"""Closing ends: no admission, waiters fail now, borrowers get their grace, then the cut."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import pytest

from aiodbkit import InterfaceError, PoolClosedError
from tests.unit.pool.scripted import Script, about, assert_whole, fill, now, settle, start, waiting
from tests.virtual_time import virtual_time


@virtual_time
async def test_a_pool_that_was_not_opened_or_was_closed_lends_nothing():
    pool = Script().pool()
    with pytest.raises(PoolClosedError, match="is not open"):
        await pool.acquire()
    async with pool:
        pass
    with pytest.raises(PoolClosedError, match="was closed"):
        await pool.acquire()


@virtual_time
async def test_a_closed_pool_can_be_opened_again():
    script = Script()
    pool = script.pool()
    for number in (1, 2):
        async with pool, pool.acquire() as lease:
            assert lease.resource.number == number


@virtual_time
async def test_closing_closes_idle_connections_politely():
    script = Script()
    async with script.pool(min_size=3):
        pass
    assert script.calls["close"] == 3
    assert script.alive == []


@virtual_time
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


@virtual_time
async def test_a_borrower_that_stays_is_cut_and_told_so():
    script = Script()
    pool = script.pool()
    await pool.open()
    lease = await pool.acquire()
    began = now()
    await pool.close(timeout=30)
    assert now() - began == about(30)
    assert script.alive == []
    with pytest.raises(InterfaceError, match="cut"):
        lease.resource  # noqa: B018 - looking is what is refused
    await pool.release(lease)


@virtual_time
async def test_closing_twice_or_from_two_tasks_is_one_closing():
    script = Script()
    pool = script.pool(min_size=2)
    await pool.open()
    await asyncio.gather(pool.close(), pool.close())
    await pool.close()
    assert script.calls["close"] == 2


@virtual_time
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


@virtual_time
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


@virtual_time
async def test_a_hung_close_or_clean_does_not_keep_the_pool_from_closing():
    script = Script()
    pool = script.pool(max_size=2, close_timeout=3, reset_timeout=2)
    await pool.open()
    leases = [await pool.acquire(), await pool.acquire()]
    leases[0].resource.dirty = True
    script.hold("clean")
    script.hold("close")
    for lease in leases:
        pool.release(lease)
    began = now()
    await pool.close(timeout=10)
    # The reset's deadline, then the close's: of the dirty one, which is longer.
    assert now() - began <= 2 + 3 + 1e-6
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


@virtual_time
async def test_closing_ends_in_the_moment_in_which_the_last_borrower_is_done():
    pool = Script().pool(max_size=2)
    await pool.open()
    leases = [await pool.acquire() for _ in range(2)]
    began = now()
    closing = start(pool.close(timeout=30))
    for lease in leases:
        await asyncio.sleep(4)
        pool.release(lease)
    await closing
    assert now() - began == about(8)


@virtual_time
async def test_nothing_is_lent_from_the_first_moment_of_closing():
    pool = Script().pool(min_size=2)
    await pool.open()

    async def use():
        async with pool.acquire():
            pass

    closing = start(pool.close())
    late = asyncio.create_task(use())  # runs between close() and the first step of closing
    await closing
    assert isinstance(late.exception(), PoolClosedError)


@pytest.mark.parametrize("call", ["connect", "ping", "clean"])
@virtual_time
async def test_what_was_on_its_way_to_a_waiter_is_not_lent_by_a_closing_pool(call):
    script = Script(**{call: 0.5})
    pool = script.pool(max_size=1, check="always")
    await pool.open()
    if call != "connect":
        async with pool.acquire() as lease:
            lease.resource.dirty = call == "clean"
    waiter = start(pool.acquire())
    await script.reached(call)
    began = now()
    closing = start(pool.close(timeout=30))
    with pytest.raises(PoolClosedError):
        await waiter
    assert now() - began == about(0)
    await closing
    assert pool.stats().acquired == (0 if call == "connect" else 1)
    assert script.alive == []


@virtual_time
async def test_a_second_close_joins_the_first_and_does_not_prolong_its_grace():
    pool = Script().pool()
    await pool.open()
    lease = await pool.acquire()
    began = now()
    first = start(pool.close(timeout=5))
    await asyncio.sleep(1)
    first.cancel()
    await pool.close(timeout=60)
    assert now() - began == about(5)
    assert first.cancelled()
    pool.release(lease)


@virtual_time
async def test_a_close_during_an_outage_does_not_wait_for_the_server():
    script = Script()
    pool = script.pool(max_size=3)
    await pool.open()
    await fill(pool, 1)
    script.kill()
    script.hold("connect")
    waiters = [start(pool.acquire()) for _ in range(5)]
    await script.reached("connect")
    began = now()
    await pool.close()
    assert now() - began == about(0)
    assert all(isinstance(waiter.exception(), PoolClosedError) for waiter in waiters)


@virtual_time
async def test_two_that_open_a_closing_pool_open_one_pool():
    script = Script(connect=0.1, close=0.1)
    pool = script.pool(min_size=2, max_size=2)
    await pool.open()
    closing = start(pool.close())
    await settle()
    await asyncio.gather(pool.open(), pool.open())
    await closing
    await asyncio.sleep(1)
    stats = pool.stats()
    assert (stats.size, stats.idle, len(script.alive)) == (2, 2, 2)
    await assert_whole(pool, script)
    await pool.close()
    assert script.alive == []


@virtual_time
async def test_an_open_that_is_overtaken_by_a_close_is_told_so():
    script = Script(connect=0.1)
    pool = script.pool(min_size=2, max_size=2)
    opening = start(pool.open())
    await settle()
    await pool.close()
    with pytest.raises(PoolClosedError, match="closed while it was opening"):
        await opening
    assert script.alive == []
