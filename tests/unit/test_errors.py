"""The tree of errors: as drawn, picklable, and told apart by the standard library's bases."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from aiodbkit import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]
ERRORS = [cls for cls in CLASSES if issubclass(cls, errors.Error)]
TIMEOUTS = {"LockTimeoutError", "QueryTimeoutError", "PoolTimeoutError"}
DETAILS = {
    "sqlstate": "23505",
    "code": 1062,
    "constraint": "users_name_key",
    "table": "users",
    "column": "name",
    "query": "insert into users (name) values (:name)",
    "is_transient": True,
}


def drawn_tree():
    """Return {class: parent} as the module's docstring draws it, and the notes beside it."""
    parents, notes, path = {}, {}, ["Error"]
    for line in errors.__doc__.splitlines():
        if found := re.match(r"^ {4}([│ ]*)[├└]── (\w+) *(.*)$", line):
            indent, name, note = found.groups()
            depth = len(indent) // 4 + 1
            parents[name], notes[name] = path[depth - 1], note
            path[depth:] = [name]
    return parents, notes


def test_the_drawing_shows_the_classes_as_they_are():
    parents, _ = drawn_tree()
    assert parents == {
        cls.__name__: cls.__bases__[0].__name__ for cls in ERRORS if cls is not errors.Error
    }


def test_the_drawing_tells_which_errors_are_timeouts():
    _, notes = drawn_tree()
    assert {name for name, note in notes.items() if "also a TimeoutError" in note} == TIMEOUTS


def test_timeout_errors_and_no_others_are_caught_as_the_standard_timeout_error():
    assert {cls.__name__ for cls in ERRORS if issubclass(cls, TimeoutError)} == TIMEOUTS


def test_all_lists_every_exception_of_the_module():
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert defined == set(errors.__all__)


def test_rollback_is_no_error_of_the_database():
    assert not issubclass(errors.Rollback, errors.Error)


@pytest.mark.parametrize("cls", ERRORS)
def test_an_error_survives_pickling_with_all_it_knows(cls):
    error = cls("the message", **DETAILS)
    error.add_note("attempt 3 of 3")
    restored = pickle.loads(pickle.dumps(error))
    assert type(restored) is cls
    assert str(restored) == "the message"
    assert {name: getattr(restored, name) for name in DETAILS} == DETAILS
    assert restored.__notes__ == ["attempt 3 of 3"]


@pytest.mark.parametrize("cls", ERRORS)
def test_an_error_can_be_copied(cls):
    error = cls("the message", **DETAILS)
    assert vars(copy.copy(error)) == vars(error)


@pytest.mark.parametrize("cls", ERRORS)
def test_what_the_backend_does_not_say_is_none(cls):
    error = cls("the message")
    assert {getattr(error, name) for name in DETAILS if name != "is_transient"} == {None}


@pytest.mark.parametrize("cls", ERRORS)
def test_one_error_can_differ_from_its_class_in_being_transient(cls):
    other = not cls.is_transient
    assert cls("the message", is_transient=other).is_transient is other
    assert cls("the message").is_transient is cls.is_transient


def test_errors_whose_work_may_have_been_done_are_not_transient_by_default():
    for cls in (
        errors.CommitUnknownError,
        errors.ConnectionLostError,
        errors.QueryTimeoutError,
        errors.IntegrityError,
    ):
        assert not cls.is_transient


@pytest.mark.parametrize("cls", ERRORS)
def test_a_text_is_all_an_error_shows(cls):
    assert str(cls("the message", **DETAILS)) == "the message"
