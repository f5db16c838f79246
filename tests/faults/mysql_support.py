"""What the fault tests of MySQL share: sessions of aiomysql's own, and looks at the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import aiomysql

import aiodbkit
from tests.servers.wire import WireProxy

Make = Callable[..., Awaitable[aiodbkit.Engine]]
Proxies = Callable[[str], Awaitable[WireProxy]]

BIG = "x" * 10_000
ADD = "insert into notes (id, body) values (:id, :body)"
MANY = [{"id": n, "body": BIG} for n in range(1, 401)]  # four statements of aiomysql's and ours
SLOW_INSERT = "insert into notes (id) select 1 from (select sleep(0.5)) waited"


def address(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "host": parts.hostname,
        "port": parts.port or 3306,
        "user": unquote(parts.username or "root"),
        "password": unquote(parts.password or ""),
        "db": parts.path.removeprefix("/"),
    }


@asynccontextmanager
async def bare(url: str, **options: Any) -> AsyncIterator[Any]:
    """A connection of aiomysql's, dropped at the end."""
    options = {"autocommit": True, "charset": "utf8mb4", **options}
    connection = await aiomysql.connect(**address(url), **options)
    try:
        yield connection
    finally:
        transport = connection._writer and connection._writer.transport
        connection.close()
        if transport:
            transport.abort()


async def run(connection: Any, sql: str, args: Any = None) -> Any:
    cursor = await connection.cursor()
    await cursor.execute(sql, args)
    return await cursor.fetchall()


async def ids(db: aiodbkit.Engine) -> list[int]:
    return await db.fetch_column("select id from notes order by id")


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    """Wait for what happens at the server, where nobody announces it."""
    while not await condition():
        await asyncio.sleep(0.01)


async def a_lock_is_waited_for(witness: Any) -> None:
    async def waits() -> bool:
        ((_, count),) = await run(witness, "show status like 'innodb_row_lock_current_waits'")
        return int(count) > 0

    await until(waits)


async def works_on(witness: Any, mark: str) -> list[int]:
    """Return the sessions whose statements have this mark."""
    sessions = await run(witness, "show full processlist")
    return [number for number, *_, info, _ in map(_padded, sessions) if info and mark in info]


def _padded(session: tuple[Any, ...]) -> tuple[Any, ...]:
    # MariaDB has one column more: progress.
    return session if len(session) == 9 else (*session, None)


async def started(witness: Any, mark: str) -> None:
    await until(lambda: works_on(witness, mark))


async def ended(witness: Any, mark: str) -> None:
    async def none() -> bool:
        return not await works_on(witness, mark)

    await until(none)


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel, and require that the task ends by it."""
    task.cancel()
    done, _ = await asyncio.wait((task,), timeout=20)
    assert done, "the task hangs"
    assert task.cancelled()
