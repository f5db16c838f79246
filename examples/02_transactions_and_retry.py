"""Transactions, savepoints, hooks, sessions, and trying again what the database gave up.

Runs on a SQLite file with nothing configured, and unchanged on PostgreSQL, MySQL and MariaDB:

    python examples/02_transactions_and_retry.py
    DATABASE_URL=postgresql://app:secret@localhost/app python examples/02_transactions_and_retry.py
    DATABASE_URL=mysql://app:secret@localhost/app python examples/02_transactions_and_retry.py
"""

from __future__ import annotations

import asyncio
import logging
import os

import aiodbkit
from aiodbkit import RetryPolicy

db = aiodbkit.create_engine(os.environ.get("DATABASE_URL", "sqlite://"))

# Each retry is told as a warning. How many it takes differs from run to run: not shown here.
logging.getLogger("aiodbkit.retry").setLevel(logging.ERROR)

SEATS = 8


async def set_up() -> None:
    await db.execute("drop table if exists retry_ticket")
    await db.execute("drop table if exists retry_show")
    await db.execute(
        "create table retry_show ("
        "  id integer primary key,"
        "  seats integer not null check (seats >= 0)"
        ")"
    )
    await db.execute(
        "create table retry_ticket (visitor varchar(40) primary key, show_id integer not null)"
    )
    await db.execute("insert into retry_show (id, seats) values (1, :seats)", {"seats": SEATS})


# Everybody reads the seats that are left and writes one less: at this isolation the databases
# refuse, or deadlock, all but one of those who do so at once. Each is run again as a whole.
@db.transaction(isolation="serializable", retry=RetryPolicy(max_retries=50, backoff=0.01))
async def book(visitor: str) -> None:
    seats = await db.fetch_val("select seats from retry_show where id = 1")
    if seats == 0:
        raise LookupError(f"no seat is left for {visitor}")
    await db.execute("update retry_show set seats = :seats where id = 1", {"seats": seats - 1})
    await db.execute(
        "insert into retry_ticket (visitor, show_id) values (:visitor, 1)", {"visitor": visitor}
    )


async def rush() -> None:
    visitors = [f"visitor {n}" for n in range(SEATS + 2)]
    outcomes = await asyncio.gather(*map(book, visitors), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, LookupError)]
    sold = await db.fetch_val("select count(*) from retry_ticket")
    left = await db.fetch_val("select seats from retry_show where id = 1")
    print(f"{len(visitors)} visitors at once: {sold} tickets sold, {left} left")
    print(f"{len(refused)} were refused")


async def savepoints() -> None:
    """What fails inside an inner block is undone alone."""
    async with db.transaction() as tx:
        tx.on_commit(lambda: print("committed: the ticket office was told"))
        await db.execute("update retry_show set seats = 1 where id = 1")
        try:
            async with db.transaction():  # a savepoint
                await db.execute("delete from retry_ticket")
                await db.execute("update retry_show set seats = seats - 2 where id = 1")
        except aiodbkit.CheckViolationError:
            print("seats cannot fall below zero: the inner block was undone")
    print("tickets:", await db.fetch_val("select count(*) from retry_ticket"))


async def session() -> None:
    """A session holds a connection only from a statement to the next commit."""
    async with db.session() as session:
        print("holds a connection:", session.in_transaction)
        await session.execute("delete from retry_ticket where visitor = 'nobody'")
        print("after a statement:", session.in_transaction)
        await session.commit()
        print("after its commit:", session.in_transaction)


async def again() -> None:
    """Code that is no transaction is repeated by `retry` and `retrying`."""
    calls = 0

    @aiodbkit.retry(max_retries=3, backoff=0.01)
    async def ask() -> int:
        nonlocal calls
        calls += 1
        if calls < 3:  # as a server does that is starting up
            raise aiodbkit.CannotConnectError("the server is starting up")
        count: int = await db.fetch_val("select count(*) from retry_ticket")
        return count

    print(f"{await ask()} tickets, counted at call {calls}")


async def main() -> None:
    async with db:
        await set_up()
        await rush()
        await savepoints()
        await session()
        await again()
        await db.execute("drop table retry_ticket")
        await db.execute("drop table retry_show")


if __name__ == "__main__":
    asyncio.run(main())
