"""Options: a wrong value is refused by its name, when it is given."""

from __future__ import annotations

import dataclasses
import math

import pytest

from aiodbkit.errors import ConfigurationError
from aiodbkit.options import (
    POOL_OPTION_NAMES,
    PoolOptions,
    RetryPolicy,
    TransactionOptions,
)

DEADLINES = (
    "acquire_timeout",
    "check_timeout",
    "close_timeout",
    "connect_timeout",
    "reset_timeout",
)
SWITCHED_OFF_BY_NONE = ("idle_timeout", "leak_after", "max_lifetime", "shed_after")
NO_SECONDS = (-1, -0.001, math.inf, -math.inf, math.nan, "5", True, [])


def test_the_defaults_are_those_of_the_documentation():
    assert dataclasses.asdict(PoolOptions()) == {
        "min_size": 0,
        "max_size": 10,
        "acquire_timeout": 30,
        "max_waiting": 0,
        "max_lifetime": 3600,
        "idle_timeout": 600,
        "max_uses": 0,
        "check": "idle",
        "check_after": 30,
        "reset": "auto",
        "leak_after": None,
        "shed_after": None,
        "connect_timeout": 10,
        "check_timeout": 5,
        "reset_timeout": 5,
        "close_timeout": 5,
        "name": "pool",
    }


def test_every_deadline_is_finite_by_default():
    options = PoolOptions()
    assert all(0 < getattr(options, name) < math.inf for name in DEADLINES)


@pytest.mark.parametrize("value", [*NO_SECONDS, None])
@pytest.mark.parametrize("name", [*DEADLINES, "check_after"])
def test_a_deadline_that_is_no_finite_number_of_seconds_is_refused_by_name(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name} must be a number of seconds") as caught:
        PoolOptions(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", NO_SECONDS)
@pytest.mark.parametrize("name", SWITCHED_OFF_BY_NONE)
def test_what_none_switches_off_is_refused_for_other_non_numbers(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name} must be .*, or None, not "):
        PoolOptions(**{name: value})


@pytest.mark.parametrize("name", SWITCHED_OFF_BY_NONE)
def test_none_switches_off(name):
    assert getattr(PoolOptions(**{name: None}), name) is None


@pytest.mark.parametrize("value", [-1, 1.5, "10", None, True])
@pytest.mark.parametrize("name", ["min_size", "max_size", "max_waiting", "max_uses"])
def test_a_size_that_is_no_whole_number_is_refused_by_name(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name} must be a whole number") as caught:
        PoolOptions(**{name: value})
    assert repr(value) in str(caught.value)


def test_a_pool_without_room_for_one_connection_is_refused():
    with pytest.raises(ConfigurationError, match="max_size must be a whole number, 1 or more"):
        PoolOptions(max_size=0)


def test_max_size_below_min_size_is_refused_with_both_numbers_and_the_cure():
    with pytest.raises(ConfigurationError) as caught:
        PoolOptions(min_size=5, max_size=4)
    assert str(caught.value) == ("max_size=4 is below min_size=5: raise max_size or lower min_size")


def test_equal_sizes_make_a_pool_of_fixed_size():
    assert PoolOptions(min_size=4, max_size=4).max_size == 4


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("check", ("never", "idle", "always")), ("reset", ("auto", "always", "never"))],
)
def test_a_choice_that_does_not_exist_lists_those_that_do(name, allowed):
    for value in allowed:
        assert getattr(PoolOptions(**{name: value}), name) == value
    with pytest.raises(ConfigurationError) as caught:
        PoolOptions(**{name: "sometimes"})
    names = ", ".join(map(repr, allowed))
    assert str(caught.value) == f"{name} must be one of {names}, not 'sometimes'"


@pytest.mark.parametrize("options", [PoolOptions(), RetryPolicy(), TransactionOptions()])
def test_options_cannot_be_changed_afterwards(options):
    name = dataclasses.fields(options)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, name, 1)


@pytest.mark.parametrize("cls", [PoolOptions, RetryPolicy, TransactionOptions])
def test_options_are_given_by_name_only(cls):
    with pytest.raises(TypeError):
        cls(1)


def test_the_names_of_the_pool_options_are_known_to_whoever_sorts_options():
    assert {field.name for field in dataclasses.fields(PoolOptions)} == POOL_OPTION_NAMES


@pytest.mark.parametrize("name", ["backoff", "max_backoff", "max_elapsed"])
@pytest.mark.parametrize("value", NO_SECONDS)
def test_a_retry_policy_refuses_what_is_no_time(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name} must be a number of seconds"):
        RetryPolicy(**{name: value})


def test_a_retry_policy_may_have_no_end_but_not_a_negative_number_of_retries():
    assert RetryPolicy(max_elapsed=None).max_elapsed is None
    with pytest.raises(ConfigurationError, match="^max_retries must be a whole number, 0 or more"):
        RetryPolicy(max_retries=-1)


@pytest.mark.parametrize(
    "level", ["read uncommitted", "read committed", "repeatable read", "serializable"]
)
def test_the_standard_names_of_isolation_are_accepted(level):
    assert TransactionOptions(isolation=level).isolation == level


@pytest.mark.parametrize("level", ["snapshot", "SERIALIZABLE", "repeatable_read", ""])
def test_another_isolation_is_refused_and_the_four_are_listed(level):
    with pytest.raises(ConfigurationError, match="^isolation must be one of 'read uncommitted', "):
        TransactionOptions(isolation=level)


def test_an_unknown_lock_mode_is_refused():
    with pytest.raises(
        ConfigurationError, match="'deferred', 'immediate', 'exclusive', not 'eager'"
    ):
        TransactionOptions(mode="eager")


def test_a_transaction_that_asks_for_nothing_is_the_default_one():
    assert TransactionOptions().is_default
    assert not TransactionOptions(read_only=True).is_default
    assert not TransactionOptions(isolation="read committed").is_default
