"""Contract §4: transactions by hand, by SQL, and what SQL does to the open transaction."""

from __future__ import annotations

from typing import Any

import pytest

import aiodbkit

from .support import assert_whole

ADD = "insert into people (id, name) values (:id, 'new')"
IDS = "select id from people where id > 4 order by id"
People = list[tuple[int, str, int | None]]


class StopError(Exception):
    """Leaves a body."""


async def add(db: Any, number: int) -> None:
    await db.execute(ADD, {"id": number})


@pytest.fixture(autouse=True)
async def _people(people: People) -> None:
    """Every test here works on the four people."""


async def test_manual_begin_commit_and_rollback(db: aiodbkit.Engine) -> None:
    async with db.connection() as conn:
        await conn.begin()
        assert conn.in_transaction
        await add(conn, 5)
        await conn.commit()
        assert not conn.in_transaction
        await conn.begin()
        await add(conn, 6)
        await conn.rollback()
        assert not conn.in_transaction
    assert await db.fetch_column(IDS) == [5]


async def test_manual_calls_out_of_order_are_refused(db: aiodbkit.Engine) -> None:
    async with db.connection() as conn:
        with pytest.raises(aiodbkit.InterfaceError, match=r"begin\(\)"):
            await conn.commit()
        await conn.begin()
        with pytest.raises(aiodbkit.InterfaceError, match=r"already|open"):
            await conn.begin()
        await conn.rollback()


async def test_a_manual_transaction_forgotten_is_rolled_back_before_the_next_borrower(
    one: aiodbkit.Engine,
) -> None:
    async with one.connection() as conn:
        await conn.begin()
        await add(conn, 5)
    assert await one.fetch_column(IDS) == []
    await assert_whole(one)


@pytest.mark.parametrize("statement", ["begin", "start transaction"])
async def test_a_transaction_begun_in_sql_is_rolled_back_before_the_next_borrower(
    statement: str, one: aiodbkit.Engine
) -> None:
    async with one.connection() as conn:
        try:
            await conn.execute(statement)
        except aiodbkit.ProgrammingError:
            pytest.skip(f"{statement!r} is no statement of this backend")
        await add(conn, 5)
    assert await one.fetch_column(IDS) == []
    await assert_whole(one)


@pytest.mark.parametrize("verb", ["execute", "execute_script", "fetch_all"])
@pytest.mark.parametrize("statement", ["commit", "rollback", "begin", "savepoint mine", "end"])
async def test_sql_that_ends_the_transaction_lets_nothing_run_outside_of_it(
    verb: str, statement: str, one: aiodbkit.Engine
) -> None:
    with pytest.raises((aiodbkit.Error, StopError)):
        async with one.transaction():
            await add(one, 5)
            await getattr(one, verb)(statement)
            await add(one, 6)
            raise StopError
    assert await one.fetch_column(IDS) == []
    await assert_whole(one)


async def test_a_script_that_commits_in_the_middle_lets_nothing_run_outside(
    one: aiodbkit.Engine,
) -> None:
    with pytest.raises(aiodbkit.Error):
        async with one.transaction():
            await one.execute_script(
                "insert into people (id, name) values (5, 'a'); commit; "
                "insert into people (id, name) values (6, 'b')"
            )
    assert await one.fetch_column(IDS) == []
    await assert_whole(one)


async def test_tables_made_in_a_transaction_are_undone_or_refused(
    one: aiodbkit.Engine, can: Any
) -> None:
    """Nothing before or after them is committed behind the caller's back."""
    with pytest.raises((aiodbkit.NotSupportedError, StopError)) as caught:
        async with one.transaction():
            await add(one, 5)
            await one.execute("create table extra (id integer)")
            await add(one, 6)
            raise StopError
    assert caught.type is (StopError if can.ddl_is_transactional else aiodbkit.NotSupportedError)
    assert await one.fetch_column(IDS) == []
    with pytest.raises(aiodbkit.ProgrammingError):
        await one.fetch_val("select count(*) from extra")
