"""What bare asyncpg leaves to its callers when servers die, freeze or are cut off.

In pairs, as in `test_hazards_postgres`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ssl import create_default_context
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

import aiodbkit
from tests.faults.postgres import (
    ADD,
    BIG,
    HANGS,
    Make,
    Proxies,
    backend_of,
    bare,
    create_notes,
    end_backend,
    ended,
    ids,
    running,
    until,
)
from tests.servers.wire import WireProxy


@pytest.fixture
async def db(postgres_engine: Make) -> aiodbkit.Engine:
    return await create_notes(postgres_engine)


@pytest.fixture
async def proxy(postgres_url: str, wire_proxy: Proxies) -> WireProxy:
    """A wire to that database which can be cut."""
    return await wire_proxy(postgres_url)


@pytest.fixture
async def one(db: aiodbkit.Engine, proxy: WireProxy, postgres_engine: Make) -> aiodbkit.Engine:
    """An engine with a single connection, by way of the proxy."""
    return await postgres_engine(proxy.url, max_size=1, acquire_timeout=20)


@pytest.fixture
async def hasty(db: aiodbkit.Engine, proxy: WireProxy, postgres_engine: Make) -> aiodbkit.Engine:
    """The same, which gives up soon on a connection that does not answer."""
    return await postgres_engine(proxy.url, max_size=1, acquire_timeout=20, reset_timeout=0.3)


# Several hosts


async def test_bare_timeout_spans_all_hosts_and_a_silent_first_one_eats_it(
    postgres_url: str, proxy: WireProxy, postgres_engine: Make
) -> None:
    proxy.hole()
    silent, good = urlsplit(proxy.url), urlsplit(postgres_url)
    place = good.netloc.rpartition("@")[2]
    both = silent._replace(netloc=f"{silent.netloc},{place}").geturl()
    with pytest.raises(TimeoutError):
        await asyncpg.connect(both, timeout=0.5)
    db = await postgres_engine(both, connect_timeout=2)
    assert await db.fetch_val("select 41") == 41


async def test_of_several_hosts_that_fail_each_is_told(postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    two = parts._replace(netloc=f"{parts.username}@127.0.0.1:1,127.0.0.1:2").geturl()
    async with aiodbkit.create_engine(two, acquire_timeout=1) as db:
        with pytest.raises(aiodbkit.OperationalError, match=r"127\.0\.0\.1:1.*127\.0\.0\.1:2"):
            await db.fetch_val("select 1")


async def test_a_wrong_password_is_told_without_it_and_ends_the_search(
    private_postgres: Any, postgres_engine: Make
) -> None:
    wrong = private_postgres.auth_url.replace(":secret@", ":gue55ed@")
    with pytest.raises(aiodbkit.CannotConnectError, match="'app'") as caught:
        await postgres_engine(wrong, min_size=1)
    assert not caught.value.is_transient
    assert caught.value.sqlstate == "28P01"
    assert "gue55ed" not in str(caught.value)


async def test_a_certificate_is_verified_where_that_is_asked_for(
    private_postgres: Any, postgres_engine: Make
) -> None:
    url = f"{private_postgres.auth_url}?sslmode=verify-full&sslrootcert="
    db = await postgres_engine(f"{url}{private_postgres.ca}")
    assert await db.fetch_val("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
    with pytest.raises(aiodbkit.CannotConnectError, match="(?i)certificate") as caught:
        await postgres_engine(private_postgres.auth_url, ssl=create_default_context(), min_size=1)
    assert not caught.value.is_transient


# Black holes


async def test_bare_timeout_in_a_black_hole_makes_the_next_statement_hang(proxy: WireProxy) -> None:
    async with bare(proxy.url) as connection:
        proxy.hole()
        with pytest.raises(TimeoutError):
            await connection.fetchval("select 1", timeout=0.1)
        assert not connection.is_closed()
        following = asyncio.create_task(connection.fetchval("select 2"))
        done, _ = await asyncio.wait((following,), timeout=HANGS)
        assert not done
        following.cancel()
        await asyncio.wait((following,))


async def test_a_connection_lost_in_a_black_hole_is_not_lent_again(
    proxy: WireProxy, hasty: aiodbkit.Engine
) -> None:
    pid = await backend_of(hasty)
    proxy.hole()
    with pytest.raises(aiodbkit.QueryTimeoutError, match=r"0\.1"):
        await hasty.fetch_val("select 1", timeout=0.1)
    await until(lambda: hasty.pool.stats().closed == 1)
    proxy.heal()
    assert await backend_of(hasty) != pid


@pytest.mark.parametrize("floor", ["connection", "transaction"])
@pytest.mark.parametrize("verb", ["execute_many", "insert_many", "execute_script", "iterate"])
async def test_no_verb_outlives_its_timeout_in_a_black_hole(
    verb: str, floor: str, db: aiodbkit.Engine, proxy: WireProxy, hasty: aiodbkit.Engine
) -> None:
    rows = [{"id": n, "body": BIG} for n in range(2000)]

    async def iterate() -> None:
        async for _ in hasty.iterate("select 1", timeout=0.2):
            pass

    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "execute_many": lambda: hasty.execute_many(ADD, rows, timeout=0.2),
        "insert_many": lambda: hasty.insert_many("notes", rows, timeout=0.2),
        "execute_script": lambda: hasty.execute_script("select 1; select 2", timeout=0.2),
        "iterate": iterate,
    }
    with pytest.raises((aiodbkit.QueryTimeoutError, aiodbkit.ConnectionLostError)):
        async with asyncio.timeout(20), getattr(hasty, floor)():
            await hasty.fetch_val("select 1")
            proxy.hole()
            await calls[verb]()
    await until(lambda: hasty.pool.stats().closed == 1)
    proxy.heal()
    assert await hasty.fetch_val("select 41") == 41
    assert await ids(db) == []


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has this option")
async def test_bare_sockets_wait_for_ever_and_ours_do_not(
    postgres_url: str, postgres_engine: Make
) -> None:
    def options(raw: Any) -> tuple[int, int]:
        sock = raw._transport.get_extra_info("socket")
        return (
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        )

    async with bare(postgres_url) as connection:
        assert options(connection) == (0, 0)
    db = await postgres_engine(tcp_user_timeout=2.5)
    async with db.connection() as conn:
        assert options(conn.raw) == (1, 2500)


# Death


async def test_bare_connection_ended_unnoticed_fails_the_next_statement(postgres_url: str) -> None:
    async with bare(postgres_url) as connection:
        end_backend(postgres_url, connection.get_server_pid())
        assert not connection.is_closed()
        with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="in the middle"):
            await connection.fetchval("select 1")


async def test_a_connection_ended_unnoticed_is_replaced_unnoticed(
    postgres_url: str, postgres_engine: Make
) -> None:
    db = await postgres_engine(max_size=1)
    pid = await backend_of(db)
    end_backend(postgres_url, pid)
    assert await backend_of(db) != pid


async def test_bare_transaction_goes_on_after_the_connection_died(postgres_url: str) -> None:
    async with bare(postgres_url) as connection:
        await connection.execute("begin")
        end_backend(postgres_url, connection.get_server_pid())
        await until(connection.is_closed)
        assert connection.is_in_transaction()


async def test_a_transaction_dies_with_its_connection(
    db: aiodbkit.Engine, postgres_url: str
) -> None:
    with pytest.raises(aiodbkit.ConnectionLostError):
        async with db.transaction():
            await db.execute(ADD, {"id": 1, "body": ""})
            end_backend(postgres_url, await backend_of(db))
            with pytest.raises(aiodbkit.ConnectionLostError) as caught:
                await db.execute(ADD, {"id": 2, "body": ""})
            assert caught.value.sqlstate == "57P01"
            conn = db.current_connection()
            assert conn is not None
            assert conn.is_closed
            with pytest.raises(aiodbkit.ConnectionLostError):
                await db.execute(ADD, {"id": 3, "body": ""})
    assert await ids(db) == []


async def test_a_connection_lost_in_flight_is_no_transient_error_and_one_lost_before_is(
    proxy: WireProxy, one: aiodbkit.Engine
) -> None:
    async with one.connection():
        await one.fetch_val("select 1")
        proxy.hole("down")
        running = asyncio.ensure_future(proxy.seen(b"select 7"))
        running.add_done_callback(lambda _: proxy.cut())
        with pytest.raises(aiodbkit.ConnectionLostError) as caught:
            await one.fetch_val("select 7")
        assert not caught.value.is_transient
        with pytest.raises(aiodbkit.ConnectionLostError) as caught:
            await one.fetch_val("select 8")
        assert caught.value.is_transient


async def test_a_connection_lost_during_commit_leaves_the_outcome_unknown(
    db: aiodbkit.Engine, proxy: WireProxy, one: aiodbkit.Engine
) -> None:
    async with bare(proxy.url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("insert into notes values (1)")
        proxy.hole("down")
        asyncio.ensure_future(proxy.seen(b"COMMIT")).add_done_callback(lambda _: proxy.cut())
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):  # as of any other statement
            await transaction.commit()
    proxy.heal()
    with pytest.raises(aiodbkit.CommitUnknownError) as caught:
        async with one.transaction():
            await one.execute(ADD, {"id": 2, "body": ""})
            proxy.hole("down")
            asyncio.ensure_future(proxy.seen(b"COMMIT")).add_done_callback(lambda _: proxy.cut())
    assert not caught.value.is_transient
    proxy.heal()
    assert await one.fetch_val("select 41") == 41


async def test_a_server_that_dies_and_comes_back_is_found_again(
    private_postgres: Any, postgres_engine: Make
) -> None:
    db = await postgres_engine(private_postgres.url, max_size=2, acquire_timeout=1)
    async with db.connection() as conn:
        sleeping = asyncio.create_task(conn.fetch_val("select pg_sleep(30)"))
        async with db.pool.acquire() as other:
            while not await other.fetch_val(
                "select true from pg_stat_activity where query like '%pg_sleep(30)' and state = "
                "'active' and pid <> pg_backend_pid()"
            ):
                await asyncio.sleep(0.01)
        await private_postgres.kill()
        with pytest.raises(aiodbkit.ConnectionLostError):
            await sleeping
    with pytest.raises(aiodbkit.OperationalError, match="refused"):
        await db.fetch_val("select 1")
    await private_postgres.start()
    async with db.pool.acquire(timeout=20) as conn:
        assert await conn.fetch_val("select 41") == 41


async def test_bare_terminate_lets_the_statement_run_on_and_commit(
    db: aiodbkit.Engine, postgres_url: str
) -> None:
    async with bare(postgres_url) as connection:
        pid = connection.get_server_pid()
        slow = "insert into notes select 1 from pg_sleep(0.5)"
        task = asyncio.create_task(connection.execute(slow))
        await running(db, pid)
        connection.terminate()
        await asyncio.wait((task,))
        task.exception()
    await ended(db, pid)
    assert await ids(db) == [1]


async def test_a_statement_is_stopped_when_its_engine_is_closed_over_it(
    db: aiodbkit.Engine, postgres_engine: Make
) -> None:
    other = await postgres_engine(max_size=1)
    pid = await backend_of(other)
    task = asyncio.create_task(other.execute("insert into notes select 1 from pg_sleep(3)"))
    await running(db, pid)
    await other.close(timeout=0)
    with pytest.raises(aiodbkit.Error):
        await task
    await ended(db, pid)
    assert await ids(db) == []
