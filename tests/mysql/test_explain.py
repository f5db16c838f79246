"""`db.explain()`: the plan as text, and nothing done by asking for it."""

from __future__ import annotations

import json

import pytest

import aiodbkit


@pytest.fixture
async def notes(db):
    await db.execute("create table notes (id integer primary key, body varchar(50), key (body))")
    await db.insert_many("notes", [{"id": n, "body": f"note {n}"} for n in range(100)])
    return db


async def test_a_plan_tells_which_index_is_used(notes):
    plan = await notes.explain("select id from notes where body = :body", {"body": "note 7"})
    assert isinstance(plan, str)
    assert '"key": "body"' in plan
    assert "r_rows" not in plan


async def test_analyze_tells_what_was_read(notes):
    plan = await notes.explain("select * from notes where id < %s", [10], analyze=True)
    assert json.loads(plan)["query_block"]["r_loops"] == 1


async def test_nothing_that_was_analyzed_remains(notes):
    await notes.explain("delete from notes", analyze=True)
    assert await notes.fetch_val("select count(*) from notes") == 100


async def test_in_a_transaction_the_rest_of_it_remains(notes):
    async with notes.transaction():
        await notes.execute("delete from notes where id = 1")
        await notes.explain("delete from notes", analyze=True)
    assert await notes.fetch_val("select count(*) from notes") == 99


async def test_what_has_no_plan_is_an_error(notes):
    with pytest.raises(aiodbkit.ProgrammingError):
        await notes.explain("create table t (id int)")
