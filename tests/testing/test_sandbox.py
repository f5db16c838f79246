"""`sandbox(db)`: everything inside is one transaction, and all of it is undone."""

from __future__ import annotations

import asyncio
import random

import pytest

from aiodbkit import (
    ConnectionLostError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    PoolTimeoutError,
    ProgrammingError,
    QueryTimeoutError,
    SerializationError,
    TransactionScopeError,
    UniqueViolationError,
)
from aiodbkit.options import RetryPolicy
from aiodbkit.testing import sandbox

NAMES = "select name from people order by name"


@pytest.fixture
async def db(make_engine):
    engine = await make_engine(max_size=3, acquire_timeout=5)
    await engine.execute("create table people (id integer primary key, name varchar(20) not null)")
    return engine


async def add(db, number, name):
    await db.execute("insert into people values (:n, :name)", {"n": number, "name": name})


async def test_what_is_done_inside_is_seen_inside_and_gone_after(db):
    async with sandbox(db):
        await add(db, 1, "Ada")
        await db.insert_many("people", [{"id": 2, "name": "Bob"}])
        assert await db.fetch_column(NAMES) == ["Ada", "Bob"]
        assert [row.name async for row in db.iterate(NAMES)] == ["Ada", "Bob"]
    assert await db.fetch_column(NAMES) == []


async def test_a_transaction_inside_commits_within_it_and_its_hooks_run(db):
    told = []
    async with sandbox(db):
        async with db.transaction() as tx:
            tx.on_commit(lambda: told.append("committed"))
            await add(db, 1, "Ada")
            assert told == []
        assert told == ["committed"]
        with pytest.raises(ZeroDivisionError):
            async with db.transaction():
                await add(db, 2, "Bob")
                raise ZeroDivisionError
        assert await db.fetch_column(NAMES) == ["Ada"]
    assert await db.fetch_column(NAMES) == []


async def test_nested_transactions_keep_what_their_savepoints_keep(db):
    async with sandbox(db):
        async with db.transaction():
            await add(db, 1, "Ada")
            async with db.transaction() as inner:
                await add(db, 2, "Bob")
                await inner.rollback()
            async with db.transaction():
                await add(db, 3, "Cleo")
        assert await db.fetch_column(NAMES) == ["Ada", "Cleo"]


async def test_a_session_commits_midway_and_rolls_back_the_rest(db):
    async with sandbox(db):
        with pytest.raises(ZeroDivisionError):
            async with db.session() as session:
                await add(session, 1, "Ada")
                await session.commit()
                await add(session, 2, "Bob")
                raise ZeroDivisionError
        assert await db.fetch_column(NAMES) == ["Ada"]
    assert await db.fetch_column(NAMES) == []


async def test_an_error_of_the_database_does_not_poison_what_follows(db):
    async with sandbox(db):
        await add(db, 1, "Ada")
        with pytest.raises(UniqueViolationError):
            await add(db, 1, "Bob")
        assert await db.fetch_column(NAMES) == ["Ada"]
        with pytest.raises(UniqueViolationError):
            async with db.transaction():
                await add(db, 1, "Bob")
        await add(db, 2, "Cleo")
        assert await db.fetch_column(NAMES) == ["Ada", "Cleo"]


async def test_child_tasks_take_part_in_turns(db):
    async with sandbox(db):
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(add(db, number, f"n{number}"))
        assert await db.fetch_val("select count(*) from people") == 10
    assert await db.fetch_val("select count(*) from people") == 0


async def test_a_second_transaction_begins_when_the_first_has_ended(db):
    order, first_is_in = [], asyncio.Event()

    async def first():
        async with db.transaction():
            await add(db, 1, "Ada")
            first_is_in.set()
            await asyncio.sleep(0)
            await add(db, 2, "Bob")
            order.append("first")

    async def second():
        await first_is_in.wait()
        async with db.transaction():
            order.append("second")
            assert await db.fetch_column(NAMES) == ["Ada", "Bob"]

    async with sandbox(db):
        await asyncio.gather(first(), second())
    assert order == ["first", "second"]


async def test_pool_and_blocks_give_the_one_connection(db):
    async with sandbox(db), db.connection() as one, db.pool.acquire() as two:
        assert one.raw is two.raw
        await add(one, 1, "Ada")
        assert await two.fetch_column(NAMES) == ["Ada"]
        async with asyncio.TaskGroup() as group:
            other = group.create_task(db.fetch_column(NAMES))
        assert other.result() == ["Ada"]
    assert await db.fetch_column(NAMES) == []


async def test_an_execution_context_is_a_savepoint(db):
    async with sandbox(db):
        async with db.transaction():
            await add(db, 1, "Ada")
            with pytest.raises(ZeroDivisionError):
                async with db.execution_context() as other:
                    await add(other, 2, "Bob")
                    raise ZeroDivisionError
            async with db.execution_context() as other:
                await add(other, 3, "Cleo")
        assert await db.fetch_column(NAMES) == ["Ada", "Cleo"]


async def test_waiting_for_oneself_is_refused_and_not_a_hang(db):
    async with sandbox(db), db.transaction() as outer, db.execution_context():
        with pytest.raises(InterfaceError, match="wait for itself"):
            await outer.connection.execute("select 1")


async def test_waiting_for_a_task_that_waits_for_this_one_ends_with_the_holder_named(make_engine):
    db = await make_engine(acquire_timeout=0.05)
    async with sandbox(db), db.transaction(child_tasks="own"):
        with pytest.raises(PoolTimeoutError, match="one connection"):
            await asyncio.create_task(db.fetch_val("select 1"))
        with pytest.raises(QueryTimeoutError, match="nothing was sent"):
            await asyncio.create_task(db.fetch_val("select 1", timeout=0.01))


async def test_sandboxes_nest(db):
    async with sandbox(db):
        await add(db, 1, "Ada")
        async with sandbox(db):
            async with db.transaction():
                await add(db, 2, "Bob")
            with pytest.raises(UniqueViolationError):
                await add(db, 1, "Cleo")
            assert await db.fetch_column(NAMES) == ["Ada", "Bob"]
        assert await db.fetch_column(NAMES) == ["Ada"]
    assert await db.fetch_column(NAMES) == []


async def test_sandboxes_that_end_in_the_wrong_order_are_told_and_leave_nothing(db):
    first, second = sandbox(db), sandbox(db)
    await first.__aenter__()
    await second.__aenter__()
    await add(db, 1, "Ada")
    with pytest.raises(InterfaceError, match="reverse order"):
        await first.__aexit__(None, None, None)
    await second.__aexit__(None, None, None)
    assert await db.fetch_column(NAMES) == []
    assert not db.pool.is_sandbox
    assert db.pool.stats().in_use == 0


async def test_a_retried_transaction_runs_again_in_it(db):
    tries = []

    @db.transaction(retry=RetryPolicy(max_retries=2, backoff=0))
    async def work():
        tries.append(1)
        await add(db, len(tries), "Ada")
        if len(tries) < 3:
            raise SerializationError("as you wish", is_transient=True)

    async with sandbox(db):
        await work()
        assert await db.fetch_column("select id from people") == [3]
    assert await db.fetch_column(NAMES) == []


async def test_manual_transactions_are_savepoints(db):
    async with sandbox(db):
        async with db.connection() as conn:
            await conn.begin()
            await add(conn, 1, "Ada")
            await conn.rollback()
            await conn.begin()
            await add(conn, 2, "Bob")
            await conn.commit()
        assert await db.fetch_column(NAMES) == ["Bob"]
    assert await db.fetch_column(NAMES) == []


async def test_a_cancelled_transaction_is_undone_and_the_sandbox_goes_on(db, can):
    is_in = asyncio.Event()

    async def work():
        async with db.transaction():
            await add(db, 1, "Ada")
            is_in.set()
            await asyncio.Event().wait()

    async with sandbox(db):
        task = asyncio.create_task(work())
        await is_in.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await add(db, 2, "Bob")
        assert await db.fetch_column(NAMES) == ["Bob"]
    assert await db.fetch_column(NAMES) == []


@pytest.mark.parametrize("turns", range(12))
async def test_statements_cancelled_at_any_point_leave_the_sandbox_whole_or_say_so(db, turns):
    async def work():
        await add(db, 1, "Ada")
        async with db.transaction():
            await add(db, 2, "Bob")

    async with sandbox(db):
        task = asyncio.create_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        try:
            assert set(await db.fetch_column(NAMES)) <= {"Ada", "Bob"}
            await add(db, 3, "Cleo")
        except ConnectionLostError:  # MySQL's is closed after a cancelled statement
            assert type(db).__name__ == "MySQLEngine"
    assert await db.fetch_column(NAMES) == []
    assert db.pool.stats().in_use == 0


async def test_many_cancelled_tasks_leave_whole_transactions_and_those_beside_them_go_on(
    db, backend
):
    if backend == "mysql":
        pytest.skip("a cancelled statement costs the connection there, and with it the sandbox")
    chance = random.Random(4)

    async def work(first):
        async with db.transaction():
            await add(db, first, "a")
            async with db.transaction():
                await add(db, first + 1, "b")
        await add(db, first + 2, "c")
        async with db.session() as session:
            await add(session, first + 3, "d")
            await session.commit()
            await add(session, first + 4, "e")

    async with sandbox(db):
        for first in range(0, 900, 30):
            tasks = [asyncio.create_task(work(first + offset)) for offset in (0, 10, 20)]
            for _ in range(chance.randrange(150)):
                await asyncio.sleep(0)
            tasks[0].cancel()
            tasks[1].cancel()
            await asyncio.wait(tasks)
            tasks[2].result()
            there = set(await db.fetch_column("select id from people"))
            assert {first + 20, first + 21, first + 22, first + 23, first + 24} <= there
            for each in (first, first + 10):
                assert (each in there) == (each + 1 in there)
    assert await db.fetch_column(NAMES) == []


async def test_a_cancelled_end_still_rolls_back(db):
    entered = asyncio.Event()

    async def work():
        async with sandbox(db):
            await add(db, 1, "Ada")
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # in the middle of the end
    await asyncio.wait([task])
    assert await db.fetch_column(NAMES) == []


async def test_a_task_that_outlives_the_sandbox_is_cut(db):
    is_in, is_over = asyncio.Event(), asyncio.Event()

    async def work():
        async with db.transaction():
            await add(db, 1, "Ada")
            is_in.set()
            await is_over.wait()
            await add(db, 2, "Bob")

    async with sandbox(db):
        task = asyncio.create_task(work())
        await is_in.wait()
    is_over.set()
    with pytest.raises(InterfaceError):
        await task
    assert await db.fetch_column(NAMES) == []


async def test_connect_and_close_of_an_app_inside_do_not_end_it(db):
    async with sandbox(db):
        async with db:
            await add(db, 1, "Ada")
        assert await db.fetch_column(NAMES) == ["Ada"]
    assert await db.fetch_column(NAMES) == []


async def test_a_sandbox_inside_a_transaction_is_refused(db):
    async with db.transaction():
        with pytest.raises(InterfaceError, match="open the sandbox first"):
            await sandbox(db).__aenter__()
    assert db.pool.stats().in_use == 0
    with pytest.raises(InterfaceError, match="takes an engine, not str"):
        sandbox("sqlite://")


async def test_an_app_under_test_takes_part(db):
    httpx = pytest.importorskip("httpx")
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def create(request):
        async with db.session() as session:
            await add(session, 2, "Bob")
        return JSONResponse(await db.fetch_column(NAMES))

    app = Starlette(routes=[Route("/", create, methods=["POST"])])
    transport = httpx.ASGITransport(app=app)
    async with sandbox(db), httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        await add(db, 1, "Ada")
        answer = await client.post("/")
        assert answer.json() == ["Ada", "Bob"]
        assert await db.fetch_column(NAMES) == ["Ada", "Bob"]
    assert await db.fetch_column(NAMES) == []


async def test_a_failed_transaction_cannot_be_committed_where_it_could_not_be_without_it(db, can):
    async with sandbox(db):
        await add(db, 1, "Ada")

        async def swallow():
            async with db.transaction():
                await add(db, 2, "Bob")
                with pytest.raises(UniqueViolationError):
                    await add(db, 1, "Cleo")

        if can.error_aborts_transaction:
            with pytest.raises(InternalError):
                await swallow()
        else:
            await swallow()
        kept = ["Ada"] if can.error_aborts_transaction else ["Ada", "Bob"]
        assert await db.fetch_column(NAMES) == kept


async def test_options_that_the_backend_has_not_are_refused_in_it_too(db, can):
    async with sandbox(db):
        async with db.transaction(isolation="serializable"):
            await add(db, 1, "Ada")
        if not can.deferrable:
            with pytest.raises(NotSupportedError, match="deferrable"):
                async with db.transaction(deferrable=True):
                    pass
        if not can.lock_modes:
            with pytest.raises(NotSupportedError, match="mode="):
                async with db.transaction(mode="immediate"):
                    pass
        assert await db.fetch_column(NAMES) == ["Ada"]


async def test_a_statement_that_would_end_the_transaction_is_refused(db, can):
    async with sandbox(db):
        await add(db, 1, "Ada")
        with pytest.raises((NotSupportedError, TransactionScopeError, ProgrammingError)):
            await db.execute("commit" if can.ddl_is_transactional else "create table t (n int)")
        assert await db.fetch_column(NAMES) == ["Ada"]
    assert await db.fetch_column(NAMES) == []


async def test_a_transaction_ended_behind_its_back_is_told_and_nothing_runs_after_it(sqlite_engine):
    db = await sqlite_engine()
    await db.execute("create table people (id integer primary key, name text)")
    with pytest.raises(InternalError, match="may have stayed"):
        async with sandbox(db):
            async with db.connection() as conn:
                await conn.raw.execute("commit")
            with pytest.raises(InternalError, match="transaction is gone"):
                await add(db, 1, "Ada")
    assert await db.fetch_column(NAMES) == []


async def test_rows_that_are_still_being_read_do_not_stop_another_statement(db, can):
    async with sandbox(db):
        for number in range(5):
            await add(db, number, f"n{number}")
        async with db.iterate(NAMES, batch_size=1) as rows:
            first = await anext(rows)
            if can.cursor_is_exclusive:
                with pytest.raises(InterfaceError, match="iterate"):
                    await db.fetch_val("select 1")
            else:
                assert await db.fetch_val("select count(*) from people") == 5
            assert [first.name, *[row.name async for row in rows]] == [f"n{n}" for n in range(5)]
        assert await db.fetch_val("select count(*) from people") == 5
