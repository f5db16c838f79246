"""What DBUtils offers to threads, offered to tasks: a test for each of its classes and parameters.

`docs/from-peewee-and-dbutils.md` names them. Traps of DBUtils that are not copied: a statement that
may have run is not sent again, and nothing runs outside a transaction that broke.
"""

from __future__ import annotations

import asyncio

import pytest

import aiodbkit
from aiodbkit import Pool, PoolTimeoutError

from .support import alone


async def identity(db):
    """Which connection a statement runs on."""
    async with db.connection() as conn:
        return id(conn._driver)


async def cut_all(db):
    """Cut every connection that the pool has idle, as a restarted server or firewall does."""
    for slot in list(db.pool._idle):
        slot.resource.abort()


async def test_simple_pooled_db_is_a_pool_of_any_resource():
    class Resource:
        pass

    async def make():
        return Resource()

    async with Pool(make, max_size=1) as pool:
        async with pool.acquire() as lease:
            first = lease.resource
        async with pool.acquire() as lease:
            assert lease.resource is first


async def test_steady_db_reopens_what_was_lost(db):
    before = await identity(db)
    await cut_all(db)
    assert await db.fetch_val("select 1") == 1
    assert await identity(db) != before


async def test_steady_db_sends_no_statement_twice(make_engine):
    """It was lost in flight: whether it ran is unknown, and it is for the caller to say again."""
    db = await make_engine(max_size=1)
    await db.execute("create table item (id integer)")
    sent = []
    async with db.connection() as conn:
        driver = conn._driver

        class LosesTheAnswer(type(driver)):
            __slots__ = ()

            async def execute(self, sql, params, timeout):
                sent.append(sql)
                await super().execute(sql, params, timeout)
                self.abort()
                raise aiodbkit.ConnectionLostError("made up: lost in flight", query=sql)

        driver.__class__ = LosesTheAnswer
        with pytest.raises(aiodbkit.ConnectionLostError):
            await db.execute("insert into item values (1)")
        driver.__class__ = LosesTheAnswer.__bases__[0]
    assert len(sent) == 1
    assert await db.fetch_val("select count(*) from item") == 1


async def test_persistent_db_is_a_connection_per_task(make_engine):
    db = await make_engine(persistent=True)

    async def work():
        await db.fetch_val("select 1")
        first = db.current_connection()
        await db.fetch_val("select 1")
        return first is db.current_connection()

    assert all(await asyncio.gather(*(alone(work()) for _ in range(3))))


async def test_closeable_and_threadlocal_are_the_task(make_engine):
    """Its connection belongs to the task; given back early, the next statement takes another."""
    db = await make_engine(persistent=True)

    async def work():
        await db.fetch_val("select 1")
        await db.pool.release(db.current_connection())
        assert db.pool.stats().in_use == 0
        assert await db.fetch_val("select 1") == 1

    await alone(work())


async def test_creator_may_be_a_function(url, sql):
    made = []

    async def creator():
        made.append(await sql.connect(url))
        return made[-1]

    async with aiodbkit.create_engine(url, connection_factory=creator) as db:
        assert await db.fetch_val("select 1") == 1
    assert len(made) == 1


async def test_mincached_is_min_size(make_engine):
    db = await make_engine(min_size=2)
    assert db.pool.stats().idle == 2


async def test_maxcached_is_idle_timeout(make_engine):
    db = await make_engine(min_size=0, max_size=3, idle_timeout=0.05)
    await asyncio.gather(*(db.fetch_val("select 1") for _ in range(3)))
    async with asyncio.timeout(20):
        while db.pool.stats().size:  # the pool's timer closes them
            await asyncio.sleep(0.02)
    assert await db.fetch_val("select 1") == 1


async def test_maxshared_is_connection_shared(make_engine):
    db = await make_engine(max_shared=1)
    everyone_is_in = asyncio.Barrier(5)

    async def work():
        async with db.connection(shared=True) as conn:
            await conn.fetch_val("select 1")
            await everyone_is_in.wait()
            in_use = db.pool.stats().in_use
            await everyone_is_in.wait()
            return in_use

    assert await asyncio.gather(*(work() for _ in range(5))) == [1] * 5


async def test_a_dedicated_connection_is_connection(db):
    async with db.connection(shared=True) as shared:
        await shared.fetch_val("select 1")
        async with db.connection() as own, db.transaction():
            assert own.in_transaction
            assert db.pool.stats().in_use == 2


async def test_maxconnections_is_max_size_and_blocking_is_acquire_timeout(make_engine):
    db = await make_engine(max_size=1, acquire_timeout=20)
    async with db.pool.acquire():
        with pytest.raises(PoolTimeoutError):
            await db.fetch_val("select 1", timeout=0.01)
        waiting = asyncio.create_task(db.fetch_val("select 1"))
        await asyncio.sleep(0)
    assert await waiting == 1


async def test_not_blocking_is_an_acquire_timeout_of_nothing(make_engine):
    db = await make_engine(min_size=1, max_size=1, acquire_timeout=0)
    async with db.pool.acquire():
        with pytest.raises(PoolTimeoutError):
            await db.pool.acquire()


async def test_maxusage_is_max_uses(make_engine):
    db = await make_engine(max_size=1, max_uses=2)
    for _ in range(8):
        await db.fetch_val("select 1")
    async with asyncio.timeout(20):
        while db.pool.stats().opened < 4:
            await db.fetch_val("select 1")
    assert db.pool.stats().size == 1


async def test_setsession_is_session_sql(make_engine, sql):
    change, show, shown = sql.session_sql
    db = await make_engine(session_sql=[change], max_size=1)
    assert str(await db.fetch_val(show)) == shown
    await db.pool.expire()
    assert str(await db.fetch_val(show)) == shown


@pytest.mark.parametrize("reset", ["auto", "always"])
async def test_reset_rolls_back_what_was_left_open(make_engine, reset):
    db = await make_engine(max_size=1, reset=reset)
    await db.execute("create table item (id integer)")
    async with db.connection() as conn:
        await conn.begin()
        await conn.execute("insert into item values (1)")
    assert await db.fetch_val("select count(*) from item") == 0


async def test_failures_is_what_counts_as_lost(db):
    """A wrong statement is no failure of the connection: it is kept."""
    before = await identity(db)
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.execute("no sql at all")
    assert await identity(db) == before


async def test_failures_may_be_chosen_for_a_retry(db):
    tries = []

    @db.retry(max_retries=2, backoff=0, on=(aiodbkit.ProgrammingError,))
    async def work():
        tries.append(1)
        await db.execute("no sql at all")

    with pytest.raises(aiodbkit.ProgrammingError):
        await work()
    assert len(tries) == 3


@pytest.mark.parametrize(
    ("check", "pings"), [("never", 0), ("always", 2)], ids=["ping=0", "ping=1 and 4"]
)
async def test_ping_is_check(make_engine, check, pings):
    db = await make_engine(max_size=1, check=check)
    await db.fetch_val("select 1")
    found = []
    (slot,) = db.pool._idle
    driver = slot.resource

    class Watched(type(driver)):
        __slots__ = ()

        async def ping(self):
            found.append(1)
            await super().ping()

    driver.__class__ = Watched
    await db.fetch_val("select 1")
    async with db.transaction():  # looked at when it is lent, not inside
        await db.fetch_val("select 1")
        await db.fetch_val("select 1")
    driver.__class__ = Watched.__bases__[0]
    assert len(found) == pings


async def test_a_handle_that_is_dropped_does_not_take_its_connection_along(make_engine):
    """``pool.connection().cursor().execute(...)`` gave it back too early; a verb holds it."""
    db = await make_engine(max_size=1)
    answers = await asyncio.gather(*(db.fetch_val(f"select {n}") for n in range(20)))
    assert answers == list(range(20))


# Its wishes for the future.


async def test_time_to_live_is_max_lifetime(make_engine):
    db = await make_engine(max_size=1, max_lifetime=0.05)
    before = await identity(db)
    async with asyncio.timeout(20):
        while await identity(db) == before:
            await asyncio.sleep(0.02)


async def test_a_monitor_mends_idle_connections_before_a_user_notices(make_engine):
    """The pool's own upkeep opens ``min_size`` anew; nobody has asked for a connection."""
    db = await make_engine(min_size=2, max_size=2)
    await cut_all(db)
    opened = db.pool.stats().opened
    await db.pool.check()
    async with asyncio.timeout(20):
        while db.pool.stats().idle < 2 or db.pool.stats().opened < opened + 2:
            await asyncio.sleep(0.02)
    assert await db.fetch_val("select 1") == 1


async def test_use_and_limits_are_told(make_engine):
    db = await make_engine(min_size=1, max_size=1, acquire_timeout=0)
    await db.fetch_val("select 1")
    async with db.pool.acquire():
        with pytest.raises(PoolTimeoutError):
            await db.pool.acquire()
    stats = db.pool.stats()
    assert (stats.acquired, stats.timeouts, stats.opened) == (2, 1, 1)
