"""Which driver an engine takes: by the URL's scheme, by driver=, as an option or in the URL."""

from __future__ import annotations

import pytest

import aiodbkit
from aiodbkit import ConfigurationError


def class_of(url, **options):
    return type(aiodbkit.create_engine(url, **options)._driver).__name__


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("sqlite+apsw://", {}),
        ("sqlite://", {"driver": "apsw"}),
        ("sqlite://?driver=apsw", {}),
        ("sqlite+apsw://?driver=apsw", {"driver": "apsw"}),
        ("sqlite://?driver=aiosqlite", {"driver": "apsw"}),  # a keyword wins
    ],
)
def test_all_ways_to_say_it_are_one(url, options):
    pytest.importorskip("apsw")
    assert class_of(url, **options) == class_of("sqlite+apsw://") != class_of("sqlite://")


def test_none_is_the_default():
    assert class_of("sqlite://", driver=None) == class_of("sqlite+aiosqlite://")


def test_a_deferred_engine_is_told_by_either():
    pytest.importorskip("apsw")
    db = aiodbkit.SQLiteEngine(None, driver="apsw")
    db.init("sqlite://")
    assert type(db._driver).__name__ == class_of("sqlite+apsw://")


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("sqlite://", {"driver": "nope"}, r"'nope'.*aiosqlite.*apsw"),
        ("sqlite://?driver=nope", {}, r"'nope'.*aiosqlite.*apsw"),
        ("sqlite://", {"driver": 3}, "3"),
        ("sqlite+aiosqlite://", {"driver": "apsw"}, "scheme says 'aiosqlite'"),
        ("sqlite+aiosqlite://?driver=apsw", {}, "scheme says 'aiosqlite'"),
        ("sqlite+nope://", {}, r"sqlite\+nope"),
    ],
)
def test_what_cannot_be_is_refused(url, options, says):
    with pytest.raises(ConfigurationError, match=says):
        aiodbkit.create_engine(url, **options)
