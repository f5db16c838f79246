"""What the tests of PostgreSQL's own abilities share."""

from __future__ import annotations

import asyncio
from typing import Any

import aiodbkit

__all__ = ["collect", "listeners", "terminate", "until_true"]


async def until_true(db: aiodbkit.Engine, sql: str, params: Any = None) -> None:
    """Wait until a query says true: for what nobody announces."""
    while not await db.fetch_val(sql, params):
        await asyncio.sleep(0.01)


async def listeners(db: aiodbkit.Engine) -> list[int]:
    """Return the sessions of this database that listen."""
    return await db.fetch_column(
        "select pid from pg_stat_activity where datname = current_database() "
        "and query ilike 'listen %' and pid <> pg_backend_pid()"
    )


async def terminate(db: aiodbkit.Engine, pid: int) -> None:
    """End a session, and return when it is gone."""
    assert await db.fetch_val("select pg_terminate_backend(:pid, 10000)", {"pid": pid})


async def collect(notifications: Any, last: str) -> list[Any]:
    """Read up to the notification with the payload ``last``."""
    found = []
    async for notification in notifications:
        found.append(notification)
        if notification.payload == last:
            break
    return found
