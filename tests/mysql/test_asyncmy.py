"""What bare asyncmy gets wrong, and what aiodbkit makes of it: in pairs, as for aiomysql.

The tests of aiomysql's hazards run on asyncmy too: ``AIODBKIT_TEST_DRIVERS=asyncmy``.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

import aiodbkit
from aiodbkit.backends.mysql.cursors import _Tail
from tests.faults.mysql_support import (
    address,
    cancelled,
    ended,
    run,
    started,
    until,
    works_on,
)

asyncmy = pytest.importorskip("asyncmy")


@pytest.fixture
async def make(mysql_engine, mysql_url):
    async def make(**options):
        _, _, place = mysql_url.partition("://")
        return await mysql_engine(f"mysql+asyncmy://{place}", **options)

    return make


@pytest.fixture
async def db(make):
    return await make(max_size=1)


@asynccontextmanager
async def bare(url, **options):
    connection = await asyncmy.connect(**address(url), autocommit=True, **options)
    try:
        yield connection
    finally:
        connection.close()


async def ask(connection, sql, args=None):
    cursor = connection.cursor()
    await cursor.execute(sql, args)
    return await cursor.fetchall()


async def test_it_is_asyncmy(db):
    async with db.connection() as conn:
        assert type(conn.raw) is asyncmy.connection.Connection
        assert await ask(conn.raw, "select 1") == ((1,),)


async def gone(witness, number):
    await run(witness, f"kill {number}")

    async def is_gone():
        return number not in [session[0] for session in await run(witness, "show processlist")]

    await until(is_gone)


async def test_bare_a_dead_connection_calls_itself_connected(mysql_url, witness):
    async with bare(mysql_url) as connection:
        await gone(witness, connection.thread_id())
        assert connection.connected
        with pytest.raises(asyncmy.errors.OperationalError):
            await ask(connection, "select 1")


async def test_a_dead_connection_is_closed(db, witness):
    async with db.connection() as conn:
        await gone(witness, await conn.fetch_val("select connection_id()"))
        assert conn.is_closed


async def test_bare_a_session_that_does_not_autocommit_says_that_it_does(mysql_url):
    async with bare(mysql_url) as connection:
        await ask(connection, "set autocommit = 0")
        assert connection.get_autocommit()


async def test_a_session_that_does_not_autocommit_is_known_and_put_right(db):
    async with db.connection() as conn:
        await conn.execute("set autocommit = 0")
        assert conn.in_transaction
    assert await db.fetch_val("select @@autocommit") == 1


async def test_bare_a_cancelled_statement_runs_on(mysql_url, witness):
    async with bare(mysql_url) as connection:
        task = asyncio.create_task(ask(connection, "select sleep(100) /* on and on */"))
        await started(witness, "on and on")
        await cancelled(task)
        await asyncio.sleep(0.1)
        (session,) = await works_on(witness, "on and on")
        await run(witness, f"kill {session}")
        await ended(witness, "on and on")


async def test_a_cancelled_statement_is_stopped(db, witness):
    task = asyncio.create_task(db.fetch_val("select sleep(100) /* on and on */"))
    await started(witness, "on and on")
    await cancelled(task)
    await ended(witness, "on and on")


async def test_bare_a_load_of_a_file_fails(private_mysql, tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("1\n")
    async with bare(private_mysql.url, local_infile=True) as connection:
        await ask(connection, "set global local_infile = 1")
        await ask(connection, "create table numbers (n int)")
        with pytest.raises(TypeError):
            await ask(connection, f"load data local infile '{path}' into table numbers")


async def test_a_value_that_cannot_be_decoded_costs_its_connection_and_no_other_answer(make):
    def refuse(text):
        raise ValueError(text)

    db = await make(conv={246: refuse}, max_size=1)
    with pytest.raises(aiodbkit.ConnectionLostError, match="asyncmy failed: ValueError"):
        await db.fetch_all("select 1.5 union all select 2.5")
    assert await db.fetch_val("select 7") == 7


async def test_a_stream_of_rows_parsed_in_advance_loses_none(db):
    sql = "select seq from seq_1_to_5000"
    async with db.iterate(sql, batch_size=7) as rows:
        assert [row.seq async for row in rows] == list(range(1, 5001))


@pytest.mark.parametrize("read", [1, 8, 3000])
async def test_a_stream_left_early_leaves_the_connection_in_step(read, db):
    async with db.connection() as conn:
        session = await conn.fetch_val("select connection_id()")
        async with conn.iterate("select seq from seq_1_to_100000", batch_size=7) as rows:
            for _ in range(read):
                await anext(rows)
        assert await conn.fetch_val("select connection_id()") == session


async def test_tls_is_verified_or_refused(make, tls_ca):
    db = await make(ssl="require")
    assert await db.fetch_one("show status like 'ssl_version'") != ("Ssl_version", "")
    with pytest.raises(aiodbkit.CannotConnectError):
        await (await make(ssl=True)).fetch_val("select 1")
    db = await make(ssl_ca=str(tls_ca))
    assert await db.fetch_val("select 1") == 1


async def test_a_connection_of_another_driver_is_refused(make, mysql_url):
    import aiomysql

    opened = []

    async def factory():
        opened.append(await aiomysql.connect(**address(mysql_url)))
        return opened[-1]

    db = await make(connection_factory=factory)
    with pytest.raises(aiodbkit.ConfigurationError, match="asyncmy.Connection, not Connection"):
        await db.fetch_val("select 1")
    for each in opened:
        each.close()


async def test_a_connection_of_somebody_elses_making_is_put_right(make, mysql_url):
    async def factory():
        return await asyncmy.connect(**address(mysql_url), charset="latin1")

    db = await make(connection_factory=factory)
    assert await db.fetch_val("select :text", {"text": "\N{SNOWMAN}"}) == "\N{SNOWMAN}"
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.execute("select 1; select 2")


def test_the_end_of_a_result_without_an_eof_packet_may_be_long():
    end = b"\xfe\x00\x00\x02\x00\x00\x00" + b"some words of the server's"
    wire = len(end).to_bytes(3, "little") + b"\x05" + end
    assert _Tail().feed(wire) is None
    assert _Tail(0xFFFFFF).feed(wire) == end
