"""``into=``: what a row becomes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import subprocess
import sys
import typing
import uuid
from collections import namedtuple
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from typing import Any, Generic, Required, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from aiodbkit.errors import DataError, ProgrammingError
from aiodbkit.rows import Row, converter, row_class
from tests.unit.shapes import (
    CLASSES,
    COLUMNS,
    VALUES,
    Attrs,
    Checked,
    Frozen,
    Named,
    Plain,
    build,
)

if typing.TYPE_CHECKING:
    from nowhere import OnlyForCheckers

T = TypeVar("T")


@pytest.mark.parametrize("into", CLASSES)
@pytest.mark.parametrize(
    "order", [("id", "name", "team"), ("team", "id", "name"), ("name", "team", "id")]
)
def test_columns_reach_their_fields_in_any_order(into: Any, order: tuple[str, ...]) -> None:
    values = dict(zip(COLUMNS, VALUES, strict=True))
    made = converter(into, order)([values[name] for name in order])
    assert type(made) is into
    assert made == into(**values)


@pytest.mark.parametrize("into", CLASSES)
def test_a_field_with_a_default_needs_no_column(into: Any) -> None:
    assert build(into, name="Ann", id=1) == into(id=1, name="Ann", team=None)


def test_init_false_fields_are_no_fields_and_init_vars_are() -> None:
    @dataclass
    class Hashed:
        name: str
        secret: InitVar[str]
        length: int = field(init=False)
        kind: typing.ClassVar[str] = "hashed"

        def __post_init__(self, secret: str) -> None:
            self.length = len(secret)

    assert build(Hashed, secret="12345", name="Ann").length == 5
    for column in ("length", "kind"):
        with pytest.raises(ProgrammingError, match=f"column '{column}' has no field"):
            converter(Hashed, ("name", "secret", column))


def test_default_factories_are_asked_for_each_row() -> None:
    @dataclass
    class Tagged:
        id: int
        tags: list[str] = field(default_factory=list)

    first, second = map(converter(Tagged, ("id",)), [(1,), (2,)])
    assert first.tags == second.tags == []
    assert first.tags is not second.tags


def test_a_constructor_of_ones_own_decides_the_fields() -> None:
    @dataclass(init=False)
    class Own:
        area: int

        def __init__(self, width: int, *, height: int = 2) -> None:
            self.area = width * height

    assert build(Own, height=3, width=4).area == 12
    assert build(Own, width=4).area == 8


def test_inherited_fields_count() -> None:
    @dataclass
    class Child(Plain):
        note: str = "none"

    assert build(Child, note="x", id=1, name="Ann") == Child(1, "Ann", None, "x")


def test_names_known_to_type_checkers_only_do_no_harm() -> None:
    @dataclass
    class Late:
        id: OnlyForCheckers

    assert build(Late, id=1).id == 1


def test_a_namedtuple_without_types_works() -> None:
    Point = namedtuple("Point", "x y", defaults=[0])  # noqa: PYI024 - such classes exist
    assert build(Point, y=2, x=1) == Point(1, 2)
    assert build(Point, x=1) == Point(1, 0)


def test_attrs_fields_are_known_by_alias_and_by_name() -> None:
    @attrs.define
    class Hidden:
        _id: int
        name: str = attrs.field(alias="label")
        made: int = attrs.field(init=False, default=5)

    expected = Hidden(id=1, label="Ann")
    assert build(Hidden, id=1, label="Ann") == expected
    assert build(Hidden, _id=1, name="Ann") == expected
    with pytest.raises(ProgrammingError, match="column 'made' has no field"):
        converter(Hidden, ("id", "label", "made"))
    with pytest.raises(ProgrammingError, match="column '_id' is the second one for its field"):
        converter(Hidden, ("id", "label", "_id"))


def test_attrs_converters_run() -> None:
    @attrs.define
    class Converting:
        id: int = attrs.field(converter=int)

    assert build(Converting, id="5").id == 5
    with pytest.raises(DataError, match="Converting refuses a row: ValueError"):
        build(Converting, id="five")


def test_msgspec_fields_are_known_by_their_new_name_and_their_own() -> None:
    class Renamed(msgspec.Struct, rename="camel"):
        user_id: int
        full_name: str = "?"

    expected = Renamed(user_id=1, full_name="Ann")
    assert build(Renamed, userId=1, fullName="Ann") == expected
    assert build(Renamed, full_name="Ann", user_id=1) == expected
    with pytest.raises(
        DataError, match="field 'user_id' does not take the value of column 'user_id'"
    ):
        build(Renamed, user_id="x")


def test_msgspec_converts_what_a_driver_returns_as_text_or_number() -> None:
    class Wide(msgspec.Struct):
        key: uuid.UUID
        day: dt.date
        price: Decimal
        active: bool
        blob: bytes

    key, day = uuid.uuid4(), dt.date(2024, 2, 29)
    expected = Wide(key, day, Decimal("1.50"), True, b"\0")
    assert (
        build(Wide, key=str(key), day="2024-02-29", price="1.50", active=1, blob=b"\0") == expected
    )
    assert build(Wide, key=key, day=day, price=Decimal("1.50"), active=True, blob=b"\0") == expected


def test_pydantic_aliases_are_the_models_affair() -> None:
    class Aliased(pydantic.BaseModel):
        user_id: int = pydantic.Field(alias="id")
        name: str = pydantic.Field(validation_alias=pydantic.AliasChoices("label", "title"))

    assert build(Aliased, id=1, title="Ann") == Aliased(id=1, label="Ann")
    with pytest.raises(DataError, match="field 'user_id' does not take the value of column 'id'"):
        build(Aliased, id="x", label="Ann")
    with pytest.raises(ProgrammingError, match="field 'id' has no column"):
        build(Aliased, user_id=1, label="Ann")


def test_a_typed_dict_becomes_a_plain_dict() -> None:
    made = build(Checked, name="Ann", id=1)
    assert made == {"name": "Ann", "id": 1}
    assert type(made) is dict


def test_a_typed_dict_needs_its_required_keys() -> None:
    class Base(TypedDict, total=False):
        note: str
        key: Required[int]

    class Derived(Base):
        name: str
        team: typing.NotRequired[int]

    assert build(Derived, key=1, name="Ann") == {"key": 1, "name": "Ann"}
    assert build(Derived, key=1, name="Ann", note="x", team=7)["team"] == 7
    for column in ("key", "name"):
        columns = tuple({"key", "name", "note", "team"} - {column})
        with pytest.raises(ProgrammingError, match=f"field '{column}' has no column"):
            converter(Derived, columns)


def test_a_generic_class_is_taken_with_its_parameters() -> None:
    @dataclass
    class Box(Generic[T]):
        id: T

    class BoxStruct(msgspec.Struct, Generic[T]):
        id: T

    class BoxModel(pydantic.BaseModel, Generic[T]):
        id: T

    assert build(Box[int], id=1) == Box(1)
    assert build(BoxStruct[int], id="1") == BoxStruct(1)
    assert build(BoxModel[int], id="1").id == 1
    with pytest.raises(DataError):
        build(BoxStruct[int], id="x")
    assert build(dict[str, Any], id=1) == {"id": 1}
    assert build(list[int], id=1) == [1]


def test_a_function_is_given_the_row() -> None:
    seen: list[Row] = []
    assert build(seen.append, id=1, name="Ann") is None
    assert seen[0].name == "Ann"
    assert isinstance(seen[0], Row)
    assert build(lambda row: row["id"] + row.id, id=1) == 2
    assert build(functools.partial(max, (5,)), id=7) == (7,)


@pytest.mark.parametrize(
    ("into", "expected"),
    [
        (dict, {"id": 1, "name": "Ann", "team": 7}),
        (tuple, (1, "Ann", 7)),
        (list, [1, "Ann", 7]),
        (set, {1, "Ann", 7}),
        (len, 3),
        (Row, (1, "Ann", 7)),
    ],
)
def test_built_in_callables_work(into: Any, expected: Any) -> None:
    made = converter(into, COLUMNS)(VALUES)
    assert made == expected
    assert type(made) is type(expected) or isinstance(made, Row)


def test_rows_made_by_into_row_have_their_names() -> None:
    assert build(Row, id=1, name="Ann").name == "Ann"


def test_a_dict_has_the_first_of_two_columns_of_one_name() -> None:
    assert converter(dict, ("a", "a"))((1, 2)) == {"a": 1}


def test_a_class_that_takes_the_row_is_a_callable_like_others() -> None:
    class Wrapper:
        def __init__(self, row: Row) -> None:
            self.row = row

    assert build(Wrapper, id=1).row.id == 1


def test_a_class_is_compiled_once_for_its_columns() -> None:
    assert converter(Plain, COLUMNS) is converter(Plain, list(COLUMNS))
    assert converter(Plain, COLUMNS) is not converter(Plain, ("name", "id"))


def test_unhashable_callables_and_classes_work() -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, row: Row) -> Any:
            return row.id

    class Meta(type):
        __hash__ = None  # type: ignore[assignment]

    @dataclass
    class Odd(metaclass=Meta):
        id: int

    assert build(Unhashable(), id=1) == 1
    assert build(Odd, id=1).id == 1


def test_a_closure_is_not_kept_alive() -> None:
    import gc
    import weakref

    class Big:
        pass

    big = Big()
    gone = weakref.ref(big)
    assert build(lambda row, big=big: (row.id, big) and 1, id=1) == 1
    del big
    gc.collect()
    assert gone() is None


def test_the_cache_is_bounded() -> None:
    from aiodbkit.rows import _compile_once

    maximum = _compile_once.cache_info().maxsize
    assert maximum is not None
    for number in range(maximum + 10):
        converter(dict, (f"c{number}",))
    assert _compile_once.cache_info().currsize == maximum


def test_no_validation_library_is_imported_for_the_others() -> None:
    script = (
        "import sys, dataclasses\n"
        "from aiodbkit.rows import converter\n"
        "@dataclasses.dataclass\n"
        "class A:\n"
        "    x: int\n"
        "    def __post_init__(self): 1 / self.x\n"
        "try: converter(A, ('x',))((0,))\n"
        "except Exception as error: assert type(error).__name__ == 'DataError', error\n"
        "else: raise SystemExit('no error')\n"
        "loaded = {'attr', 'attrs', 'msgspec', 'pydantic', 'pydantic_core'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("into", [Plain, Named, Attrs, Frozen])
def test_rows_of_any_sequence_type_serve(into: Any) -> None:
    expected = into(id=1, name="Ann", team=7)
    row = row_class(COLUMNS)(VALUES)
    for values in (VALUES, list(VALUES), row):
        assert converter(into, COLUMNS)(values) == expected
        assert converter(into, COLUMNS[::-1])(values[::-1]) == expected
    assert dataclasses.is_dataclass(into) == (into in (Plain, Frozen))
