"""What the tests of replicas ask of servers and tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from contextvars import Context
from typing import Any, Self, TypeVar

import aiodbkit
from tests.servers.postgres import PostgresServer

T = TypeVar("T")

PORT = "select inet_server_port()"


class Cluster:
    """Servers, and an engine of our own for each, past the engine under test."""

    def __init__(self, primary: PostgresServer, standbys: Sequence[PostgresServer]) -> None:
        self.primary = primary
        self.standbys = tuple(standbys)
        self.primary_db = aiodbkit.create_engine(primary.url)
        self.standby_dbs = [aiodbkit.create_engine(each.url) for each in standbys]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for db in (self.primary_db, *self.standby_dbs):
            await self._stack.enter_async_context(db)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    @property
    def ports(self) -> set[int]:
        """Those of the standbys."""
        return {standby.port for standby in self.standbys}

    def engine(self, **options: Any) -> aiodbkit.ReplicatedEngine:
        """Return an engine of all servers."""
        urls = [standby.url for standby in self.standbys]
        return aiodbkit.ReplicatedEngine(
            self.primary.url, urls, **{"probe_backoff": 0.05, "probe_max_backoff": 0.2, **options}
        )

    async def pause(self) -> None:
        """Let no standby replay anything more; returns when that holds."""
        for db in self.standby_dbs:
            await db.execute("select pg_wal_replay_pause()")
            await until(lambda db=db: _is(db, "select pg_get_wal_replay_pause_state() = 'paused'"))

    async def resume(self) -> None:
        """Let them go on; returns when they have all that the primary has."""
        for db in self.standby_dbs:
            await db.execute("select pg_wal_replay_resume()")
        await self.caught_up()

    async def caught_up(self) -> None:
        """Return when each standby has replayed what the primary has written until now."""
        position = await self.primary_db.fetch_val("select pg_current_wal_insert_lsn()::text")
        for db in self.standby_dbs:
            sql = f"select pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"
            await until(lambda db=db, sql=sql: _is(db, sql))


async def _is(db: aiodbkit.Engine, sql: str) -> bool:
    return bool(await db.fetch_val(sql))


async def streaming(cluster: Cluster) -> None:
    count = "select count(*) = 2 from pg_stat_replication where state = 'streaming'"
    await until(lambda: _is(cluster.primary_db, count))


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Poll what nothing announces."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def elsewhere(work: Coroutine[Any, Any, T]) -> T:
    """Run in a task that has written nothing and inherits nothing."""
    return await asyncio.create_task(work, context=Context())
