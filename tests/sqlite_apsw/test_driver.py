"""Which driver it is, what goes in and out, and what the user's code may do in between."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from datetime import datetime
from decimal import Decimal

import pytest

import aiodbkit

apsw = pytest.importorskip("apsw")


def test_it_is_chosen_by_the_url_or_by_name():
    for db in (
        aiodbkit.create_engine("sqlite+apsw:///app.db"),
        aiodbkit.create_engine("sqlite:///app.db", driver="apsw"),
        aiodbkit.SQLiteEngine(database="app.db", driver="apsw"),
    ):
        assert type(db) is aiodbkit.SQLiteEngine
        assert type(db._driver).__name__ == "APSWDriver"


async def test_its_sqlite_is_that_of_apsw(db):
    assert await db.fetch_val("select sqlite_version()") == apsw.sqlite_lib_version()


async def test_the_raw_connection_is_that_of_apsw(db):
    async with db.connection() as conn:
        assert isinstance(conn.raw, apsw.Connection)


@pytest.mark.parametrize("types", [sqlite3.PARSE_COLNAMES, 3, "yes"])
def test_types_in_names_of_columns_are_refused(types):
    with pytest.raises(aiodbkit.ConfigurationError, match="detect_types"):
        aiodbkit.SQLiteEngine(driver="apsw", detect_types=types)


# Values.


async def test_values_that_sqlite_has_turned_into_numbers_are_decoded_too(db):
    await db.execute("create table t (d decimal(10, 2), n numeric, b boolean, at datetime)")
    row = [Decimal("0.1"), Decimal(7), True, datetime(2024, 2, 29, 12, 30)]
    await db.execute("insert into t values (?, ?, ?, ?)", row)
    assert list(await db.fetch_one("select * from t")) == row
    await db.execute("update t set d = 1e20, n = 2.0, b = 2.5, at = null")
    found = list(await db.fetch_one("select * from t"))
    assert found == [Decimal("1e20"), Decimal(2), True, None]
    assert [type(value) for value in found[:2]] == [Decimal, Decimal]


async def test_values_stay_as_they_are_stored_where_that_was_asked_for(make):
    db = await make(detect_types=0)
    await db.execute("create table t (d decimal text, b boolean)")
    await db.execute("insert into t values (?, ?)", [Decimal("1.50"), True])
    assert tuple(await db.fetch_one("select * from t")) == ("1.50", 1)


async def test_a_value_that_is_none_of_its_column_is_told_and_not_shown(db):
    await db.execute("create table t (at datetime)")
    await db.execute("insert into t values ('secret')")
    for fetch in (db.fetch_all, db.fetch_one):
        with pytest.raises(aiodbkit.DataError, match="declared DATETIME") as caught:
            await fetch("select at from t")
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select cast(x'ff61' as text) as a", "column 'a' is not UTF-8"),
        ("select 1 as a, cast(x'ff61' as text) as b", "columns 'a', 'b' is not UTF-8"),
    ],
)
async def test_text_that_is_none_is_told_and_not_shown(sql, message, db):
    with pytest.raises(aiodbkit.DataError, match=message) as caught:
        await db.fetch_all(sql)
    assert caught.value.__cause__ is None
    assert caught.value.query == sql
    assert await db.fetch_val("select 1") == 1


async def test_sql_with_a_nul_and_several_statements_are_refused_and_nothing_is_done(db):
    await db.execute("create table t (v)")
    for sql in ("insert into t values (1)\0", "insert into t values (1); delete from t"):
        with pytest.raises(aiodbkit.ProgrammingError):
            await db.execute(sql)
    assert await db.fetch_val("select count(*) from t") == 0


async def test_the_cause_is_apsws_and_the_code_the_extended_one(db):
    await db.execute("create table t (id integer primary key, v)")
    sql = "insert into t values (1, 'secret')"
    await db.execute(sql)
    with pytest.raises(aiodbkit.UniqueViolationError) as caught:
        await db.execute("insert into t values (?, ?)", [1, "secret"])
    assert type(caught.value.__cause__) is apsw.ConstraintError
    assert (caught.value.code, caught.value.table, caught.value.column) == (1555, "t", "id")
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("given", [[], [1, 2]])
async def test_a_wrong_number_of_parameters_is_told(given, db):
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.fetch_val("select ?", given)


async def test_rows_of_execute_many_are_counted_without_those_of_triggers(db):
    await db.execute_script(
        """
        create table t (v unique); create table log (v);
        create trigger each_row after insert on t begin
            insert into log values (1); insert into log values (2); end;
        """
    )
    sql = "insert or ignore into t values (?)"
    assert (await db.execute_many(sql, [[1], [1], [2]])).rows_affected == 2
    done = await db.execute_many("update t set v = v + ?", [[10], [10]])
    assert done.rows_affected == 4


# Functions.


async def test_an_aggregate_over_no_rows_is_null(db):
    made = []

    class Total:
        def __init__(self):
            made.append(self)
            self.sum = 0

        def step(self, value):
            self.sum += value

        def finalize(self):
            return self.sum

    db.aggregate("my_total")(Total)
    assert await db.fetch_val("select my_total(v) from (select 1 as v where 0)") is None
    assert made == []
    assert await db.fetch_val("select my_total(v) from (select 1 as v union all select 2)") == 3


@pytest.mark.parametrize(
    "raised", [KeyError, OverflowError, UnicodeError, StopIteration, MemoryError, SystemExit]
)
async def test_whatever_a_function_raises_fails_the_statement_alone(raised, db):
    def fail():
        raise raised("secret")

    db.function("fail")(fail)
    with pytest.raises(aiodbkit.OperationalError, match=raised.__name__) as caught:
        await db.fetch_val("select fail()")
    assert type(caught.value.__cause__) is raised
    assert "secret" not in str(caught.value)
    assert await db.fetch_val("select 1") == 1


# The raw connection.


async def test_what_a_borrower_has_begun_or_set_on_it_is_gone_for_the_next(make):
    db = await make(max_size=1)
    await db.execute("create table t (v)")
    told = []
    async with db.connection() as conn:
        conn.raw.row_trace = lambda _cursor, row: [*row, "more"]
        conn.raw.execute("begin; insert into t values (1)")
        assert conn.in_transaction
        conn.raw.exec_trace = lambda _cursor, sql, _args: told.append(sql) is None
    assert await db.fetch_all("select count(*) from t") == [(0,)]
    assert not any("select" in sql for sql in told)
    assert db.pool.stats().opened == 1


async def test_asked_while_a_statement_runs_it_answers_at_once(make):
    db = await make()
    begun, go_on = threading.Event(), threading.Event()

    @db.function
    def hold_up():
        begun.set()
        return go_on.wait(20)

    async with db.connection() as conn:
        task = asyncio.create_task(conn.fetch_val("select hold_up()"))
        await asyncio.to_thread(begun.wait, 20)
        driver = conn._driver
        assert (driver.in_transaction, driver.is_closed) == (False, False)
        go_on.set()
        assert await task == 1


async def test_a_factory_of_the_users_opens_it(make, path):
    opened = []

    async def connect():
        opened.append(apsw.Connection(str(path)))
        return opened[-1]

    db = await make(connection_factory=connect)
    await db.execute("create table t (b boolean)")
    await db.execute("insert into t values (1)")
    assert await db.fetch_val("select b from t") is True
    async with db.connection() as conn:
        assert conn.raw is opened[0]
    await db.close()
    with pytest.raises(apsw.ConnectionClosedError):
        opened[0].execute("select 1")


async def test_what_is_no_connection_of_apsw_is_refused(make):
    with closing(sqlite3.connect(":memory:")) as other:

        async def connect():
            return other

        with pytest.raises(aiodbkit.ConfigurationError, match=r"must return an apsw\.Connection"):
            await make(connection_factory=connect, min_size=1)


# Two SQLites.


async def test_a_file_is_not_opened_over_both_drivers_at_once(make, path):
    db = await make()
    await db.execute("create table t (v)")
    other = aiodbkit.SQLiteEngine(database=path)
    with pytest.raises(aiodbkit.ConfigurationError, match=r"app\.db' is open over apsw"):
        await other.fetch_val("select count(*) from t")
    await db.close()
    assert await other.fetch_val("select count(*) from t") == 0
    await other.close()


async def test_a_backup_from_one_to_the_other_is_refused(db):
    async with aiodbkit.create_engine("sqlite://") as other:
        with pytest.raises(aiodbkit.NotSupportedError, match="over apsw, the other over sqlite3"):
            await db.backup(other)


# The ways it ends.


async def test_a_connect_that_is_cancelled_leaves_no_thread(path):
    from aiodbkit.backends.sqlite.apsw.driver import APSWDriver

    before = set(threading.enumerate())
    for turns in range(12):
        driver = APSWDriver({"database": str(path)}, {})
        task = asyncio.create_task(driver.connect())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            assert set(threading.enumerate()) <= before
        else:
            await task.result().close()


async def test_a_connection_closed_by_the_user_is_replaced(make):
    db = await make(max_size=1)
    async with db.connection() as conn:
        conn.raw.close()
        assert conn.is_closed
        with pytest.raises(aiodbkit.ConnectionLostError):
            await conn.execute("select 1")
    assert await db.fetch_val("select 1") == 1
