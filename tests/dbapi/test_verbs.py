"""The verbs on DB-API modules: parameters of any style, rows, many rows, rows one by one."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass

import pytest

import aiodbkit
from aiodbkit import DBAPIEngine
from aiodbkit.backends.dbapi.paramstyle import bind, plan
from aiodbkit.sql import Dialect

POSITIONAL = {"sqlite3": "?", "psycopg2": "%s", "pymysql": "%s"}


@dataclass
class Person:
    id: int
    name: str


async def test_every_verb_answers_as_on_other_engines(db, people):
    assert await db.fetch_all("select * from people order by id") == people
    assert (await db.fetch_one("select id, name from people where id = :i", {"i": 2})).name == "Bob"
    assert await db.fetch_one("select id from people where id = :i", {"i": 99}) is None
    assert await db.fetch_val("select name from people where id = :i", {"i": 1}) == "Ann"
    assert await db.fetch_column("select id from people order by id") == [1, 2, 3]
    assert await db.fetch_all("select * from people where id = 1", into=Person) == [
        Person(1, "Ann")
    ]
    changed = await db.execute("update people set name = :n where id > :i", {"n": "x", "i": 1})
    assert changed.rows_affected == 2
    await db.execute_script("delete from people where id = 1; delete from people where id = 2")
    assert await db.fetch_column("select id from people") == [3]


async def test_a_statement_outside_of_a_transaction_is_seen_by_others_at_once(
    db, people, make_dbapi
):
    other = await make_dbapi()
    await db.execute("delete from people where id = 1")
    assert await other.fetch_val("select count(*) from people") == 2


async def test_a_percent_sign_is_text_with_named_parameters_and_with_none(db, people):
    named = "select id from people where name like '%:off ?' and id % 2 = :odd"
    assert await db.fetch_column(named, {"odd": 1}) == [3]
    assert await db.fetch_column("select id from people where name like '50%' and id % 2 = 1") == [
        3
    ]


async def test_the_modules_own_positional_style_takes_a_sequence(db, people, module):
    mark = POSITIONAL[module.__name__]
    query = f"select name from people where id > {mark} and id < {mark}"
    assert await db.fetch_column(query, [1, 3]) == ["Bob"]


async def test_expand_makes_a_list_and_an_empty_one_matches_nothing(db, people):
    query = "select id from people where id in (:ids) order by id"
    assert await db.fetch_column(query, {"ids": aiodbkit.expand([1, 3, 9])}) == [1, 3]
    assert await db.fetch_column(query, {"ids": aiodbkit.expand([])}) == []


@pytest.mark.parametrize(
    "params", [{}, {"i": 1, "j": 2}, [1], 7], ids=["missing", "unused", "sequence", "value"]
)
async def test_parameters_that_do_not_fit_are_told(db, people, params):
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.fetch_all("select * from people where id = :i", params)
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.fetch_all("select * from people", [1])
    assert await db.fetch_val("select count(*) from people") == 3


@pytest.mark.parametrize("dialect", [Dialect.POSTGRES, Dialect.SQLITE, Dialect.MYSQL])
@pytest.mark.parametrize(
    ("style", "text", "args"),
    [
        ("qmark", "select '%', ':x' from t where a = ? and b in (?, ?) or c = ?", (1, 2, 3, 1)),
        (
            "format",
            "select '%%', ':x' from t where a = %s and b in (%s, %s) or c = %s",
            (1, 2, 3, 1),
        ),
    ],
)
def test_positional_styles_get_a_value_for_each_place(dialect, style, text, args):
    sql = "select '%', ':x' from t where a = :a and b in (:b) or c = :a"
    bound = bind(plan(sql, dialect), {"a": 1, "b": aiodbkit.expand([2, 3])}, style)
    assert bound == (text, args)


@pytest.mark.parametrize("dialect", [Dialect.POSTGRES, Dialect.SQLITE, Dialect.MYSQL])
@pytest.mark.parametrize("style", ["numeric", "named", "pyformat"])
def test_other_styles_name_each_value(dialect, style):
    sql = "select '%', ':x' from t where a = :a and b in (:b)"
    text, args = bind(plan(sql, dialect), {"a": 1, "b": aiodbkit.expand([2, 3])}, style)
    expected = {
        "numeric": ("select '%', ':x' from t where a = :1 and b in (:2, :3)", (1, 2, 3)),
        "named": (
            "select '%', ':x' from t where a = :p1 and b in (:p2, :p3)",
            {"p1": 1, "p2": 2, "p3": 3},
        ),
        "pyformat": (
            "select '%%', ':x' from t where a = %(p1)s and b in (%(p2)s, %(p3)s)",
            {"p1": 1, "p2": 2, "p3": 3},
        ),
    }
    assert (text, args) == expected[style]


async def test_many_rows_are_all_or_none(db, people):
    rows = [{"i": number, "n": "many"} for number in (4, 5, 1)]
    with pytest.raises(aiodbkit.UniqueViolationError):
        await db.execute_many("insert into people (id, name) values (:i, :n)", rows)
    assert await db.fetch_val("select count(*) from people") == 3
    with pytest.raises(aiodbkit.UniqueViolationError):
        await db.insert_many("people", [{"id": n, "name": "%"} for n in (*range(10, 1400), 1)])
    assert await db.fetch_val("select count(*) from people") == 3


async def test_insert_many_takes_an_async_iterable_within_a_transaction(db, people):
    async def rows():
        for number in range(10, 1210):
            await asyncio.sleep(0)
            yield number, f"{number} %s"

    async with db.transaction():
        assert await db.insert_many("people", rows(), columns=["id", "name"]) == 1200
    assert await db.fetch_val("select name from people where id = 1209") == "1209 %s"


async def test_an_error_of_the_callers_own_rows_passes_and_leaves_none(db, people):
    def rows():
        yield from ((number, "x") for number in range(10, 1000))
        raise ZeroDivisionError

    async with db.transaction():
        await db.execute("update people set name = 'kept' where id = 1")
        with pytest.raises(ZeroDivisionError):
            await db.insert_many("people", rows(), columns=["id", "name"])
    assert await db.fetch_val("select count(*) from people") == 3
    assert await db.fetch_val("select name from people where id = 1") == "kept"


async def test_iterate_gives_all_rows_in_batches_and_can_be_left(db, people):
    await db.insert_many("people", [{"id": n, "name": "x"} for n in range(10, 510)])
    query = "select id from people where id >= :least order by id"
    seen = [row.id async for row in db.iterate(query, {"least": 10}, batch_size=64)]
    assert seen == list(range(10, 510))
    async with db.iterate(query, {"least": 10}, batch_size=64) as rows:
        async for row in rows:
            assert row.id == 10
            break
    assert await db.fetch_val("select 1") == 1
    assert db.pool.stats().in_use == 0


async def test_a_script_is_all_or_nothing_where_the_database_can(db, people):
    with pytest.raises(aiodbkit.UniqueViolationError):
        await db.execute_script("delete from people; insert into people values (7, 'a'), (7, 'b')")
    undone = 0 if db.capabilities.ddl_is_transactional is False else 3
    assert await db.fetch_val("select count(*) from people") == undone


async def test_rows_of_a_dict_cursor_are_rows_all_the_same(make_dbapi, module, connect_args):
    kinds = {
        "sqlite3": lambda: {"factory": _WithRows},
        "psycopg2": lambda: {
            "cursor_factory": pytest.importorskip("psycopg2.extras").RealDictCursor
        },
        "pymysql": lambda: {"cursorclass": module.cursors.DictCursor},
    }
    db = await make_dbapi(**kinds[module.__name__]())
    row = await db.fetch_one("select 1 as a, 2 as b")
    assert (row, row.b) == ((1, 2), 2)


class _WithRows(sqlite3.Connection):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.row_factory = sqlite3.Row


async def test_a_key_that_the_database_generated_is_told(tmp_path):
    async with DBAPIEngine(sqlite3, tmp_path / "keys.db") as db:
        await db.execute("create table t (id integer primary key, n int)")
        await db.execute("insert into t (n) values (1)")
        assert (await db.execute("insert into t (n) values (:n)", {"n": 2})).last_insert_id == 2
        assert (await db.execute("update t set n = 3")).last_insert_id is None
