"""A small SELECT of SQLAlchemy Core: on an engine of aiodbkit and on an AsyncEngine.

    python -m tests.benchmarks.core_statements [sqlite] [postgresql://...]

Prints the medians of one ``select ... where id = :id`` that is built anew for each execution, as
programs do, on a connection that is held and through the pool, and their ratios. The rounds of all
alternate, so that noise of the machine meets all. ``text`` is the same statement as SQL text.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from statistics import median
from time import perf_counter
from typing import Any

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.ext.asyncio import create_async_engine

import aiodbkit

ROUNDS = 60
CALLS = 100

metadata = MetaData()
people = Table(
    "bench_people",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(50)),
)
TEXT = "SELECT bench_people.id, bench_people.name FROM bench_people WHERE bench_people.id = :id"


def query(number: int) -> Any:
    return select(people.c.id, people.c.name).where(people.c.id == number)


async def microseconds(call: Callable[[], Awaitable[Any]]) -> float:
    began = perf_counter()
    for _ in range(CALLS):
        await call()
    return (perf_counter() - began) / CALLS * 1e6


async def compare(url: str) -> None:
    scheme = url.partition(":")[0]
    driver = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "aiomysql"}[scheme]
    theirs = create_async_engine(url.replace(scheme, f"{scheme}+{driver}", 1))
    async with aiodbkit.create_engine(url) as db:
        await db.drop_all(metadata)
        await db.create_all(metadata)
        await db.execute_many(insert(people), [{"id": n, "name": f"n{n}"} for n in range(100)])
        async with db.connection() as held, theirs.connect() as connection:

            async def text_held() -> None:
                assert await held.fetch_one(TEXT, {"id": 5}) == (5, "n5")

            async def ours_held() -> None:
                assert await held.fetch_one(query(5)) == (5, "n5")

            async def theirs_held() -> None:
                assert (await connection.execute(query(5))).first() == (5, "n5")

            await show(scheme, "held", text_held, ours_held, theirs_held)

        async def text_pooled() -> None:
            assert await db.fetch_one(TEXT, {"id": 5}) == (5, "n5")

        async def ours_pooled() -> None:
            assert await db.fetch_one(query(5)) == (5, "n5")

        async def theirs_pooled() -> None:
            async with theirs.connect() as connection:
                assert (await connection.execute(query(5))).first() == (5, "n5")

        await show(scheme, "pooled", text_pooled, ours_pooled, theirs_pooled)
        await db.drop_all(metadata)
    await theirs.dispose()


async def show(scheme: str, where: str, *calls: Callable[[], Awaitable[Any]]) -> None:
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for found, call in zip(times, calls, strict=True):
            found.append(await microseconds(call))
    text, ours, theirs = map(median, times)
    print(
        f"{scheme:<11} {where:<7} text {text:7.1f} us   Core on aiodbkit {ours:7.1f} us   "
        f"on AsyncEngine {theirs:7.1f} us   ratio {ours / theirs:.3f}"
    )


async def main(urls: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for url in urls or ["sqlite"]:
            await compare(f"sqlite:///{folder}/bench.db" if url == "sqlite" else url)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
