"""The table of features is true: each row names a test that there is."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "from-peewee-and-dbutils.md"
ROW = re.compile(r"^\| (?P<there>.+?) \| (?P<here>.+?) \| (?P<shown>.+?) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:::(\w+))?`")


def rows():
    found = [match.groupdict() for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))]
    return [row for row in found if row["there"] not in ("there", "---")]


@cache
def names_in(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["there"])
def test_a_feature_has_a_test_that_shows_it(row):
    tests = TEST.findall(row["shown"])
    assert tests, "names no test"
    for path, *names in tests:
        assert (ROOT / path).is_file(), path
        assert {name for name in names if name} <= names_in(path)


def test_each_feature_is_told_once():
    there = [row["there"] for row in rows()]
    assert len(there) == len(set(there)) > 60
