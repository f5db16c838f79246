"""The examples run as a user would run them: on SQLite with nothing set, on servers by URL."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import aiodbkit

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


def run(example, **variables):
    environment = {name: text for name, text in os.environ.items() if name != "DATABASE_URL"}
    environment["PYTHONPATH"] = str(Path(aiodbkit.__file__).parent.parent)  # the tested one
    done = subprocess.run(
        [sys.executable, "-W", "error", example],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_with_nothing_configured(example):
    assert run(example)


PARTS = re.compile(
    r"^<!-- not run: a part of (?P<file>\S+) -->\n\n```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def test_a_part_of_an_example_that_a_page_shows_is_a_part_of_it():
    shown = [
        (page.name, found["file"], found["code"])
        for page in (ROOT / "docs").rglob("*.md")
        for found in PARTS.finditer(page.read_text(encoding="utf-8"))
    ]
    assert shown
    for page, file, code in shown:
        text = (ROOT / file).read_text(encoding="utf-8")
        # One blank line is between the methods of a class, two between functions.
        ways = [code, *(textwrap.indent(code.replace("\n\n\n", "\n\n"), " " * n) for n in (4, 8))]
        assert any(f"\n{way}" in text for way in ways), f"{page} shows what {file} has not: {code}"


@pytest.mark.parametrize(
    "example",
    [path for path in EXAMPLES if "DATABASE_URL" in path.read_text(encoding="utf-8")],
    ids=lambda path: path.stem,
)
def test_an_example_says_the_same_on_every_backend(example, url):
    assert run(example, DATABASE_URL=url) == run(example)
