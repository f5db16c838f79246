"""Persistent mode: a task keeps one connection from its first statement until it ends."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

import aiodbkit
from aiodbkit.testing import sandbox

from .support import alone


@pytest.fixture
async def db(make_engine):
    db = await make_engine(persistent=True, max_size=3, acquire_timeout=20)
    await alone(db.execute("create table item (id integer primary key)"))
    return db


def raw_of(db):
    return db.current_connection().raw


async def nobody_holds_any(db):
    """A task's connection comes back in the turn of the loop after its end."""
    await asyncio.sleep(0)
    assert db.pool.stats().in_use == 0


async def test_a_task_has_the_same_connection_for_all_it_does(db):
    async def work():
        await db.fetch_val("select 1")
        first = db.current_connection()
        await db.execute("insert into item (id) values (1)")
        async with db.transaction():
            assert db.current_connection() is first
        async with db.session() as session:
            await session.execute("insert into item (id) values (2)")
            assert db.current_connection() is first
        async with db.connection() as conn:
            assert conn is first
        assert [row.id async for row in db.iterate("select id from item order by id")] == [1, 2]
        assert db.current_connection() is first
        assert db.pool.stats().in_use == 1

    await alone(work())
    await nobody_holds_any(db)


async def test_a_block_may_be_the_first_that_a_task_does(db):
    async def work():
        async with db.session() as session:
            await session.fetch_val("select 1")
            within = db.current_connection()
        await db.fetch_val("select 1")
        assert db.current_connection() is within

    await alone(work())


async def test_each_task_has_its_own_a_child_too(db):
    async def child():
        await db.fetch_val("select 1")
        return raw_of(db)

    async def parent():
        await db.fetch_val("select 1")
        raw = raw_of(db)
        return raw is not await asyncio.create_task(child())

    assert await alone(parent())
    await nobody_holds_any(db)


async def test_a_cancelled_task_gives_its_connection_back(db):
    began = asyncio.Event()

    async def work():
        await db.fetch_val("select 1")
        began.set()
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(work()) for _ in range(4)]
    await began.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await alone(db.fetch_val("select 1")) == 1
    await nobody_holds_any(db)


async def test_more_tasks_than_connections_wait_for_one_to_end(db):
    async def work(number):
        return await db.fetch_val(f"select {number}") + await db.fetch_val("select 1")

    answers = await asyncio.gather(*(asyncio.create_task(work(n)) for n in range(12)))
    assert answers == [n + 1 for n in range(12)]
    assert db.pool.stats().opened <= 3


async def test_a_dead_connection_is_replaced_before_a_statement(db):
    async def work():
        await db.execute("insert into item (id) values (1)")
        before = db.current_connection()
        before._driver.abort()
        await db.execute("insert into item (id) values (2)")
        assert db.current_connection() is not before
        return await db.fetch_column("select id from item order by id")

    assert await alone(work()) == [1, 2]
    await nobody_holds_any(db)


async def test_nothing_runs_outside_a_transaction_that_broke(db):
    async def work():
        with pytest.raises(aiodbkit.Error):
            async with db.transaction():
                await db.execute("insert into item (id) values (1)")
                db.current_connection()._driver.abort()
                with pytest.raises(aiodbkit.Error):
                    await db.execute("insert into item (id) values (2)")
        return await db.fetch_column("select id from item")

    assert await alone(work()) == []


@pytest.mark.parametrize("check", ["always", "never"])
async def test_it_is_looked_at_as_check_says(make_engine, check):
    db = await make_engine(persistent=True, check=check)

    async def work():
        await db.fetch_val("select 1")
        pings = []
        driver = db.current_connection()._driver

        class Watched(type(driver)):
            __slots__ = ()

            async def ping(self):
                pings.append(1)
                await super().ping()

        driver.__class__ = Watched
        await db.fetch_val("select 1")
        async with db.transaction():  # looked at before, not inside
            await db.fetch_val("select 1")
            await db.fetch_val("select 1")
        driver.__class__ = Watched.__bases__[0]
        return len(pings)

    assert await alone(work()) == (2 if check == "always" else 0)


async def test_a_connection_past_its_age_is_replaced_between_statements(make_engine):
    db = await make_engine(persistent=True)

    async def work():
        await db.fetch_val("select 1")
        before = db.current_connection()
        await db.pool.expire()
        async with db.transaction():
            await db.fetch_val("select 1")
        return before is not db.current_connection()

    assert await alone(work())


async def test_it_can_be_given_back_before_the_end(db):
    async def work():
        await db.fetch_val("select 1")
        await db.pool.release(db.current_connection())
        assert db.pool.stats().in_use == 0
        return await db.fetch_val("select 2")

    assert await alone(work()) == 2
    await nobody_holds_any(db)


async def test_closing_takes_the_connections_of_tasks_that_do_nothing(url):
    db = aiodbkit.create_engine(url, persistent=True)
    begun, end = asyncio.Event(), asyncio.Event()

    async def idle():
        await db.fetch_val("select 1")
        begun.set()
        await end.wait()
        with pytest.raises(aiodbkit.PoolClosedError):
            await db.fetch_val("select 1")

    task = asyncio.create_task(idle())
    await begun.wait()
    async with asyncio.timeout(5):
        await db.close()
    end.set()
    await task
    await db.connect()
    assert await db.fetch_val("select 1") == 1
    await db.close()


async def test_a_separate_connection_stays_one(db):
    async def work():
        await db.fetch_val("select 1")
        mine = db.current_connection()
        async with db.execution_context(transaction=False) as conn:
            assert conn is not mine
            assert db.current_connection() is conn
        assert db.current_connection() is mine

    await alone(work())


async def test_a_sandbox_holds_for_it_too(db):
    async def work():
        async with sandbox(db):
            await db.execute("insert into item (id) values (1)")
            assert await asyncio.create_task(db.fetch_val("select count(*) from item")) == 1
        return await db.fetch_val("select count(*) from item")

    assert await alone(work()) == 0


async def test_with_autoconnect_off_connect_comes_first(url):
    db = aiodbkit.create_engine(url, autoconnect=False)
    with pytest.raises(aiodbkit.InterfaceError, match=r"await db\.connect\(\)"):
        await db.fetch_val("select 1")
    async with db:
        assert await db.fetch_val("select 1") == 1


@pytest.mark.parametrize("option", ["persistent", "autoconnect"])
def test_what_is_no_flag_is_refused(option):
    with pytest.raises(aiodbkit.ConfigurationError, match=option):
        aiodbkit.create_engine("sqlite://", **{option: 3})


async def test_in_a_block_it_stays_the_same_however_old_it_grows(db):
    async def work():
        async with db.connection() as conn:
            await db.pool.expire()
            await db.execute("insert into item (id) values (1)")
            assert db.current_connection() is conn
            assert await conn.fetch_val("select count(*) from item") == 1
        await db.fetch_val("select 1")
        assert db.current_connection() is not conn

    await alone(work())
    await nobody_holds_any(db)


async def test_rows_are_read_to_their_end_however_old_it_grows(db, backend):
    async def work():
        await db.insert_many("item", [{"id": n} for n in range(10)])
        read = 0
        async for _ in db.iterate("select id from item", batch_size=2):
            await db.pool.expire()
            if backend == "sqlite":  # elsewhere the rows keep the connection busy
                await db.fetch_val("select 1")
            read += 1
        return read

    assert await alone(work()) == 10


async def test_a_transaction_begun_by_sql_is_not_left_by_a_replacement(db):
    async def work():
        await db.execute("begin")
        await db.execute("insert into item (id) values (1)")
        await db.pool.expire()
        await db.execute("insert into item (id) values (2)")
        await db.execute("rollback")
        return await db.fetch_column("select id from item")

    assert await alone(work()) == []


async def test_a_transaction_begun_by_sql_that_was_lost_is_told_of_once(db):
    async def work():
        await db.execute("begin")
        await db.execute("insert into item (id) values (1)")
        db.current_connection()._driver.abort()
        with pytest.raises(aiodbkit.ConnectionLostError, match="begun by SQL"):
            await db.execute("insert into item (id) values (2)")
        await db.execute("insert into item (id) values (3)")
        async with db.transaction():
            await db.execute("insert into item (id) values (4)")
        db.current_connection()._driver.abort()  # nothing is lost with it now
        return await db.fetch_column("select id from item order by id")

    assert await alone(work()) == [3, 4]


async def test_users_of_a_handle_get_one_new_connection_for_a_dead_one(db):
    async def work():
        await db.fetch_val("select 1")
        async with db.connection(shared=True) as conn:
            db.current_connection()._driver.abort()
            answers = await asyncio.gather(*(conn.fetch_val(f"select {n}") for n in range(9)))
            assert db.pool.stats().in_use == 1
            return answers

    assert await alone(work()) == list(range(9))
    await nobody_holds_any(db)


async def test_given_back_early_it_is_no_current_connection(db):
    async def work():
        await db.fetch_val("select 1")
        await db.pool.release(db.current_connection())
        return db.current_connection()

    assert await alone(work()) is None


async def test_a_task_from_before_a_sandbox_is_in_it_too(db):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def worker():
        await db.fetch_val("select 1")
        begun.set()
        await go_on.wait()
        await db.execute("insert into item (id) values (1)")

    async def test():
        async with sandbox(db):
            go_on.set()
            await task
            return await db.fetch_val("select count(*) from item")

    task = asyncio.create_task(worker())
    await begun.wait()
    assert await alone(test()) == 1
    assert await alone(db.fetch_val("select count(*) from item")) == 0


async def test_too_many_tasks_are_told_what_max_size_is_for_them(make_engine):
    db = await make_engine(persistent=True, max_size=1, acquire_timeout=0.05)

    async def parent():
        await db.fetch_val("select 1")
        with pytest.raises(aiodbkit.PoolTimeoutError) as caught:
            await asyncio.create_task(db.fetch_val("select 1"))
        return caught.value.__notes__

    assert "persistent=True" in (await alone(parent()))[-1]


async def test_tasks_that_each_start_the_next_one_leave_nothing_behind(make_engine):
    db = await make_engine(persistent=True, max_size=5)
    kept, last = weakref.WeakSet(), asyncio.Event()

    async def job(left, before=None):
        await db.fetch_val("select 1")
        kept.add(db.current_connection())
        if before is not None:
            before.set()
        if left:
            begun = asyncio.Event()
            jobs.append(asyncio.create_task(job(left - 1, begun)))
            await begun.wait()  # the next one has its connection before this one ends
        else:
            gc.collect()
            assert len(kept) <= 3
            last.set()

    jobs = [asyncio.create_task(job(20))]
    await last.wait()
    await asyncio.gather(*jobs)
