"""Fifty tasks that keep an engine busy, a book of what they were told, and looks at the server.

Each task asks for a number of its own and must get that one. Each write is entered as done, as
not done, or as unknown, as its outcome was told, and at the end compared with the table.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from random import Random
from typing import Any

import pymysql

import aiodbkit
from tests.faults import mysql_support, postgres

__all__ = ["Load", "MariaDB", "Postgres", "Server", "engine", "loaded", "until"]

HANG = 30.0
"""Seconds after which something hangs: a guard, nothing that works comes near it."""

OPTIONS: dict[str, Any] = {
    "max_size": 10,
    "acquire_timeout": HANG,
    "command_timeout": 1,
    "connect_timeout": 2,
    "check_timeout": 1,
    "reset_timeout": 1,
    "close_timeout": 1,
}
SELECT = "select :n + 0"
ADD = "insert into work (id) values (:n)"
IS_THERE = "select count(*) from work where id = :n"
TICKS = 100  # rows of a stream, in five batches


class Server(ABC):
    """A private server of the test's own, and how to look into it by the bare driver.

    Attributes:
        control: starts, kills, freezes it.
        slow: a select of its number which takes its time.
    """

    slow: str

    def __init__(self, control: Any) -> None:
        self.control = control
        self.url: str = control.url

    @abstractmethod
    async def ask(self, sql: str) -> list[Any]:
        """Return the first column, over a connection made for it."""

    @abstractmethod
    async def open_transactions(self) -> list[Any]:
        """Describe what is at work or left open."""

    @abstractmethod
    async def sessions(self) -> list[int]:
        """Return the clients' sessions, but for the one that asks."""

    @abstractmethod
    async def end_sessions(self) -> None:
        """End all of them, as an administrator does."""


class Postgres(Server):
    slow = "select :n + 0 from pg_sleep(0.01)"

    async def ask(self, sql: str) -> list[Any]:
        async with postgres.bare(self.url) as connection:
            return [row[0] for row in await connection.fetch(sql)]

    async def open_transactions(self) -> list[Any]:
        return await self.ask(
            "select state || ': ' || query from pg_stat_activity where backend_type = "
            "'client backend' and pid <> pg_backend_pid() and state <> 'idle' "
            "union all select gid from pg_prepared_xacts"
        )

    async def sessions(self) -> list[int]:
        return await self.ask(
            "select pid from pg_stat_activity where backend_type = 'client backend' "
            "and pid <> pg_backend_pid()"
        )

    async def end_sessions(self) -> None:
        await self.ask(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )


class MariaDB(Server):
    slow = "select :n + sleep(0.01)"

    async def ask(self, sql: str) -> list[Any]:
        async with mysql_support.bare(self.url) as connection:
            return [row[0] for row in await mysql_support.run(connection, sql)]

    async def open_transactions(self) -> list[Any]:
        return await self.ask("select trx_mysql_thread_id from information_schema.innodb_trx")

    async def sessions(self) -> list[int]:
        return await self.ask(
            "select id from information_schema.processlist where user = 'app' "
            "and id <> connection_id()"
        )

    async def end_sessions(self) -> None:
        sessions = await self.sessions()
        async with mysql_support.bare(self.url) as connection:
            for number in sessions:
                try:
                    await mysql_support.run(connection, f"kill {number}")
                except pymysql.err.OperationalError as error:
                    if error.args[0] != 1094:  # it has gone by itself meanwhile
                        raise


@asynccontextmanager
async def engine(url: str, **options: Any) -> AsyncIterator[aiodbkit.Engine]:
    async with aiodbkit.create_engine(url, **{**OPTIONS, **options}) as db:
        await db.execute("drop table if exists work, ticks")
        await db.execute("create table work (id integer not null)")  # a double could be stored
        await db.execute("create index work_id on work (id)")
        await db.execute("create table ticks (id integer not null)")
        await db.insert_many("ticks", [{"id": n} for n in range(TICKS)])
        yield db


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something has happened that nobody announces."""
    async with asyncio.timeout(HANG):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def loaded(db: aiodbkit.Engine, server: Server, seed: int = 1) -> AsyncIterator[Load]:
    """Run the tasks beside the block; what is wrong in one of them ends it."""
    surprises: list[Any] = []

    def note(_: Any, context: dict[str, Any]) -> None:
        # asyncpg cancels its own CancelRequest as it loses the connection that it was for.
        if str(context.get("exception")) != "unexpected connection_lost() call":
            surprises.append(context)

    asyncio.get_running_loop().set_exception_handler(note)
    load = Load(db, server, seed)
    async with asyncio.timeout(2 * HANG - 5), asyncio.TaskGroup() as tasks:
        load.start(tasks)
        yield load
        load.stop()
    assert surprises == [], surprises


class Load:
    """The tasks, and the book.

    Attributes:
        done: what has gone well, by its kind.
        errors: how often which error was raised.
    """

    def __init__(self, db: aiodbkit.Engine, server: Server, seed: int) -> None:
        self.db, self.server = db, server
        self.done: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._random = Random(seed)
        self._numbers = count(1)
        self._book: dict[int, str] = {}  # the outcome of each write, as it was told
        self._stopping = False
        self._missing: set[int] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, tasks: asyncio.TaskGroup) -> None:
        shares = {
            self._select: 18,
            self._transact: 10,
            self._write: 4,
            self._stream: 6,
            self._hurry: 4,
            self._be_cancelled: 8,
        }
        jobs = [job for job, share in shares.items() for _ in range(share)]
        self._tasks = [tasks.create_task(self._work(who, job)) for who, job in enumerate(jobs)]

    def stop(self) -> None:
        """Let each task end what it is doing."""
        self._stopping = True

    async def everybody_succeeds(self) -> None:
        """Return when each task has had another success."""
        self._missing = set(range(len(self._tasks)))
        await until(lambda: not self._missing)

    async def goes_on(self, successes: int) -> None:
        """Return after so many more successes."""
        wanted = self.done.total() + successes
        await until(lambda: self.done.total() >= wanted)

    async def _work(self, who: int, job: Callable[[int], Awaitable[None]]) -> None:
        while not self._stopping:
            try:
                await job(next(self._numbers))
            except aiodbkit.OperationalError as error:  # no other kind is to be expected
                self.errors[type(error).__name__] += 1
            else:
                self.done[job.__name__] += 1
                self._missing.discard(who)

    # The jobs

    async def _select(self, n: int) -> None:
        assert await self.db.fetch_val(SELECT, {"n": n}) == n

    async def _hurry(self, n: int) -> None:
        limit = self._random.uniform(0.005, 0.1)
        assert await self.db.fetch_val(self.server.slow, {"n": n}, timeout=limit) == n

    async def _stream(self, n: int) -> None:
        query = "select id + :n from ticks order by id"
        rows = self.db.iterate(query, {"n": n}, batch_size=TICKS // 5)
        assert [row[0] async for row in rows] == list(range(n, n + TICKS))

    async def _write(self, n: int) -> None:
        self._book[n] = "unknown"
        try:
            await self.db.execute(ADD, {"n": n})
        except aiodbkit.Error as error:
            # Transient is only what is certain to have left nothing.
            if error.is_transient or isinstance(error, aiodbkit.PoolTimeoutError):
                self._book[n] = "not done"
            raise
        self._book[n] = "done"

    async def _transact(self, n: int) -> None:
        self._book[n] = "not done"
        try:
            async with self.db.transaction():
                await self.db.execute(ADD, {"n": n})
                assert await self.db.fetch_val(IS_THERE, {"n": n}) == 1
                self._book[n] = "unknown"  # from here on COMMIT may be on its way
        except aiodbkit.CommitUnknownError:
            raise
        except aiodbkit.Error:
            self._book[n] = "not done"
            raise
        self._book[n] = "done"

    async def _be_cancelled(self, n: int) -> None:
        jobs = (self._select, self._hurry, self._stream, self._write, self._transact)
        task = asyncio.create_task(self._random.choice(jobs)(n))
        try:
            await asyncio.wait([task], timeout=self._random.uniform(0, 0.05))
        finally:
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    # What must hold

    async def recovery(self) -> float:
        """Return the seconds until every slot was lent at once and each has answered."""
        clock = asyncio.get_running_loop().time
        began = clock()
        async with asyncio.timeout(HANG):
            while not await self._every_slot_answers():
                pass
        return clock() - began

    async def _every_slot_answers(self) -> bool:
        size = self.db.pool.max_size
        all_lent = asyncio.Barrier(size)

        async def use(n: int) -> None:
            async with self.db.pool.acquire() as connection:
                await all_lent.wait()
                assert await connection.fetch_val(SELECT, {"n": n}) == n

        failures: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(size):
                    tasks.create_task(use(next(self._numbers)))
        except* aiodbkit.OperationalError as group:
            failures += group.exceptions
        return not failures

    async def check(self) -> None:
        """After the load: nothing is open, lost, doubled, or there although it was refused."""
        assert await self._every_slot_answers()
        stats = self.db.pool.stats()
        assert (stats.in_use, stats.waiting) == (0, 0)
        assert stats.size <= stats.max_size
        await self._server_is_quiet(stats.max_size)
        found = Counter(await self.server.ask("select id from work"))
        assert max(found.values()) == 1, "done twice"
        assert self._told("done") - set(found) == set(), "said to be done, and not there"
        assert self._told("not done") & set(found) == set(), "said not to be done, and there"
        assert set(found) <= set(self._book)

    def _told(self, outcome: str) -> set[int]:
        return {n for n, told in self._book.items() if told == outcome}

    async def _server_is_quiet(self, most_sessions: int) -> None:
        left: tuple[list[Any], list[int]] = [], []
        try:
            async with asyncio.timeout(HANG):
                while True:
                    left = await self.server.open_transactions(), await self.server.sessions()
                    if not left[0] and len(left[1]) <= most_sessions:
                        return
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        raise AssertionError(f"left at the server: {left}")

    def summary(self) -> str:
        writes = dict(Counter(self._book.values()))
        return f"{self.done.total()} done, errors {dict(self.errors)}, writes {writes}"
