"""What bare asyncpg gets wrong, or leaves to its callers: executemany, and the end of transactions.

The tests come in pairs: the first shows the hazard on a connection of asyncpg's, so that we notice
when it has gone; the second that aiodbkit's users do not meet it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import asyncpg
import pytest

import aiodbkit
from tests.faults.postgres import (
    ADD,
    BIG,
    HANGS,
    Make,
    Proxies,
    backend_of,
    bare,
    create_notes,
    has_unsent,
    ids,
    until,
)
from tests.servers.wire import WireProxy


@pytest.fixture
async def db(postgres_engine: Make) -> aiodbkit.Engine:
    return await create_notes(postgres_engine)


@pytest.fixture
async def proxy(postgres_url: str, wire_proxy: Proxies) -> WireProxy:
    """A wire to that database which can be cut."""
    return await wire_proxy(postgres_url)


@pytest.fixture
async def one(db: aiodbkit.Engine, proxy: WireProxy, postgres_engine: Make) -> aiodbkit.Engine:
    """An engine with a single connection, by way of the proxy."""
    return await postgres_engine(proxy.url, max_size=1, acquire_timeout=20)


@pytest.fixture
async def hasty(db: aiodbkit.Engine, proxy: WireProxy, postgres_engine: Make) -> aiodbkit.Engine:
    """The same, which gives up soon on a connection that does not answer."""
    return await postgres_engine(proxy.url, max_size=1, acquire_timeout=20, reset_timeout=0.3)


# executemany


async def test_bare_executemany_swallows_a_cancellation_while_it_sends(
    db: aiodbkit.Engine, proxy: WireProxy
) -> None:
    for attempt in range(8):  # whether it is still sending is for the kernel to say
        if await bare_executemany_hangs(proxy, first=attempt * 10_000):
            return
    pytest.skip("asyncpg ended its executemany each time here: it was done sending, or is mended")


async def bare_executemany_hangs(proxy: WireProxy, first: int) -> bool:
    async with bare(proxy.url) as connection:
        insert = "insert into notes (id, body) values ($1, $2)"
        await connection.executemany(insert, [(first, "")])
        proxy.hole("up")
        rows = [(first + n, BIG) for n in range(1, 2001)]
        sending = asyncio.create_task(connection.executemany(insert, rows))
        await has_unsent(connection)
        sending.cancel()
        proxy.heal()
        done, _ = await asyncio.wait((sending,), timeout=HANGS)
        hangs = not done and not connection.is_closed()
    await asyncio.wait((sending,))
    return hangs


@pytest.mark.parametrize("how", ["once", "twice", "anyio"])
@pytest.mark.parametrize("floor", ["engine", "transaction"])
async def test_a_cancelled_execute_many_ends_and_leaves_nothing(
    how: str, floor: str, db: aiodbkit.Engine, proxy: WireProxy, hasty: aiodbkit.Engine
) -> None:
    rows = [{"id": n, "body": BIG} for n in range(1, 2001)]
    scopes: list[anyio.CancelScope] = []
    raws: list[Any] = []

    async def send() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            async with hasty.connection() as conn:
                await conn.execute_many(ADD, [{"id": 0, "body": ""}])
                raws.append(conn.raw)
                if floor == "engine":
                    await insert_after(conn, b"BEGIN")
                else:
                    async with conn.transaction():
                        await conn.execute(ADD, {"id": 5000, "body": ""})
                        await insert_after(conn, b"aiodbkit_many")

    async def insert_after(conn: aiodbkit.Connection, last: bytes) -> None:
        """What goes before the rows passes, and then the way is shut."""
        sending = proxy.seen(last)
        async with asyncio.TaskGroup() as group:
            group.create_task(shut(sending))
            await conn.execute_many(ADD, rows)

    async def shut(seen: Awaitable[None]) -> None:
        await seen
        await asyncio.sleep(0)
        proxy.hole("up")

    task = asyncio.create_task(send())
    await until(lambda: bool(raws))
    await has_unsent(raws[0])
    if how == "anyio":
        scopes[0].cancel()
        await task
    else:
        task.cancel()
        if how == "twice":
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    proxy.heal()
    assert await hasty.fetch_val("select 41") == 41
    assert await ids(db) == [0]


async def test_bare_executemany_keeps_the_rows_before_a_refused_one(
    db: aiodbkit.Engine, postgres_url: str
) -> None:
    async with bare(postgres_url) as connection:
        rows = [*((n, BIG) for n in range(200)), ("no number", "")]
        async with connection.transaction():
            with pytest.raises(asyncpg.DataError):
                await connection.executemany("insert into notes values ($1, $2)", rows)
    assert await ids(db) != []


async def test_a_refused_row_of_many_leaves_none_and_the_transaction_usable(
    db: aiodbkit.Engine,
) -> None:
    rows: list[dict[str, Any]] = [{"id": n, "body": BIG} for n in range(200)]
    async with db.transaction():
        await db.execute(ADD, {"id": 1000, "body": ""})
        with pytest.raises(aiodbkit.DataError, match=r":id of row 200.*str.*int4"):
            await db.execute_many(ADD, [*rows, {"id": "no number", "body": ""}])
        await db.execute_many(ADD, [{"id": 1001, "body": ""}])
    assert await ids(db) == [1000, 1001]


@pytest.mark.parametrize("committed_at_once", [False, True])
@pytest.mark.parametrize("wrong", ["source", "async source", "row", "deadline"])
async def test_an_insert_many_that_fails_on_our_side_is_undone_and_the_transaction_usable(
    wrong: str, committed_at_once: bool, db: aiodbkit.Engine
) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from ({"id": n, "body": BIG} for n in range(200))
        if wrong != "row":
            raise LookupError
        yield {"id": "no number", "body": ""}

    async def later() -> AsyncIterator[dict[str, Any]]:
        for n in range(200):
            yield {"id": n, "body": ""}
        if wrong == "deadline":
            await asyncio.Event().wait()
        raise LookupError

    failure = {"row": aiodbkit.DataError, "deadline": aiodbkit.QueryTimeoutError}
    given = rows() if wrong in ("source", "row") else later()
    async with db.transaction():
        await db.execute(ADD, {"id": 1000, "body": ""})
        with pytest.raises(failure.get(wrong, LookupError)):
            await db.insert_many("notes", given, timeout=0.5 if wrong == "deadline" else 20)
        if not committed_at_once:
            await db.insert_many("notes", [{"id": 1001, "body": ""}])
    assert await ids(db) == ([1000] if committed_at_once else [1000, 1001])


async def test_an_interrupted_insert_many_is_undone_and_the_transaction_usable(
    db: aiodbkit.Engine,
) -> None:
    under_way = asyncio.Event()

    async def endless() -> AsyncIterator[dict[str, Any]]:
        yield {"id": 1, "body": ""}
        under_way.set()
        await asyncio.Event().wait()

    async with db.connection() as connection, connection.transaction():
        await connection.execute(ADD, {"id": 1000, "body": ""})
        with anyio.CancelScope() as scope:
            async with asyncio.TaskGroup() as group:
                group.create_task(_cancel_after(under_way, scope))
                await connection.insert_many("notes", endless())
        assert scope.cancelled_caught
        await connection.insert_many("notes", [{"id": 1001, "body": ""}])
    assert await ids(db) == [1000, 1001]


async def _cancel_after(event: asyncio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


# The end of a transaction


async def test_bare_commit_of_a_failed_transaction_succeeds(
    db: aiodbkit.Engine, postgres_url: str
) -> None:
    async with bare(postgres_url) as connection, connection.transaction():
        await connection.execute("insert into notes values (1)")
        with suppress(asyncpg.PostgresError):
            await connection.execute("select 1 / 0")
    assert await ids(db) == []


async def test_commit_of_a_failed_transaction_is_an_error(db: aiodbkit.Engine) -> None:
    with pytest.raises(aiodbkit.InternalError, match="rolled back|ROLLBACK"):
        async with db.transaction():
            await db.execute(ADD, {"id": 1, "body": ""})
            with suppress(aiodbkit.DataError):
                await db.execute("select 1 / 0")
    assert await ids(db) == []
    async with db.connection() as conn:
        await conn.begin()
        with suppress(aiodbkit.DataError):
            await db.execute("select 1 / 0")
        with pytest.raises(aiodbkit.InternalError, match="savepoint"):
            await db.fetch_val("select 1")
        with pytest.raises(aiodbkit.InternalError, match="rolled back|ROLLBACK"):
            await conn.commit()


async def test_bare_begin_cancelled_leaves_a_transaction_that_nobody_knows_of(
    proxy: WireProxy,
) -> None:
    async with bare(proxy.url) as connection:
        await cancel_in_flight(proxy, connection.transaction().start(), b"BEGIN")
        assert not connection.is_in_transaction()
        await connection.fetchval("select 1")
        assert connection.is_in_transaction()


async def cancel_in_flight(proxy: WireProxy, work: Any, text: bytes) -> None:
    """Cancel when the statement has been sent and done, and its answer is on the way."""
    proxy.hole("down")
    task = asyncio.ensure_future(work)
    await proxy.seen(text)
    task.cancel()
    proxy.heal()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_after_a_cancelled_begin_the_connection_is_in_no_transaction(
    db: aiodbkit.Engine, proxy: WireProxy, one: aiodbkit.Engine
) -> None:
    pid = await backend_of(one)

    async def write() -> None:
        async with one.transaction():
            pytest.fail("cancelled before the block")

    await cancel_in_flight(proxy, write(), b"BEGIN")
    async with one.connection() as conn:
        await conn.execute(ADD, {"id": 1, "body": ""})
        assert not conn.in_transaction
        assert await backend_of(one) == pid
    assert await ids(db) == [1]


async def test_a_cancelled_begin_in_a_kept_connection_can_be_begun_again(
    db: aiodbkit.Engine, proxy: WireProxy, one: aiodbkit.Engine
) -> None:
    async with one.connection() as conn:
        await conn.fetch_val("select 1")
        proxy.hole("down")
        seen = asyncio.ensure_future(proxy.seen(b"BEGIN"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as scope:
                seen.add_done_callback(
                    lambda _: scope.reschedule(asyncio.get_running_loop().time())
                )
                await conn.begin()
        proxy.heal()
        async with conn.transaction(isolation="serializable"):
            await conn.execute(ADD, {"id": 1, "body": ""})
    assert await ids(db) == [1]


async def test_bare_commit_cancelled_may_have_been_done(
    db: aiodbkit.Engine, proxy: WireProxy
) -> None:
    async with bare(proxy.url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("insert into notes values (1)")
        await cancel_in_flight(proxy, transaction.commit(), b"COMMIT")
        await connection.fetchval("select 1")
    assert await ids(db) == [1]


async def test_a_cancelled_commit_ends_as_a_whole_and_its_hooks_run_exactly_then(
    db: aiodbkit.Engine, proxy: WireProxy, one: aiodbkit.Engine
) -> None:
    told: list[str] = []
    await one.fetch_val("select 1")

    async def write() -> None:
        async with one.transaction() as tx:
            await one.execute(ADD, {"id": 1, "body": ""})
            tx.on_commit(lambda: told.append("committed"))
            tx.on_rollback(lambda: told.append("rolled back"))
            proxy.hole("down")

    task = asyncio.create_task(write())
    await proxy.seen(b"COMMIT")
    task.cancel()
    proxy.heal()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with one.connection() as conn:
        assert not conn.in_transaction
    await until(lambda: bool(told))
    assert told == ["committed"]
    assert await ids(db) == [1]


async def test_bare_rollback_cancelled_by_a_second_cancellation_leaves_the_transaction_open(
    proxy: WireProxy,
) -> None:
    async with bare(proxy.url) as connection:

        async def work() -> None:
            async with connection.transaction():
                proxy.hole("down")
                await connection.fetchval("select 1")

        task = asyncio.create_task(work())
        await proxy.seen(b"select 1")
        task.cancel()  # the rollback waits for the end of the cancelled statement
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        proxy.heal()
        with pytest.raises(asyncio.CancelledError):
            await task
        with suppress(asyncpg.InFailedSQLTransactionError):
            await connection.fetchval("select 1")
        assert connection.is_in_transaction()


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_rollback_takes_place_however_often_it_is_cancelled(
    times: int, db: aiodbkit.Engine, proxy: WireProxy, one: aiodbkit.Engine
) -> None:
    pid = await backend_of(one)

    async def work() -> None:
        async with one.transaction():
            await one.execute(ADD, {"id": 1, "body": ""})
            proxy.hole("down")
            await one.fetch_val("select 7")

    task = asyncio.create_task(work())
    await proxy.seen(b"select 7")
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    proxy.heal()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with one.connection() as conn:
        assert not conn.in_transaction
        assert await backend_of(one) == pid
    assert await ids(db) == []


async def test_bare_transactions_of_two_tasks_on_one_connection_become_one(
    db: aiodbkit.Engine, postgres_url: str
) -> None:
    async with bare(postgres_url) as connection:
        begun, done = asyncio.Event(), asyncio.Event()

        async def fails() -> None:
            with suppress(ZeroDivisionError):
                async with connection.transaction():
                    begun.set()
                    await done.wait()
                    raise ZeroDivisionError

        async def commits() -> None:
            await begun.wait()
            async with connection.transaction():
                await connection.execute("insert into notes values (1)")
            done.set()

        await asyncio.gather(fails(), commits())
    assert await ids(db) == []


async def test_transactions_of_two_tasks_are_two(db: aiodbkit.Engine) -> None:
    begun, done = asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        with suppress(ZeroDivisionError):
            async with db.transaction():
                await db.execute(ADD, {"id": 2, "body": ""})
                begun.set()
                await done.wait()
                raise ZeroDivisionError

    async def commits() -> None:
        await begun.wait()
        async with db.transaction():
            await db.execute(ADD, {"id": 1, "body": ""})
        done.set()

    await asyncio.gather(fails(), commits())
    assert await ids(db) == [1]


async def test_a_transaction_on_a_shared_connection_is_not_joined_by_another_task(
    db: aiodbkit.Engine,
) -> None:
    begun, done = asyncio.Event(), asyncio.Event()
    async with db.connection() as conn:

        async def fails() -> None:
            with suppress(ZeroDivisionError):
                async with conn.transaction():
                    begun.set()
                    await done.wait()
                    raise ZeroDivisionError

        async def commits() -> bool:
            await begun.wait()
            try:
                async with conn.transaction():
                    await conn.execute(ADD, {"id": 1, "body": ""})
            except aiodbkit.TransactionScopeError:
                return False
            finally:
                done.set()
            return True

        _, committed = await asyncio.gather(fails(), commits())
    assert await ids(db) == [1] * committed
