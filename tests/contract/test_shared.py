"""Shared connections: several tasks multiplex one, in autocommit, never in a transaction."""

from __future__ import annotations

import asyncio

import pytest

import aiodbkit


@pytest.fixture
async def db(make_engine):
    db = await make_engine(max_size=4, acquire_timeout=20)
    await db.execute("create table item (id integer primary key)")
    return db


async def test_tasks_share_one_connection(db):
    everyone_is_in, used = asyncio.Barrier(20), []

    async def work(number):
        async with db.connection(shared=True) as conn:
            await everyone_is_in.wait()
            await conn.execute("insert into item (id) values (:i)", {"i": number})
            found = await db.fetch_val("select id from item where id = :i", {"i": number})
            used.append(db.pool.stats().in_use)
            await everyone_is_in.wait()
            return found

    assert await asyncio.gather(*map(work, range(20))) == list(range(20))
    assert set(used) == {1}
    assert db.pool.stats().in_use == 0


async def test_max_shared_connections_are_spread_over_their_users(make_engine):
    db = await make_engine(max_size=4, max_shared=2)
    everyone_is_in = asyncio.Barrier(6)

    async def work():
        async with db.connection(shared=True) as conn:
            await conn.fetch_val("select 1")
            await everyone_is_in.wait()
            in_use = db.pool.stats().in_use
            await everyone_is_in.wait()
            return in_use

    assert await asyncio.gather(*(work() for _ in range(6))) == [2] * 6


async def test_nothing_is_taken_before_the_first_statement(db):
    async with db.connection(shared=True) as conn:
        assert db.pool.stats().in_use == 0
        assert await conn.fetch_val("select 1") == 1
        assert db.pool.stats().in_use == 1
        assert db.current_connection() is None
    assert db.pool.stats().in_use == 0


async def test_a_transaction_takes_a_connection_of_its_own(db):
    async with db.connection(shared=True) as conn:
        await conn.execute("insert into item (id) values (1)")
        async with db.transaction(force_rollback=True) as tx:
            await tx.connection.execute("insert into item (id) values (2)")
            assert await db.fetch_val("select count(*) from item") == 2
            assert db.pool.stats().in_use == 2
        async with db.session() as session:
            assert await session.fetch_val("select count(*) from item") == 1
        async with db.connection() as own:
            assert db.current_connection() is own
        assert db.pool.stats().in_use == 1


@pytest.mark.parametrize("name", ["begin", "transaction", "raw", "commit"])
async def test_it_has_nothing_to_begin_a_transaction_with(db, name):
    async with db.connection(shared=True) as conn:
        assert not hasattr(conn, name)
        with pytest.raises(AttributeError, match=r"db\.transaction\(\)"):
            getattr(conn, name)


@pytest.mark.parametrize("begin", ["begin", "start transaction"])
async def test_a_transaction_that_is_begun_by_sql_is_refused_and_gone(db, backend, begin):
    if backend == "sqlite" and begin != "begin":
        pytest.skip("SQLite knows BEGIN only")
    async with db.connection(shared=True) as conn:
        await conn.fetch_val("select 1")
        with pytest.raises(aiodbkit.Error, match=r"db\.transaction\(\)|transaction\(\)"):
            await conn.execute(begin)
        await conn.execute("insert into item (id) values (1)")  # on another connection
    assert await db.fetch_val("select count(*) from item") == 1


async def test_inside_a_connection_or_a_transaction_it_is_that_one(db):
    async with db.transaction(force_rollback=True):
        await db.execute("insert into item (id) values (1)")
        async with db.connection(shared=True) as conn:
            assert await conn.fetch_val("select count(*) from item") == 1
    assert await db.fetch_val("select count(*) from item") == 0


async def test_a_child_task_is_free_to_take_its_own(db):
    async with db.connection(shared=True) as conn:
        await conn.fetch_val("select 1")
        assert await asyncio.create_task(db.fetch_val("select 2")) == 2


async def test_a_handle_may_be_handed_over(db):
    async with db.connection(shared=True) as conn:
        answers = await asyncio.gather(*(conn.fetch_val(f"select {n}") for n in range(10)))
    assert answers == list(range(10))


async def test_rows_can_be_iterated_while_others_wait_their_turn(db):
    await db.insert_many("item", [{"id": n} for n in range(30)])

    async def read():
        async with db.connection(shared=True) as conn:
            return [row.id async for row in conn.iterate("select id from item", batch_size=3)]

    async def count():
        async with db.connection(shared=True) as conn:
            return await conn.fetch_val("select count(*) from item")

    *read_rows, counted = await asyncio.gather(read(), read(), count())
    assert [len(rows) for rows in read_rows] == [30, 30]
    assert counted == 30


async def test_a_dead_connection_is_replaced_for_all_its_users(db):
    async with db.connection(shared=True) as one, db.pool.acquire():
        await one.fetch_val("select 1")

        async def other():
            async with db.connection(shared=True) as conn:
                return await conn.fetch_val("select 2")

        one._source.connection._driver.abort()
        assert await asyncio.create_task(other()) == 2
        assert await one.fetch_val("select 3") == 3
        assert db.pool.stats().in_use == 2


async def test_a_cancelled_statement_harms_no_other_user(db, sql):
    async def slow():
        async with db.connection(shared=True) as conn:
            await conn.fetch_val(sql.slow(30))

    async with db.connection(shared=True) as conn:
        await conn.fetch_val("select 1")
        task = asyncio.create_task(slow())
        behind = asyncio.create_task(conn.fetch_val("select 7"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await behind == 7
    assert db.pool.stats().in_use == 0


async def test_used_after_its_block_it_is_refused(db):
    async with db.connection(shared=True) as conn:
        pass
    with pytest.raises(aiodbkit.InterfaceError, match="after its block"):
        await conn.fetch_val("select 1")
    with pytest.raises(aiodbkit.InterfaceError, match="after its block"):
        await anext(conn.iterate("select 1"))


async def test_it_decorates(db):
    @db.connection(shared=True)
    async def work():
        return await db.fetch_val("select 1")

    assert await asyncio.gather(work(), work()) == [1, 1]


def test_max_shared_is_checked():
    with pytest.raises(aiodbkit.ConfigurationError, match="max_shared"):
        aiodbkit.create_engine("sqlite://", max_shared=0)


async def test_those_in_line_do_not_notice_that_it_is_replaced(db, sql):
    async with db.connection(shared=True) as conn:
        await conn.fetch_val("select 1")
        driver = conn._source.connection._driver
        first = asyncio.create_task(conn.fetch_val(sql.slow(0.2)))
        in_line = [asyncio.create_task(conn.fetch_val(f"select {n}")) for n in range(5)]
        await asyncio.sleep(0)
        await db.pool.expire()
        assert await conn.fetch_val("select 7") == 7
        assert await asyncio.gather(*in_line) == list(range(5))
        await first
        assert conn._source.connection._driver is not driver
    assert db.pool.stats().in_use == 0


async def test_rows_are_read_to_their_end_however_old_it_grows(db):
    await db.insert_many("item", [{"id": n} for n in range(10)])
    async with db.connection(shared=True) as conn:
        read, others = 0, []
        async for _ in conn.iterate("select id from item", batch_size=2):
            await db.pool.expire()
            others.append(asyncio.create_task(conn.fetch_val("select 1")))
            await asyncio.sleep(0)
            read += 1
        assert await asyncio.gather(*others) == [1] * 10
    assert read == 10
    assert db.pool.stats().in_use == 0


async def test_those_in_line_do_not_notice_that_it_died(db, sql):
    async with db.connection(shared=True) as conn:
        await conn.fetch_val("select 1")
        first = asyncio.create_task(conn.fetch_val(sql.slow(30)))
        in_line = [asyncio.create_task(conn.fetch_val(f"select {n}")) for n in range(5)]
        await asyncio.sleep(0)
        conn._source.connection._driver.abort()
        with pytest.raises(aiodbkit.Error):
            await first
        assert await asyncio.gather(*in_line) == list(range(5))
    assert db.pool.stats().in_use == 0


async def test_rows_that_are_asked_for_in_line_come_from_the_next_connection(db, sql):
    async def rows(conn):
        return [row async for row in conn.iterate("select 1", batch_size=2)]

    async with db.connection(shared=True) as conn:
        await conn.fetch_val("select 1")
        first = asyncio.create_task(conn.fetch_val(sql.slow(30)))
        in_line = asyncio.create_task(rows(conn))
        await asyncio.sleep(0)
        conn._source.connection._driver.abort()
        assert await conn.fetch_val("select 2") == 2
        assert len(await in_line) == 1
        with pytest.raises(aiodbkit.Error):
            await first
    assert db.pool.stats().in_use == 0


async def test_a_wait_for_another_connection_counts_in_the_timeout(make_engine):
    db = await make_engine(max_size=1, acquire_timeout=20)
    async with db.pool.acquire(), db.connection(shared=True) as conn:
        first = asyncio.create_task(conn.fetch_val("select 1"))
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            with pytest.raises(aiodbkit.QueryTimeoutError, match="nothing was sent"):
                await conn.fetch_val("select 2", timeout=0.01)
        first.cancel()
        await asyncio.wait([first])
    assert db.pool.stats().in_use == 0


async def test_it_is_looked_at_as_any_other_connection(make_engine):
    db = await make_engine(check="always")
    async with db.connection(shared=True) as conn:
        await conn.fetch_val("select 1")
        driver = conn._source.connection._driver
        driver.abort()
        assert await conn.fetch_val("select 2") == 2
        pings = []

        class Watched(type(conn._source.connection._driver)):
            __slots__ = ()

            async def ping(self):
                pings.append(1)
                await super().ping()

        conn._source.connection._driver.__class__ = Watched
        await asyncio.gather(conn.fetch_val("select 3"), conn.fetch_val("select 4"))
        conn._source.connection._driver.__class__ = Watched.__bases__[0]
        assert pings


async def test_more_than_the_pool_has_are_not_taken(make_engine):
    db = await make_engine(max_size=2, max_shared=9)
    all_in = asyncio.Barrier(9)

    async def work():
        async with db.connection(shared=True) as conn:
            await all_in.wait()
            answer = await conn.fetch_val("select 1", timeout=10)
            await all_in.wait()
            return answer

    assert await asyncio.gather(*(work() for _ in range(9))) == [1] * 9
