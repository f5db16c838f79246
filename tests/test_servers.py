"""The tests' own tools: servers that die and come back, a wire that breaks, nothing left behind."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.servers.binaries import Binaries
from tests.servers.database import MySQLDatabase, PostgresDatabase
from tests.servers.environment import Unavailable

LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


@asynccontextmanager
async def session(url, **options):
    connection = await asyncpg.connect(url, **options)
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def mysql_session(url):
    async with MySQLDatabase(url)._cursor(url) as cursor:
        yield cursor


async def postgres_answers(url):
    async with session(url) as connection:
        return await connection.fetchval("select 1")


async def mysql_answers(url):
    async with mysql_session(url) as cursor:
        await cursor.execute("select 1")
        return (await cursor.fetchone())[0]


@pytest.mark.parametrize("run", [1, 2])
async def test_what_a_test_creates_in_postgres_is_gone_in_the_next_one(postgres_url, run):
    async with session(postgres_url) as connection:
        await connection.execute("create table left_behind (a int); create schema app")


@pytest.mark.parametrize("run", [1, 2])
async def test_what_a_test_creates_in_mysql_is_gone_in_the_next_one(mysql_url, run):
    async with mysql_session(mysql_url) as cursor:
        await cursor.execute("create table left_behind (a int)")


async def test_a_session_left_open_in_postgres_is_found(postgres_url):
    database = PostgresDatabase(postgres_url)
    database.url = postgres_url
    assert await database.sessions() == []
    async with session(postgres_url) as connection:
        await connection.execute("begin; create table t (a int)")
        (found,) = await database.sessions()
        assert "idle in transaction: begin; create table t" in found


async def test_a_session_left_open_in_mysql_is_found(mysql_url):
    database = MySQLDatabase(mysql_url)
    database.url = mysql_url
    assert await database.sessions() == []
    async with mysql_session(mysql_url):
        (found,) = await database.sessions()
        assert "Sleep" in found


async def test_a_killed_postgres_is_gone_and_comes_back_on_its_port(private_postgres):
    async with session(private_postgres.url) as connection:
        await private_postgres.kill()
        with pytest.raises(LOST):
            await connection.fetchval("select 1")
    with pytest.raises(ConnectionRefusedError):
        await postgres_answers(private_postgres.url)
    await private_postgres.start()
    assert await postgres_answers(private_postgres.url) == 1


async def test_what_was_committed_survives_the_kill(private_postgres):
    async with session(private_postgres.url) as connection:
        await connection.execute("create table t (a int)")
        await connection.execute("insert into t values (7)")
        await private_postgres.kill()
    await private_postgres.start()
    async with session(private_postgres.url) as connection:
        assert await connection.fetchval("select a from t") == 7


async def test_a_killed_mysql_is_gone_and_comes_back_on_its_port(private_mysql):
    assert await mysql_answers(private_mysql.url) == 1
    await private_mysql.kill()
    with pytest.raises(Exception, match="Can't connect to MySQL server"):
        await mysql_answers(private_mysql.url)
    await private_mysql.start()
    assert await mysql_answers(private_mysql.url) == 1


async def test_a_frozen_server_accepts_but_does_not_answer_until_it_is_thawed(
    private_postgres, private_mysql
):
    for server, answers in ((private_postgres, postgres_answers), (private_mysql, mysql_answers)):
        await server.freeze()
        asked = asyncio.create_task(answers(server.url))
        done, _ = await asyncio.wait([asked], timeout=0.1)
        assert not done
        await server.thaw()
        assert await asked == 1


async def test_postgres_checks_passwords_and_insists_on_tls_where_told(private_postgres):
    if private_postgres.ca is None:
        pytest.skip("this PostgreSQL was built without TLS; to run this test: install Debian's")
    trusted = ssl.create_default_context(cafile=private_postgres.ca)
    tls_url = private_postgres.auth_url.replace("app:", "tls:")
    async with session(tls_url, ssl=trusted) as connection:
        assert await connection.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(tls_url, ssl=False)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(private_postgres.auth_url, password="wrong")


async def test_the_authority_vouches_for_the_shared_server(postgres_url, tls_ca):
    async with session(postgres_url, ssl=ssl.create_default_context(cafile=tls_ca)) as connection:
        assert await connection.fetchval("select 1") == 1


async def test_an_answer_lost_on_the_wire_leaves_the_work_done(postgres_url, wire_proxy):
    proxy = await wire_proxy(postgres_url)
    async with session(postgres_url) as witness, session(proxy.url) as connection:
        await connection.execute("create table t (a int)")
        proxy.hole("down")
        insert = asyncio.create_task(connection.execute("insert into t values (1)"))
        await proxy.seen(b"insert")
        while not await witness.fetchval("select count(*) from t"):
            await asyncio.sleep(0)
        assert not insert.done()
        proxy.cut()
        with pytest.raises(LOST):
            await insert


async def test_a_hole_swallows_and_gives_back_once_it_is_healed(postgres_url, wire_proxy):
    proxy = await wire_proxy(postgres_url)
    async with session(proxy.url) as connection:
        proxy.hole()
        waiting = [
            asyncio.create_task(connection.fetchval("select 1")),
            asyncio.create_task(postgres_answers(proxy.url)),
        ]
        await proxy.seen()
        done, _ = await asyncio.wait(waiting, timeout=0.1)
        assert not done
        proxy.heal()
        assert await asyncio.gather(*waiting) == [1, 1]


async def test_refusing_is_for_new_connections_only(postgres_url, wire_proxy):
    proxy = await wire_proxy(postgres_url)
    async with session(proxy.url) as connection:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncpg.connect(proxy.url)
        assert await connection.fetchval("select 1") == 1
        proxy.heal()
        assert await postgres_answers(proxy.url) == 1
        assert proxy.accepted == 2


async def test_the_proxy_forwards_mysql_too(mysql_url, wire_proxy):
    proxy = await wire_proxy(mysql_url)
    assert await mysql_answers(proxy.url) == 1


def test_a_server_that_cannot_be_had_is_told_with_reason_and_cure(monkeypatch):
    monkeypatch.setenv("AIODBKIT_TEST_SERVER_PATH", "/nowhere")
    monkeypatch.setenv("AIODBKIT_TEST_INSTALL", "0")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    said = []
    binaries = Binaries(said.append)
    for found, cure in (
        (binaries.postgres, "AIODBKIT_TEST_POSTGRES_URL"),
        (binaries.mysql, "_MYSQL_URL"),
    ):
        assert isinstance(found, Unavailable)
        assert "was found and none could be installed; to run this test: install" in str(found)
        assert cure in str(found)
    assert said == []
