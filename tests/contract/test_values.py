"""Contract §11, last point: the same Python value goes in and comes out on every backend.

Each value travels through a declared column (the types stand in `dialects`), written one by one,
as one of many, and by `insert_many`; it is read back by plain fetching and by a cursor.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

import aiodbkit

from .dialects import Dialect

INDIA = timezone(timedelta(hours=5, minutes=30))
UUID_1 = UUID("123e4567-e89b-12d3-a456-426614174000")

VALUES: dict[str, list[Any]] = {
    "int": [0, 1, -1, 2**31 - 1, -(2**31)],
    "bigint": [2**63 - 1, -(2**63), 2**53 + 1],
    "float": [0.0, 1.5, -0.1, 0.1 + 0.2, 1e308, 5e-324, 1.7976931348623157e308, 2.0, 1e15],
    "str": [
        "plain",
        "",
        " padded ",
        "emoji \U0001f600 \u00e9 \u6f22",
        "quotes ' '' \" `",
        "back\\slash \\' \\n \\\\",
        "line\nbreak\r\ttab\x1a\x08",
        "100% %s :name $1 ?",
        "123",
        "null",
        "x" * 20_000,
    ],
    "bytes": [bytes(range(256)), b"", b"'", b"\\'", b"\x00", b"\xf0\x9f\x98\x80", b"x" * 20_000],
    "bool": [True, False],
    "decimal": [
        Decimal(0),
        Decimal("1.10"),
        Decimal("-0.0000000001"),
        Decimal("12345678901234567890.0123456789"),
        Decimal(3),
    ],
    "date": [date(2024, 2, 29), date(1000, 1, 1), date(9999, 12, 31)],
    "time": [time(0), time(23, 59, 59, 999_999), time(12, 30, 0, 1), time(7, 8, 9)],
    "naive": [
        datetime(2024, 2, 29, 12, 30, 15, 123_456),
        datetime(2024, 1, 1),
        datetime(1970, 1, 1, 0, 0, 1, 1),
        datetime(9999, 12, 31, 23, 59, 59, 999_999),
    ],
    "aware": [
        datetime(2024, 2, 29, 12, 30, 15, 123_456, tzinfo=UTC),
        datetime(2024, 7, 1, 0, 15, tzinfo=INDIA),
        datetime(2024, 1, 1, 23, 59, 59, 1, tzinfo=timezone(-timedelta(hours=9, minutes=30))),
    ],
    "uuid": [UUID_1, UUID(int=0), UUID(int=2**128 - 1)],
    "json": [
        {},
        [],
        {"a": 1, "b": [True, False, None, 1.5, "x"], "c": {"d": {"e": []}}},
        [1, [2, [3, {"four": "4"}]]],
        {"emoji \U0001f600": "\u00e9 \\ \" ' \n", "": "empty"},
        [{"id": 1}, {"id": 2}],
    ],
}
CASES = [
    pytest.param(kind, value, id=f"{kind}-{number}")
    for kind, values in VALUES.items()
    for number, value in enumerate([*values, None])
]


def same(kind: str, found: Any, value: Any) -> bool:
    """Equal and of the same type; a float to the last bit, an aware time as an instant."""
    if value is None:
        return found is None
    if type(found) is not type(value) or found != value:
        return False
    if kind == "float":
        return math.copysign(1, found) == math.copysign(1, value)
    return kind not in ("naive", "aware") or (found.tzinfo is None) == (value.tzinfo is None)


def value_of(sql: Dialect, kind: str, found: Any) -> Any:
    """What came back, made a value again where the backend can give only its text."""
    return sql.returned[kind](found) if kind in sql.returned else found


async def make_table(db: aiodbkit.Engine, sql: Dialect, kind: str) -> None:
    await db.execute(f"create table kept (id integer, v {sql.types[kind]} null)")


@pytest.mark.parametrize(("kind", "value"), CASES)
async def test_a_value_comes_back_as_it_went_in(
    kind: str, value: Any, db: aiodbkit.Engine, sql: Dialect
) -> None:
    await make_table(db, sql, kind)
    await db.execute("insert into kept (id, v) values (1, :v)", {"v": value})
    await db.execute_many("insert into kept (id, v) values (:i, :v)", [{"i": 2, "v": value}] * 2)
    await db.insert_many("kept", [{"id": 3, "v": value}])
    await db.insert_many("kept", [(4, value), (5, value)], columns=["id", "v"])
    found = await db.fetch_column("select v from kept order by id")
    assert len(found) == 6
    for got in found:
        assert same(kind, value_of(sql, kind, got), value), f"{got!r} came back for {value!r}"
    async for row in db.iterate("select v from kept order by id"):
        assert same(kind, value_of(sql, kind, row.v), value), (
            f"{row.v!r} came back for {value!r} by iterate()"
        )


@pytest.mark.parametrize("kind", [kind for kind in VALUES if kind not in ("json", "float")])
async def test_a_value_is_found_again_by_a_comparison(
    kind: str, db: aiodbkit.Engine, sql: Dialect
) -> None:
    await make_table(db, sql, kind)
    values = VALUES[kind]
    await db.insert_many(
        "kept", [(n, value) for n, value in enumerate(values)], columns=["id", "v"]
    )
    for number, value in enumerate(values):
        found = await db.fetch_column("select id from kept where v = :v", {"v": value})
        assert found == [number]


async def test_nulls_and_values_mix_in_one_batch(db: aiodbkit.Engine, sql: Dialect) -> None:
    columns = {kind: values[0] for kind, values in VALUES.items()}
    declared = ", ".join(f"c_{kind} {sql.types[kind]} null" for kind in columns)
    await db.execute(f"create table kept (id integer, {declared})")
    full = {f"c_{kind}": value for kind, value in columns.items()}
    empty = dict.fromkeys(full)
    rows = [{"id": 1, **empty}, {"id": 2, **full}, {"id": 3, **empty}]
    await db.insert_many("kept", rows)
    marks = ", ".join(f":{name}" for name in ["id", *full])
    names = ", ".join(["id", *full])
    more = [{**row, "id": row["id"] + 3} for row in rows]
    await db.execute_many(f"insert into kept ({names}) values ({marks})", more)
    found = await db.fetch_all("select * from kept order by id")
    for number, row in enumerate(found, 1):
        values = {name: value_of(sql, name.removeprefix("c_"), row[name]) for name in full}
        assert values == (full if number in (2, 5) else empty)


async def test_subclasses_of_plain_types_are_stored_as_those(
    db: aiodbkit.Engine, sql: Dialect
) -> None:
    import enum

    class Colour(enum.StrEnum):
        RED = "red"

    class Level(enum.IntEnum):
        HIGH = 3

    await db.execute(f"create table kept (id integer, v {sql.types['str']})")
    await db.execute("insert into kept (id, v) values (:i, :v)", {"i": Level.HIGH, "v": Colour.RED})
    assert await db.fetch_one("select id, v from kept") == (3, "red")


@pytest.mark.parametrize("wrap", [bytearray, memoryview], ids=["bytearray", "memoryview"])
async def test_all_kinds_of_bytes_are_stored_as_their_bytes(
    wrap: Any, db: aiodbkit.Engine, sql: Dialect
) -> None:
    await make_table(db, sql, "bytes")
    body = bytes(range(256))
    await db.execute("insert into kept (id, v) values (1, :v)", {"v": wrap(body)})
    await db.insert_many("kept", [(2, wrap(body))], columns=["id", "v"])
    assert await db.fetch_column("select v from kept") == [body, body]


async def test_text_with_a_nul_is_kept_or_refused_by_name(
    db: aiodbkit.Engine, sql: Dialect
) -> None:
    await make_table(db, sql, "str")
    insert, given = "insert into kept (id, v) values (1, :v)", {"v": "a\x00b"}
    if sql.refuses_nul:
        with pytest.raises(aiodbkit.DataError, match="NUL"):
            await db.execute(insert, given)
        with pytest.raises(aiodbkit.DataError, match="NUL"):
            await db.insert_many("kept", [(1, "a\x00b")], columns=["id", "v"])
        assert await db.fetch_val("select count(*) from kept") == 0
    else:
        await db.execute(insert, given)
        assert await db.fetch_val("select v from kept") == "a\x00b"
