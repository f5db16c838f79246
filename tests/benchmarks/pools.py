"""Acquire and release, without a query: aiodbkit's pool beside those of others, in one run.

    python -m tests.benchmarks.pools

Every pool lends the same kind of connection, which does nothing. Two loads: one task alone, and
1,000 tasks over 10 connections, where each holds its connection for one turn of the loop. Rounds
of all pools alternate; the median of each is printed, and its ratio to aiodbkit's. Pools that are
not installed are left out: asyncpg, psycopg_pool, sqlalchemy, aiomysql.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from statistics import median
from time import perf_counter
from typing import Any

from aiodbkit import Pool

ROUNDS = 15
ALONE = 5_000
TASKS, EACH, CONNECTIONS = 1_000, 3, 10

Use = Callable[[], Awaitable[None]]
Open = Callable[[AsyncExitStack, Callable[[], Awaitable[None]]], Awaitable[Use]]


class Nothing:
    """A connection that does nothing, and is always well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.closed = False


async def bare(stack: AsyncExitStack, hold: Use) -> Use:
    """The limit: a deque and a context variable; it cannot wait."""
    free: deque[Nothing] = deque(Nothing() for _ in range(TASKS))
    current: ContextVar[Nothing | None] = ContextVar("current", default=None)

    async def use() -> None:
        connection = free.pop()
        token = current.set(connection)
        await hold()
        current.reset(token)
        free.append(connection)

    return use


async def aiodbkit(stack: AsyncExitStack, hold: Use) -> Use:
    async def connect() -> Nothing:
        return Nothing()

    pool = await stack.enter_async_context(Pool(connect, max_size=CONNECTIONS))

    async def use() -> None:
        async with pool.acquire():
            await hold()

    return use


async def asyncpg(stack: AsyncExitStack, hold: Use) -> Use:  # noqa: C901 - a whole stand-in
    from asyncpg.pool import Pool as AsyncpgPool
    from asyncpg.pool import PoolConnectionHolder

    class Connection:
        """As much of asyncpg's connection as its pool asks for."""

        _con = None
        _proxy = None

        def _set_proxy(self, proxy: Any) -> None:
            self._proxy = proxy

        def is_closed(self) -> bool:
            return False

        def _on_release(self) -> None:
            pass

        def is_in_transaction(self) -> bool:
            return False

        async def reset(self, *, timeout: float | None = None) -> None:
            pass

        async def _reset(self, *, timeout: float | None = None) -> None:
            pass

        def get_reset_query(self) -> str:
            return ""

        def __getattr__(self, name: str) -> Any:
            if name == "_protocol":
                return self
            raise AttributeError(name)

        queries_count = 0

        def _is_cancelling(self) -> bool:
            return False

        def is_cancelling(self) -> bool:
            return False

        async def close(self, *, timeout: float | None = None) -> None:
            pass

        def terminate(self) -> None:
            pass

    class NoOpPool(AsyncpgPool):
        async def _get_new_connection(self) -> Any:
            return Connection()

    assert PoolConnectionHolder is not None
    import asyncpg as module

    pool = NoOpPool(
        min_size=0,
        max_size=CONNECTIONS,
        max_queries=10**9,
        max_inactive_connection_lifetime=0,
        connection_class=module.Connection,
        record_class=module.Record,
        setup=None,
        init=None,
        loop=asyncio.get_running_loop(),
    )
    await pool
    stack.callback(pool.terminate)

    async def use() -> None:
        async with pool.acquire():
            await hold()

    return use


async def sqlalchemy(stack: AsyncExitStack, hold: Use) -> Use:
    from sqlalchemy.pool import AsyncAdaptedQueuePool
    from sqlalchemy.util import greenlet_spawn

    class Connection(Nothing):
        def rollback(self) -> None:
            pass

        def close(self) -> None:
            pass

    pool = AsyncAdaptedQueuePool(
        Connection, pool_size=CONNECTIONS, max_overflow=0, reset_on_return=None
    )
    stack.callback(pool.dispose)

    async def use() -> None:
        connection = await greenlet_spawn(pool.connect)
        await hold()
        await greenlet_spawn(connection.close)

    return use


async def psycopg_pool(stack: AsyncExitStack, hold: Use) -> Use:
    from psycopg.pq import TransactionStatus
    from psycopg_pool import AsyncConnectionPool

    class Connection:
        """As much of psycopg's connection as its pool asks for."""

        class pgconn:  # noqa: N801 - psycopg's name
            transaction_status = TransactionStatus.IDLE

        closed = False
        broken = False
        _pool: Any = None

        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> Any:
            return cls()

        async def close(self) -> None:
            pass

        def _check_intrans(self) -> None:
            pass

        async def __aexit__(self, *args: object) -> None:
            pass

    pool: Any = AsyncConnectionPool(
        "", connection_class=Connection, min_size=CONNECTIONS, max_size=CONNECTIONS, open=False
    )
    await pool.open(wait=True)
    stack.push_async_callback(pool.close)

    async def use() -> None:
        connection = await pool.getconn()
        await hold()
        await pool.putconn(connection)

    return use


async def aiomysql(stack: AsyncExitStack, hold: Use) -> Use:
    import aiomysql as module
    from aiomysql import pool as module_pool

    class Reader:
        eof_received = False

        def at_eof(self) -> bool:
            return False

        def exception(self) -> None:
            return None

    class Connection(Nothing):
        _reader = Reader()
        last_usage = float("inf")

        def get_transaction_status(self) -> bool:
            return False

        def close(self) -> None:
            self.closed = True

    async def connect(*args: Any, **kwargs: Any) -> Connection:
        return Connection()

    original, module_pool.connect = module_pool.connect, connect
    stack.callback(setattr, module_pool, "connect", original)
    pool = await module.create_pool(minsize=CONNECTIONS, maxsize=CONNECTIONS)
    stack.callback(pool.terminate)

    async def use() -> None:
        connection = await pool.acquire()
        await hold()
        waker = pool.release(connection)
        await waker

    return use


PEERS: list[Open] = [bare, aiodbkit, asyncpg, psycopg_pool, sqlalchemy, aiomysql]


async def nothing() -> None:
    pass


async def one_turn() -> None:
    await asyncio.sleep(0)


async def alone(use: Use) -> float:
    began = perf_counter()
    for _ in range(ALONE):
        await use()
    return (perf_counter() - began) / ALONE * 1e6


async def crowd(use: Use) -> float:
    async def task() -> None:
        for _ in range(EACH):
            await use()

    began = perf_counter()
    await asyncio.gather(*(task() for _ in range(TASKS)))
    return (perf_counter() - began) / (TASKS * EACH) * 1e6


async def main() -> None:
    for title, load, hold in (("alone", alone, nothing), ("1,000 over 10", crowd, one_turn)):
        async with AsyncExitStack() as stack:
            uses: dict[str, Use] = {}
            for peer in PEERS:
                try:
                    uses[peer.__name__] = await peer(stack, hold)
                except ImportError as error:
                    print(f"without {peer.__name__}: {error}", file=sys.stderr)
            times: dict[str, list[float]] = {name: [] for name in uses}
            for _ in range(ROUNDS):
                for name, use in uses.items():
                    times[name].append(await load(use))
            ours = median(times["aiodbkit"])
            for name, found in times.items():
                print(
                    f"{title:<14} {name:<13} {median(found):8.2f} us  x{median(found) / ours:.2f}"
                )


if __name__ == "__main__":
    asyncio.run(main())
