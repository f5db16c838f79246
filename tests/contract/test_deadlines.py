"""Contract §2: a timeout counts once, the wait for the connection included.

Each statement here would end well within its timeout, had it not waited for nearly all of that.
Where the machine is so busy that the wait alone took longer, the error is another one, but it is
a `TimeoutError` all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import aiodbkit

from .dialects import Dialect
from .support import assert_whole

TIMEOUT = 1.2
HELD = 1.0
SLOW = 0.8  # more than is left after the wait, and less than the timeout

Statement = Callable[[Any, str], Awaitable[Any]]


async def _iterated(on: Any, slow: str) -> None:
    async with on.iterate(slow, timeout=TIMEOUT) as rows:
        async for _ in rows:
            pass


STATEMENTS: dict[str, Statement] = {
    "fetch_val": lambda on, slow: on.fetch_val(slow, timeout=TIMEOUT),
    "execute": lambda on, slow: on.execute(slow, timeout=TIMEOUT),
    "execute_script": lambda on, slow: on.execute_script(slow, timeout=TIMEOUT),
    "iterate": _iterated,
}
every_statement = pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)


async def in_line(db: aiodbkit.Engine) -> None:
    """Let tasks run until one waits for a connection."""
    while not db.pool.stats().waiting:
        await asyncio.sleep(0)


@every_statement
async def test_what_the_wait_for_the_pool_took_is_not_there_for_the_statement(
    one: aiodbkit.Engine, sql: Dialect, statement: Statement
) -> None:
    async with one.pool.acquire():
        call = asyncio.create_task(statement(one, sql.slow(SLOW)))
        await in_line(one)
        await asyncio.sleep(HELD)
    with pytest.raises(TimeoutError) as caught:
        await call
    assert isinstance(caught.value, aiodbkit.OperationalError)
    await assert_whole(one)


@every_statement
async def test_what_the_wait_for_a_turn_took_is_not_there_for_the_statement(
    one: aiodbkit.Engine, sql: Dialect, statement: Statement
) -> None:
    async with one.connection() as conn:
        busy = asyncio.create_task(conn.fetch_val(sql.slow(HELD)))
        await asyncio.sleep(0)
        with pytest.raises(aiodbkit.QueryTimeoutError):
            await statement(conn, sql.slow(SLOW))
        await busy
    await assert_whole(one)


async def test_a_timeout_that_ends_in_the_pools_line_names_the_holder_and_sends_nothing(
    one: aiodbkit.Engine,
    people: list[Any],
) -> None:
    writes: list[Callable[[], Awaitable[Any]]] = [
        lambda: one.execute("delete from people", timeout=0.05),
        lambda: one.execute_many("delete from people where id = :n", [{"n": 1}], timeout=0.05),
        lambda: one.execute_script("delete from people", timeout=0.05),
        lambda: one.insert_many("people", [{"id": 9, "name": "Eve"}], timeout=0.05),
    ]
    async with one.pool.acquire() as conn:
        holder = asyncio.current_task()
        assert holder is not None
        for write in writes:
            with pytest.raises(aiodbkit.PoolTimeoutError, match=holder.get_name()):
                await asyncio.create_task(_awaited(write))
        assert await conn.fetch_val("select count(*) from people") == len(people)
    await assert_whole(one)


async def _awaited(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


async def test_a_timeout_that_ends_in_line_for_a_turn_sends_nothing(
    one: aiodbkit.Engine, sql: Dialect, people: list[Any]
) -> None:
    async with one.connection() as conn:
        busy = asyncio.create_task(conn.fetch_val(sql.slow(SLOW)))
        await asyncio.sleep(0)
        with pytest.raises(aiodbkit.QueryTimeoutError, match="nothing was sent"):
            await conn.execute("delete from people", timeout=0.05)
        await busy
        assert await conn.fetch_val("select count(*) from people") == len(people)
    await assert_whole(one)
