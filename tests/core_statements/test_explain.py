"""`explain()` of SQLAlchemy Core statements, where an engine has it."""

from __future__ import annotations

import pytest
from sqlalchemy import bindparam, delete, func, insert, select

import aiodbkit
from tests.core_statements.tables import people


@pytest.fixture
async def db(db):
    if not hasattr(db, "explain"):
        pytest.skip("this engine has no explain()")
    return db


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("statement", "params"),
    [
        (select(people).where(people.c.id == 2), None),
        (select(people.c.name).where(people.c.id == bindparam("wanted")), {"wanted": 2}),
        (select(people).where(people.c.id.in_([1, 2])), None),
        (delete(people).where(people.c.id == 2), None),
    ],
)
async def test_the_plan_of_a_statement_is_told_and_nothing_is_done(db, statement, params):
    plan = await db.explain(statement, params)
    assert "people" in plan
    assert await db.fetch_val(select(func.count()).select_from(people)) == 4


@pytest.mark.usefixtures("four")
async def test_an_insert_with_values_of_python_is_explained(db):
    assert isinstance(await db.explain(insert(people), {"id": 5, "name": "Eve"}), str)
    assert await db.fetch_val(select(func.count()).select_from(people)) == 4


async def test_what_is_no_statement_is_refused(db):
    with pytest.raises(aiodbkit.ProgrammingError, match="not object"):
        await db.explain(object())
    with pytest.raises(aiodbkit.ProgrammingError, match="select.* of it is one"):
        await db.explain(people)
