"""Contract §2: `Row`, the same on every backend, and `into=`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple, NotRequired, TypedDict

import attrs
import msgspec
import pydantic
import pytest

import aiodbkit

People = list[tuple[int, str, int | None]]
SELECT = "select id, name, team from people order by id"


@dataclass
class AsDataclass:
    id: int
    name: str
    team: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AsFrozenDataclass:
    name: str
    id: int
    team: int | None = None
    note: str = "none"


class AsNamedTuple(NamedTuple):
    name: str
    id: int
    team: int | None


class AsTypedDict(TypedDict):
    id: int
    name: str
    team: int | None


class AsLooseTypedDict(TypedDict):
    id: int
    name: str
    team: int | None
    note: NotRequired[str]


@attrs.define
class AsAttrs:
    id: int
    name: str
    team: int | None


class AsStruct(msgspec.Struct):
    id: int
    name: str
    team: int | None


class AsModel(pydantic.BaseModel):
    id: int
    name: str
    team: int | None


CLASSES = [AsDataclass, AsFrozenDataclass, AsNamedTuple, AsAttrs, AsStruct, AsModel]


@pytest.fixture
async def ann(db: aiodbkit.Engine, people: People) -> aiodbkit.Row:
    row = await db.fetch_one(SELECT)
    assert row is not None
    return row


async def test_a_row_is_read_by_position_name_and_attribute(ann: aiodbkit.Row) -> None:
    assert (ann[0], ann[-2], ann["id"], ann["name"]) == (1, "Ann", 1, "Ann")
    assert (ann.id, ann.name, ann.team) == (1, "Ann", 7)
    assert ann[:2] == (1, "Ann")


async def test_a_row_turns_into_a_dict_a_tuple_and_has_a_length(ann: aiodbkit.Row) -> None:
    assert dict(ann) == {"id": 1, "name": "Ann", "team": 7}
    assert list(dict(ann)) == ["id", "name", "team"]
    assert tuple(ann) == (1, "Ann", 7)
    assert [*ann] == [1, "Ann", 7]
    assert len(ann) == 3
    identity, name, team = ann
    assert (identity, name, team) == (1, "Ann", 7)


async def test_a_row_equals_a_tuple_of_its_values_and_hashes_like_it(
    db: aiodbkit.Engine, ann: aiodbkit.Row
) -> None:
    assert ann == (1, "Ann", 7)
    assert (1, "Ann", 7) == ann  # noqa: SIM300 - both sides have to know
    assert ann != (1, "Ann", 8)
    assert ann != (1, "Ann")
    assert ann == await db.fetch_one(SELECT)
    assert len({ann, (1, "Ann", 7)}) == 1


async def test_a_row_is_immutable(ann: aiodbkit.Row) -> None:
    row: Any = ann
    with pytest.raises(TypeError):
        row[0] = 2
    with pytest.raises(TypeError):
        row["id"] = 2
    with pytest.raises(AttributeError):
        row.id = 2
    with pytest.raises(AttributeError):
        del row.id
    assert ann == (1, "Ann", 7)


async def test_a_missing_column_lists_those_there_are(ann: aiodbkit.Row) -> None:
    with pytest.raises(KeyError) as by_name:
        ann["nmae"]
    with pytest.raises(AttributeError) as by_attribute:
        _ = ann.nmae
    for caught in (by_name, by_attribute):
        for word in ("nmae", "id", "name", "team"):
            assert word in str(caught.value)
    with pytest.raises(IndexError):
        ann[3]


async def test_the_repr_shows_names_and_values(ann: aiodbkit.Row) -> None:
    for word in ("id", "name", "Ann", "team"):
        assert word in repr(ann)


async def test_a_column_named_like_a_method_is_reached_by_its_name(db: aiodbkit.Engine) -> None:
    row = await db.fetch_one("select 1 as count, 2 as keys_, 3 as items")
    assert row is not None
    assert (row["count"], row["items"]) == (1, 3)
    assert dict(row) == {"count": 1, "keys_": 2, "items": 3}


async def test_rows_of_equal_column_names_keep_every_value(db: aiodbkit.Engine) -> None:
    row = await db.fetch_one("select 1 as a, 2 as a")
    assert row is not None
    assert tuple(row) == (1, 2)


async def test_rows_are_pickled_and_copied(ann: aiodbkit.Row) -> None:
    import copy
    import pickle

    for twin in (pickle.loads(pickle.dumps(ann)), copy.copy(ann), copy.deepcopy(ann)):
        assert twin == ann
        assert twin.name == "Ann"


@pytest.mark.parametrize("into", CLASSES)
async def test_into_builds_each_row(into: Any, db: aiodbkit.Engine, people: People) -> None:
    found = await db.fetch_all(SELECT, into=into)
    assert found == [into(id=number, name=name, team=team) for number, name, team in people]
    assert all(type(item) is into for item in found)
    assert await db.fetch_one(SELECT, into=into) == into(id=1, name="Ann", team=7)
    assert await db.fetch_one("select * from people where id = 99", into=into) is None
    streamed = [item async for item in db.iterate(SELECT, into=into, batch_size=3)]
    assert streamed == found


@pytest.mark.parametrize("into", [AsTypedDict, AsLooseTypedDict])
async def test_into_a_typed_dict_gives_plain_dicts(
    into: Any, db: aiodbkit.Engine, people: People
) -> None:
    assert await db.fetch_one(SELECT, into=into) == {"id": 1, "name": "Ann", "team": 7}
    assert type(await db.fetch_one(SELECT, into=into)) is dict


async def test_into_any_callable_is_given_the_row(db: aiodbkit.Engine, people: People) -> None:
    def greet(row: aiodbkit.Row) -> str:
        assert isinstance(row, aiodbkit.Row)
        return f"Hello {row.name}"

    assert (await db.fetch_all(SELECT, into=greet))[0] == "Hello Ann"
    assert await db.fetch_one(SELECT, into=lambda row: row["id"]) == 1
    assert await db.fetch_one(SELECT, into=dict) == {"id": 1, "name": "Ann", "team": 7}
    assert await db.fetch_one(SELECT, into=tuple) == (1, "Ann", 7)


async def test_a_field_with_a_default_may_be_missing(db: aiodbkit.Engine, people: People) -> None:
    found = await db.fetch_one("select id, name from people order by id", into=AsFrozenDataclass)
    assert found == AsFrozenDataclass(id=1, name="Ann")


async def test_columns_in_another_order_reach_their_fields(
    db: aiodbkit.Engine, people: People
) -> None:
    select = "select team, name, id from people order by id"
    for into in CLASSES:
        found: Any = await db.fetch_one(select, into=into)
        assert (found.id, found.name, found.team) == (1, "Ann", 7)


@pytest.mark.parametrize("into", [*CLASSES[:1], *CLASSES[2:], AsTypedDict])
async def test_a_missing_column_names_the_type_the_field_and_the_columns(
    into: Any, db: aiodbkit.Engine, people: People
) -> None:
    with pytest.raises((aiodbkit.Error, TypeError)) as caught:
        await db.fetch_all("select id, team from people", into=into)
    for word in (into.__name__, "name", "id", "team"):
        assert word in str(caught.value)
    assert isinstance(caught.value, aiodbkit.Error)


@pytest.mark.parametrize("into", [AsDataclass, AsNamedTuple, AsAttrs])
async def test_a_column_without_a_field_is_refused_by_its_name(
    into: Any, db: aiodbkit.Engine, people: People
) -> None:
    select = "select id, name, team, 1 as extra from people"
    with pytest.raises(aiodbkit.Error) as caught:
        await db.fetch_all(select, into=into)
    for word in (into.__name__, "extra"):
        assert word in str(caught.value)


@pytest.mark.parametrize("into", [AsModel, AsStruct])
async def test_a_value_that_does_not_fit_names_type_field_and_column(
    into: Any, db: aiodbkit.Engine, people: People
) -> None:
    select = "select id, team as name, team from people where id = 1"
    with pytest.raises(aiodbkit.Error) as caught:
        await db.fetch_all(select, into=into)
    for word in (into.__name__, "name"):
        assert word in str(caught.value)
    assert caught.value.__cause__ is not None


async def test_a_dataclass_that_refuses_a_row_is_named(db: aiodbkit.Engine, people: People) -> None:
    @dataclass
    class Picky:
        id: int

        def __post_init__(self) -> None:
            if self.id > 2:
                raise ValueError("too big")

    with pytest.raises((aiodbkit.Error, ValueError)) as caught:
        await db.fetch_all("select id from people order by id", into=Picky)
    assert "too big" in "".join([str(caught.value), str(caught.value.__cause__)])


async def test_the_same_type_serves_different_columns(db: aiodbkit.Engine, people: People) -> None:
    loose = dataclasses.make_dataclass("Loose", [("id", int), ("name", str, "?")])
    by_both = await db.fetch_one("select id, name from people where id = 2", into=loose)
    by_one = await db.fetch_one("select id from people where id = 2", into=loose)
    assert by_both == loose(2, "Bob")
    assert by_one == loose(2, "?")
