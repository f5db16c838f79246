"""EngineProxy: an engine that is chosen at run time, once for the program or for a block."""

from __future__ import annotations

import asyncio

import pytest

import aiodbkit
from aiodbkit import EngineProxy, InterfaceError, RetryPolicy
from aiodbkit.testing import count_queries, sandbox

pytestmark = pytest.mark.usefixtures("people")
COUNT = "select count(*) from people"
ADD = "insert into people (id, name) values (:i, 'New')"


@pytest.fixture
async def proxy(db):
    proxy = EngineProxy()
    proxy.initialize(db)
    return proxy


@pytest.fixture
async def other(tmp_path):
    """Another database, with a table of the same name that has one row."""
    async with aiodbkit.create_engine(f"sqlite:///{tmp_path / 'other.db'}") as other:
        await other.execute("create table people (id integer primary key, name text)")
        await other.execute("insert into people values (1, 'Zoe')")
        yield other


async def test_every_verb_works_on_it(proxy, people):
    assert await proxy.fetch_val(COUNT) == len(people)
    assert [row.id async for row in proxy.iterate("select id from people order by id")] == [
        number for number, *_ in people
    ]
    assert await proxy.insert_many("people", [{"id": 9, "name": "New"}]) == 1
    await proxy.execute("update people set name = 'Newer' where id = 9")
    assert (await proxy.fetch_one("select name from people where id = 9")).name == "Newer"
    assert len(await proxy.fetch_column("select id from people")) == len(people) + 1


async def test_blocks_of_it_are_blocks_of_its_engine(proxy, db):
    async with proxy.connection() as conn:
        assert db.current_connection() is conn is proxy.current_connection()
        async with proxy.transaction(force_rollback=True):
            await db.execute(ADD, {"i": 9})
            assert conn.in_transaction
    async with proxy.session() as session:
        await db.execute(ADD, {"i": 9})
        session.set_rollback_only()
    assert await proxy.fetch_val(COUNT) == 4


async def test_decorators_come_before_the_engine(db):
    proxy = EngineProxy()
    tries = []

    @proxy.transaction(retry=RetryPolicy(max_retries=1, backoff=0))
    async def add():
        await proxy.execute(ADD, {"i": 9})
        tries.append(1)
        if len(tries) == 1:
            raise aiodbkit.DeadlockError("made up", is_transient=True)

    @proxy.connection()
    async def on_one_connection():
        return proxy.current_connection()

    @proxy.execution_context()
    async def apart():
        return proxy.current_connection().in_transaction

    @proxy.retry(max_retries=1, backoff=0)
    async def count():
        return await proxy.fetch_val(COUNT)

    with pytest.raises(InterfaceError, match="initialize"):
        await add()
    proxy.initialize(db)
    await add()
    assert len(tries) == 2
    assert await on_one_connection() is not None
    assert await apart()
    assert await count() == 5


@pytest.mark.parametrize(
    "use",
    [
        lambda proxy: proxy.fetch_val("select 1"),
        lambda proxy: proxy.connect(),
        lambda proxy: proxy.connection().__aenter__(),
        lambda proxy: proxy.transaction().__aenter__(),
        lambda proxy: anext(proxy.iterate("select 1")),
        lambda proxy: proxy.__aenter__(),
        lambda proxy: proxy.pool,
        lambda proxy: proxy.session(),
        lambda proxy: proxy.options,
    ],
)
async def test_used_too_early_it_says_what_to_do(use):
    with pytest.raises(InterfaceError, match=r"initialize\(engine\)"):
        await use(EngineProxy())


async def test_callbacks_are_told_of_the_engine(db, other):
    proxy, told = EngineProxy(), []
    assert proxy.attach_callback(told.append) == told.append
    proxy.initialize(db)
    proxy.attach_callback(lambda engine: told.append((2, engine)))
    proxy.initialize(other)
    assert told == [db, (2, db), other, (2, other)]


async def test_using_is_for_the_block_and_the_task(proxy, other):
    inside, seen = asyncio.Event(), asyncio.Event()

    async def beside():
        await inside.wait()
        count = await proxy.fetch_val(COUNT)
        seen.set()
        return count

    task = asyncio.create_task(beside())
    with proxy.using(other) as engine:
        assert engine is other
        inside.set()
        await seen.wait()
        assert await proxy.fetch_val(COUNT) == 1
        async with proxy.transaction():
            await proxy.execute("insert into people values (2, 'Yan')")
        assert await asyncio.create_task(proxy.fetch_val(COUNT)) == 2
    assert await task == 4
    assert await proxy.fetch_val(COUNT) == 4


async def test_using_nests_and_ends_with_an_error(proxy, other, db):
    with pytest.raises(ZeroDivisionError), proxy.using(other):
        with proxy.using(db):
            assert await proxy.fetch_val(COUNT) == 4
        assert await proxy.fetch_val(COUNT) == 1
        raise ZeroDivisionError
    assert await proxy.fetch_val(COUNT) == 4


async def test_using_decorates(proxy, other):
    @proxy.using(other)
    async def count():
        return await proxy.fetch_val(COUNT)

    assert await asyncio.gather(count(), proxy.fetch_val(COUNT), count()) == [1, 4, 1]


async def test_using_serves_a_proxy_that_has_no_engine_of_its_own(other):
    proxy = EngineProxy()
    with proxy.using(other):
        assert await proxy.fetch_val(COUNT) == 1
    with pytest.raises(InterfaceError, match="initialize"):
        await proxy.fetch_val(COUNT)


async def test_a_block_that_is_open_stays_where_it_is(proxy, other):
    async with proxy.transaction(force_rollback=True) as tx:
        await proxy.execute(ADD, {"i": 9})
        with proxy.using(other):
            assert await proxy.fetch_val(COUNT) == 1
            assert await tx.connection.fetch_val(COUNT) == 5
        assert await proxy.fetch_val(COUNT) == 5


async def test_what_only_its_engine_has_is_reached_through_it(proxy, db):
    db.only_here = "yes"
    assert proxy.only_here == "yes"
    with pytest.raises(AttributeError, match="not_there"):
        _ = proxy.not_there


async def test_it_opens_and_closes_its_engine(url):
    proxy = EngineProxy()
    proxy.initialize(aiodbkit.create_engine(url))
    async with proxy as given:
        assert given is proxy
        assert proxy.is_connected
    assert not proxy.is_connected
    async with proxy.lifespan(None):
        assert proxy.is_connected
    assert not proxy.is_connected
    await proxy.close()


async def test_a_proxy_may_stand_before_a_proxy(proxy, people):
    outer = EngineProxy()
    outer.initialize(proxy)
    async with outer.transaction():
        assert await outer.fetch_val(COUNT) == len(people)


async def test_the_testing_kit_takes_it(proxy, db):
    async with sandbox(proxy):
        with count_queries(proxy, exactly=1):
            await db.execute(ADD, {"i": 9})
    assert await proxy.fetch_val(COUNT) == 4


def test_misuse_is_refused(db):
    proxy, outer = EngineProxy(), EngineProxy()
    with pytest.raises(InterfaceError, match="takes an engine"):
        proxy.initialize("sqlite://")
    with pytest.raises(InterfaceError, match="takes an engine"):
        proxy.using(None)
    with pytest.raises(InterfaceError, match="itself"):
        proxy.initialize(proxy)
    outer.initialize(proxy)
    with pytest.raises(InterfaceError, match="itself"):
        proxy.initialize(outer)
    with pytest.raises(TypeError, match="function of the engine"):
        proxy.attach_callback(3)
    with pytest.raises(TypeError, match="async functions"):
        proxy.using(EngineProxy())(lambda: None)
    block = proxy.using(EngineProxy())
    with block, pytest.raises(InterfaceError, match="entered before"):
        block.__enter__()


async def test_generators_that_end_in_any_order_leave_no_choice_behind(proxy, db, other):
    async def rows(engine):
        with proxy.using(engine):
            yield await proxy.fetch_val(COUNT)
            yield await proxy.fetch_val(COUNT)

    second = EngineProxy()
    second.initialize(other)
    first_rows, second_rows = rows(other), rows(second)
    await anext(first_rows)
    await anext(second_rows)
    await first_rows.aclose()
    await second_rows.aclose()
    assert proxy._target is db
    assert await proxy.fetch_val(COUNT) == 4


async def test_a_child_goes_on_with_what_it_was_started_with(proxy, other):
    end = asyncio.Event()

    async def child():
        await end.wait()
        with proxy.using(other):
            await proxy.fetch_val(COUNT)
        return await proxy.fetch_val(COUNT)

    with proxy.using(other):
        task = asyncio.create_task(child())
        await asyncio.sleep(0)
    end.set()
    assert await task == 1
    assert await proxy.fetch_val(COUNT) == 4


async def test_tasks_that_enter_it_each_close_what_they_opened(tmp_path):
    proxy, all_in = EngineProxy(), asyncio.Barrier(2)

    async def work(name, end):
        engine = aiodbkit.create_engine(f"sqlite:///{tmp_path / name}")
        with proxy.using(engine):
            async with proxy:
                await all_in.wait()
                await end.wait()
                assert engine.is_connected
            assert not engine.is_connected
        return True

    ends = [asyncio.Event(), asyncio.Event()]
    tasks = [asyncio.create_task(work(f"{n}.db", end)) for n, end in enumerate(ends)]
    for task, end in zip(tasks, ends, strict=True):  # the first to come is the first to go
        end.set()
        assert await task


async def test_a_block_closes_what_it_opened_where_nothing_is_chosen(url):
    """As the two halves of an async fixture, each in a task of its own."""
    proxy, engine = EngineProxy(), aiodbkit.create_engine(url)

    async def begin():
        with proxy.using(engine):
            await proxy.__aenter__()

    await asyncio.create_task(begin())
    assert engine.is_connected
    await proxy.__aexit__(None, None, None)
    assert not engine.is_connected


def test_whoever_asks_what_it_has_is_not_answered_by_an_error():
    """Frameworks and debuggers do: by hasattr, inspect, copy."""
    proxy = EngineProxy()
    assert not hasattr(proxy, "listen")
    assert not asyncio.iscoroutinefunction(proxy)
    assert proxy.is_connected is False
    assert getattr(proxy, "__wrapped__", None) is None
    with pytest.raises(InterfaceError, match=r"initialize\(engine\)"):
        _ = proxy.listen


async def test_a_circle_of_choices_is_refused(db):
    one, two = EngineProxy(), EngineProxy()
    two.initialize(db)
    from_two = two.using(one)
    with (
        one.using(two),
        pytest.raises(InterfaceError, match="itself"),
        from_two,
    ):
        pytest.fail("entered")
    with one.using(two), pytest.raises(InterfaceError, match="itself"):
        two.initialize(one)
    assert one.is_initialized is False
