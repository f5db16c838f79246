"""Routing where there is no replication: each member is a database of its own, and says which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import aiodbkit
from tests.replicas.support import elsewhere
from tests.servers.mariadb import MariaDBServer

WHICH = "select name from self"


async def _named(url: str, name: str) -> str:
    async with aiodbkit.create_engine(url) as db:
        await db.execute("create table self (name varchar(20))")
        await db.execute("insert into self values (:name)", {"name": name})
    return url


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[aiodbkit.ReplicatedEngine]:
    urls = [await _named(f"sqlite:///{tmp_path / name}.db", name) for name in ("p", "r1", "r2")]
    async with aiodbkit.ReplicatedEngine(urls[0], urls[1:], max_size=3) as db:
        yield db


async def _routes(db: aiodbkit.ReplicatedEngine) -> None:
    """Each kind of work says where it was done, each in a task of its own."""

    async def streamed() -> Any:
        (row,) = [row async for row in db.iterate(WHICH)]
        return row.name

    async def in_block(block: Any) -> Any:
        async with block:
            return await db.fetch_val(WHICH)

    async def after_a_write() -> Any:
        await db.execute("insert into self select 'again' from self where 1 = 0")
        return await db.fetch_val(WHICH)

    works: dict[str, Callable[[], Awaitable[Any]]] = {
        "fetch": lambda: db.fetch_val(WHICH),
        "stream": streamed,
        "reading transaction": lambda: in_block(db.transaction(read_only=True)),
        "reading session": lambda: in_block(db.session(read_only=True)),
        "transaction": lambda: in_block(db.transaction()),
        "session": lambda: in_block(db.session()),
        "connection": lambda: in_block(db.connection()),
        "separate": lambda: in_block(db.execution_context()),
        "after a write": after_a_write,
    }
    done = {what: str(await elsewhere(work()))[0] for what, work in works.items()}  # type: ignore[arg-type]
    reads = ("fetch", "stream", "reading transaction", "reading session")
    assert done == {what: "r" if what in reads else "p" for what in works}


async def test_files_of_sqlite(files: aiodbkit.ReplicatedEngine):
    await _routes(files)
    assert {await elsewhere(files.fetch_val(WHICH)) for _ in range(2)} == {"r1", "r2"}
    assert [engine.pool.max_size for engine in (files.primary_engine, *files.replicas)] == [3] * 3


async def test_the_portal_reads_and_writes_like_any_other_thread(tmp_path: Path):
    urls = [await _named(f"sqlite:///{tmp_path / name}.db", name) for name in ("p", "r1")]
    db = aiodbkit.ReplicatedEngine(urls[0], urls[1:])

    def work() -> list[Any]:
        with db.portal() as portal:
            found = [portal.fetch_val(WHICH)]
            with portal.session() as session:
                found.append(session.fetch_val(WHICH))
            with portal.transaction(read_only=True):
                found.append(portal.fetch_val(WHICH))
            return found

    assert await asyncio.to_thread(work) == ["r1", "p", "r1"]


@pytest.mark.mysql
async def test_two_servers_of_mariadb(private_mysql: MariaDBServer, mysql_url: str):
    primary, replica = mysql_url, private_mysql.url
    db = aiodbkit.ReplicatedEngine(
        await _named(primary, "p"), [await _named(replica, "r1")], probe_backoff=0.05
    )
    async with db:
        await _routes(db)
        await private_mysql.kill()
        assert [await elsewhere(db.fetch_val(WHICH, timeout=20)) for _ in range(5)] == ["p"] * 5
        assert not db.replica_states()[0].is_available
        await private_mysql.start()
        async with asyncio.timeout(30):
            while not db.replica_states()[0].is_available:
                await asyncio.sleep(0.01)
        assert await elsewhere(db.fetch_val(WHICH)) == "r1"
