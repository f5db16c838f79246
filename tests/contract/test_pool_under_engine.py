"""Contract §8: the pool of an engine, over real connections."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

import aiodbkit

from .dialects import Dialect
from .support import alone, assert_whole

FIELDS = (
    "size idle in_use waiting min_size max_size opened closed acquired timeouts overloads errors"
)


class Opened:
    """The raw connections in the order in which they were opened."""

    def __init__(self) -> None:
        self.raws: list[Any] = []

    async def note(self, conn: aiodbkit.Connection) -> None:
        """Be the engine's ``on_connect``."""
        self.raws.append(conn.raw)


@pytest.fixture
def opened() -> Opened:
    return Opened()


async def turns(count: int = 10) -> None:
    """Let other tasks run to where they wait."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_acquire_is_awaited_or_entered_and_lends_connections(db: aiodbkit.Engine) -> None:
    lent = await db.pool.acquire()
    try:
        assert isinstance(lent, aiodbkit.Connection)
        assert await lent.fetch_val("select 1") == 1
    finally:
        await db.pool.release(lent)
    async with db.pool.acquire(timeout=2) as conn:
        assert isinstance(conn, aiodbkit.Connection)
        assert await conn.fetch_val("select 2") == 2
    assert db.pool.stats().in_use == 0


async def test_an_acquired_connection_is_not_the_tasks_current_one(db: aiodbkit.Engine) -> None:
    async with db.pool.acquire() as first, db.pool.acquire() as second:
        assert first.raw is not second.raw
        assert db.current_connection() is None


async def test_a_connection_is_released_once(db: aiodbkit.Engine) -> None:
    conn = await db.pool.acquire()
    await db.pool.release(conn)
    with pytest.raises(aiodbkit.InterfaceError):
        await db.pool.release(conn)
    with pytest.raises(aiodbkit.InterfaceError):
        await conn.fetch_val("select 1")
    await assert_whole(db)


async def test_a_stale_handle_cannot_release_what_another_borrowed(one: aiodbkit.Engine) -> None:
    stale = await one.pool.acquire()
    await one.pool.release(stale)
    fresh = await one.pool.acquire()
    with pytest.raises(aiodbkit.InterfaceError):
        await one.pool.release(stale)
    assert await fresh.fetch_val("select 1") == 1
    await one.pool.release(fresh)


async def test_a_connection_of_another_pool_is_refused(
    db: aiodbkit.Engine, make_engine: Any
) -> None:
    other = await make_engine()
    async with other.pool.acquire() as conn:
        with pytest.raises(aiodbkit.InterfaceError, match="belongs to"):
            await db.pool.release(conn)
        assert await conn.fetch_val("select 1") == 1


async def test_a_timeout_names_the_numbers_and_the_holder(make_engine: Any) -> None:
    db = await make_engine(max_size=1, acquire_timeout=0.1)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with db.connection():
            entered.set()
            await leave.wait()

    holder = asyncio.create_task(hold(), name="the-holder")
    await entered.wait()
    with pytest.raises(aiodbkit.PoolTimeoutError) as caught:
        await db.fetch_val("select 1")
    for word in ("0.1", "the-holder"):
        assert word in str(caught.value)
    assert isinstance(caught.value, TimeoutError)
    assert db.pool.stats().timeouts == 1
    leave.set()
    await holder
    await assert_whole(db)


async def test_the_timeout_of_one_acquire_wins(one: aiodbkit.Engine) -> None:
    async def wait(seconds: float) -> None:
        async with one.pool.acquire(timeout=seconds):
            pytest.fail("there was no connection to be had")

    async with one.pool.acquire():
        with pytest.raises(aiodbkit.PoolTimeoutError, match=r"0\.05"):
            await alone(wait(0.05))
        with pytest.raises(aiodbkit.PoolTimeoutError):
            await alone(wait(0))
    await assert_whole(one)


async def test_a_connection_that_another_task_gives_back_serves_its_first_borrower(
    one: aiodbkit.Engine,
) -> None:
    conn = await one.pool.acquire()

    async def give_back() -> None:
        assert await conn.fetch_val("select 1") == 1
        await one.pool.release(conn)

    giver = asyncio.create_task(give_back())
    async with one.pool.acquire(timeout=20) as again:
        assert await again.fetch_val("select 2") == 2
    await giver
    await assert_whole(one)


async def test_a_task_that_waits_while_it_holds_the_last_connection_is_told_so(
    make_engine: Any,
) -> None:
    db = await make_engine(max_size=1, acquire_timeout=0.1)
    async with db.connection():
        with pytest.raises(
            aiodbkit.PoolTimeoutError, match=r"(?i)itself|this task|same task|second"
        ):
            async with db.execution_context():
                pass


async def test_more_waiters_than_max_waiting_are_refused_at_once(make_engine: Any) -> None:
    db = await make_engine(max_size=1, max_waiting=2)
    async with db.connection():
        waiters = [asyncio.create_task(db.fetch_val(f"select {n}")) for n in range(2)]
        await turns()
        assert db.pool.stats().waiting == 2
        with pytest.raises(aiodbkit.PoolOverloadedError, match="2"):
            await alone(db.fetch_val("select 3"))
        assert db.pool.stats().overloads == 1
    assert await asyncio.gather(*waiters) == [0, 1]


async def test_waiters_are_served_in_order(one: aiodbkit.Engine) -> None:
    served: list[int] = []

    async def wait(number: int) -> None:
        async with one.connection() as conn:
            await conn.fetch_val("select 1")
            served.append(number)

    async with one.connection():
        tasks = []
        for number in range(10):
            tasks.append(asyncio.create_task(wait(number)))
            await turns(2)
    await asyncio.gather(*tasks)
    assert served == list(range(10))


async def test_stats_are_exact(make_engine: Any) -> None:
    db = await make_engine(min_size=1, max_size=3)
    stats = db.pool.stats()
    for field in FIELDS.split():
        assert isinstance(getattr(stats, field), int)
    assert (stats.size, stats.idle, stats.in_use, stats.opened) == (1, 1, 0, 1)
    async with db.connection(), db.pool.acquire():
        stats = db.pool.stats()
        assert (stats.size, stats.idle, stats.in_use, stats.opened) == (2, 0, 2, 2)
        assert stats.acquired == 2
    stats = db.pool.stats()
    assert (stats.size, stats.idle, stats.in_use, stats.closed) == (2, 2, 0, 0)
    assert (stats.min_size, stats.max_size, stats.waiting, stats.errors) == (1, 3, 0, 0)


async def test_the_connection_used_last_is_used_first(make_engine: Any, opened: Opened) -> None:
    db = await make_engine(max_size=3, on_connect=opened.note)
    async with db.pool.acquire(), db.pool.acquire():
        pass  # the blocks end in the opposite order
    async with db.pool.acquire() as again:
        assert again.raw is opened.raws[0]


async def test_resize_lets_waiters_in_and_shrinks_later(make_engine: Any) -> None:
    db = await make_engine(max_size=1)
    async with db.connection():
        waiter = asyncio.create_task(db.fetch_val("select 7"))
        await turns()
        await db.pool.resize(max_size=2)
        assert await waiter == 7
        assert db.pool.stats().max_size == 2
    await db.pool.resize(max_size=1)
    assert db.pool.stats().max_size == 1
    await assert_whole(db)
    with anyio.fail_after(20):
        while db.pool.stats().size > 1:  # closing takes a moment
            await asyncio.sleep(0.005)


async def test_resize_refuses_a_maximum_below_the_minimum(make_engine: Any) -> None:
    db = await make_engine(min_size=2, max_size=3)
    with pytest.raises(aiodbkit.ConfigurationError, match=r"max_size.*min_size"):
        await db.pool.resize(max_size=1)
    assert db.pool.stats().max_size == 3


@pytest.mark.parametrize("state", ["clean", "dirty"])
async def test_expire_replaces_every_connection_as_it_comes_back(
    state: str, make_engine: Any, opened: Opened
) -> None:
    db = await make_engine(max_size=2, on_connect=opened.note)
    async with db.pool.acquire() as held:
        async with db.pool.acquire():
            pass
        await db.pool.expire()
        assert await held.fetch_val("select 1") == 1
        if state == "dirty":
            await held.begin()
    old = list(opened.raws)
    async with db.pool.acquire() as first, db.pool.acquire() as second:
        assert not any(conn.raw is raw for conn in (first, second) for raw in old)
    assert db.pool.stats().closed == 2


@pytest.mark.parametrize("state", ["clean", "dirty"])
async def test_a_connection_is_replaced_after_max_uses(state: str, make_engine: Any) -> None:
    db = await make_engine(max_size=1, max_uses=2)
    for _ in range(6):
        async with db.connection() as conn:
            if state == "dirty":
                await conn.begin()
            assert await conn.fetch_val("select 1") == 1
    assert db.pool.stats().opened == 3


async def test_check_keeps_live_connections(make_engine: Any) -> None:
    db = await make_engine(min_size=2, max_size=2)
    await db.pool.check()
    stats = db.pool.stats()
    assert (stats.size, stats.closed) == (2, 0)


@pytest.mark.parametrize("check", ["never", "idle", "always"])
async def test_every_kind_of_check_serves(check: str, make_engine: Any) -> None:
    db = await make_engine(check=check, check_after=0)
    for number in range(5):
        assert await db.fetch_val(f"select {number}") == number


@pytest.mark.parametrize("reset", ["auto", "always", "never"])
async def test_every_kind_of_reset_rolls_back_an_open_transaction(
    reset: str, make_engine: Any
) -> None:
    db = await make_engine(reset=reset, max_size=1)
    await db.execute("create table seen (id integer)")
    async with db.connection() as conn:
        await conn.begin()
        await conn.execute("insert into seen (id) values (1)")
    assert await db.fetch_val("select count(*) from seen") == 0
    await assert_whole(db)


async def test_a_connection_closed_behind_the_pools_back_is_replaced(
    one: aiodbkit.Engine,
) -> None:
    async with one.connection() as conn:
        closing = conn.raw.close()
        if closing is not None:
            await closing
    assert await one.fetch_val("select 1") == 1
    await assert_whole(one)


async def test_close_fails_the_waiters_and_waits_for_the_borrowers(url: str, sql: Dialect) -> None:
    db = aiodbkit.create_engine(url, max_size=1)
    await db.connect()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def borrow() -> Any:
        async with db.connection() as conn:
            entered.set()
            await leave.wait()
            return await conn.fetch_val("select 5")

    borrower = asyncio.create_task(borrow())
    await entered.wait()
    waiter = asyncio.create_task(db.fetch_val("select 6"))
    await turns()
    closing = asyncio.create_task(db.close(timeout=20))
    with pytest.raises(aiodbkit.PoolClosedError):
        await waiter
    with pytest.raises(aiodbkit.InterfaceError):
        await db.fetch_val("select 7")
    assert not closing.done()
    leave.set()
    assert await borrower == 5
    await closing


async def test_close_cuts_the_borrowers_off_after_its_timeout(url: str) -> None:
    db = aiodbkit.create_engine(url, max_size=1)
    await db.connect()
    async with db.connection() as conn:
        with anyio.fail_after(20):
            await alone(db.close(timeout=0.05))
        with pytest.raises(aiodbkit.Error):
            await conn.fetch_val("select 1")
    with pytest.raises(aiodbkit.InterfaceError):
        await db.fetch_val("select 1")


async def test_a_close_that_is_cancelled_can_be_finished(url: str) -> None:
    db = aiodbkit.create_engine(url, max_size=1)
    await db.connect()
    async with db.connection():
        with anyio.move_on_after(0.05):
            await db.close(timeout=60)
    with anyio.fail_after(20):
        await db.close(timeout=1)
    with pytest.raises(aiodbkit.InterfaceError):
        await db.fetch_val("select 1")


async def test_a_session_that_waits_for_a_second_connection_of_a_full_pool_is_told_at_once(
    make_engine: Any,
) -> None:
    db = await make_engine(max_size=1)
    async with db.session() as session:
        await session.fetch_val("select 1")
        with pytest.raises(aiodbkit.PoolTimeoutError, match="deadlock"):
            await db.pool.acquire(timeout=3)
        assert await session.fetch_val("select 2") == 2
