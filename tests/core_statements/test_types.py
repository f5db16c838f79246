"""What goes in through a type of SQLAlchemy comes out through it, and by its own engines."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    cast,
    func,
    insert,
    literal,
    null,
    select,
    text,
    type_coerce,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine

from aiodbkit import ProgrammingError
from tests.core_statements.tables import VALUES, Color, kinds, people


@pytest.mark.parametrize("way", ["execute", "params", "execute_many", "insert_many"])
async def test_every_type_comes_back_as_it_went_in(db, way):
    if way == "execute":
        await db.execute(insert(kinds).values(VALUES))
    elif way == "params":
        await db.execute(insert(kinds), VALUES)
    else:
        target = kinds if way == "insert_many" else insert(kinds)
        await getattr(db, way)(target, [VALUES, {**VALUES, "title": "second"}])
    row = await db.fetch_one(select(kinds).order_by(kinds.c.id))
    found = {name: row[name] for name in VALUES}
    assert found == VALUES
    assert [name for name in VALUES if not isinstance(found[name], type(VALUES[name]))] == []


@pytest.mark.parametrize("name", VALUES)
async def test_none_is_null_and_a_value_finds_its_row(db, name):
    await db.execute(insert(kinds).values(id=1, **VALUES))
    await db.execute(insert(kinds).values({"id": 2, name: null()}))
    column = kinds.c[name]
    assert await db.fetch_column(select(kinds.c.id).where(column.is_(None))) == [2]
    if not isinstance(column.type, JSON) and name != "enveloped":
        assert await db.fetch_column(select(kinds.c.id).where(column == VALUES[name])) == [1]


@pytest.mark.parametrize(
    "doc", [None, "text", "1", "null", '{"a": 1}', 5, 1.5, True, [], {}, ["ä"]]
)
async def test_every_json_value_comes_back_also_text_that_looks_like_json(db, doc):
    await db.execute(insert(kinds).values(id=1, doc=doc))
    assert await db.fetch_val(select(kinds.c.doc)) == doc
    inner = select(kinds.c.doc.label("inner")).subquery()
    assert await db.fetch_val(select(inner.c.inner)) == doc
    assert await db.fetch_val(select(kinds.c.doc.is_(None))) in (False, 0)


async def test_parts_of_json_are_typed(db):
    await db.execute(insert(kinds).values(doc={"a": {"b": [1, "x"]}, "n": 5, "s": "one"}))
    doc = kinds.c.doc
    assert await db.fetch_val(select(doc["a"])) == {"b": [1, "x"]}
    assert await db.fetch_val(select(doc["a"]["b"][0])) == 1
    assert await db.fetch_val(select(doc["n"].as_integer())) == 5
    assert await db.fetch_val(select(doc["s"].as_string())) == "one"
    assert await db.fetch_val(select(doc[("a", "b", 1)])) == "x"
    assert await db.fetch_column(select(kinds.c.id).where(doc["n"].as_integer() == 5))


async def test_expressions_have_the_type_that_sqlalchemy_gives_them(db):
    await db.execute(insert(kinds).values(VALUES))
    assert await db.fetch_val(select(kinds.c.price * 2)) == Decimal(25)
    assert type(await db.fetch_val(select(func.sum(kinds.c.price)))) is Decimal
    assert await db.fetch_column(select(kinds.c.id).where(kinds.c.price * 2 > Decimal("24.5")))
    assert await db.fetch_val(select(func.max(kinds.c.at))) == VALUES["at"]
    assert await db.fetch_val(select(func.min(kinds.c.born).label("first"))) == VALUES["born"]
    assert await db.fetch_val(select(func.max(kinds.c.took))) == VALUES["took"]
    assert await db.fetch_val(select(func.coalesce(kinds.c.shouted, "x"))) == "LOUD"
    assert await db.fetch_val(select(cast(Decimal("1.25"), Numeric(10, 2)))) == Decimal("1.25")
    assert await db.fetch_val(select(type_coerce(kinds.c.title, String(100)))) == VALUES["title"]
    typed = text("select at, doc from kinds").columns(at=DateTime, doc=JSON)
    assert await db.fetch_one(typed) == (VALUES["at"], VALUES["doc"])


async def test_an_aware_datetime_keeps_its_instant(db, backend):
    zoned = Table(
        "zoned",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("at", DateTime(timezone=True)),
    )
    if backend == "mysql":
        pytest.skip("SQLAlchemy's DateTime is MySQL's DATETIME, which has no zone")
    await db.create_all(zoned.metadata)
    at = datetime(2024, 7, 1, 12, tzinfo=UTC)
    await db.execute(insert(zoned).values(at=at))
    assert await db.fetch_val(select(zoned.c.at)) == at


async def test_json_null_in_bulk_is_refused_where_the_driver_has_no_way(db, backend):
    if backend != "postgres":
        await db.insert_many(kinds, [{"doc": JSON.NULL}])
        assert await db.fetch_val(select(kinds.c.doc.is_(None))) in (False, 0)
        return
    from aiodbkit import DataError

    with pytest.raises(DataError, match="row 0 column doc"):
        await db.insert_many(kinds, [{"doc": JSON.NULL}])


STATEMENTS = [
    select(kinds),
    select(kinds).order_by(kinds.c.id).limit(1),
    select(kinds.c.price * 2, kinds.c.ratio / 2, kinds.c.whole % 7, func.max(kinds.c.at)),
    select(kinds.c.color, people.c.color, people.c.name).join(people, people.c.id == kinds.c.id),
    select(func.count(), func.min(kinds.c.born), func.sum(kinds.c.price)),
    select(kinds.c.doc["a"], kinds.c.doc["a"][2].as_string(), kinds.c.enveloped),
    select(kinds.c.title.label("a"), kinds.c.title.label("b"), kinds.c.shouted.concat("x")),
    select(kinds.c.id).where(kinds.c.key == VALUES["key"], kinds.c.at == VALUES["at"]),
    select(kinds.c.id).where(kinds.c.took.in_([VALUES["took"]]), kinds.c.clock == VALUES["clock"]),
    text("select id, title from kinds where id = :id").bindparams(id=1),
]


@pytest.mark.parametrize("written_by", ["aiodbkit", "sqlalchemy"])
async def test_results_are_those_of_an_engine_of_sqlalchemy(sqlite_engine, sqlite_url, written_by):
    db = await sqlite_engine()
    theirs = create_async_engine("sqlite+aiosqlite:" + sqlite_url.partition(":")[2])
    writes = [
        insert(kinds).values(id=1, **VALUES),
        insert(people).values(id=1, name="Ann", color=Color.RED),
    ]
    try:
        await db.create_all(kinds.metadata)
        if written_by == "aiodbkit":
            for statement in writes:
                await db.execute(statement)
        async with theirs.begin() as connection:
            if written_by == "sqlalchemy":
                for statement in writes:
                    await connection.execute(statement)
        async with theirs.connect() as connection:
            for statement in STATEMENTS:
                result = await connection.execute(statement)
                expected = result.all()
                found = await db.fetch_all(statement)
                assert expected
                assert found == [tuple(row) for row in expected], statement
                assert found[0].keys() == tuple(result.keys())
    finally:
        await theirs.dispose()


async def test_sqlite_columns_that_are_not_decoded_are_read_as_sqlalchemy_reads_them(sqlite_engine):
    db = await sqlite_engine(detect_types=0)
    await db.create_all(kinds.metadata)
    await db.execute(insert(kinds).values(VALUES))
    row = await db.fetch_one(select(kinds))
    assert {name: row[name] for name in VALUES} == VALUES


async def test_a_column_that_the_table_has_not_is_told(db):
    with pytest.raises(ProgrammingError, match="the Table has no column nmae"):
        await db.insert_many(people, [{"nmae": "Ann"}])


async def test_arrays_ranges_and_jsonb_of_postgresql(postgres_engine):
    table = Table(
        "special",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("numbers", postgresql.ARRAY(Integer)),
        Column("words", postgresql.ARRAY(String)),
        Column("span", postgresql.INT4RANGE),
        Column("doc", postgresql.JSONB),
        Column("took", postgresql.INTERVAL),
    )
    values = {
        "numbers": [1, 2],
        "words": ["a", "b,c"],
        "span": postgresql.Range(1, 5),
        "doc": {"a": "1"},
        "took": timedelta(days=3, seconds=5),
    }
    db = await postgres_engine()
    await db.create_all(table.metadata)
    await db.execute(insert(table).values(values))
    await db.execute_many(insert(table), [values])
    await db.insert_many(table, [values])
    for row in await db.fetch_all(select(table)):
        assert {name: row[name] for name in values} == values
    has = select(func.count()).select_from(table)
    assert await db.fetch_val(has.where(table.c.numbers.contains([2]))) == 3
    assert await db.fetch_val(has.where(table.c.doc.contains({"a": "1"}))) == 3
    assert await db.fetch_val(has.where(table.c.span.contains(4))) == 3
    assert await db.fetch_column(select(table.c.numbers[1])) == [1, 1, 1]
    assert await db.fetch_val(select(table.c.numbers[1:1])) == [1]


LITERALS = [
    True, 5, 1.5, Decimal("1.5"), "x", b"x", date(2024, 1, 1), datetime(2024, 1, 1, 2),
    time(2, 3), UUID(int=4), timedelta(hours=3),
]  # fmt: skip


@pytest.mark.parametrize("value", LITERALS, ids=lambda value: type(value).__name__)
async def test_a_literal_has_its_type_where_no_column_tells_it(db, value):
    found = await db.fetch_val(select(literal(value)))
    assert (type(found), found) == (type(value), value)


async def test_a_number_of_another_type_than_the_column_is_added(db):
    await db.execute(insert(kinds).values(id=1, whole=2))
    assert await db.fetch_val(select(kinds.c.whole + Decimal("1.5"))) == Decimal("3.5")
