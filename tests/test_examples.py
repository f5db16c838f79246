"""The examples run as a user would run them: on SQLite with nothing set, on servers by URL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import aiodbkit

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9]*.py"))


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


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_the_same_on_every_backend(example, url):
    assert run(example, DATABASE_URL=url) == run(example)
