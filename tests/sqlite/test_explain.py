"""SQLite's plans."""

import pytest

import aiodbkit


@pytest.fixture
async def db(sqlite_engine):
    db = await sqlite_engine()
    await db.execute("create table t (id integer primary key, v)")
    return db


async def test_the_plan_of_a_statement_with_parameters_is_one_line_for_each_step(db):
    plan = await db.explain("select * from t where id > :id order by v", {"id": 1})
    assert plan.splitlines() == [
        "SEARCH t USING INTEGER PRIMARY KEY (rowid>?)",
        "USE TEMP B-TREE FOR ORDER BY",
    ]


async def test_steps_of_a_step_are_indented(db):
    plan = await db.explain("select v from t where v in (select v from t)")
    assert plan.splitlines()[:3] == ["SCAN t", "LIST SUBQUERY 1", "  SCAN t"]


async def test_a_write_is_explained_and_not_done(db):
    assert await db.explain("delete from t where v = ?", [1]) == "SCAN t"
    await db.execute("insert into t (v) values (1)")
    await db.explain("delete from t")
    assert await db.fetch_val("select count(*) from t") == 1


async def test_wrong_sql_is_told(db):
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.explain("selekt")
    with pytest.raises(aiodbkit.ProgrammingError, match="2 statements"):
        await db.explain("select 1; delete from t")
