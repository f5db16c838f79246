"""Each verb takes statements of SQLAlchemy Core, and says what is wrong with one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from sqlalchemy import (
    String,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiodbkit import ProgrammingError, Row, expand
from tests.core_statements.tables import Color, people, pets


@dataclass
class Named:
    id: int
    name: str


class Text(str):
    __slots__ = ()


@pytest.mark.usefixtures("four")
async def test_fetch_all_returns_rows_with_the_types_of_the_columns(db):
    rows = await db.fetch_all(select(people).order_by(people.c.id))
    assert isinstance(rows[0], Row)
    assert rows[0] == (1, "Ann", 7, Color.RED)
    assert rows[0].color is Color.RED
    assert rows[3].color is None


@pytest.mark.usefixtures("four")
async def test_every_fetching_verb_takes_a_statement(db):
    names = select(people.c.id, people.c.name).order_by(people.c.id)
    assert await db.fetch_one(names) == (1, "Ann")
    assert await db.fetch_one(names.where(people.c.id == 99)) is None
    assert await db.fetch_val(names, column="name") == "Ann"
    assert await db.fetch_val(names.where(people.c.id == 99)) is None
    assert await db.fetch_column(names, column=1) == ["Ann", "Bob", "Cy", "Dee"]
    assert [row.name async for row in db.iterate(names, batch_size=3)] == [
        "Ann",
        "Bob",
        "Cy",
        "Dee",
    ]


@pytest.mark.usefixtures("four")
async def test_into_makes_objects_of_converted_values(db):
    query = select(people.c.id, people.c.name).where(people.c.id == 1)
    assert await db.fetch_all(query, into=Named) == [Named(1, "Ann")]
    assert await db.fetch_one(query, into=Named) == Named(1, "Ann")
    async with db.iterate(query, into=Named) as rows:
        assert [row async for row in rows] == [Named(1, "Ann")]
    colors = select(people.c.color).where(people.c.id == 3)
    assert await db.fetch_one(colors, into=lambda row: row.color) is Color.GREEN
    async with db.iterate(colors, into=lambda row: row.color) as rows:
        assert [row async for row in rows] == [Color.GREEN]


async def test_an_insert_tells_the_rows_and_the_key(db):
    done = await db.execute(insert(people).values(name="Ann"))
    assert done.rows_affected == 1
    again = await db.execute(insert(people), {"name": "Bob"})
    assert again.last_insert_id == done.last_insert_id + 1
    assert (
        await db.fetch_val(select(people.c.name).where(people.c.id == again.last_insert_id))
        == "Bob"
    )


@pytest.mark.usefixtures("four")
async def test_updates_and_deletes_tell_the_rows(db):
    done = await db.execute(update(people).where(people.c.team == 7).values(team=9))
    assert done.rows_affected == 2
    done = await db.execute(delete(people).where(people.c.team.is_(None)))
    assert done.rows_affected == 1
    left = select(people.c.team).order_by(people.c.id)
    assert await db.fetch_column(left) == [9, 9, 8]


async def test_an_insert_of_several_rows_at_once(db):
    rows = [{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}]
    assert (await db.execute(insert(people).values(rows))).rows_affected == 2
    assert await db.fetch_column(select(people.c.name).order_by(people.c.id)) == ["Ann", "Bob"]


async def test_returning_gives_rows(db, backend):
    if backend == "mysql" and "mariadb" not in (await db.fetch_val("select version()")).lower():
        pytest.skip("MySQL has no RETURNING")
    statement = insert(people).values(name="Ann", color=Color.RED)
    row = await db.fetch_one(statement.returning(people.c.name, people.c.color))
    assert row == ("Ann", Color.RED)


async def test_an_insert_that_returns_nothing_fetches_nothing(db):
    assert await db.fetch_all(insert(people).values(name="Ann")) == []
    assert await db.fetch_val(insert(people).values(name="Bob")) is None
    assert await db.fetch_val(select(func.count()).select_from(people)) == 2


@pytest.mark.usefixtures("four")
async def test_params_fill_bind_parameters(db):
    query = select(people.c.name).where(people.c.team == bindparam("team")).order_by(people.c.id)
    assert await db.fetch_column(query, {"team": 7}) == ["Ann", "Bob"]
    assert await db.fetch_column(query, {"team": 8}) == ["Cy"]
    filled = select(people.c.id).where(people.c.team == bindparam("team")).params(team=8)
    assert await db.fetch_column(filled) == [3]
    changed = update(people).where(people.c.id == bindparam("which"))
    await db.execute(changed, {"which": 1, "name": "Eve"})
    assert await db.fetch_val(select(people.c.name).where(people.c.id == 1)) == "Eve"


@pytest.mark.usefixtures("four")
async def test_text_takes_params_and_column_types(db):
    query = text("select name, color from people where team = :team and id < :id order by id")
    assert await db.fetch_column(query, {"team": 7, "id": 9}) == ["Ann", "Bob"]
    assert await db.fetch_column(query.bindparams(team=7), {"id": 2}) == ["Ann"]
    typed = query.columns(people.c.name, people.c.color).bindparams(team=8, id=9)
    assert await db.fetch_one(typed) == ("Cy", Color.GREEN)
    by_name = query.columns(color=people.c.color.type).bindparams(team=8, id=9)
    assert (await db.fetch_one(by_name)).color is Color.GREEN


@pytest.mark.usefixtures("four")
async def test_lists_are_written_out_each_time_they_are_given(db):
    query = select(people.c.id).where(people.c.id.in_(bindparam("ids", expanding=True)))
    for ids in ([1], [1, 2, 3], [], [4]):
        assert sorted(await db.fetch_column(query, {"ids": ids})) == ids
    assert sorted(await db.fetch_column(query, {"ids": expand([1, 4])})) == [1, 4]
    literals = select(people.c.id).where(people.c.id.in_([2, 3])).order_by(people.c.id)
    assert await db.fetch_column(literals) == [2, 3]
    colors = select(people.c.id).where(people.c.color.in_([Color.RED, Color.GREEN]))
    assert sorted(await db.fetch_column(colors)) == [1, 3]
    pairs = tuple_(people.c.id, people.c.name).in_([(1, "Ann"), (2, "Cy")])
    assert await db.fetch_column(select(people.c.id).where(pairs)) == [1]


@pytest.mark.usefixtures("four")
async def test_a_value_that_is_written_as_a_literal_cannot_break_out(db):
    nasty = "a'b\\'; drop table people; -- %s :x ?"
    query = select(literal(nasty, literal_execute=True).label("said"))
    assert await db.fetch_val(query) == nasty
    assert await db.fetch_val(select(literal(nasty))) == nasty


@pytest.mark.usefixtures("four")
async def test_percent_signs_stay_what_they_are(db):
    assert await db.fetch_val(select(literal_column("'100% %s'"))) == "100% %s"
    counted = select(literal_column("'50%'"), people.c.id % 2).where(people.c.id == 3)
    assert await db.fetch_one(counted) == ("50%", 1)


@pytest.mark.usefixtures("four")
async def test_joins_subqueries_and_ctes(db):
    await db.execute(insert(pets).values(owner=1, name="Rex"))
    joined = select(people.c.id, pets.c.name, people.c.name).join(pets)
    row = await db.fetch_one(joined)
    assert row == (1, "Rex", "Ann")
    assert row.keys() == ("id", "name", "name_1")
    owners = select(people.c.name).where(exists().where(pets.c.owner == people.c.id))
    assert await db.fetch_column(owners) == ["Ann"]
    big = select(people.c.team, func.count().label("n")).group_by(people.c.team).cte("big")
    assert await db.fetch_val(select(big.c.n).where(big.c.team == 7)) == 2
    both = union_all(select(people.c.color).where(people.c.id == 1), select(people.c.color))
    assert (await db.fetch_column(both)).count(Color.RED) == 2
    locked = select(people.c.id).where(people.c.id == 1).with_for_update()
    assert await db.fetch_column(locked) == [1]


async def test_a_function_is_a_statement(db):
    assert await db.fetch_val(func.lower("ABC")) == "abc"


async def test_a_subclass_of_str_is_text(db):
    assert await db.fetch_val(Text("select 1")) == 1
    await db.execute_script(Text("select 1; select 2"))
    assert [row[0] async for row in db.iterate(Text("select 1"))] == [1]
    assert await db.insert_many(Text("people"), [{"name": "Ann"}]) == 1


@pytest.mark.parametrize(
    "wrong", [b"select 1", 5, None, people, people.c.id], ids=lambda w: type(w).__name__
)
async def test_what_is_no_sql_is_refused(db, wrong):
    for call in (db.execute, db.fetch_all, db.fetch_one, db.fetch_val, db.fetch_column):
        with pytest.raises(ProgrammingError, match=f"not {type(wrong).__name__}"):
            await call(wrong)
    with pytest.raises(ProgrammingError, match="SQL is a str, or a statement of SQLAlchemy Core"):
        db.iterate(wrong)
    with pytest.raises(ProgrammingError, match="a table is named by a str"):
        await db.insert_many(5, [{"a": 1}])


async def test_a_script_is_text(db):
    with pytest.raises(ProgrammingError, match="execute_script.* runs SQL text"):
        await db.execute_script(select(people))


@pytest.mark.parametrize(
    ("statement", "params", "message"),
    [
        (select(people), [1], "by name: give a mapping, not list"),
        (insert(people), [{"name": "Ann"}], "not list; execute_many() takes several"),
        (select(people), {"typo": 1}, "unused parameters: 'typo'"),
        (insert(people), {"nmae": "Ann"}, "unused parameters: 'nmae'"),
        (select(people).where(people.c.id == bindparam("which")), None, "'which'"),
        (insert(people).values(nmae="Ann"), None, "Unconsumed column names: nmae"),
    ],
)
async def test_what_does_not_fit_is_named(db, statement, params, message):
    with pytest.raises(ProgrammingError) as caught:
        await db.execute(statement, params)
    assert message in str(caught.value)


async def test_a_value_that_its_type_refuses_is_not_told(db):
    from aiodbkit import DataError

    with pytest.raises(DataError) as caught:
        await db.execute(insert(people).values(name="Ann", color=5.25))
    assert "5.25" not in f"{caught.value} {caught.value.__cause__}"


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "mapped"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


async def test_a_mapped_class_is_selected_as_rows(db):
    await db.create_all(Base.metadata)
    await db.execute(insert(Person), {"name": "Ann"})
    (row,) = await db.fetch_all(select(Person))
    assert dict(row) == {"id": row.id, "name": "Ann"}
    assert await db.fetch_val(select(Person.name).where(Person.id == row.id)) == "Ann"
    await db.drop_all(Base.metadata)


async def test_where_a_mapped_class_does_not_fit_the_cure_is_told(db):
    with pytest.raises(ProgrammingError, match=r"not the class Person: select\(...\) of it"):
        await db.fetch_all(Person)
    with pytest.raises(ProgrammingError, match="not the class Person: give its __table__"):
        await db.insert_many(Person, [{"name": "Ann"}])
    with pytest.raises(ProgrammingError, match="not the class Base: give its metadata"):
        await db.create_all(Base)
    with pytest.raises(ProgrammingError, match="not the class Person: give its __table__"):
        await db.create_all(Base.metadata, tables=[Person])
    with pytest.raises(ProgrammingError, match=r"not Table: select\(...\) of it"):
        await db.fetch_all(people)
