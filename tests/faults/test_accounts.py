"""What an account may not do: more connections than it has, tables that are not its own."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

import aiodbkit


def as_account(url: str, name: str) -> str:
    """Return ``url`` for another account, whose password is "secret"."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{name}:secret@{place}").geturl()


async def test_an_account_without_connections_left_is_told_so_on_postgres(
    private_postgres: Any,
) -> None:
    async with aiodbkit.create_engine(private_postgres.url) as db:
        await db.execute("create role few login password 'secret' connection limit 0")
    few = aiodbkit.create_engine(as_account(private_postgres.url, "few"), min_size=1)
    with pytest.raises(aiodbkit.TooManyConnectionsError, match='role "few"') as caught:
        await few.connect()
    assert caught.value.sqlstate == "53300"
    assert caught.value.is_transient


async def test_an_account_without_connections_left_is_told_so_on_mariadb(
    private_mysql: Any,
) -> None:
    async with aiodbkit.create_engine(private_mysql.url) as db:
        await db.execute("create user few@'127.0.0.1' identified by 'secret'")
        await db.execute("grant select on *.* to few@'127.0.0.1' with max_user_connections 1")
    url = as_account(private_mysql.url, "few")
    two = aiodbkit.create_engine(url, min_size=2)
    with pytest.raises(aiodbkit.TooManyConnectionsError, match="max_user_connections") as caught:
        await two.connect()
    assert caught.value.code == 1226
    assert caught.value.is_transient


async def test_the_connections_that_an_account_has_go_on_serving(private_mysql: Any) -> None:
    async with aiodbkit.create_engine(private_mysql.url) as db:
        await db.execute("create user few@'127.0.0.1' identified by 'secret'")
        await db.execute("grant select on *.* to few@'127.0.0.1' with max_user_connections 1")
    url = as_account(private_mysql.url, "few")
    async with aiodbkit.create_engine(url, min_size=1, max_size=2) as few:
        async with few.connection() as conn:
            with pytest.raises(aiodbkit.PoolTimeoutError) as caught:
                await few.pool.acquire(timeout=0.5)
            assert isinstance(caught.value.__cause__, aiodbkit.TooManyConnectionsError)
            assert await conn.fetch_val("select 41") == 41
        assert await few.fetch_val("select 42") == 42


async def test_a_missing_permission_is_told_alike_on_postgres(private_postgres: Any) -> None:
    async with aiodbkit.create_engine(private_postgres.url) as db:
        await db.execute("create role poor login password 'secret'")
        await db.execute("create table safe (gold integer)")
    async with aiodbkit.create_engine(as_account(private_postgres.url, "poor")) as poor:
        with pytest.raises(aiodbkit.OperationalError, match="permission denied") as caught:
            await poor.fetch_all("select gold from safe")
    assert type(caught.value) is aiodbkit.OperationalError
    assert caught.value.sqlstate == "42501"
    assert not caught.value.is_transient


async def test_a_missing_permission_is_told_alike_on_mariadb(private_mysql: Any) -> None:
    async with aiodbkit.create_engine(private_mysql.url) as db:
        await db.execute("create table safe (gold integer, tin integer)")
        await db.execute("create user poor@'127.0.0.1' identified by 'secret'")
        await db.execute("grant select (tin) on test.safe to poor@'127.0.0.1'")
    async with aiodbkit.create_engine(as_account(private_mysql.url, "poor")) as poor:
        with pytest.raises(aiodbkit.OperationalError, match="denied") as caught:
            await poor.execute("delete from safe")
    assert type(caught.value) is aiodbkit.OperationalError
    assert caught.value.code == 1142
    assert not caught.value.is_transient
