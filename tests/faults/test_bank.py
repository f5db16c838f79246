"""A bank under retries: transfers at once, on real servers, and with connections being killed.

Each transfer moves money between two accounts and writes its id into a ledger, in a transaction
that is repeated as a whole. Whatever collides and whatever breaks: the total never changes, and
every transfer that was acknowledged is there exactly once.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

import aiodbkit
from aiodbkit import CommitUnknownError, ConnectionLostError, RetryEvent, RetryPolicy

Make = Callable[..., Awaitable[aiodbkit.Engine]]

ACCOUNTS = 10
WORKERS = 8
EACH = 40  # transfers of a worker
OPENING = 1000
TOTAL = ACCOUNTS * OPENING

BALANCE = "select balance from accounts where id = :id"
CHANGE = "update accounts set balance = balance + :amount where id = :id"
LOCKS: dict[str, dict[str, Any]] = {"postgres": {"isolation": "serializable"}}
KILL = {  # what tells the own session, what finds all of them, what ends one
    "postgres": (
        "select pg_backend_pid()",
        "select pid from pg_stat_activity where datname = current_database()",
        "select pg_terminate_backend({})",
    ),
    "mysql": (
        "select connection_id()",
        "select id from information_schema.processlist where db = database()",
        "kill connection {}",
    ),
}
GONE = 1094  # MySQL: there is no such session any more


def is_undone(error: Exception) -> bool:
    """Whether nothing of a transaction remains: lost before COMMIT, the server rolls it back."""
    return isinstance(error, ConnectionLostError) or (
        isinstance(error, aiodbkit.Error) and error.is_transient
    )


class Bank:
    """Eight workers and what became of their transfers."""

    def __init__(self, db: aiodbkit.Engine, backend: str, policy: RetryPolicy) -> None:
        self.db = db
        self.ids = count(1)
        self.acknowledged: list[int] = []
        self.unknown: list[int] = []
        self.failed: list[int] = []
        self.attempts: Counter[str] = Counter()
        figures = {name: getattr(policy, name) for name in ("max_retries", "backoff", "on")}
        retry = RetryPolicy(**figures, before_retry=self._count, max_backoff=0.2)
        self.transfer = db.transaction(retry=retry, **LOCKS.get(backend, {}))(self._transfer)

    def _count(self, event: RetryEvent) -> None:
        self.attempts[type(event.error).__name__] += 1

    async def open(self) -> None:
        await self.db.execute("create table accounts (id integer primary key, balance integer)")
        await self.db.execute("create table ledger (id integer, amount integer)")
        rows = [{"id": number, "balance": OPENING} for number in range(ACCOUNTS)]
        await self.db.insert_many("accounts", rows)

    async def _transfer(self, number: int, source: int, target: int, amount: int) -> None:
        if await self.db.fetch_val(BALANCE, {"id": source}) < amount:
            amount = 0
        await self.db.execute(CHANGE, {"id": source, "amount": -amount})
        entry = {"id": number, "amount": amount}
        await self.db.execute("insert into ledger (id, amount) values (:id, :amount)", entry)
        await self.db.execute(CHANGE, {"id": target, "amount": amount})

    async def work(self, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(EACH):
            number = next(self.ids)
            source, target = chance.sample(range(ACCOUNTS), 2)
            try:
                await self.transfer(number, source, target, chance.randint(1, 200))
            except CommitUnknownError:
                self.unknown.append(number)
            except aiodbkit.OperationalError as error:
                if not is_undone(error):
                    raise
                self.failed.append(number)
            else:
                self.acknowledged.append(number)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for seed in range(WORKERS):
                group.create_task(self.work(seed))

    async def judge(self, db: aiodbkit.Engine) -> None:
        """Ask another engine what the database has."""
        assert await db.fetch_val("select sum(balance) from accounts") == TOTAL
        written = Counter(await db.fetch_column("select id from ledger"))
        assert set(written.values()) <= {1}, "a transfer was doubled"
        missing = [number for number in self.acknowledged if number not in written]
        assert not missing, "an acknowledged transfer was lost"
        ghosts = [number for number in self.failed if number in written]
        assert not ghosts, "a transfer that was told to have failed took effect"
        ended = len(self.acknowledged) + len(self.unknown) + len(self.failed)
        assert ended == next(self.ids) - 1
        print(
            f"{len(self.acknowledged)} acknowledged, {len(self.failed)} failed, "
            f"{len(self.unknown)} unknown ({sum(number in written for number in self.unknown)} of "
            f"them took effect), retries: {dict(self.attempts)}"
        )


@asynccontextmanager
async def beside(work: Awaitable[None]) -> AsyncIterator[None]:
    """Let ``work`` go on during the block, and tell if it has failed."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def keep_looking(db: aiodbkit.Engine, totals: list[int]) -> None:
    while True:
        totals.append(await db.fetch_val("select sum(balance) from accounts"))
        await asyncio.sleep(0.01)


async def keep_killing(
    db: aiodbkit.Engine, backend: str, spared: list[int], killed: list[int]
) -> None:
    """End a random session every 50 ms, but for those that look on."""
    chance = random.Random(4)
    _, find, kill = KILL[backend]
    while True:
        victims = [pid for pid in await db.fetch_column(find) if pid not in spared]
        if victims:
            victim = chance.choice(victims)
            try:
                await db.execute(kill.format(int(victim)))
            except aiodbkit.Error as error:
                if error.code != GONE:
                    raise
            else:
                killed.append(victim)
        await asyncio.sleep(0.05)


async def test_the_total_never_changes_and_each_transfer_is_there_once(
    backend: str, make_engine: Make
) -> None:
    db = await make_engine(max_size=WORKERS, acquire_timeout=20)
    looker = await make_engine(max_size=1)
    bank = Bank(db, backend, RetryPolicy(max_retries=100, backoff=0.005))
    await bank.open()
    totals: list[int] = []
    async with beside(keep_looking(looker, totals)):
        await bank.run()
    await bank.judge(looker)
    assert len(totals) > 1
    assert set(totals) == {TOTAL}
    assert len(bank.acknowledged) == WORKERS * EACH, "collisions are retried until they succeed"
    if backend != "sqlite":  # which has one writer at a time, in the order of asking
        assert bank.attempts, "nothing collided: this proves nothing"
    assert db.pool.stats().in_use == 0


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in KILL]
)
async def test_with_connections_killed_none_is_lost_or_doubled(
    backend: str, make_engine: Make
) -> None:
    db = await make_engine(max_size=WORKERS, acquire_timeout=20)
    looker, killer = await make_engine(max_size=1), await make_engine(max_size=1)
    bank = Bank(db, backend, RetryPolicy(max_retries=100, backoff=0.005, on=is_undone))
    await bank.open()
    spared = [await each.fetch_val(KILL[backend][0]) for each in (looker, killer)]
    killed: list[int] = []
    totals: list[int] = []
    async with (
        beside(keep_looking(looker, totals)),
        beside(keep_killing(killer, backend, spared, killed)),
    ):
        while len(killed) < 20 or not bank.attempts["ConnectionLostError"]:
            await bank.run()
    print(f"{len(killed)} sessions killed")
    await bank.judge(looker)
    assert set(totals) == {TOTAL}
    assert bank.acknowledged
    assert db.pool.stats().in_use == 0
