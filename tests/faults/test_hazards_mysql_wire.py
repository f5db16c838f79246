"""What bare aiomysql leaves to its callers at the wire, and what aiodbkit makes of it.

As in `test_hazards_mysql`: what begins with ``bare`` shows the hazard.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiomysql
import pytest

import aiodbkit

from .mysql_support import (
    ADD,
    MANY,
    SLOW_INSERT,
    Make,
    Proxies,
    address,
    bare,
    cancelled,
    ended,
    ids,
    run,
    started,
    until,
    works_on,
)

# Long enough for what works to have happened: the tests show with it that something hangs.
HANGS = 0.5


@pytest.fixture
async def db(mysql_engine: Make) -> aiodbkit.Engine:
    """An engine on a database with a table of notes."""
    db = await mysql_engine(acquire_timeout=20)
    await db.execute("create table notes (id integer primary key, body mediumtext)")
    return db


@pytest.fixture
async def witness(mysql_url: str) -> AsyncIterator[Any]:
    """A session that looks on."""
    async with bare(mysql_url) as connection:
        yield connection


# Deadlines


async def test_a_timeout_stops_the_statement_and_keeps_its_transaction(
    db: aiodbkit.Engine, witness: Any
) -> None:
    async with db.transaction():
        await db.execute(ADD, MANY[0])
        session = await db.fetch_val("select connection_id()")
        with pytest.raises(aiodbkit.QueryTimeoutError, match=r"timeout=0\.2 s"):
            await db.execute(SLOW_INSERT.replace("0.5", "30"), timeout=0.2)
        assert not await works_on(witness, "waited")
        await db.execute(ADD, MANY[1])
        assert await db.fetch_val("select connection_id()") == session
    assert await ids(db) == [1, 2]


async def test_a_statement_that_ends_as_its_time_is_up_does_no_harm_to_the_next(
    mysql_engine: Make,
) -> None:
    db = await mysql_engine(max_size=1)
    for n in range(60):
        with suppress(aiodbkit.QueryTimeoutError):
            await db.fetch_val("select sleep(0.01)", timeout=0.008 + n * 0.0001)
        assert await db.fetch_val("select :n + sleep(0.002)", {"n": n}) == n
    assert db.pool.stats().opened == 1


async def test_a_timeout_ends_where_the_server_does_not_answer(
    mysql_engine: Make, mysql_url: str, wire_proxy: Proxies
) -> None:
    proxy = await wire_proxy(mysql_url)
    db = await mysql_engine(proxy.url)
    assert await db.fetch_val("select 1") == 1
    proxy.hole()
    with pytest.raises(aiodbkit.QueryTimeoutError, match="connection was closed"):
        await db.fetch_val("select 2", timeout=0.1)
    proxy.heal()
    assert await db.fetch_val("select 3") == 3


# Streams


async def test_bare_a_cancelled_stream_raises_attribute_error(mysql_url: str) -> None:
    async def read(connection: Any) -> None:
        async with connection.cursor(aiomysql.SSCursor) as cursor:
            await cursor.execute("select sleep(0.1), repeat('x', 20000) from notes")
            await cursor.fetchmany(400)

    async with bare(mysql_url) as connection:
        await run(connection, "create table notes (id int)")
        await run(connection, f"insert into notes values {', '.join(['(1)'] * 400)}")
        with pytest.raises(AttributeError):
            async with asyncio.timeout(0.3):
                await read(connection)


async def test_a_cancelled_stream_is_cancelled(db: aiodbkit.Engine, witness: Any) -> None:
    await db.execute_many(ADD, MANY)
    slow = "select sleep(0.1) as waited, body from notes"

    async def read() -> None:
        async with db.iterate(slow, batch_size=400) as rows:
            async for _ in rows:
                pass

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await read()
    await ended(witness, "waited")
    assert len(await ids(db)) == 400


async def test_a_stream_left_early_keeps_its_transaction(db: aiodbkit.Engine, witness: Any) -> None:
    await db.execute_many(ADD, MANY)
    endless = "select 1 as waited from notes a, notes b, notes c, notes d"
    async with db.transaction():
        await db.execute("delete from notes where id > 300")
        async with db.iterate(endless, batch_size=10) as rows:
            async for _ in rows:
                break
        assert not await works_on(witness, "waited")
        await db.execute("delete from notes where id > 200")
    assert len(await ids(db)) == 200


# Opening and closing

CLIENT_SSL = 1 << 11


@asynccontextmanager
async def without_tls(url: str) -> AsyncIterator[str]:
    """A way to the server on which somebody takes TLS out of what both sides say they can do."""
    parts = urlsplit(url)
    assert parts.port is not None

    serving: set[Any] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        back, forth = await asyncio.open_connection(parts.hostname, parts.port)
        greeting = await back.read(4096)
        # Behind the packet's header and version: session, half a salt, a zero.
        writer.write(clear(greeting, greeting.index(0, 5) + 1 + 4 + 8 + 1))
        pumps = [asyncio.create_task(pump(back, writer))]
        if answer := await reader.read(4096):
            forth.write(clear(answer, 4))
        pumps.append(asyncio.create_task(pump(reader, forth)))
        await asyncio.wait(pumps)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    def clear(packet: bytes, at: int) -> bytes:
        (flags,) = struct.unpack_from("<H", packet, at)
        return packet[:at] + struct.pack("<H", flags & ~CLIENT_SSL) + packet[at + 2 :]

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        login = parts.netloc.rpartition("@")[0]
        yield parts._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()
        await asyncio.wait(serving)


async def test_bare_tls_is_left_out_without_a_word(mysql_url: str, tls_ca: Path) -> None:
    context = ssl.create_default_context(cafile=tls_ca)
    async with without_tls(mysql_url) as url, bare(url, ssl=context) as connection:
        assert await run(connection, "select 1") == ((1,),)
        assert connection._writer.get_extra_info("ssl_object") is None


async def test_tls_asked_for_is_tls_or_no_connection(
    mysql_engine: Make, mysql_url: str, tls_ca: Path
) -> None:
    db = await mysql_engine(ssl="verify-full", ssl_ca=str(tls_ca))
    assert (await db.fetch_one("show status like 'ssl_cipher'"))[1]
    async with without_tls(mysql_url) as url:
        for asked in ({"ssl": ssl.create_default_context(cafile=tls_ca)}, {"ssl": "require"}):
            with pytest.raises(aiodbkit.CannotConnectError, match="no TLS") as caught:
                await mysql_engine(url, min_size=1, **asked)
            assert not caught.value.is_transient


async def test_a_certificate_of_nobody_known_is_refused(mysql_engine: Make, tls_ca: Path) -> None:
    with pytest.raises(aiodbkit.CannotConnectError, match="certificate") as caught:
        await mysql_engine(ssl=True, min_size=1)
    assert not caught.value.is_transient


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A peer that accepts and says nothing; and an event for when its client has left."""
    left = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read()
        left.set()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield f"mysql://app:s3cret@127.0.0.1:{server.sockets[0].getsockname()[1]}/shop", left


async def test_bare_connect_waits_for_ever_for_a_silent_peer() -> None:
    async with silent_server() as (url, left):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(HANGS):
                await aiomysql.connect(**address(url), connect_timeout=0.1)
        await left.wait()


async def test_connect_ends_and_leaves_no_socket(mysql_engine: Make) -> None:
    async with silent_server() as (url, left):
        with pytest.raises(aiodbkit.CannotConnectError) as caught:
            await mysql_engine(url, min_size=1, connect_timeout=0.2)
        await left.wait()
    assert "s3cret" not in str(caught.value)


async def test_bare_close_keeps_the_socket_while_a_peer_does_not_read(
    mysql_url: str, wire_proxy: Proxies
) -> None:
    proxy = await wire_proxy(mysql_url)
    async with bare(proxy.url) as connection:
        proxy.hole()
        transport = connection._writer.transport
        sending = asyncio.create_task(run(connection, f"select '{'x' * 12_000_000}'"))
        await until(lambda: has_unsent(transport))
        await cancelled(sending)
        assert transport.get_extra_info("socket").fileno() != -1
        transport.abort()


def transport_of(raw: Any) -> asyncio.Transport:
    is_asyncmy = type(raw).__module__.startswith("asyncmy")
    transport: asyncio.Transport = raw._transport if is_asyncmy else raw._writer.transport
    return transport


async def test_a_cancelled_statement_leaves_no_socket_behind(
    mysql_engine: Make, mysql_url: str, wire_proxy: Proxies
) -> None:
    proxy = await wire_proxy(mysql_url)
    db = await mysql_engine(proxy.url, max_size=1)
    async with db.connection() as conn:
        transport = transport_of(conn.raw)
        proxy.hole()
        sending = asyncio.create_task(conn.fetch_val("select :x", {"x": "x" * 12_000_000}))
        await until(lambda: has_unsent(transport))
        await cancelled(sending)
        assert conn.is_closed
    await asyncio.sleep(0)
    assert transport.get_extra_info("socket").fileno() == -1
    proxy.heal()


async def has_unsent(transport: Any) -> bool:
    return transport.get_write_buffer_size() > 0


async def test_bare_ping_puts_another_session_in_the_place_of_a_dead_one(
    mysql_url: str, witness: Any
) -> None:
    async with bare(mysql_url) as connection:
        await run(connection, "set @mine = 1")
        await run(witness, f"kill {connection.thread_id()}")
        await connection.ping()
        assert await run(connection, "select @mine") == ((None,),)


async def test_a_dead_connection_is_replaced_before_use_and_told_of_in_a_transaction(
    db: aiodbkit.Engine, witness: Any
) -> None:
    session = await db.fetch_val("select connection_id()")
    await run(witness, f"kill {session}")
    assert await db.fetch_val("select connection_id()") != session
    with pytest.raises(aiodbkit.ConnectionLostError):
        async with db.transaction():
            await db.execute(ADD, MANY[0])
            await run(witness, f"kill {await db.fetch_val('select connection_id()')}")
            await db.execute(ADD, MANY[1])
    assert await ids(db) == []


async def test_an_engine_that_closes_ends_what_the_server_still_works_on(
    mysql_engine: Make, db: aiodbkit.Engine, witness: Any
) -> None:
    closing = await mysql_engine()
    adding = asyncio.create_task(closing.execute(SLOW_INSERT.replace("0.5", "30")))
    await started(witness, "waited")
    await closing.close(timeout=0)
    with pytest.raises(aiodbkit.Error):
        await adding
    await ended(witness, "waited")
    assert await ids(db) == []


async def test_a_session_is_made_what_it_was_before_it_is_lent_again(mysql_engine: Make) -> None:
    db = await mysql_engine(
        max_size=1, init_command="set @a = 1", session_sql=["set @b = 2", "set @b = 3"]
    )
    name = await db.fetch_val("select database()")
    for change in (
        "set @a = 9, @b = 9",
        "use information_schema",
        "create temporary table notes (id int)",
        "do get_lock('mine', 1)",
        "set sql_mode = ''",
    ):
        await db.execute(change)
        found = await db.fetch_one(
            "select database(), @a, @b, is_used_lock('mine'), @@sql_mode like '%STRICT%'"
        )
        assert found == (name, 1, 3, None, 1)
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.execute("select * from notes")
    assert db.pool.stats().opened == 1
