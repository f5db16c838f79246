"""What a newcomer does with the pages in hand: type them off into a file, and run it, twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aiodbkit

ROOT = Path(__file__).parent.parent.parent
TESTED = Path(aiodbkit.__file__).parent.parent

_EXAMPLE = re.compile(r"(<!-- needs: .+? -->\n+)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MAIN = re.compile(r"^async def main\(\).*?^asyncio\.run\(main\(\)\)\n", re.MULTILINE | re.DOTALL)


def examples_of(page):
    """Return the examples of a page that run on SQLite."""
    found = _EXAMPLE.findall((ROOT / page).read_text(encoding="utf-8"))
    return [code for needs, code in found if not needs]


def run(file):
    done = subprocess.run(
        [sys.executable, "-W", "error", file.name],
        cwd=file.parent,
        env={**os.environ, "PYTHONPATH": str(TESTED)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_runs_as_often_as_one_likes(tmp_path):
    file = tmp_path / "shop.py"
    file.write_text(examples_of("README.md")[0], encoding="utf-8")
    assert run(file) == run(file) == "tea: 3 left\nmug: 0 left\n"


def test_the_file_of_the_tutorial_runs_at_every_step(tmp_path):
    pytest.importorskip("fastapi")
    file, text, steps = tmp_path / "ledger.py", "", 0
    for code in examples_of("docs/tutorial.md"):
        text = _MAIN.sub("", text) + code  # "the last main in the place of the one before"
        file.write_text(text, encoding="utf-8")
        run(file)
        steps += "asyncio.run(main())" in code
    assert steps == 10
