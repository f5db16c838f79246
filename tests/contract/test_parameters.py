"""Contract §2: parameters. Named on every backend, positional in the driver's own style."""

from __future__ import annotations

from collections import ChainMap, OrderedDict, deque
from types import MappingProxyType
from typing import Any

import pytest

import aiodbkit
from aiodbkit import expand

from .dialects import Dialect

People = list[tuple[int, str, int | None]]
HOSTILE = [
    "' or 1=1 --",
    "\\' or 1=1 --",
    "\\",
    "'",
    "''",
    '"; drop table people; --',
    "`",
    "%s %(id)s %",
    ":id",
    "$1",
    "?",
    "/* open",
    "-- end",
    "\u00bf' or 1=1 --",
    "\u2019 or 1=1",
    "1; select 2",
]


async def test_a_name_may_stand_twice_and_in_any_order(db: aiodbkit.Engine, people: People) -> None:
    select = "select id from people where id > :low and id < :high and id <> :low order by id"
    assert await db.fetch_column(select, {"high": 4, "low": 1}) == [2, 3]


async def test_one_name_serves_columns_of_one_type_at_several_places(
    db: aiodbkit.Engine, people: People
) -> None:
    select = "select id from people where name = :who or name = :who order by id"
    assert await db.fetch_column(select, {"who": "Bob"}) == [2]


async def test_any_mapping_and_any_sequence_are_parameters(
    db: aiodbkit.Engine, sql: Dialect, people: People
) -> None:
    for named in (MappingProxyType({"id": 2}), OrderedDict(id=2), ChainMap({"id": 2})):
        assert await db.fetch_val("select name from people where id = :id", named) == "Bob"
    for placed in ([2], (2,), deque([2]), range(2, 3)):
        by_position = f"select name from people where id = {sql.positional(1)}"
        assert await db.fetch_val(by_position, placed) == "Bob"


async def test_the_drivers_positional_style_takes_a_sequence(
    db: aiodbkit.Engine, sql: Dialect, people: People
) -> None:
    first, second = sql.positional(1), sql.positional(2)
    select = f"select id from people where id > {first} and id < {second} order by id"
    assert await db.fetch_column(select, [1, 4]) == [2, 3]
    assert await db.fetch_column(select, (2, 4)) == [3]


async def test_names_in_strings_comments_and_quoted_identifiers_are_text(
    db: aiodbkit.Engine, people: People
) -> None:
    select = """
        select name, ':a ?' as s -- :b 'not open
        /* :c " */ from people where name <> ':d' and id = :id /* it''s :e */
    """
    assert await db.fetch_one(select, {"id": 2}) == ("Bob", ":a ?")


async def test_a_percent_sign_is_text(db: aiodbkit.Engine, people: People) -> None:
    assert await db.fetch_val("select count(*) from people where name like 'B%'") == 1
    select = "select name, '100%%' as s from people where name like '%o%' and id = :id"
    assert await db.fetch_one(select, {"id": 2}) == ("Bob", "100%%")
    assert await db.fetch_val("select 7 % :n", {"n": 4}) == 3


async def test_a_cast_is_not_a_name(db: aiodbkit.Engine, sql: Dialect) -> None:
    if not sql.casts:
        pytest.skip("this SQL has no :: cast")
    for select in sql.casts:
        assert await db.fetch_val(select, {"n": 3}) == 10


async def test_none_is_null(db: aiodbkit.Engine, people: People) -> None:
    await db.execute("update people set team = :team where id = :id", {"team": None, "id": 1})
    assert await db.fetch_val("select team from people where id = 1") is None


@pytest.mark.parametrize("text", HOSTILE)
async def test_a_value_never_becomes_sql(
    text: str, db: aiodbkit.Engine, sql: Dialect, people: People
) -> None:
    await db.execute("update people set name = :name where id = 1", {"name": text})
    assert await db.fetch_val("select name from people where id = 1") == text
    assert await db.fetch_column("select id from people where name = :name", {"name": text}) == [1]
    by_position = f"select id from people where name = {sql.positional(1)}"
    assert await db.fetch_column(by_position, [text]) == [1]
    among = "select id from people where name in (:names)"
    assert await db.fetch_column(among, {"names": expand([text])}) == [1]


@pytest.mark.parametrize("text", HOSTILE)
async def test_bytes_never_become_sql(text: str, db: aiodbkit.Engine, sql: Dialect) -> None:
    await db.execute(f"create table blobs (id integer, body {sql.types['bytes']})")
    body = text.encode() + b"\x00\xff'"
    await db.execute("insert into blobs (id, body) values (1, :body)", {"body": body})
    assert bytes(await db.fetch_val("select body from blobs")) == body


async def test_expand_makes_in_take_a_list(db: aiodbkit.Engine, people: People) -> None:
    select = "select id from people where id in (:ids) and name <> :name order by id"
    assert await db.fetch_column(select, {"ids": expand([1, 2, 3]), "name": "Bob"}) == [1, 3]
    assert await db.fetch_column(select, {"ids": expand((4,)), "name": "Bob"}) == [4]
    assert await db.fetch_column(select, {"ids": expand(n for n in (3, 4)), "name": ""}) == [3, 4]


async def test_expand_of_strings_and_two_expansions(db: aiodbkit.Engine, people: People) -> None:
    select = "select id from people where name in (:names) or id in (:ids) order by id"
    given = {"names": expand(["Ann", "O'Neil"]), "ids": expand([3, 4])}
    assert await db.fetch_column(select, given) == [1, 3, 4]


async def test_the_same_statement_takes_lists_of_different_lengths(
    db: aiodbkit.Engine, people: People
) -> None:
    select = "select count(*) from people where id in (:ids)"
    for length in (1, 3, 0, 2, 500):
        expected = min(length, 4)
        assert await db.fetch_val(select, {"ids": expand(range(1, length + 1))}) == expected


async def test_an_empty_expand_matches_nothing_and_its_negation_everything(
    db: aiodbkit.Engine, people: People
) -> None:
    none = {"ids": expand([])}
    assert await db.fetch_column("select id from people where id in (:ids)", none) == []
    outside = "select id from people where id not in (:ids) order by id"
    assert await db.fetch_column(outside, none) == [1, 2, 3, 4]
    assert await db.fetch_column(outside, {"ids": expand([1, 4])}) == [2, 3]
    of_text = "select id from people where name in (:names)"
    assert await db.fetch_column(of_text, {"names": expand([])}) == []


async def test_expand_works_with_positions(
    db: aiodbkit.Engine, sql: Dialect, people: People
) -> None:
    first, second = sql.positional(1), sql.positional(2)
    select = f"select id from people where id in ({first}) and id < {second} order by id"
    assert await db.fetch_column(select, [expand([2, 3, 4]), 4]) == [2, 3]


BY_ID = "select name from people where id = :id"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "id"),
        (None, "id"),
        ({"ident": 1}, "id"),
        ({"id": 1, "colour": 2}, "colour"),
        ([1], r"named|:id"),
        ("1", "str"),
        (5, "int"),
        ({1}, "set"),
    ],
    ids=["missing", "none", "misspelt", "unused", "sequence", "string", "number", "set"],
)
@pytest.mark.parametrize("verb", ["execute", "fetch_all", "fetch_val"])
async def test_wrong_parameters_for_names_are_told_by_name(
    verb: str, params: Any, message: str, db: aiodbkit.Engine, people: People
) -> None:
    with pytest.raises(aiodbkit.ProgrammingError, match=message) as caught:
        await getattr(db, verb)(BY_ID, params)
    assert caught.value.query == BY_ID
    assert await db.fetch_val(BY_ID, {"id": 1}) == "Ann"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], "0"),
        (None, "none|no parameters|0|needs"),
        ([1, 2, 3], "3"),
        ({"id": 1}, "id|named|mapping|positional"),
        ("ab", "str"),
    ],
    ids=["too few", "none", "too many", "mapping", "string"],
)
async def test_wrong_parameters_for_positions_are_counted(
    params: Any, message: str, db: aiodbkit.Engine, sql: Dialect, people: People
) -> None:
    select = f"select name from people where id = {sql.positional(1)} or id = {sql.positional(2)}"
    with pytest.raises(aiodbkit.ProgrammingError, match=message) as caught:
        await db.fetch_all(select, params)
    assert caught.value.query == select


async def test_names_and_positions_are_not_mixed(
    db: aiodbkit.Engine, sql: Dialect, people: People
) -> None:
    mixed = f"select id from people where id = :id or id = {sql.positional(1)}"
    for params in ({"id": 1}, [1, 2]):
        with pytest.raises(aiodbkit.ProgrammingError, match=r":id|named"):
            await db.fetch_all(mixed, params)


async def test_parameters_that_no_statement_takes_are_refused(
    db: aiodbkit.Engine, people: People
) -> None:
    with pytest.raises(aiodbkit.ProgrammingError, match="colour"):
        await db.fetch_all("select 1", {"colour": 1})
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.fetch_all("select 1", [1])
    assert await db.fetch_val("select 1", {}) == 1
    assert await db.fetch_val("select 1", []) == 1


async def test_a_wrong_row_of_many_is_told_and_nothing_is_written(
    db: aiodbkit.Engine, people: People
) -> None:
    insert = "insert into people (id, name) values (:id, :name)"
    good = {"id": 5, "name": "Eve"}
    for bad, message in (({"id": 6}, "name"), ({"id": 6, "name": "F", "age": 3}, "age")):
        with pytest.raises(aiodbkit.ProgrammingError, match=message):
            await db.execute_many(insert, [good, bad])
    assert await db.fetch_val("select count(*) from people") == 4


async def test_a_value_of_no_known_type_is_refused_without_showing_it(
    db: aiodbkit.Engine, people: People
) -> None:
    class Opaque:
        def __repr__(self) -> str:
            return "s3cret"

    with pytest.raises(aiodbkit.Error) as caught:
        await db.fetch_val(BY_ID, {"id": Opaque()})
    assert isinstance(caught.value, aiodbkit.DataError | aiodbkit.ProgrammingError)
    assert "s3cret" not in str(caught.value)
