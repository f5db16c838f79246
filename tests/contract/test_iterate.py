"""Contract §2: `iterate`, rows of a server-side cursor in constant memory."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import dataclass
from typing import Any

import pytest

import aiodbkit

from .dialects import Dialect
from .support import assert_whole, verbs_on

SELECT = "select id, name from people order by id"
People = list[tuple[int, str, int | None]]


@dataclass
class Person:
    id: int
    name: str


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 100])
async def test_rows_come_in_order_whatever_the_batch_size(
    batch_size: int, db: aiodbkit.Engine, people: People
) -> None:
    found = [row async for row in db.iterate(SELECT, batch_size=batch_size)]
    assert found == [(number, name) for number, name, _ in people]
    assert all(isinstance(row, aiodbkit.Row) for row in found)


async def test_no_rows_is_an_empty_iteration(db: aiodbkit.Engine, people: People) -> None:
    assert [row async for row in db.iterate("select id from people where id > 99")] == []


async def test_parameters_and_into_work_as_with_fetch_all(
    db: aiodbkit.Engine, people: People
) -> None:
    select = "select id, name from people where id > :id order by id"
    found = [person async for person in db.iterate(select, {"id": 2}, into=Person)]
    assert found == [Person(3, "Cy"), Person(4, "Dee")]


async def test_the_block_closes_the_cursor_at_its_end(one: aiodbkit.Engine, people: People) -> None:
    async with one.iterate(SELECT, batch_size=1) as rows:
        async for row in rows:
            assert row.name == "Ann"
            break
    assert await one.fetch_val("select count(*) from people") == 4
    await assert_whole(one)


async def test_a_break_inside_the_block_on_a_connection_leaves_it_usable(
    one: aiodbkit.Engine, people: People
) -> None:
    async with one.connection() as conn:
        async with conn.iterate(SELECT, batch_size=1) as rows:
            async for _ in rows:
                break
        assert await conn.fetch_val("select count(*) from people") == 4
        assert not conn.in_transaction
        await conn.execute("delete from people where id = 1")
    assert await one.fetch_val("select count(*) from people") == 3


async def test_a_break_without_the_block_gives_the_connection_back_in_the_end(
    one: aiodbkit.Engine, people: People
) -> None:
    rows = one.iterate(SELECT, batch_size=1)
    async for _ in rows:
        break
    await rows.aclose()
    assert await one.fetch_val("select count(*) from people") == 4
    await assert_whole(one)


async def test_an_error_in_the_body_closes_the_cursor(one: aiodbkit.Engine, people: People) -> None:
    class BodyError(Exception):
        pass

    with pytest.raises(BodyError):
        async with one.iterate(SELECT, batch_size=1) as rows:
            async for _ in rows:
                raise BodyError
    await assert_whole(one)


async def test_it_reads_what_the_open_transaction_wrote(
    db: aiodbkit.Engine, people: People
) -> None:
    async with db.transaction() as tx:
        await db.execute("delete from people where id > 2")
        assert [row.name async for row in db.iterate(SELECT, batch_size=1)] == ["Ann", "Bob"]
        await tx.rollback()
    assert await db.fetch_val("select count(*) from people") == 4


async def test_after_iterating_in_a_transaction_the_transaction_goes_on(
    db: aiodbkit.Engine, people: People
) -> None:
    async with db.transaction():
        async with db.iterate(SELECT, batch_size=1) as rows:
            async for _ in rows:
                break
        await db.execute("delete from people where id = 1")
    assert await db.fetch_val("select count(*) from people") == 3


async def test_statements_between_the_rows_work_or_are_refused_at_once(
    db: aiodbkit.Engine, can: Any, people: People
) -> None:
    async with db.connection() as conn, conn.iterate(SELECT, batch_size=1) as rows:
        seen = []
        async for row in rows:
            # Outside a transaction a cursor may need one of its own, which is no place for others.
            if can.cursor_is_exclusive or can.cursor_needs_transaction:
                with pytest.raises(aiodbkit.InterfaceError, match="iterat"):
                    await conn.fetch_val("select 41")
            else:
                assert await conn.fetch_val("select 41") == 41
            seen.append(row.id)
    assert seen == [1, 2, 3, 4]


async def test_statements_between_the_rows_work_in_a_transaction_where_the_server_allows(
    db: aiodbkit.Engine, can: Any, people: People
) -> None:
    if can.cursor_is_exclusive:
        pytest.skip("nothing else can run while this backend streams")
    async with db.transaction():
        async for row in db.iterate(SELECT, batch_size=1):
            await db.execute("update people set team = 9 where id = :id", {"id": row.id})
    assert await db.fetch_val("select count(*) from people where team = 9") == 4


async def test_the_engine_serves_other_statements_between_the_rows(
    db: aiodbkit.Engine, people: People
) -> None:
    async for row in db.iterate(SELECT, batch_size=1):
        count = "select count(*) from people where id <= :id"
        assert await asyncio.create_task(db.fetch_val(count, {"id": row.id})) == row.id


@pytest.mark.parametrize("floor", ["engine", "connection", "transaction"])
async def test_a_slow_first_batch_meets_the_timeout(
    floor: str, db: aiodbkit.Engine, sql: Dialect
) -> None:
    with pytest.raises(aiodbkit.QueryTimeoutError):
        async with verbs_on(db, floor) as on:
            async for _ in on.iterate(sql.slow(30), timeout=0.2):
                pass
    await assert_whole(db)


async def test_a_cancelled_iteration_gives_the_connection_back(
    one: aiodbkit.Engine, people: People
) -> None:
    started = asyncio.Event()

    async def read() -> None:
        async with one.iterate(SELECT, batch_size=1) as rows:
            async for _ in rows:
                started.set()
                await asyncio.Event().wait()

    reader = asyncio.create_task(read())
    await started.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await assert_whole(one)


async def test_wrong_sql_raises_as_with_any_verb(db: aiodbkit.Engine, people: People) -> None:
    with pytest.raises(aiodbkit.ProgrammingError):
        async for _ in db.iterate("select nothing from nowhere"):
            pass
    with pytest.raises(aiodbkit.ProgrammingError, match="nope"):
        async for _ in db.iterate("select id from people where id = :id", {"nope": 1}):
            pass
    await assert_whole(db)


async def test_rows_may_be_changed_by_the_engine_while_it_reads_them(
    db: aiodbkit.Engine, people: People
) -> None:
    async for row in db.iterate("select id from people", batch_size=1):
        async with db.transaction():
            await db.execute("delete from people where id = :id", {"id": row.id})
    assert await db.fetch_val("select count(*) from people") == 0


async def test_a_task_that_needs_a_second_connection_while_it_reads_is_told_so(
    make_engine: Any, people: People
) -> None:
    db = await make_engine(max_size=1, acquire_timeout=0.1)
    with pytest.raises(aiodbkit.PoolTimeoutError):
        async for _ in db.iterate(SELECT, batch_size=1):
            await db.fetch_val("select 1")
    await assert_whole(db)


async def test_fifty_thousand_rows_are_read_in_the_memory_of_a_few_batches(
    db: aiodbkit.Engine, sql: Dialect
) -> None:
    select = f"select numbers.n, {sql.repeated(400)} as filling from ({sql.series(50_000)}) numbers"
    count = 0
    async with db.iterate(select, batch_size=200) as rows:
        tracemalloc.start()
        try:
            async for row in rows:
                count += 1
                assert len(row.filling) == 400
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert count == 50_000
    assert peak < 5_000_000  # all of the rows are more than 20 MB
