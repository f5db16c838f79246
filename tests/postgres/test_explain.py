"""Plans."""

from __future__ import annotations

import pytest

import aiodbkit


@pytest.fixture
async def db(db):
    await db.execute("create table notes (id integer primary key, body text)")
    await db.execute("insert into notes select n, 'x' from generate_series(1, 100) n")
    return db


async def test_a_plan_is_text_or_objects(db):
    sql, params = "select * from notes where id = :id", {"id": 7}
    text = await db.explain(sql, params)
    assert "Index" in text
    assert "actual" not in text
    (plan,) = await db.explain(sql, params, format="json", verbose=True)
    assert plan["Plan"]["Relation Name"] == "notes"
    assert "Output" in plan["Plan"]


async def test_analyze_runs_the_statement_and_undoes_it(db):
    text = await db.explain("delete from notes", analyze=True, buffers=True, settings=True)
    assert "actual" in text
    assert await db.fetch_val("select count(*) from notes") == 100


async def test_in_a_transaction_analyze_undoes_its_own_work_alone(db):
    async with db.transaction():
        await db.execute("delete from notes where id > 50")
        await db.explain("delete from notes", analyze=True)
        assert await db.fetch_val("select count(*) from notes") == 50
    assert await db.fetch_val("select count(*) from notes") == 50


async def test_wrong_calls_are_told(db):
    with pytest.raises(aiodbkit.ConfigurationError, match="format"):
        await db.explain("select 1", format="xml")
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.explain("select 1; delete from notes")
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.explain("create table x (id int)")
    with pytest.raises(aiodbkit.ProgrammingError, match="a str.*, not object"):
        await db.explain(object())
    assert await db.fetch_val("select count(*) from notes") == 100
