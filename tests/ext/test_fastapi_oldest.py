"""The tests of FastAPI and Starlette pass on the oldest versions that are supported, too.

pip puts those into a folder of their own, which hides the installed ones. Where it cannot, this is
skipped; ``AIODBKIT_REQUIRE`` with ``oldest`` in it makes that a failure.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.servers.environment import may_install, required

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TESTS = sorted(
    {*HERE.glob("test_fastapi*.py"), *HERE.glob("test_starlette*.py"), HERE / "test_lifespan.py"}
    - {Path(__file__)}
)
LIMIT = 50  # seconds


def lower_bounds():
    """Return the oldest versions that the package's extras allow, by name."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    found = (re.match(r"(\w+)>=([\d.]+)", extras[name][0]) for name in ("fastapi", "starlette"))
    return {bound[1]: bound[2] for bound in found}


def refuse(reason):
    if "oldest" in required():
        pytest.fail(f"AIODBKIT_REQUIRE names oldest, but {reason}", pytrace=False)
    pytest.skip(reason)


def python(*arguments, **variables):
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(
        command,
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.fixture(scope="module")
def oldest(tmp_path_factory):
    """Return the environment in which the oldest versions are the ones that are imported."""
    if not may_install():
        refuse("AIODBKIT_TEST_INSTALL=0 forbids to install the oldest FastAPI")
    folder = tmp_path_factory.mktemp("oldest")
    pins = [f"{name}=={version}" for name, version in lower_bounds().items()]
    # Without what they depend on, which is installed and new.
    options = ["--quiet", "--no-deps", "--retries=1", "--timeout=10", "--target", folder]
    done = python("-m", "pip", "install", *options, *pins)
    if done.returncode != 0:
        refuse(f"pip could not install {' '.join(pins)}: {done.stderr.strip()[-300:]}")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_the_oldest_versions_are_the_ones_that_are_imported(oldest):
    for name, version in lower_bounds().items():
        said = python("-c", f"import {name}; print({name}.__version__)", **oldest).stdout
        assert f"{said.strip()}.".startswith(f"{version}.")


def test_the_tests_pass_on_the_oldest_versions(oldest, backend, url):
    server = {} if backend == "sqlite" else {f"AIODBKIT_TEST_{backend.upper()}_URL": url}
    # Those that need no database go with the first one.
    others = {"sqlite": "not postgres and not mysql", "postgres": "postgres", "mysql": "mysql"}
    options = ["-q", "-p", "no:cacheprovider", "-m", others[backend]]
    done = python("-m", "pytest", *options, *TESTS, **oldest, **server)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= 5  # none of the files was skipped as a whole
