"""What the tests of asyncpg's hazards share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any

import asyncpg

import aiodbkit
from tests.servers.wire import WireProxy

__all__ = [
    "ADD",
    "BIG",
    "HANGS",
    "Make",
    "Proxies",
    "backend_of",
    "bare",
    "create_notes",
    "end_backend",
    "ended",
    "has_unsent",
    "ids",
    "running",
    "until",
]

Make = Callable[..., Awaitable[aiodbkit.Engine]]
Proxies = Callable[[str], Awaitable[WireProxy]]

# Long enough for what works to have happened: the tests show with it that something hangs.
HANGS = 0.5
BIG = "x" * 10_000
ADD = "insert into notes (id, body) values (:id, :body)"


@asynccontextmanager
async def bare(url: str, **options: Any) -> AsyncIterator[Any]:
    """A connection of asyncpg's, dropped at the end."""
    connection = await asyncpg.connect(url.replace("+psycopg", ""), **options)
    try:
        yield connection
    finally:
        connection.terminate()


async def create_notes(make: Make) -> aiodbkit.Engine:
    """An engine on a database with a table of notes."""
    db = await make(acquire_timeout=20)
    await db.execute("create table notes (id integer primary key, body text)")
    return db


async def ids(db: aiodbkit.Engine) -> list[int]:
    return await db.fetch_column("select id from notes order by id")


async def backend_of(db: aiodbkit.Engine) -> int:
    pid: int = await db.fetch_val("select pg_backend_pid()")
    return pid


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something has happened that nobody announces."""
    while not condition():
        await asyncio.sleep(0.01)


async def ended(db: aiodbkit.Engine, pid: int) -> None:
    """Wait until the server has no such session any more."""
    while await db.fetch_val("select true from pg_stat_activity where pid = :pid", {"pid": pid}):
        await asyncio.sleep(0.01)


async def has_unsent(raw: Any) -> None:
    await until(lambda: raw._transport.get_write_buffer_size() > 0)


async def running(db: aiodbkit.Engine, pid: int) -> None:
    """Wait until the session is at work."""
    select = "select true from pg_stat_activity where pid = :pid and wait_event = 'PgSleep'"
    while not await db.fetch_val(select, {"pid": pid}):
        await asyncio.sleep(0.01)


def end_backend(url: str, pid: int) -> None:
    """End a session from another thread, without letting our loop run."""

    async def end() -> None:
        async with bare(url) as connection:
            assert await connection.fetchval("select pg_terminate_backend($1, 10000)", pid)

    thread = Thread(target=lambda: asyncio.run(end()))
    thread.start()
    thread.join()
