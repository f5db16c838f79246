"""Values as MySQL literals: what is written, what is refused, and what the server reads."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aiodbkit
from aiodbkit.backends.mysql.literals import Literals, UnfitValueError

Make = Callable[..., Awaitable[aiodbkit.Engine]]

TWO_EAST = timezone(timedelta(hours=2))
write = Literals(UTC).write


class Colour(enum.IntEnum):
    RED = 3


class Size(enum.StrEnum):
    SMALL = "s'"


class Plain(enum.Enum):
    ONE = 1


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "' or 1 = 1 -- "


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (None, "NULL"),
        (True, "TRUE"),
        (False, "FALSE"),
        (-5, "-5"),
        (Colour.RED, "3"),
        (0.1, "0.1e0"),
        (-0.0, "-0.0e0"),
        (1e100, "1e+100"),
        (Decimal("1.50"), "1.50"),
        (Decimal(5), "5."),
        (Decimal("1E+3"), "1000."),
        (Decimal("-1E-3"), "-0.001"),
        ("", "''"),
        ("plain é 😀 % %s :name ?", "'plain é 😀 % %s :name ?'"),
        ("it's", "'it''s'"),
        ("a\\", "_utf8mb4 X'615c'"),
        ("a\0", "_utf8mb4 X'6100'"),
        (Size.SMALL, "'s'''"),
        (Loud("x"), "'x'"),
        (b"", "_binary X''"),
        (b"a'\\", "_binary X'61275c'"),
        (bytearray(b"a"), "_binary X'61'"),
        (memoryview(b"abc")[::2], "_binary X'6163'"),
        (date(987, 2, 3), "DATE'0987-02-03'"),
        (time(1, 2, 3), "TIME'01:02:03'"),
        (time(1, 2, 3, 4), "TIME'01:02:03.000004'"),
        (datetime(2024, 2, 29, 1, 2, 3), "TIMESTAMP'2024-02-29 01:02:03'"),
        (datetime(2024, 2, 29, 1, 2, tzinfo=TWO_EAST), "TIMESTAMP'2024-02-28 23:02:00'"),
        (timedelta(days=-1, microseconds=1), "TIME'-23:59:59.999999'"),
        (timedelta(hours=100), "TIME'100:00:00.000000'"),
        (UUID(int=1), "'00000000-0000-0000-0000-000000000001'"),
        ([1, "é", None], "'[1, \"é\", null]'"),
        ({"it's": 1}, "'{\"it''s\": 1}'"),
    ],
)
def test_a_value_is_written_in_one_way(value: Any, literal: str) -> None:
    assert write(value) == literal


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "type object"),
        (Plain.ONE, "Plain"),
        ((1, 2), "type tuple"),
        ({1, 2}, "type set"),
        (float("inf"), "infinite"),
        (float("nan"), "not a number"),
        (Decimal("NaN"), "not a number"),
        (Decimal("sNaN"), "not a number"),
        (Decimal("-Infinity"), "infinite"),
        (Decimal("1e65"), "65 digits"),
        (Decimal("1e-66"), "65 digits"),
        (Decimal("1e999999"), "65 digits"),
        (10**65, "65 digits"),
        pytest.param(-(10**5000), "65 digits", id="longer than int.__repr__ goes"),
        ("s3cret\udc27", "surrogate"),
        (time(1, tzinfo=UTC), "time zone"),
        (datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), "years 1 to 9999"),
        (timedelta(hours=839), "838:59:59"),
        ({"s3cret": object()}, "JSON.*object"),
        ([float("nan")], "JSON"),
        (["s3cret\udc80"], "surrogate"),
    ],
)
def test_a_value_that_cannot_be_written_is_refused_without_showing_it(
    value: Any, reason: str
) -> None:
    with pytest.raises(UnfitValueError, match=reason) as caught:
        write(value)
    assert "s3cret" not in str(caught.value)


def _lies(*_: Any, **__: Any) -> str:
    return "1), (99, 'x"


# What a class is made of, and what would make it another kind of thing or not take a value at all.
_KEPT = {
    *("__class__", "__new__", "__init__", "__init_subclass__", "__subclasshook__", "__dict__"),
    *("__getattribute__", "__setattr__", "__delattr__", "__doc__", "__del__", "__slots__"),
    *("__weakref__", "__module__", "__hash__", "__class_getitem__"),
}


@pytest.mark.parametrize(
    "value",
    [
        *(5, 0.5, "it's", "plain", b"a'\\", bytearray(b"a"), Decimal("-1.50"), Decimal(0)),
        *(date(987, 2, 3), time(1, 2, 3, 4), timedelta(days=-1, microseconds=1), UUID(int=1)),
        *(datetime(2024, 2, 29, 1, 2, 3), datetime(2024, 2, 29, 1, 2, tzinfo=TWO_EAST)),
        *([1, "it's", {}], {"it's": 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_method_of_a_subclass_has_a_say_in_its_literal(value: Any) -> None:
    base: Any = type(value)
    for name in {name for kind in base.__mro__ for name in vars(kind)} - _KEPT:
        for lie in (_lies, property(_lies)):
            liar = type("Liar", (base,), {name: lie})
            try:
                assert write(_made(liar, value)) == write(value), name
            except UnfitValueError:
                assert base in (dict, list, UUID), name


def _made(liar: Any, value: Any) -> Any:
    """Return the value as one of the subclass, which has no say in that either."""
    if isinstance(value, UUID):
        made = liar.__new__(liar)
        vars(UUID)["int"].__set__(made, value.int)
        return made
    if isinstance(value, datetime):
        at = value.timetuple()[:6]
        return datetime.__new__(liar, *at, value.microsecond, value.tzinfo)
    if isinstance(value, date):
        return date.__new__(liar, value.year, value.month, value.day)
    if isinstance(value, time):
        return time.__new__(liar, value.hour, value.minute, value.second, value.microsecond)
    if isinstance(value, timedelta):
        return timedelta.__new__(liar, value.days, value.seconds, value.microseconds)
    base: Any = type(value)
    made = base.__new__(liar) if base in (list, dict, bytearray) else base.__new__(liar, value)
    if base in (list, dict, bytearray):
        base.__init__(made, value)
    return made


async def test_a_value_of_a_subclass_stays_one_value(mysql_engine: Make) -> None:
    kind: Any = type("Price", (Decimal,), {"__format__": _lies})
    raw: Any = type("Raw", (bytes,), {"hex": lambda *_: "00'), (77, _binary X'00"})
    db = await mysql_engine()
    await db.execute("create table prices (price decimal(20, 2), note blob)")
    await db.execute("insert into prices values (:p, :n)", {"p": kind("1234.5"), "n": raw(b"x")})
    await db.insert_many("prices", [{"price": kind("1"), "note": raw(b"y")}])
    rows = await db.fetch_all("select * from prices order by price")
    assert rows == [(Decimal(1), b"y"), (Decimal("1234.5"), b"x")]


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UnfitValueError, match="JSON"):
        write(endless)


def test_an_aware_datetime_needs_a_time_zone_that_is_known() -> None:
    unknown = Literals(None)
    assert unknown.write(datetime(2024, 1, 1)) == "TIMESTAMP'2024-01-01 00:00:00'"
    with pytest.raises(UnfitValueError, match="time_zone"):
        unknown.write(datetime(2024, 1, 1, tzinfo=UTC))
    east = Literals(TWO_EAST)
    assert east.write(datetime(2024, 1, 1, tzinfo=UTC)) == "TIMESTAMP'2024-01-01 02:00:00'"


@given(st.text())
def test_no_text_can_end_its_own_quotes(text: str) -> None:
    literal = write(text)
    inside = literal.removeprefix("_utf8mb4 X").removeprefix("'").removesuffix("'")
    inside = inside.replace("''", "\x1f")
    assert not set(inside) & {"'", "\\", "\0"}
    if literal.startswith("_utf8mb4"):
        assert bytes.fromhex(inside).decode() == text
    else:
        assert inside == text.replace("'", "\x1f")


# What the server reads

TEXTS = [
    "",
    "plain",
    "it's",
    '"quoted"',
    "\\",
    "\\'",
    "a\0b",
    "%s %% :x ?",
    "é 😀 \u4e01'",
    "\x1a\n\r",
]
VALUES = [
    *TEXTS,
    *(text.encode() for text in TEXTS),
    *(0, -1, 2**63 - 1, -(2**63), 2**64 - 1, 0.1, -1e-300, 1.7976931348623157e308, 5e-324),
    *(Decimal("1.50"), Decimal(7), Decimal("-0.000001"), Decimal("9" * 35 + "." + "9" * 30)),
    *(date(1, 1, 1), date(9999, 12, 31), datetime(2024, 2, 29, 23, 59, 59, 999999)),
    *(time(0, 0), time(23, 59, 59, 999999), timedelta(hours=-100), timedelta(hours=838)),
]
MODES = ["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES", "ANSI", "TRADITIONAL"]


@pytest.mark.parametrize("mode", MODES)
async def test_the_server_reads_each_literal_as_the_value_under_every_mode(
    mode: str, mysql_engine: Make
) -> None:
    db = await mysql_engine(sql_mode=mode)
    for value in VALUES:
        found = await db.fetch_val("select :value", {"value": value})
        assert (type(found), found) == (type(value), value)


async def test_a_text_is_compared_like_any_other_of_its_column(mysql_engine: Make) -> None:
    db = await mysql_engine()
    await db.execute("create table words (word varchar(20) primary key)")
    await db.execute_many("insert into words values (:w)", [{"w": "o'neil"}, {"w": "a"}])
    assert await db.fetch_val("select word from words where word = :w", {"w": "O'NEIL"}) == "o'neil"
    explain = "explain format=traditional select word from words where word = :w"
    plan = await db.fetch_one(explain, {"w": "O'NEIL"})
    assert plan is not None
    assert plan["type"] == "const"


async def test_zero_dates_are_none_and_impossible_ones_text(mysql_engine: Make) -> None:
    db = await mysql_engine(sql_mode="STRICT_TRANS_TABLES,ALLOW_INVALID_DATES")
    await db.execute("create table days (d date, t datetime, s timestamp)")
    await db.execute("insert into days values (0, 0, 0), ('2024-02-31', '2024-02-31 01:02:03', 0)")
    rows = await db.fetch_all("select d, t, s from days")
    assert rows == [(None, None, None), ("2024-02-31", "2024-02-31 01:02:03", None)]


async def test_declared_columns_give_their_own_types(mysql_engine: Make) -> None:
    db = await mysql_engine()
    await db.execute(
        "create table kinds (b boolean, n tinyint(1), i tinyint, bits bit(12), "
        "day time, long_time time, y year, s enum('x'), f set('a', 'b'))"
    )
    await db.execute(
        "insert into kinds values "
        "(1, 7, 1, b'101010101010', '23:59:59', '24:00:00', 2024, 'x', 'a,b')"
    )
    row = await db.fetch_one("select * from kinds")
    assert row == (
        *(True, 7, 1, 0b101010101010, time(23, 59, 59), timedelta(hours=24), 2024, "x", "a,b"),
    )
    assert [type(value) for value in row[:3]] == [bool, int, int]


@pytest.mark.parametrize(
    ("time_zone", "zone"), [("+00:00", UTC), ("UTC", UTC), ("+02:00", UTC), (None, None)]
)
async def test_a_timestamp_is_an_instant_where_the_time_zone_is_known(
    time_zone: str | None, zone: Any, mysql_engine: Make
) -> None:
    db = await mysql_engine(time_zone=time_zone, init_command="set session wait_timeout = 1000")
    await db.execute("create table moments (at timestamp(6) null, local datetime(6))")
    at = datetime(2024, 7, 1, 12, 0, 0, 5, tzinfo=zone)
    insert = "insert into moments values (:at, :local)"
    await db.execute(insert, {"at": at, "local": at.replace(tzinfo=None)})
    row = await db.fetch_one("select at, local from moments")
    assert row == (at, at.replace(tzinfo=None))
