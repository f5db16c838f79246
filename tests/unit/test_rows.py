"""`Row` and the shapes of the verbs."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiodbkit.errors import ProgrammingError
from aiodbkit.rows import Row, column_values, first_row, make_rows, row_class, value

COLUMNS = ("id", "name")


def row_of(**values: Any) -> Row:
    return row_class(tuple(values))(values.values())


@pytest.fixture
def ann() -> Row:
    return row_of(id=1, name="Ann")


def test_a_value_is_read_by_position_name_and_attribute(ann: Row) -> None:
    assert ann[0] == ann[-2] == ann["id"] == ann.id == 1
    assert ann[1] == ann["name"] == ann.name == "Ann"


def test_a_slice_is_a_plain_tuple(ann: Row) -> None:
    assert ann[:1] == (1,)
    assert type(ann[:]) is tuple


def test_a_row_is_a_tuple_of_its_values(ann: Row) -> None:
    identity, name = ann
    assert (identity, name) == (1, "Ann")
    assert list(ann) == [1, "Ann"]
    assert len(ann) == 2
    assert "Ann" in ann
    assert "name" not in ann
    assert ann == (1, "Ann")
    assert ann == row_of(other=1, names="Ann")
    assert ann != (1, "Bob")
    assert hash(ann) == hash((1, "Ann"))
    assert json.dumps(ann) == '[1, "Ann"]'


def test_a_row_turns_into_a_dict_in_the_order_of_its_columns(ann: Row) -> None:
    assert dict(ann) == {"id": 1, "name": "Ann"}
    assert list(dict(ann)) == ["id", "name"]
    assert {**ann} == dict(ann)


def test_names_values_and_pairs_come_in_order(ann: Row) -> None:
    assert ann.keys() == ("id", "name")
    assert ann.values() == (1, "Ann")
    assert type(ann.values()) is tuple
    assert ann.items() == (("id", 1), ("name", "Ann"))


def test_get_returns_the_default_where_there_is_no_such_column(ann: Row) -> None:
    assert ann.get("name") == "Ann"
    assert ann.get("team") is None
    assert ann.get("team", 7) == 7


def test_rows_match_patterns(ann: Row) -> None:
    match ann:
        case Row(id=1, name=name):
            assert name == "Ann"
        case _:
            pytest.fail("no match")


def test_the_repr_shows_names_and_values(ann: Row) -> None:
    assert repr(ann) == "Row(id=1, name='Ann')"
    assert repr(row_class(("count(*)",))((3,))) == "Row('count(*)'=3)"


@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, lambda row: pickle.loads(pickle.dumps(row))]
)
def test_copies_and_pickles_keep_the_names(way: Any, ann: Row) -> None:
    twin = way(ann)
    assert twin == ann
    assert type(twin) is type(ann)
    assert twin.name == "Ann"


def test_a_deep_copy_copies_the_values_and_a_copy_does_not() -> None:
    row = row_of(data=[1])
    assert copy.copy(row).data is row.data
    assert copy.deepcopy(row).data is not row.data


def test_a_row_is_immutable(ann: Any) -> None:
    with pytest.raises(AttributeError, match="immutable"):
        ann.name = "Bob"
    with pytest.raises(AttributeError, match="immutable"):
        ann.new = 1
    with pytest.raises(AttributeError, match="immutable"):
        del ann.name
    with pytest.raises(TypeError):
        ann["name"] = "Bob"
    with pytest.raises(TypeError):
        ann[0] = 2
    assert ann == (1, "Ann")
    assert not hasattr(ann, "__dict__")


def test_a_missing_column_lists_those_there_are_and_the_likely_one(ann: Row) -> None:
    with pytest.raises(KeyError) as by_name:
        ann["nmae"]
    with pytest.raises(AttributeError) as by_attribute:
        _ = ann.nmae
    expected = "no column 'nmae' (did you mean 'name'?); the row has id, name"
    assert by_name.value.args == by_attribute.value.args == (expected,)


def test_a_traceback_has_one_hint_only(ann: Row) -> None:
    with pytest.raises(AttributeError) as caught:
        _ = ann.nmae
    assert "".join(traceback.format_exception(caught.value)).lower().count("did you mean") == 1
    assert caught.value.name is None  # what the interpreter's own hint is made from


def test_a_column_in_another_case_is_hinted_at(ann: Row) -> None:
    with pytest.raises(KeyError, match="did you mean 'id'"):
        ann["ID"]


def test_a_position_out_of_range_is_an_index_error(ann: Row) -> None:
    with pytest.raises(IndexError):
        ann[2]


@pytest.mark.parametrize("name", ["count", "index"])
def test_tuples_methods_give_way_to_columns(name: str, ann: Row) -> None:
    assert getattr(row_class((name,))((5,)), name) == 5
    with pytest.raises(AttributeError, match=f"no column '{name}'.*the row has id, name"):
        getattr(ann, name)


@pytest.mark.parametrize("name", ["keys", "values", "items", "get", "__class__", "__len__"])
def test_a_column_called_like_a_method_is_reached_by_name(name: str) -> None:
    row = row_class((name, "id"))((5, 1))
    assert row[name] == 5
    assert dict(row) == {name: 5, "id": 1}
    assert isinstance(row, Row)
    assert len(row) == 2


@pytest.mark.parametrize("name", ["_missing", "_id", "class", "", "count(*)", "ü", "a b", "mro"])
def test_any_other_name_works_both_ways(name: str) -> None:
    row = row_class((name,))((5,))
    assert row[name] == getattr(row, name) == 5
    with pytest.raises(KeyError, match="no column 'x'"):
        row["x"]


def test_of_two_columns_of_one_name_the_name_gives_the_first_and_the_rest_all() -> None:
    row = row_class(("a", "a", "b"))((1, 2, 3))
    assert row["a"] == row.a == row.get("a") == 1
    assert dict(row) == {"a": 1, "b": 3}
    assert tuple(row) == row.values() == (1, 2, 3)
    assert row.keys() == ("a", "a", "b")
    assert row.items() == (("a", 1), ("a", 2), ("b", 3))


def test_equal_columns_share_a_class_and_the_cache_is_bounded() -> None:
    assert row_class(COLUMNS) is row_class(("id", "name"))
    assert row_class.cache_info().maxsize is not None


def test_a_class_that_left_the_cache_is_freed() -> None:
    row_class.cache_clear()
    for number in range(600):
        row_class((f"column_{number}",))
    gc.collect()
    assert sum(kind.__row_columns__ != () for kind in Row.__subclasses__()) < 600


@given(st.dictionaries(st.text(), st.integers(), max_size=8))
def test_every_row_gives_back_what_it_was_made_of(values: dict[str, int]) -> None:
    row = row_class(tuple(values))(values.values())
    assert dict(row) == values
    assert row.keys() == tuple(values)
    assert all(row[name] == values[name] for name in values)
    assert pickle.loads(pickle.dumps(row)) == row


def test_rows_are_made_of_any_sequences() -> None:
    rows = make_rows(["id", "name"], [(1, "Ann"), [2, "Bob"]])
    assert [row.name for row in rows] == ["Ann", "Bob"]
    assert first_row(COLUMNS, [(1, "Ann"), (2, "Bob")]) == (1, "Ann")


def test_no_rows_make_no_rows_even_where_the_names_are_missing() -> None:
    for columns in (COLUMNS, ()):
        assert make_rows(columns, []) == []
        assert first_row(columns, []) is None
        assert value(columns, [], 0) is None
        assert column_values(columns, [], 0) == []


@pytest.mark.parametrize("column", [1, -1, "name"])
def test_one_value_and_one_column_are_chosen_by_position_or_name(column: int | str) -> None:
    rows = [(1, "Ann"), (2, "Bob")]
    assert value(COLUMNS, rows, column) == "Ann"
    assert column_values(list(COLUMNS), rows, column) == ["Ann", "Bob"]


def test_a_name_gives_the_first_of_two_equal_columns() -> None:
    assert value(("a", "a"), [(1, 2)], "a") == 1


@pytest.mark.parametrize("shape", [value, column_values])
@pytest.mark.parametrize("rows", [[(1, "Ann")], []])
def test_a_missing_column_is_an_error_with_and_without_rows(shape: Any, rows: Any) -> None:
    with pytest.raises(
        ProgrammingError, match=r"no column 'nmae' \(did you mean 'name'\?\); .*id, name"
    ):
        shape(COLUMNS, rows, "nmae")
    for position in (2, -3):
        with pytest.raises(ProgrammingError, match=rf"position {position}; there are 2: id, name"):
            shape(COLUMNS, rows, position)
    with pytest.raises(ProgrammingError, match="a name or a position, not float"):
        shape(COLUMNS, rows, 1.5)


def test_rows_without_columns_have_no_value() -> None:
    with pytest.raises(ProgrammingError, match="there are 0: none"):
        value((), [()], 0)


def test_a_long_list_of_columns_is_cut() -> None:
    row = row_class(tuple(f"c{number}" for number in range(100)))(range(100))
    with pytest.raises(KeyError, match="c39 and 60 more"):
        row["nope"]
