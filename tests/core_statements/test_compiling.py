"""A statement is compiled once per key and dialect, with the values of each execution."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Integer, bindparam, func, insert, select, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from aiodbkit import ProgrammingError
from aiodbkit.core_statements import statement_text
from tests.core_statements.tables import people

compiled: list[str] = []


class Counted(FunctionElement):
    """Written into SQL as 1, and noted each time it is."""

    inherit_cache = True
    name = "counted"
    type = Integer()


@compiles(Counted)
def _write(element, compiler, **options):
    compiled.append(compiler.dialect.name)
    return "1"


@pytest.fixture(autouse=True)
def _from_scratch(db):
    from aiodbkit.core_statements.dialects import dialect_of

    dialect_of(db).plans.clear()
    compiled.clear()


@pytest.mark.usefixtures("four")
async def test_statements_that_differ_in_values_are_compiled_once(db):
    async def name_of(number):
        query = select(people.c.name).where(people.c.id == number, Counted() == 1)
        return await db.fetch_val(query)

    assert [await name_of(number) for number in (1, 2, 3, 4)] == ["Ann", "Bob", "Cy", "Dee"]
    assert len(compiled) == 1


@pytest.mark.usefixtures("four")
async def test_lists_of_any_length_share_one_compilation(db):
    for ids in ([1], [1, 2], [], [3, 4, 1]):
        query = select(people.c.id).where(people.c.id.in_(ids), Counted() == 1)
        assert sorted(await db.fetch_column(query)) == sorted(ids)
    assert len(compiled) == 1


async def test_an_insert_is_compiled_once_for_each_set_of_columns(db):
    for number in range(3):
        await db.execute(insert(people).values(name=f"a{number}", team=Counted()))
    assert len(compiled) == 1
    for number in range(3):
        await db.execute(insert(people).values(team=Counted()), {"name": f"b{number}"})
    assert len(compiled) == 2
    rows = [{"name": f"c{number}"} for number in range(3)]
    await db.execute_many(insert(people).values(team=Counted()), rows)
    await db.execute_many(insert(people).values(team=Counted()), [{"name": "d"}])
    assert len(compiled) == 3
    assert await db.fetch_val(select(func.count()).where(people.c.team == 1)) == 10


async def test_another_engine_of_the_same_kind_shares_what_is_compiled(db, make_engine):
    other = await make_engine()
    for engine in (db, other):
        await engine.fetch_all(select(people).where(Counted() == 1))
    assert len(compiled) == 1


async def test_what_is_kept_has_a_bound(db):
    from aiodbkit.core_statements.dialects import dialect_of

    plans = dialect_of(db).plans
    for number in range(plans.capacity * 2):
        statement_text(db, select(people.c.id.label(f"c{number}")))
    assert len(plans) <= plans.capacity * 1.5


@pytest.mark.usefixtures("four")
async def test_executions_at_once_do_not_mix_their_values(db):
    async def name_of(number):
        return await db.fetch_val(select(people.c.name).where(people.c.id == number))

    numbers = [1, 2, 3, 4] * 5
    found = await asyncio.gather(*map(name_of, numbers))
    assert found == ["Ann", "Bob", "Cy", "Dee"] * 5


async def test_the_text_of_a_statement_can_be_had_without_running_it(db):
    assert statement_text(db, "select 1") == "select 1"
    text = statement_text(db, select(people.c.id).where(people.c.id == 5))
    assert text.lower().split()[:2] == ["select", "people.id"]
    changed = update(people).where(people.c.id == bindparam("which")).values(name="x")
    assert statement_text(db, changed).startswith("UPDATE people")


@pytest.mark.usefixtures("four")
async def test_a_parameter_without_a_value_is_missing_whichever_like_it_came_first(db):
    names = select(people.c.name)
    given, open_ = (bindparam("wanted", 1), bindparam("wanted"))
    assert await db.fetch_val(names.where(people.c.id == given)) == "Ann"
    with pytest.raises(ProgrammingError, match="missing parameters: 'wanted'"):
        await db.fetch_val(names.where(people.c.id == open_))
    assert await db.fetch_val(names.where(people.c.id == open_), {"wanted": 2}) == "Bob"


@pytest.mark.usefixtures("four")
async def test_a_parameter_with_a_value_has_it_whichever_like_it_came_first(db):
    names = select(people.c.name)
    query = names.where(people.c.id == bindparam("wanted"))
    assert await db.fetch_val(query, {"wanted": 1}) == "Ann"
    assert await db.fetch_val(names.where(people.c.id == bindparam("wanted", 2))) == "Bob"
    assert await db.fetch_val(query.params(wanted=3)) == "Cy"
    with pytest.raises(ProgrammingError, match="missing parameters: 'wanted'"):
        await db.fetch_val(query)
