"""What aiodbkit adds to a warm query, beside the bare driver in one interleaved run.

    python -m tests.benchmarks.overhead [sqlite] [sqlite+apsw] [postgresql://...] [mysql://...]

Prints the median of ``fetch_val("select 1")`` through an engine and of the bare driver's shortest
way to the same value, their ratio, and how many frames and calls of aiodbkit stand on and come
before the driver's call. Rounds of both alternate, so that noise of the machine meets both.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import aiodbkit
from aiodbkit.url import parse_url

ROUNDS = 60
CALLS = 100
DRIVERS = ("asyncpg", "aiomysql", "aiosqlite", "psycopg")

Call = Callable[[], Awaitable[Any]]


async def bare_sqlite(url: str) -> tuple[Call, Call]:
    import aiosqlite

    connection = await aiosqlite.connect(parse_url(url).database, isolation_level=None)

    async def query() -> Any:
        return next(iter(await connection.execute_fetchall("select 1")))[0]

    return query, connection.close


async def bare_apsw(url: str) -> tuple[Call, Call]:
    """apsw has no event loop: one hop to a thread and back, as short as it can be made."""
    import apsw

    connection = apsw.Connection(parse_url(url).database or "")
    loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1)

    def first() -> Any:
        return connection.execute("select 1").fetchall()[0][0]

    async def close() -> None:
        thread.shutdown()
        connection.close()

    return lambda: loop.run_in_executor(thread, first), close


async def bare_postgres(url: str) -> tuple[Call, Call]:
    import asyncpg

    connection = await asyncpg.connect(url)
    return lambda: connection.fetchval("select 1"), connection.close


async def bare_psycopg(url: str) -> tuple[Call, Call]:
    import psycopg

    plain = url.replace("+psycopg", "")
    connection = await psycopg.AsyncConnection.connect(plain, autocommit=True)

    async def query() -> Any:
        row = await (await connection.execute("select 1")).fetchone()
        return row and row[0]

    return query, connection.close


async def bare_mysql(url: str) -> tuple[Call, Call]:
    import aiomysql

    place = parse_url(url)
    connection = await aiomysql.connect(
        host=place.host,
        port=place.port or 3306,
        user=place.user,
        password=place.password or "",
        db=place.database,
        autocommit=True,
    )

    async def query() -> Any:
        cursor = await connection.cursor()
        await cursor.execute("select 1")
        row = await cursor.fetchone()
        await cursor.close()
        return row[0]

    async def close() -> None:
        connection.close()

    return query, close


BARE = {
    "sqlite": bare_sqlite,
    "sqlite+apsw": bare_apsw,
    "postgresql": bare_postgres,
    "postgresql+psycopg": bare_psycopg,
    "mysql": bare_mysql,
}


async def microseconds(call: Call) -> float:
    began = perf_counter()
    for _ in range(CALLS):
        await call()
    return (perf_counter() - began) / CALLS * 1e6


async def frames_and_calls(db: aiodbkit.Engine) -> tuple[int, int]:
    """Count, for one warm query, our frames under the driver's first one, and our calls before."""
    package = str(Path(aiodbkit.__file__).parent)
    standing: list[int] = []
    calls = 0

    def watch(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        if event != "call" or standing:
            return
        if frame.f_code.co_filename.startswith(package):
            calls += 1
        elif frame.f_code.co_flags & inspect.CO_COROUTINE and any(
            # Not what the driver is asked for free, before: whether the connection is closed.
            f"{os.sep}{driver}{os.sep}" in frame.f_code.co_filename
            for driver in DRIVERS
        ):
            number, below = 0, frame.f_back
            while below is not None:
                number += below.f_code.co_filename.startswith(package)
                below = below.f_back
            standing.append(number)

    sys.setprofile(watch)
    try:
        await db.fetch_val("select 1")
    finally:
        sys.setprofile(None)
    return (standing or [0])[0], calls


async def compare(url: str) -> None:
    scheme = parse_url(url).scheme
    bare, close = await BARE[scheme](url)
    async with aiodbkit.create_engine(url) as db:

        async def ours() -> Any:
            return await db.fetch_val("select 1")

        async def held() -> Any:
            return await connection.fetch_val("select 1")

        async with db.connection() as connection:
            times: dict[str, list[float]] = {"bare": [], "engine": [], "connection": []}
            for _ in range(ROUNDS):
                times["bare"].append(await microseconds(bare))
                times["connection"].append(await microseconds(held))
        for _ in range(ROUNDS):
            times["bare"].append(await microseconds(bare))
            times["engine"].append(await microseconds(ours))
        frames, calls = await frames_and_calls(db)
    await close()
    base = median(times["bare"])
    line = f"{scheme:<18} bare {base:7.1f} us"
    for name in ("connection", "engine"):
        found = median(times[name])
        line += f"   {name} {found:7.1f} us, ratio {found / base:.3f}"
    print(f"{line}   frames {frames}, calls before the driver's {calls}")


async def main(urls: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for url in urls or ["sqlite"]:
            is_name = "://" not in url
            await compare(f"{url}:///{folder}/{url}.db" if is_name else url)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
