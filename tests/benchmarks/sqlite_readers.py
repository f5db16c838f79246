"""Readers of a SQLite file beside one writer: what the writer costs them, and bare aiosqlite.

    python -m tests.benchmarks.sqlite_readers [seconds]

Prints, for one, four and eight readers, how many reads per second they make together with and
without a task that writes all the time, and how many writes that makes; median of several rounds,
in which the variants alternate. Bare aiosqlite has a connection per reader, and WAL mode as well.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import aiosqlite

import aiodbkit

ROUNDS = 15
ROWS = 10_000
READ = "select count(*), max(v) from t where id between ? and ?"
WRITE = "insert into t (v) values (?)"

Call = Callable[[int], Awaitable[Any]]


async def open_ours(path: str, readers: int, stack: AsyncExitStack) -> tuple[list[Call], Call]:
    size = readers + 1
    db = await stack.enter_async_context(
        aiodbkit.SQLiteEngine(database=path, max_size=size, min_size=size)
    )

    async def read(n: int) -> None:
        await db.fetch_one(READ, (n % ROWS, n % ROWS + 100))

    async def write(n: int) -> None:
        await db.execute(WRITE, (n,))

    return [read] * readers, write


async def open_bare(path: str, readers: int, stack: AsyncExitStack) -> tuple[list[Call], Call]:
    async def connect() -> aiosqlite.Connection:
        connection = await stack.enter_async_context(aiosqlite.connect(path, isolation_level=None))
        await connection.execute_fetchall("pragma journal_mode = wal")
        return connection

    def reading(connection: aiosqlite.Connection) -> Call:
        async def read(n: int) -> None:
            await connection.execute_fetchall(READ, (n % ROWS, n % ROWS + 100))

        return read

    writer = await connect()

    async def write(n: int) -> None:
        await writer.execute_fetchall(WRITE, (n,))

    return [reading(await connect()) for _ in range(readers)], write


OPENERS = {"aiodbkit": open_ours, "bare aiosqlite": open_bare}


async def keep_calling(call: Call, until: float) -> int:
    done = 0
    while perf_counter() < until:
        await call(done * 7919)
        done += 1
    return done


async def measure(
    opener: Any, readers: int, seconds: float, *, writes: bool
) -> tuple[float, float]:
    """Return reads and writes per second."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "readers.db")
        async with aiodbkit.SQLiteEngine(database=path) as db:
            await db.execute("create table t (id integer primary key, v)")
            await db.insert_many("t", [{"v": n} for n in range(ROWS)])
        async with AsyncExitStack() as stack:
            reads, write = await opener(path, readers, stack)
            until = perf_counter() + seconds
            writer = [keep_calling(write, until)] if writes else []
            done = await asyncio.gather(*(keep_calling(read, until) for read in reads), *writer)
    written = done.pop() if writes else 0
    return sum(done) / seconds, written / seconds


async def main(seconds: float) -> None:
    found: dict[tuple[int, str, bool], list[tuple[float, float]]] = defaultdict(list)
    for _ in range(ROUNDS):
        for readers in (1, 4, 8):
            for name, opener in OPENERS.items():
                for writes in (False, True):
                    figures = await measure(opener, readers, seconds, writes=writes)
                    found[readers, name, writes].append(figures)
    print("readers, driver: reads/s alone, reads/s beside a writer, its writes/s")
    for readers, name in dict.fromkeys(key[:2] for key in found):
        alone = median(reads for reads, _ in found[readers, name, False])
        beside = median(reads for reads, _ in found[readers, name, True])
        written = median(writes for _, writes in found[readers, name, True])
        print(f"{readers}, {name:14}: {alone:7.0f} {beside:7.0f} {written:7.0f}")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.2))
