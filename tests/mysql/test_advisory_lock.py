"""`db.advisory_lock()` by GET_LOCK: held by a block, waited for in vain or not, never leaked."""

from __future__ import annotations

import asyncio

import anyio
import pytest

import aiodbkit
from aiodbkit.backends.mysql.locks import lock_name
from tests.faults.mysql_support import cancelled, run, started, until

LONG = "tenant " * 40


async def holder(witness, name):
    """Return the session that holds a lock, or None."""
    ((number,),) = await run(witness, "select is_used_lock(%s)", [lock_name(name)])
    return number


async def waits(witness, name):
    await started(witness, f"`get_lock`('{name}'")


@pytest.mark.parametrize("name", ["nightly", LONG, "it's; \\' -- \N{SNOWMAN}"])
async def test_a_name_is_locked_for_the_block(name, db, witness):
    async with db.advisory_lock(name) as lock:
        assert lock.name == name
        assert lock.is_held
        assert await holder(witness, name) == await db.fetch_val("select connection_id()")
        ((other,),) = await run(witness, "select get_lock(%s, 0)", [lock.key])
        assert other == 0
    assert await holder(witness, name) is None


async def test_one_block_at_a_time_is_inside(db):
    inside = most = 0

    @db.advisory_lock("counter")
    async def enter():
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1

    await asyncio.gather(*(enter() for _ in range(8)))
    assert most == 1


async def test_no_wait_is_no_wait(db, witness):
    await run(witness, "select get_lock('report', 0)")
    with pytest.raises(aiodbkit.LockTimeoutError, match=r"advisory_lock\('report'\) is taken"):
        async with db.advisory_lock("report", timeout=0):
            pytest.fail("it is somebody else's")
    assert await db.fetch_val("select 1") == 1


async def test_a_wait_in_vain_ends_and_says_how_long(db, witness):
    await run(witness, "select get_lock('report', 0)")
    with pytest.raises(aiodbkit.LockTimeoutError, match=r"'report'.*within timeout=0.2 s"):
        async with db.advisory_lock("report", timeout=0.2):
            pytest.fail("it is somebody else's")


async def test_a_wait_outlasts_the_engines_command_timeout(mysql_engine, witness):
    db = await mysql_engine(command_timeout=0.05)
    await run(witness, "select get_lock('report', 0)")

    async def take():
        async with db.advisory_lock("report"):
            return await db.fetch_val("select 1")

    task = asyncio.create_task(take())
    await waits(witness, "report")
    await asyncio.sleep(0.1)  # past the time of a statement
    await run(witness, "select release_lock('report')")
    assert await task == 1


async def test_the_same_task_takes_it_again_and_it_counts(db, witness):
    async with db.advisory_lock("report"):
        async with db.advisory_lock("report", timeout=0):
            pass
        assert await holder(witness, "report") is not None
    assert await holder(witness, "report") is None


async def test_a_cancelled_wait_ends_at_the_server_and_leaves_no_lock(mysql_engine, witness):
    db = await mysql_engine(max_size=1)
    await run(witness, "select get_lock('report', 0)")
    task = asyncio.create_task(db.advisory_lock("report").__aenter__())
    await waits(witness, "report")
    await cancelled(task)
    await run(witness, "select release_lock('report')")
    await db.fetch_val("select 1")

    async def nobody():
        return await holder(witness, "report") is None

    await until(nobody)
    async with db.advisory_lock("report", timeout=2):
        pass


async def test_a_block_that_is_cancelled_gives_it_back_before_the_connection(mysql_engine, witness):
    db = await mysql_engine(max_size=1)
    inside = asyncio.Event()

    async def hold():
        async with db.advisory_lock("report"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await inside.wait()
    await cancelled(task)
    await db.fetch_val("select 1")
    assert await holder(witness, "report") is None


async def test_a_lock_ends_with_its_block_and_not_with_a_transaction(db, witness):
    async with db.advisory_lock("report"):
        async with db.transaction():
            await db.execute("select 1")
        assert await holder(witness, "report") is not None


async def test_an_exception_of_the_block_comes_through(db, witness):
    with pytest.raises(KeyError):
        async with db.advisory_lock("report"):
            raise KeyError
    assert await holder(witness, "report") is None


async def test_a_lock_lost_on_the_way_is_told_at_the_end(db, witness):
    with pytest.raises(aiodbkit.ConnectionLostError, match="'report'.*lost together with") as told:
        async with db.advisory_lock("report") as lock:
            number = await db.fetch_val("select connection_id()")
            await run(witness, f"kill {number}")
            while lock.is_held:
                await asyncio.sleep(0.01)
    assert not told.value.is_transient
    async with db.advisory_lock("report", timeout=2):
        pass


async def test_giving_it_back_leaves_no_state_that_costs_a_reset(
    mysql_engine, mysql_url, wire_proxy
):
    proxy = await wire_proxy(mysql_url)
    db = await mysql_engine(proxy.url, max_size=1)
    await db.fetch_val("select 1")
    asked = asyncio.create_task(proxy.seen(b"SET NAMES"))
    async with db.advisory_lock("report"):
        pass
    await db.fetch_val("select 1")
    assert not asked.done()
    asked.cancel()


@pytest.mark.parametrize("name", ["", None, 7])
async def test_a_lock_has_a_name(name, db):
    with pytest.raises(aiodbkit.InterfaceError, match="named by a text"):
        db.advisory_lock(name)


async def test_a_scope_that_cancels_at_every_await_leaves_no_lock(mysql_engine, witness):
    db = await mysql_engine(max_size=1)
    with anyio.CancelScope() as scope:
        async with db.advisory_lock("report"):
            scope.cancel()
            await anyio.sleep(10)
    assert await db.fetch_val("select 1") == 1
    assert await holder(witness, "report") is None


async def test_locks_are_not_given_back_by_those_who_never_had_them(db, witness):
    """A block that was refused leaves the lock of an outer block of its own task alone."""
    async with db.advisory_lock("outer"):
        await run(witness, "select get_lock('inner', 0)")
        with pytest.raises(aiodbkit.LockTimeoutError):
            async with db.advisory_lock("inner", timeout=0):
                pytest.fail("it is somebody else's")
        assert await holder(witness, "outer") == await db.fetch_val("select connection_id()")
        assert await holder(witness, "inner") is not None
