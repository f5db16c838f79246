"""Values to SQLite and back; what other users of sqlite3 in the same process see of it."""

from __future__ import annotations

import enum
import sqlite3
import warnings
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from aiodbkit.backends.sqlite.driver import SQLiteConnection, SQLiteDriver
from aiodbkit.backends.sqlite.values import to_sqlite
from aiodbkit.errors import DataError, ProgrammingError
from aiodbkit.sql import expand

NEPAL = timezone(timedelta(hours=5, minutes=45))
ID = UUID("123e4567-e89b-12d3-a456-426614174000")


@pytest.fixture
async def conn() -> AsyncIterator[SQLiteConnection]:
    driver = SQLiteDriver({"database": ":memory:"}, {})
    await driver.start()
    connection = await driver.connect()
    yield connection
    await connection.close()
    await driver.stop()


async def stored(conn: SQLiteConnection, declared: str, value: Any) -> tuple[Any, Any, str]:
    """Write a value to a column; return it as it comes back, as it lies there, and its class."""
    await conn.execute_script(f"drop table if exists t; create table t (v {declared})", None)
    await conn.execute("insert into t values (:v)", {"v": value}, None)
    _, rows = await conn.fetch("select v, v || '', typeof(v) from t", None, None)
    back, text, kind = rows[0]
    return back, text, kind


ROUND_TRIPS = [
    ("boolean", True, "1"),
    ("bool", False, "0"),
    ("BOOLEAN NOT NULL", True, "1"),
    ("date", date(2024, 2, 29), "2024-02-29"),
    ("time", time(12, 30), "12:30:00"),
    ("time", time(12, 30, 0, 1), "12:30:00.000001"),
    ("datetime", datetime(2024, 2, 29, 12, 30), "2024-02-29 12:30:00"),
    ("timestamp", datetime(2024, 2, 29, 12, 30, 0, 1), "2024-02-29 12:30:00.000001"),
    ("timestamp", datetime(2024, 2, 29, tzinfo=UTC), "2024-02-29 00:00:00+00:00"),
    (
        "timestamp with time zone",
        datetime(2024, 2, 29, 1, 2, 3, 40, tzinfo=NEPAL),
        "2024-02-29 01:02:03.000040+05:45",
    ),
    ("timestamptz", datetime(1, 1, 1, tzinfo=UTC), "0001-01-01 00:00:00+00:00"),
    ("decimal", Decimal("1.25"), "1.25"),
    ("numeric(10, 2)", Decimal(7), "7"),
    ("decimal text", Decimal("1.10"), "1.10"),
    (
        "decimal text",
        Decimal("-12345678901234567890.0123456789"),
        "-12345678901234567890.0123456789",
    ),
    ("uuid", ID, str(ID)),
    ("json", {"a": [1, None, "ü"]}, '{"a": [1, null, "ü"]}'),
    ("jsonb", [], "[]"),
    ("json text", [10**30], f"[{10**30}]"),
    ("integer", 2**63 - 1, str(2**63 - 1)),
    ("text", "1", "1"),
]


@pytest.mark.parametrize(("declared", "value", "text"), ROUND_TRIPS)
async def test_a_value_comes_back_by_the_declared_type(
    conn: SQLiteConnection, declared: str, value: Any, text: str
) -> None:
    back, lying_there, _ = await stored(conn, declared, value)
    assert (type(back), back) == (type(value), value)
    assert lying_there == text
    if isinstance(value, datetime):
        assert back.utcoffset() == value.utcoffset()


async def test_a_decimal_column_keeps_fifteen_digits_and_no_trailing_zeros(
    conn: SQLiteConnection,
) -> None:
    """SQLite's numeric affinity; the cure is a column declared DECIMAL TEXT."""
    back, _, kind = await stored(conn, "decimal(30, 10)", Decimal("123456789012345.678"))
    assert (back, kind) == (Decimal(123456789012346), "real")
    assert str((await stored(conn, "decimal", Decimal("1.10")))[0]) == "1.1"


async def test_what_has_no_declared_type_comes_back_as_it_lies_there(
    conn: SQLiteConnection,
) -> None:
    await stored(conn, "date", date(2024, 2, 29))
    _, rows = await conn.fetch("select max(v), coalesce(v, 1) from t", None, None)
    assert rows == [("2024-02-29", "2024-02-29")]


async def test_views_subqueries_and_returning_know_the_declared_type(
    conn: SQLiteConnection,
) -> None:
    await conn.execute_script(
        "create table t (v date); create view w as select v as x from t", None
    )
    insert = "insert into t values (:v) returning v"
    _, rows = await conn.fetch(insert, {"v": date(2024, 2, 29)}, None)
    _, viewed = await conn.fetch("select x from (select x from w)", None, None)
    assert rows == viewed == [(date(2024, 2, 29),)]


async def test_null_is_none_in_every_declared_type(conn: SQLiteConnection) -> None:
    for declared, _, _ in ROUND_TRIPS:
        back, _, kind = await stored(conn, declared.replace("NOT NULL", ""), None)
        assert (back, kind) == (None, "null")


async def test_a_uuid_may_lie_there_as_sixteen_bytes(conn: SQLiteConnection) -> None:
    await conn.execute("create table t (v uuid)", None, None)
    await conn.execute("insert into t values (:v)", {"v": ID.bytes}, None)
    assert (await conn.fetch("select v from t", None, None))[1] == [(ID,)]


WRONG = [
    ("date", "SECRET"),
    ("date", 5),
    ("time", "25:00"),
    ("timestamp", "yesterday"),
    ("boolean", "SECRET"),
    ("decimal", "SECRET"),
    ("uuid", "SECRET"),
    ("json", "{SECRET"),
    ("json", b"\xff\xfe\xff"),
]


@pytest.mark.parametrize(("declared", "value"), WRONG)
async def test_a_value_that_does_not_parse_names_the_declared_type(
    conn: SQLiteConnection, declared: str, value: Any
) -> None:
    await conn.execute(f"create table t (v {declared})", None, None)
    await conn.execute("insert into t values (:v)", {"v": value}, None)
    with pytest.raises(DataError, match=f"declared {declared.upper()}") as caught:
        await conn.fetch("select v from t", None, None)
    assert caught.value.query == "select v from t"
    assert "SECRET" not in repr(caught.value)
    assert caught.value.__cause__ is None
    # Nothing is left open: a table that is being read cannot be dropped.
    await conn.execute("drop table t", None, None)


class Colour(enum.Enum):
    RED = "red"


class Shade(enum.StrEnum):
    DARK = "dark"


class Level(enum.IntEnum):
    HIGH = 3


class Price(Decimal, enum.Enum):
    FULL = "1.50"


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "lying_there"),
    [
        (Shade.DARK, "dark"),
        (Level.HIGH, 3),
        (Price.FULL, "1.50"),
        (Name("x"), "x"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"abcd")[::2], b"ac"),
        (float("inf"), float("inf")),
        ("a\x00b", "a\x00b"),
    ],
)
async def test_kin_of_plain_types_are_stored_as_those(
    conn: SQLiteConnection, value: Any, lying_there: Any
) -> None:
    back, _, _ = await stored(conn, "", value)
    assert (type(back), back) == (type(lying_there), lying_there)


UNFIT = [
    (2**63, "64 bits"),
    (-(2**63) - 1, "64 bits"),
    (float("nan"), "NaN"),
    ("SECRET\ud800", "lone surrogate"),
    ({"a": object()}, "dict.*JSON"),
    ([float("nan")], "list.*JSON"),
    ({"a": "SECRET\ud800"}, "lone surrogate"),
    ({1}, "set"),
    ((1, 2), "tuple"),
    (timedelta(1), "timedelta"),
    (object(), "object"),
    (1j, "complex"),
    (iter([]), "iterator"),
    (Colour.RED, "Colour"),
]


@pytest.mark.parametrize(("value", "message"), UNFIT)
async def test_a_value_that_sqlite_cannot_keep_names_the_parameter_and_the_sql(
    value: Any, message: str, conn: SQLiteConnection
) -> None:
    for sql, params, name in (
        ("select :id, :v", {"v": value, "id": 1}, ":v"),
        ("select ?, ?", [1, value], "2"),
        ("select ?2, ?1", [value, 1], "1"),
        ("select 1 where 1 in (:ids) or 1 = :v", {"ids": expand([1, 2]), "v": value}, ":v"),
        ("select 1 where 1 in (:ids)", {"ids": expand([1, value])}, ":ids"),
        ("select 1 where 1 in (?2) or 1 = ?1", [1, expand([value])], "2"),
    ):
        for verb, more in ((conn.fetch, ()), (conn.execute, ()), (conn.open_cursor, (1,))):
            with pytest.raises(DataError, match=f"^parameter {name}: .*{message}") as caught:
                await verb(sql, params, None, *more)
            assert caught.value.query == sql
            assert "SECRET" not in repr(caught.value)
            assert caught.value.__cause__ is None


async def test_an_error_in_many_rows_tells_the_row(conn: SQLiteConnection) -> None:
    await conn.execute("create table t (v)", None, None)
    insert = "insert into t (v) values (:v)"
    rows = [{"v": n} for n in range(1003)]
    rows[1002]["v"] = 2**64
    with pytest.raises(DataError, match="row 1002: parameter :v: .*64 bits") as caught:
        await conn.execute_many(insert, rows, None)
    assert caught.value.query == insert
    with pytest.raises(DataError, match="row 1: parameter 1: .*64 bits"):
        await conn.execute_many("insert into t (v) values (?)", [(1,), (2**64,)], None)
    with pytest.raises(DataError, match="row 1002: parameter :v: .*64 bits") as caught:
        await conn.insert_many("t", ["v"], [tuple(row.values()) for row in rows], None)
    assert "insert into" in (caught.value.query or "")
    assert await conn.fetch("select count(*) from t", None, None) == (["count(*)"], [(0,)])


def test_plain_values_are_passed_on_untouched() -> None:
    args = (1, "x", None)
    assert to_sqlite(args, args, "select ?, ?, ?") is args


async def test_text_that_is_not_utf8_names_the_column_and_shows_nothing(
    conn: SQLiteConnection,
) -> None:
    select = "select cast(x'5345435245ff' as text) as v"
    with pytest.raises(DataError, match="'v' is not UTF-8") as caught:
        await conn.fetch(select, None, None)
    assert "SECRE" not in repr(caught.value)
    assert caught.value.__cause__ is None
    _, rows = await conn.fetch("select 1", None, None)
    assert rows == [(1,)]


async def test_sql_with_a_lone_surrogate_is_refused(conn: SQLiteConnection) -> None:
    sql = "select 'SECRET\ud800'"
    with pytest.raises(ProgrammingError, match="lone surrogate") as caught:
        await conn.fetch(sql, None, None)
    assert caught.value.query == sql
    assert caught.value.__cause__ is None


async def test_detect_types_off_leaves_values_as_they_lie_there() -> None:
    driver = SQLiteDriver({"database": ":memory:"}, {"detect_types": 0})
    await driver.start()
    conn = await driver.connect()
    back, _, _ = await stored(conn, "boolean", value=True)
    assert (type(back), back) == (int, 1)
    await conn.close()
    await driver.stop()


def read_elsewhere(declared: str, value: Any) -> Any:
    """What another user of sqlite3 in this process gets."""
    db = sqlite3.connect(":memory:", detect_types=sqlite3.PARSE_DECLTYPES)
    db.execute(f"create table t (v {declared})")
    db.execute("insert into t values (?)", (value,))
    (found,) = db.execute("select v from t").fetchone()
    db.close()
    return found


async def test_other_users_of_sqlite3_see_nothing_of_our_converters(
    conn: SQLiteConnection,
) -> None:
    await stored(conn, "decimal", Decimal(1))
    assert read_elsewhere("decimal", 0.1 + 0.2) == 0.1 + 0.2
    assert read_elsewhere("boolean", 1) == 1
    assert type(read_elsewhere("boolean", 1)) is int
    assert read_elsewhere("json", "[]") == "[]"


async def test_other_users_converters_change_nothing_for_us(conn: SQLiteConnection) -> None:
    sqlite3.register_converter("uuid", lambda data: ("theirs", data))
    try:
        assert (await stored(conn, "uuid", ID))[0] == ID
        assert read_elsewhere("uuid", "x") == ("theirs", b"x")
        second = sqlite3.converters["UUID"]
        assert second(b"y") == ("theirs", b"y")
    finally:
        del sqlite3.converters["UUID"]
    assert read_elsewhere("uuid", "x") == "x"
    assert (await stored(conn, "uuid", ID))[0] == ID


async def test_the_converters_of_the_standard_library_stay_in_force_elsewhere(
    conn: SQLiteConnection, recwarn: pytest.WarningsRecorder
) -> None:
    assert (await stored(conn, "date", date(2024, 2, 29)))[0] == date(2024, 2, 29)
    assert not recwarn.list
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on
        assert read_elsewhere("date", "2024-02-29") == date(2024, 2, 29)
