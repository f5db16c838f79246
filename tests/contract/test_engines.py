"""Contract §1: engines. Built without I/O, opened lazily, closed for good, discreet."""

from __future__ import annotations

import asyncio
import logging
import traceback
from pathlib import Path
from typing import Any

import pytest

import aiodbkit

from .dialects import Dialect, split_url

SCHEMES = {
    "sqlite:///app.db": "SQLiteEngine",
    "sqlite+aiosqlite:///app.db": "SQLiteEngine",
    "postgresql://app@db/app": "PostgresEngine",
    "postgres://app@db/app": "PostgresEngine",
    "postgresql+asyncpg://app@db/app": "PostgresEngine",
    "mysql://app@db/app": "MySQLEngine",
    "mariadb://app@db/app": "MySQLEngine",
    "mysql+aiomysql://app@db/app": "MySQLEngine",
}
SECRET = "s3cr%t/w:rd@"
SECRET_IN_URL = "s3cr%25t%2Fw%3Ard%40"


@pytest.mark.parametrize("url", SCHEMES)
def test_the_scheme_chooses_the_class_without_a_running_loop(url: str) -> None:
    db = aiodbkit.create_engine(url)
    assert type(db) is getattr(aiodbkit, SCHEMES[url])
    assert isinstance(db, aiodbkit.Engine)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
async def test_memory_is_shared_by_the_connections_of_one_engine_and_by_no_other(url: str) -> None:
    async with aiodbkit.create_engine(url, max_size=3) as db, aiodbkit.create_engine(url) as other:
        await db.execute("create table seen (id integer)")
        await db.execute("insert into seen (id) values (1)")
        async with db.pool.acquire() as first, db.pool.acquire() as second:
            assert first.raw is not second.raw
            assert await first.fetch_val("select count(*) from seen") == 1
            assert await second.fetch_val("select count(*) from seen") == 1
        with pytest.raises(aiodbkit.ProgrammingError):
            await other.fetch_val("select count(*) from seen")


async def test_sqlite_paths_are_relative_with_three_slashes_and_absolute_with_four(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with aiodbkit.create_engine("sqlite:///rel.db") as db:
        await db.execute("create table seen (id integer)")
    async with aiodbkit.create_engine(f"sqlite:///{tmp_path}/rel.db") as db:
        assert await db.fetch_val("select count(*) from seen") == 0
    assert (tmp_path / "rel.db").exists()


async def test_percent_encoding_in_a_path_is_decoded(tmp_path: Path) -> None:
    async with aiodbkit.create_engine(f"sqlite:///{tmp_path}/a%20b%23c.db") as db:
        await db.execute("create table seen (id integer)")
    assert (tmp_path / "a b#c.db").exists()


async def test_a_class_is_built_without_a_url(url: str, db: aiodbkit.Engine) -> None:
    async with type(db)(**split_url(url), max_size=2) as other:
        assert await other.fetch_val("select 1") == 1
        assert other.pool.stats().max_size == 2


async def test_a_class_takes_a_url_too(url: str, db: aiodbkit.Engine) -> None:
    async with type(db)(url) as other:
        assert await other.fetch_val("select 1") == 1


async def test_options_in_a_url_are_converted_to_their_type(url: str) -> None:
    query = "max_size=3&min_size=1&acquire_timeout=2.5"
    async with aiodbkit.create_engine(f"{url}{'&' if '?' in url else '?'}{query}") as db:
        stats = db.pool.stats()
        assert (stats.min_size, stats.max_size, stats.size) == (1, 3, 1)


async def test_a_keyword_wins_over_the_same_option_in_the_url(url: str) -> None:
    async with aiodbkit.create_engine(f"{url}?max_size=3", max_size=4) as db:
        assert db.pool.stats().max_size == 4


async def test_options_that_the_driver_knows_reach_it(make_engine: Any, sql: Dialect) -> None:
    options, shown_by, value = sql.session
    db = await make_engine(**options)
    assert str(await db.fetch_val(shown_by)) == value


async def test_session_sql_prepares_every_connection(make_engine: Any, sql: Dialect) -> None:
    statement, shown_by, value = sql.session_sql
    db = await make_engine(session_sql=[statement], max_size=2)
    async with db.pool.acquire() as first, db.pool.acquire() as second:
        assert str(await first.fetch_val(shown_by)) == value
        assert str(await second.fetch_val(shown_by)) == value


async def test_session_sql_is_still_in_force_after_a_full_reset(
    make_engine: Any, sql: Dialect
) -> None:
    statement, shown_by, value = sql.session_sql
    db = await make_engine(session_sql=[statement], max_size=1, reset="always")
    for _ in range(3):
        assert str(await db.fetch_val(shown_by)) == value


async def test_on_connect_on_acquire_and_on_release_are_given_the_connection(
    make_engine: Any,
) -> None:
    calls: list[str] = []

    def told(event: str) -> Any:
        async def hook(conn: aiodbkit.Connection) -> None:
            assert await conn.fetch_val("select 5") == 5
            calls.append(event)

        return hook

    db = await make_engine(
        max_size=1,
        on_connect=told("connect"),
        on_acquire=told("acquire"),
        on_release=told("release"),
    )
    for _ in range(2):
        async with db.connection():
            calls.append("body")
    assert await db.fetch_val("select 1") == 1  # so that the last release is through
    assert calls[:7] == ["connect", "acquire", "body", "release", "acquire", "body", "release"]


async def test_connection_factory_opens_the_raw_connections(
    make_engine: Any, url: str, sql: Dialect
) -> None:
    opened: list[Any] = []

    async def factory(*args: Any, **options: Any) -> Any:
        opened.append(await sql.connect(url))
        return opened[-1]

    db = await make_engine(connection_factory=factory, max_size=1)
    assert await db.fetch_val("select 1") == 1
    async with db.connection() as conn:
        assert conn.raw is opened[0]
    assert len(opened) == 1


async def test_an_engine_used_before_connect_connects_by_itself(url: str) -> None:
    db = aiodbkit.create_engine(url)
    try:
        assert await db.fetch_val("select 1") == 1
    finally:
        await db.close()


async def test_twenty_tasks_may_be_the_first_user_at_once(url: str) -> None:
    db = aiodbkit.create_engine(url, max_size=4)
    try:
        answers = await asyncio.gather(*(db.fetch_val(f"select {n}") for n in range(20)))
        assert answers == list(range(20))
    finally:
        await db.close()


async def test_connect_and_close_are_idempotent(url: str) -> None:
    db = aiodbkit.create_engine(url, min_size=1)
    await db.close()
    await db.connect()
    await db.connect()
    assert db.pool.stats().size == 1
    await db.close(timeout=5)
    await db.close()


async def test_the_block_gives_the_engine_itself_and_closes_it(url: str) -> None:
    async with aiodbkit.create_engine(url) as db:
        assert await db.fetch_val("select 1") == 1
    async with db as same:
        assert same is db
    with pytest.raises(aiodbkit.InterfaceError):
        await db.fetch_val("select 1")


async def test_an_engine_is_refused_after_close_until_it_is_connected_again(url: str) -> None:
    db = aiodbkit.create_engine(url)
    await db.connect()
    await db.close()
    with pytest.raises(aiodbkit.InterfaceError, match=r"closed.*connect\(\)"):
        await db.fetch_val("select 1")
    with pytest.raises(aiodbkit.InterfaceError, match="closed"):
        async with db.transaction():
            pass
    await db.connect()
    assert await db.fetch_val("select 1") == 1
    await db.close()


async def test_min_size_connections_are_opened_by_connect(url: str) -> None:
    async with aiodbkit.create_engine(url, min_size=2, max_size=3) as db:
        assert db.pool.stats().size == 2


async def test_one_engine_serves_two_event_loops_in_turn(url: str) -> None:
    db = aiodbkit.create_engine(url, min_size=1)

    async def program() -> int:
        async with db:
            return await db.fetch_val("select 6 * 7")

    def two_runs() -> list[int]:
        return [asyncio.run(program()), asyncio.run(program())]

    assert await asyncio.to_thread(two_runs) == [42, 42]


async def test_an_open_engine_refuses_a_second_event_loop_and_survives_it(
    db: aiodbkit.Engine,
) -> None:
    assert await db.fetch_val("select 1") == 1

    def elsewhere() -> Any:
        return asyncio.run(db.fetch_val("select 2"))

    with pytest.raises(aiodbkit.InterfaceError, match="event loop"):
        await asyncio.to_thread(elsewhere)
    assert await db.fetch_val("select 3") == 3


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
async def test_a_password_is_told_to_nobody(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"{scheme}://app:{SECRET_IN_URL}@127.0.0.1:1/shop"
    db = aiodbkit.create_engine(url, min_size=1, connect_timeout=5, acquire_timeout=5)
    with pytest.raises(aiodbkit.CannotConnectError) as caught:
        await db.connect()
    await db.close()
    message = str(caught.value)
    for part in ("127.0.0.1", "1", "shop", "app"):
        assert part in message
    told = [repr(db), str(db), repr(db.pool), caplog.text, message, repr(caught.value)]
    told += traceback.format_exception_only(caught.value)
    for text in told:
        assert SECRET not in text
        assert SECRET_IN_URL not in text


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
@pytest.mark.parametrize("wrong", ["?max_size=0", "?no_such_option=1", "?max_size=many"])
async def test_a_refused_option_does_not_tell_the_password(scheme: str, wrong: str) -> None:
    with pytest.raises(aiodbkit.ConfigurationError) as caught:
        await aiodbkit.create_engine(f"{scheme}://app:{SECRET_IN_URL}@db/shop{wrong}").connect()
    for text in traceback.format_exception_only(caught.value):
        assert SECRET not in text
        assert SECRET_IN_URL not in text


def test_the_repr_names_host_and_database() -> None:
    text = repr(aiodbkit.create_engine("postgresql://app:pw@db.example:5433/shop"))
    for part in ("PostgresEngine", "db.example", "5433", "shop"):
        assert part in text
