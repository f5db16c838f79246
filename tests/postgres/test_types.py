"""Types of the database as Python values: those known by themselves, and those registered."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

import pytest

import aiodbkit
from tests.servers.environment import driver_of

pytestmark = pytest.mark.usefixtures("asyncpg_only")


_numbers = itertools.count()


class Mood(Enum):
    SAD = "sad"
    HAPPY = "very happy"


class Size(Enum):
    small = auto()
    large = auto()


@dataclass
class Address:
    street: str
    number: int


@pytest.fixture
async def db(postgres_engine):
    return await postgres_engine()


@pytest.fixture
async def moods(db):
    await db.execute_script("create type mood as enum ('sad', 'very happy')")
    return db


async def there_and_back(db, kind, value):
    """Insert by a parameter and by COPY; return what both became."""
    table = f"t{next(_numbers)}"
    await db.execute(f"create table {table} (v {kind})")
    await db.execute(f"insert into {table} values (:v)", {"v": value})
    await db.insert_many(table, [{"v": value}])
    first, second = await db.fetch_column(f"select v from {table}")
    assert first == second
    return first


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer[]", [1, None, 3]),
        ("text[][]", [["a", "b"], ["c", None]]),
        ("jsonb", {"a": [1, None, {"b": "ü"}]}),
        ("jsonb[]", [{"a": 1}, None]),
        ("json", [1, "x"]),
    ],
)
async def test_arrays_and_json_are_python_values_by_themselves(db, kind, value):
    assert await there_and_back(db, kind, value) == value


async def test_a_range_has_its_bounds(db):
    found = await db.fetch_val("select '[1,5)'::int4range")
    assert (found.lower, found.upper, found.lower_inc, found.upper_inc) == (1, 5, True, False)
    assert not found.isempty
    assert await there_and_back(db, "int4range", found) == found
    assert (await db.fetch_val("select 'empty'::int4range")).isempty
    several = await db.fetch_val("select '{[1,2),[4,8)}'::int4multirange")
    assert [each.upper for each in several] == [
        2, 8,
    ]  # fmt: skip


async def test_hstore_is_a_dict(db):
    await db.execute("create extension hstore")
    db.register_type("hstore")
    value = {"a": "1", "b": None}
    assert await there_and_back(db, "hstore", value) == value
    assert await db.fetch_val("select array['a=>1'::hstore]") == [{"a": "1"}]


@pytest.mark.parametrize("base", [Enum, StrEnum])
async def test_an_enum_is_the_enum(moods, base):
    kind = base("Mood", {"SAD": "sad", "HAPPY": "very happy"})
    moods.register_type("mood", enum=kind)
    assert await there_and_back(moods, "mood", kind.HAPPY) is kind.HAPPY
    assert await there_and_back(moods, "mood[]", [kind.HAPPY, None]) == [kind.HAPPY, None]
    assert await there_and_back(moods, "mood", "sad") is kind.SAD


async def test_an_enum_whose_values_are_no_texts_goes_by_its_names(db):
    await db.execute("create type size as enum ('small', 'large')")
    db.register_type("size", enum=Size)
    assert await there_and_back(db, "size", Size.large) is Size.large


async def test_a_composite_type_is_the_class(db):
    await db.execute("create type address as (street text, number int)")
    db.register_type("address", into=Address)
    home = Address("Lane", 3)
    assert await there_and_back(db, "address", home) == home
    assert await there_and_back(db, "address", {"number": 3, "street": "Lane"}) == home
    assert await there_and_back(db, "address", ("Lane", 3)) == home
    assert await there_and_back(db, "address[]", [home]) == [home]


async def test_functions_make_of_a_type_whatever_they_like(db):
    await db.execute("create type pair as (a int, b int)")
    db.register_type("money", encode=str, decode=lambda text: text.strip("$"))
    assert await db.fetch_val("select :m::money", {"m": "7.50"}) == "7.50"
    if driver_of("postgres") == "psycopg":  # values come as text
        return
    db.register_type("point", format="binary", encode=bytes, decode=len, schema="pg_catalog")
    assert await db.fetch_val("select point(1, 2)") == 16


async def test_a_type_of_another_schema_is_found_by_it(db):
    await db.execute_script('create schema "My"; create type "My"."Mood" as enum (\'sad\')')
    db.register_type("Mood", schema="My", enum=Mood)
    assert await db.fetch_val('select \'sad\'::"My"."Mood"') is Mood.SAD


# On every connection.


async def test_connections_that_are_open_already_get_it(moods):
    async with moods.connection():
        moods.register_type("mood", enum=Mood)
        # Another one than that of the block, which is replaced when it comes back.
        assert await asyncio.create_task(_sad(moods)) is Mood.SAD
    assert await _sad(moods) is Mood.SAD


async def _sad(db):
    return await db.fetch_val("select 'sad'::mood")


async def test_it_can_be_said_before_the_engine_is_open(postgres_url, moods):
    db = aiodbkit.create_engine(postgres_url, min_size=2)
    db.register_type("mood", enum=Mood)
    async with db:
        assert await asyncio.gather(*(_sad(db) for _ in range(4))) == [Mood.SAD] * 4


async def test_a_deferred_engine_keeps_what_was_registered(postgres_url, moods):
    db = aiodbkit.PostgresEngine(None)
    db.register_type("mood", enum=Mood)
    db.init(postgres_url)
    async with db:
        assert await _sad(db) is Mood.SAD


async def test_a_reset_of_the_session_keeps_it(postgres_engine, moods):
    db = await postgres_engine(max_size=1, reset="always")
    db.register_type("mood", enum=Mood)
    for _ in range(3):
        assert await _sad(db) is Mood.SAD


# What is wrong.


async def test_a_type_that_the_database_does_not_have_is_told(db):
    db.register_type("mood", enum=Mood)
    with pytest.raises(aiodbkit.ConfigurationError, match=r"no type \"mood\""):
        await db.fetch_val("select 1")


async def test_an_optional_type_may_come_later(db):
    db.register_type("mood", enum=Mood, optional=True)
    await db.execute("create type mood as enum ('sad')")
    await db.pool.expire()
    assert await _sad(db) is Mood.SAD


async def test_a_label_that_the_enum_does_not_have_is_told(db):
    await db.execute("create type mood as enum ('sad', 'new')")
    db.register_type("mood", enum=Mood)
    with pytest.raises(aiodbkit.DataError, match="label that the enum Mood has not"):
        await db.fetch_val("select 'new'::mood")
    assert await _sad(db) is Mood.SAD


async def test_a_value_that_does_not_fit_is_told(moods):
    moods.register_type("mood", enum=Mood)
    with pytest.raises(aiodbkit.DataError, match=":m"):
        await moods.fetch_val("select :m::mood", {"m": 7})


async def test_wrong_registrations_are_told(moods):
    for given in (
        {},
        {"enum": Mood, "into": Address},
        {"encode": str},
        {"encode": str, "decode": str, "format": "xml"},
    ):
        with pytest.raises(aiodbkit.ConfigurationError):
            moods.register_type("mood", **given)
    with pytest.raises(aiodbkit.ConfigurationError, match="named by a text"):
        moods.register_type("", enum=Mood)
    assert await moods.fetch_val("select 'sad'::mood") == "sad"
    moods.register_type("mood", into=Address)
    with pytest.raises(aiodbkit.ConfigurationError, match="no composite type"):
        await moods.fetch_val("select 1")
