"""Tables that change under a connection that knows them."""

from __future__ import annotations

import itertools

import pytest

import aiodbkit


@pytest.fixture
async def db(postgres_engine):
    return await postgres_engine(max_size=1)


async def insert(db, value):
    await db.execute("insert into v values (:x)", {"x": value})


async def insert_and_return(db, value):
    assert await db.fetch_val("insert into v values (:x) returning x", {"x": value}) == value


async def insert_one_by_one(db, value):
    await db.execute_many("insert into v values (:x)", [{"x": value}])


async def insert_after_some_that_fit_both(db, value):
    # So many that some are sent before the one that the old type does not take.
    rows = ({"x": each} for each in itertools.chain(itertools.repeat(None, 5000), [value]))
    await db.execute_many("insert into v values (:x)", list(rows))
    assert (await db.execute("delete from v where x is null")).rows_affected == 5000


async def copy(db, value):
    await db.insert_many("v", [{"x": value}])


async def select(db, value):
    await db.execute(f"insert into v values ('{value}')")
    assert await db.fetch_column("select x from v where x = :x", {"x": value}) == [value]


async def select_one(db, value):
    await db.execute(f"insert into v values ('{value}')")
    assert await db.fetch_one("select x from v where x = :x", {"x": value}) == (value,)


async def iterate(db, value):
    await db.execute(f"insert into v values ('{value}')")
    async with db.iterate("select x from v where x = :x", {"x": value}) as rows:
        assert [row.x async for row in rows] == [value]


@pytest.mark.parametrize("is_in_transaction", [False, True])
@pytest.mark.parametrize(("kind", "value"), [("bigint", 2**40), ("text", "some")])
@pytest.mark.parametrize(
    "use",
    [
        *(insert, insert_and_return, insert_one_by_one, insert_after_some_that_fit_both),
        *(copy, select, select_one, iterate),
    ],
)
async def test_a_value_that_fits_the_new_type_of_a_column_is_taken(
    db, use, kind, value, is_in_transaction
):
    async def make(kind):
        await db.execute("drop table if exists v")
        await db.execute(f"create table v (x {kind})")

    async def again():
        await make(kind)
        await use(db, value)

    await make("integer")
    await use(db, 1)
    if is_in_transaction:
        async with db.transaction():
            await again()
    else:
        await again()
    assert await db.fetch_column("select x from v") == [value]
    assert db.pool.stats().opened == 1


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("bigint", "double precision", 5),  # as wide: its bytes would be another number
        ("real", "double precision", 0.5),
        ("bigint", "integer", 7),
        ("jsonb", "json", [1]),
    ],
)
async def test_rows_that_are_copied_in_after_an_alter_table_are_what_was_given(db, old, new, value):
    await db.execute(f"create table v (x {old})")
    await db.insert_many("v", [{"x": value}])
    await db.execute(f"alter table v alter x type {new}")
    await db.insert_many("v", [{"x": value}])
    await db.copy_in("v", ([value] for _ in range(1)), columns=["x"])
    assert await db.fetch_column("select x from v") == [value] * 3


async def test_a_value_that_fits_neither_is_refused_and_nothing_is_sent_twice(db):
    await db.execute("create table v (x integer)")
    await insert(db, 1)
    async with db.transaction():
        with pytest.raises(aiodbkit.DataError, match="parameter :x: this str does not fit"):
            await insert(db, "some")
        await insert(db, 2)
    with pytest.raises(aiodbkit.DataError, match="parameter :x of row 1: this str"):
        await db.execute_many("insert into v values (:x)", [{"x": 3}, {"x": "some"}])
    assert await db.fetch_column("select x from v order by x") == [1, 2]
