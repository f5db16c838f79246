"""Python-side defaults, many rows, and Tables as the target of insert_many."""

from __future__ import annotations

import pytest
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Sequence,
    String,
    Table,
    cast,
    func,
    insert,
    select,
    update,
)

from aiodbkit import ProgrammingError, QueryTimeoutError
from tests.core_statements.tables import Color, defaulted, people

EXPECTED = ("made for Ann", 7, 0, 5)
COLUMNS = (defaulted.c.made, defaulted.c.fixed, defaulted.c.changed, defaulted.c.server)


@pytest.mark.parametrize("way", ["values", "params", "execute_many", "insert_many", "sequences"])
async def test_defaults_are_applied(db, way):
    if way == "values":
        await db.execute(insert(defaulted).values(name="Ann"))
    elif way == "params":
        await db.execute(insert(defaulted), {"name": "Ann"})
    elif way == "execute_many":
        await db.execute_many(insert(defaulted), [{"name": "Ann"}, {"name": "Bob"}])
    elif way == "insert_many":
        await db.insert_many(defaulted, [{"name": "Ann"}, {"name": "Bob"}])
    else:
        await db.insert_many(defaulted, [("Ann",), ("Bob",)], columns=[defaulted.c.name])
    assert await db.fetch_one(select(*COLUMNS).where(defaulted.c.name == "Ann")) == EXPECTED
    if "many" in way:
        made = select(defaulted.c.made).where(defaulted.c.name == "Bob")
        assert await db.fetch_val(made) == "made for Bob"


async def test_defaults_of_several_values_at_once_are_each_rows_own(db):
    await db.execute(insert(defaulted).values([{"name": "Ann"}, {"name": "Bob"}]))
    made = select(defaulted.c.made).order_by(defaulted.c.name)
    assert await db.fetch_column(made) == ["made for Ann", "made for Bob"]


async def test_a_given_value_goes_before_the_default(db):
    await db.execute(insert(defaulted).values(name="Ann", fixed=1, made="here"))
    assert await db.fetch_one(select(*COLUMNS)) == ("here", 1, 0, 5)


async def test_onupdate_is_applied(db):
    await db.execute(insert(defaulted).values(name="Ann"))
    await db.execute(update(defaulted).values(name="Eve"))
    assert await db.fetch_one(select(defaulted.c.name, defaulted.c.changed)) == ("Eve", 99)


async def test_a_default_that_is_an_sql_expression_is_left_to_the_database(db):
    table = Table(
        "expressed",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("name", String(20)),
        Column("low", String(20), default=func.lower("ABC")),
    )
    await db.create_all(table.metadata)
    await db.execute(insert(table).values(name="Ann"))
    await db.execute_many(insert(table), [{"name": "Bob"}])
    assert await db.fetch_column(select(table.c.low)) == ["abc", "abc"]
    with pytest.raises(ProgrammingError, match="default of the column low is an SQL expression"):
        await db.insert_many(table, [{"name": "Cy"}])


async def test_a_key_that_the_database_makes_is_asked_for(db):
    table = Table(
        "keyed",
        MetaData(),
        Column("key", String(40), primary_key=True, default=func.lower("KEY")),
        Column("name", String(20)),
    )
    await db.create_all(table.metadata)
    assert (await db.execute(insert(table).values(name="Ann"))).rows_affected == 1
    assert await db.fetch_one(select(table)) == ("key", "Ann")


async def test_a_sequence_gives_the_key(postgres_engine):
    db = await postgres_engine()
    metadata = MetaData()
    numbers = Sequence("numbers", metadata=metadata, start=40)
    table = Table("numbered", metadata, Column("id", Integer, numbers, primary_key=True))
    await db.create_all(metadata)
    assert (await db.execute(insert(table))).last_insert_id == 40
    assert await db.fetch_val(numbers) == 41


@pytest.mark.parametrize("verb", ["execute", "fetch_all", "execute_many"])
async def test_what_is_asked_for_first_takes_of_the_time_of_the_call(postgres_engine, verb):
    db = await postgres_engine()
    slow = func.length(cast(func.pg_sleep(0.4), String))
    table = Table(
        "slow",
        MetaData(),
        Column("key", Integer, primary_key=True, default=slow),
        Column("pause", Integer, default=slow),
        implicit_returning=False,
    )
    await db.create_all(table.metadata)
    params = [{}] if verb == "execute_many" else None
    with pytest.raises(QueryTimeoutError):  # 0.4 s of asking leave 0.2 s
        await getattr(db, verb)(insert(table), params, timeout=0.6)
    assert await db.fetch_all(select(table)) == []


async def test_rows_from_a_generator_and_from_an_async_one(db):
    async def later():
        yield {"name": "Bob", "color": Color.GREEN}

    assert await db.insert_many(people, ({"name": n, "color": Color.RED} for n in ["Ann"])) == 1
    assert await db.insert_many(people, later()) == 1
    assert await db.insert_many(people, []) == 0
    found = await db.fetch_all(select(people.c.name, people.c.color).order_by(people.c.name))
    assert found == [("Ann", Color.RED), ("Bob", Color.GREEN)]


async def test_a_column_may_have_a_key_of_its_own(db):
    table = Table("odd", MetaData(), Column("real name", String(20), key="name", primary_key=True))
    await db.create_all(table.metadata)
    await db.execute(insert(table).values(name="Ann"))
    await db.execute(insert(table), {"name": "Bob"})
    await db.insert_many(table, [{"name": "Cy"}])
    query = select(table.c.name).where(table.c.name != "Bob").order_by(table.c.name)
    assert await db.fetch_column(query) == ["Ann", "Cy"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("Ann",)], "row 0 is a tuple, not a mapping"),
        ([{"name": "Ann"}, {"team": 1}], "row 1 has other names than row 0: name, team"),
        ([], "no rows"),
    ],
)
async def test_rows_that_do_not_fit_are_told(db, rows, message):
    with pytest.raises(ProgrammingError, match=message):
        await db.execute_many(insert(people), rows)
    assert await db.fetch_val(select(func.count()).select_from(people)) == 0


async def test_lists_differ_from_row_to_row(db):
    statement = update(people).where(people.c.id.in_([1, 2]))
    with pytest.raises(ProgrammingError, match=r"call execute\(\) for each"):
        await db.execute_many(statement, [{"name": "Ann"}])


async def test_all_rows_or_none(db):
    from aiodbkit import UniqueViolationError

    for call in (
        db.insert_many(people, [{"name": "A"}, {"name": "A"}]),
        db.execute_many(insert(people), [{"name": "A"}, {"name": "A"}]),
    ):
        with pytest.raises(UniqueViolationError):
            await call
    assert await db.fetch_val(select(func.count()).select_from(people)) == 0
