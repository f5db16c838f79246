"""What bare psycopg leaves to its callers, and what becomes of it here.

In pairs: the first test shows the hazard on a connection of psycopg's, so that we notice when it
is mended there; the others show what users of aiodbkit see instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest

import aiodbkit
from tests.servers.wire import WireProxy

from .conftest import Make

pytestmark = pytest.mark.postgres

Proxies = Callable[[str], Awaitable[WireProxy]]
ADD = "insert into notes (id, body) values (:id, :body)"
SLOW_ADD = "insert into notes (id) select 1 from pg_sleep(3)"


@asynccontextmanager
async def bare(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    plain = url.replace("+psycopg", "")
    connection = await psycopg.AsyncConnection.connect(plain, autocommit=True)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def proxy(url: str, db: aiodbkit.Engine, wire_proxy: Proxies) -> WireProxy:
    return await wire_proxy(url.replace("+psycopg", ""))


async def ids(db: aiodbkit.Engine) -> list[int]:
    return await db.fetch_column("select id from notes order by id")


async def asleep(db: aiodbkit.Engine) -> int:
    """Wait until a session of this database sleeps; return its process id."""
    select = (
        "select pid from pg_stat_activity where wait_event = 'PgSleep' "
        "and datname = current_database()"
    )
    while not (pid := await db.fetch_val(select)):
        await asyncio.sleep(0.01)
    found: int = pid
    return found


async def settled(db: aiodbkit.Engine) -> None:
    """DDL waits for whatever still runs on the table."""
    await db.execute("alter table notes add column settled integer")


# Cancelled in flight


async def test_bare_statement_cancelled_twice_runs_on_and_commits(
    db: aiodbkit.Engine, url: str
) -> None:
    async with bare(url) as connection:
        task = asyncio.create_task(connection.execute(SLOW_ADD))
        await asleep(db)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert connection.closed
    await settled(db)
    assert await ids(db) == [1]


@pytest.mark.parametrize("how", ["once", "twice", "anyio"])
@pytest.mark.parametrize("floor", ["engine", "connection"])
async def test_a_cancelled_statement_is_stopped_and_its_connection_kept(
    how: str, floor: str, db: aiodbkit.Engine, one: aiodbkit.Engine
) -> None:
    scope = anyio.CancelScope()

    async def add() -> None:
        with scope:
            if floor == "engine":
                await one.execute(SLOW_ADD)
            else:
                async with one.connection() as conn:
                    await conn.execute(SLOW_ADD)

    before = await one.fetch_val("select pg_backend_pid()")
    task = asyncio.create_task(add())
    await asleep(db)
    if how == "anyio":
        scope.cancel()
        await task
    else:
        task.cancel()
        if how == "twice":
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await one.fetch_val("select pg_backend_pid()") == before
    await settled(db)
    assert await ids(db) == []


async def test_bare_cancelled_task_waits_for_the_wire(url: str, proxy: WireProxy) -> None:
    async with bare(proxy.url) as connection:
        proxy.hole()
        task = asyncio.create_task(connection.execute("select 1"))
        await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.5)
        assert not done
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_cancelled_task_goes_on_at_once_whatever_the_wire_does(
    proxy: WireProxy, make: Make
) -> None:
    hasty = await make(proxy.url, max_size=1, reset_timeout=0.3)
    before = await hasty.fetch_val("select pg_backend_pid()")
    proxy.hole()
    with anyio.fail_after(2):
        with anyio.move_on_after(0.1) as scope:
            await hasty.fetch_val("select 1")
    assert scope.cancelled_caught
    while hasty.pool.stats().closed != 1:
        await asyncio.sleep(0.01)
    proxy.heal()
    assert await hasty.fetch_val("select pg_backend_pid()") != before


async def test_what_a_cancelled_task_had_only_prepared_is_not_run(
    db: aiodbkit.Engine, proxy: WireProxy, make: Make
) -> None:
    through = await make(proxy.url, max_size=1)
    await through.fetch_val("select 1")
    proxy.hole("down")
    seen = asyncio.create_task(proxy.seen(b"insert into notes"))
    task = asyncio.create_task(through.execute(ADD, {"id": 1, "body": ""}))
    await seen
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    proxy.heal()
    await through.fetch_val("select 1")
    await settled(db)
    assert await ids(db) == []


@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_an_execute_many_that_is_stopped_half_way_leaves_nothing(
    how: str, db: aiodbkit.Engine, one: aiodbkit.Engine
) -> None:
    slow = "insert into notes (id) select :id from pg_sleep(0.005)"
    rows = [{"id": n} for n in range(2000)]
    if how == "cancel":
        task = asyncio.create_task(one.execute_many(slow, rows))
        await asleep(db)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises(aiodbkit.QueryTimeoutError):
            await one.execute_many(slow, rows, timeout=0.1)
    assert await one.fetch_val("select 41") == 41
    await settled(db)
    assert await ids(db) == []


@pytest.mark.parametrize("way", ["source", "cancel", "value", "server"])
@pytest.mark.parametrize("floor", ["engine", "transaction"])
async def test_a_copy_that_ends_half_way_leaves_nothing_and_its_connection_usable(
    way: str, floor: str, db: aiodbkit.Engine, one: aiodbkit.Engine
) -> None:
    endings = {
        "source": LookupError,
        "cancel": asyncio.CancelledError,
        "value": aiodbkit.DataError,
        "server": aiodbkit.UniqueViolationError,
    }

    async def rows() -> AsyncIterator[tuple[Any, str]]:
        for number in range(5000):
            yield number, "x" * 50
        if way == "source":
            raise LookupError
        if way == "cancel":
            waiting.set()
            await asyncio.Event().wait()
        yield ("no number" if way == "value" else 0), "x"

    async def insert(target: Any) -> None:
        task = asyncio.create_task(target.insert_many("notes", rows(), columns=["id", "body"]))
        if way == "cancel":
            await waiting.wait()
            task.cancel()
        with pytest.raises(endings[way]):
            await task

    waiting = asyncio.Event()
    if floor == "engine":
        await insert(one)
        expected: list[int] = []
    else:
        expected = [-1]
        async with one.pool.acquire() as conn:
            await conn.begin()
            await conn.execute(ADD, {"id": -1, "body": ""})
            await insert(conn)
            if way == "server":
                expected = []
                await conn.rollback()
            else:
                await conn.commit()
    assert await ids(one) == expected
    await one.execute(ADD, {"id": 9, "body": ""})


# Commits


async def test_bare_commit_of_a_failed_transaction_succeeds(db: aiodbkit.Engine, url: str) -> None:
    async with bare(url) as connection:
        await connection.execute("begin")
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.execute("select 1 / 0")
        await connection.commit()


async def test_commit_of_a_failed_transaction_is_an_error(db: aiodbkit.Engine) -> None:
    async with db.pool.acquire() as conn:
        await conn.begin()
        with pytest.raises(aiodbkit.DataError):
            await conn.fetch_val("select 1 / 0")
        with pytest.raises(aiodbkit.InternalError, match="ROLLBACK"):
            await conn.commit()


async def test_a_wire_cut_behind_commit_leaves_the_outcome_unknown(
    db: aiodbkit.Engine, proxy: WireProxy, make: Make
) -> None:
    through = await make(proxy.url, max_size=1)

    async def cut() -> None:
        await proxy.seen(b"COMMIT")
        proxy.cut()

    with pytest.raises(aiodbkit.CommitUnknownError):
        async with through.transaction():
            await through.execute(ADD, {"id": 1, "body": ""})
            proxy.hole("down")
            cutting = asyncio.create_task(cut())
    await cutting
    proxy.heal()
    assert await ids(db) in ([], [1])
    assert await through.fetch_val("select 41") == 41


# Lost connections


async def test_bare_connection_that_the_server_has_ended_looks_open(
    db: aiodbkit.Engine, url: str
) -> None:
    async with bare(url) as connection:
        await db.fetch_val(
            "select pg_terminate_backend(:pid, 10000)", {"pid": connection.info.backend_pid}
        )
        assert not connection.closed
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("select 1")


async def test_a_connection_that_the_server_has_ended_is_replaced_unnoticed(
    db: aiodbkit.Engine, one: aiodbkit.Engine
) -> None:
    pid = await one.fetch_val("select pg_backend_pid()")
    await db.fetch_val("select pg_terminate_backend(:pid, 10000)", {"pid": pid})
    assert await one.fetch_val("select pg_backend_pid()") != pid


async def test_a_connection_ended_in_flight_is_no_transient_error(
    db: aiodbkit.Engine, one: aiodbkit.Engine
) -> None:
    task = asyncio.create_task(one.execute("select pg_sleep(30)"))
    await db.fetch_val("select pg_terminate_backend(:pid, 10000)", {"pid": await asleep(db)})
    with pytest.raises(aiodbkit.ConnectionLostError) as caught:
        await task
    assert caught.value.sqlstate == "57P01"
    assert not caught.value.is_transient


async def test_an_engine_closed_over_a_statement_stops_it_and_tells_its_task(
    db: aiodbkit.Engine, make: Make
) -> None:
    closing = await make(max_size=1)
    task = asyncio.create_task(closing.execute(SLOW_ADD))
    await asleep(db)
    await closing.close(timeout=0.1)
    with pytest.raises((aiodbkit.Error, asyncio.CancelledError)):
        await task
    await settled(db)
    assert await ids(db) == []


async def test_a_server_that_dies_and_comes_back_is_found_again(
    private_postgres: Any, make: Make
) -> None:
    db = await make(private_postgres.url, max_size=2)
    task = asyncio.create_task(db.execute("select pg_sleep(30)"))
    await asleep(db)
    await private_postgres.kill()
    with pytest.raises(aiodbkit.ConnectionLostError):
        await task
    await private_postgres.start()
    with anyio.fail_after(20):
        assert await db.fetch_val("select 41") == 41
