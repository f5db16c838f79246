"""``into=``: what is said when columns or values do not fit, and that no value is shown."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from aiodbkit.errors import DataError, Error, InterfaceError, ProgrammingError
from aiodbkit.rows import Row, converter
from tests.unit.shapes import (
    CLASSES,
    COLUMNS,
    COMPILED,
    VALIDATING,
    ArrayStruct,
    Attrs,
    Checked,
    Frozen,
    FrozenAttrs,
    Model,
    Named,
    Plain,
    StrictModel,
    Struct,
    build,
)


@pytest.mark.parametrize("into", [Plain, Frozen, Named, Attrs, FrozenAttrs, ArrayStruct, Struct])
def test_a_missing_field_is_told_before_the_first_row(into: Any) -> None:
    with pytest.raises(ProgrammingError) as caught:
        converter(into, ("id", "nmae", "team"))
    text = str(caught.value)
    assert f"{into.__name__} does not fit the columns id, nmae, team" in text
    assert "column 'nmae' has no field (did you mean 'name'?)" in text
    assert "field 'name' has no column and no default (did you mean 'nmae'?)" in text


@pytest.mark.parametrize("into", [*COMPILED, Struct, Checked])
def test_a_column_without_a_field_is_refused(into: Any) -> None:
    with pytest.raises(ProgrammingError, match="column 'extra' has no field") as caught:
        converter(into, ("id", "name", "extra"))
    assert into.__name__ in str(caught.value)
    assert caught.value.column == "extra"


@pytest.mark.parametrize("into", [*CLASSES, Checked])
def test_two_columns_for_one_field_are_refused(into: Any) -> None:
    with pytest.raises(ProgrammingError, match="column 'id' is the second one for its field"):
        converter(into, ("id", "name", "id"))


@pytest.mark.parametrize("into", [Model, StrictModel])
def test_a_pydantic_model_names_the_missing_field_at_the_first_row(into: Any) -> None:
    with pytest.raises(ProgrammingError, match=r"field 'name' has no column \(missing\)") as caught:
        build(into, id=1, team=7)
    assert f"{into.__name__} refuses a row" in str(caught.value)
    assert "The columns are id, team" in str(caught.value)
    assert isinstance(caught.value.__cause__, pydantic.ValidationError)


def test_pydantics_own_rule_for_extra_columns_holds() -> None:
    class Open(Model):
        model_config = pydantic.ConfigDict(extra="allow")

    assert build(Model, id=1, name="Ann", extra=5) == Model(id=1, name="Ann")
    assert build(Open, id=1, name="Ann", extra=5).extra == 5
    with pytest.raises(ProgrammingError, match="StrictModel refuses a row: column 'extra' has no"):
        build(StrictModel, id=1, name="Ann", extra=5)


@pytest.mark.parametrize("into", VALIDATING)
def test_a_refused_value_names_type_field_and_column_and_never_the_value(into: Any) -> None:
    with pytest.raises(DataError) as caught:
        build(into, id="s3cret", name="Ann", team="hidden")
    text = str(caught.value)
    assert (
        f"{into.__name__} refuses a row: field 'id' does not take the value of column 'id'" in text
    )
    assert "s3cret" not in text
    assert "hidden" not in text
    assert caught.value.column == "id"
    assert type(caught.value.__cause__).__name__ == "ValidationError"


@pytest.mark.parametrize("base", [msgspec.Struct, pydantic.BaseModel])
def test_a_value_that_the_librarys_own_message_quotes_is_left_out(base: Any) -> None:
    class Colour(enum.Enum):
        RED = "red"

    # Made by hand: local names are out of reach for text annotations.
    into = type(base)(
        "Paint", (base,), {"__annotations__": {"colour": Colour}, "__module__": __name__}
    )
    assert build(into, colour="red").colour is Colour.RED
    with pytest.raises(DataError, match="field 'colour'") as caught:
        build(into, colour="s3cret")
    assert "s3cret" not in str(caught.value)


def test_a_refusal_inside_a_value_names_the_column() -> None:
    class Nested(msgspec.Struct):
        data: dict[str, int]

    class NestedModel(pydantic.BaseModel):
        data: dict[str, int]

    for into in (Nested, NestedModel):
        with pytest.raises(DataError, match="field 'data'") as caught:
            build(into, data={"s3cret": "x"})
        assert "s3cret" not in str(caught.value)


def test_what_a_post_init_raises_is_a_data_error() -> None:
    @dataclass
    class Picky:
        id: int

        def __post_init__(self) -> None:
            if self.id < 0:
                raise ValueError(f"negative: {self.id}")

    class PickyStruct(msgspec.Struct):
        id: int

        def __post_init__(self) -> None:
            if self.id < 0:
                raise ValueError(f"negative: {self.id}")

    for into in (Picky, PickyStruct):
        assert build(into, id=1).id == 1
        with pytest.raises(DataError, match=rf"{into.__name__} refuses a row.*are id") as caught:
            build(into, id=-12345)
        assert "12345" not in str(caught.value)
        assert "negative: -12345" in str(caught.value.__cause__)


def test_an_attrs_validator_names_its_field() -> None:
    @attrs.define
    class Valid:
        _age: int = attrs.field(validator=attrs.validators.instance_of(int))

    with pytest.raises(DataError, match="field 'age' does not take the value of column '_age'"):
        build(Valid, _age="s3cret")


def test_a_functions_own_error_is_let_through() -> None:
    class RefusedError(Exception):
        pass

    def refuse(row: Row) -> None:
        raise RefusedError

    with pytest.raises(RefusedError):
        build(refuse, id=1)


def test_a_class_that_cannot_take_a_row_is_told_with_the_way_out() -> None:
    class Old:
        def __init__(self, number: int, name: str) -> None:
            raise AssertionError

    with pytest.raises(
        InterfaceError, match=r"Old cannot be called with one argument.*into=lambda"
    ):
        converter(Old, COLUMNS)


@pytest.mark.parametrize("into", [5, "User", Plain(1, "Ann"), int | None])
def test_what_cannot_be_called_is_refused(into: Any) -> None:
    with pytest.raises(InterfaceError, match="takes a class or a function of the row, not "):
        converter(into, COLUMNS)


def test_every_error_is_one_of_ours_and_pickles() -> None:
    import pickle

    with pytest.raises(Error) as caught:
        build(Model, id="x", name="Ann")
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (str(twin), twin.column) == (str(caught.value), "id")
