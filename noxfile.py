"""All checks: ``nox`` runs them, ``nox -s tests-3.12`` one of them, ``nox -l`` lists them.

Pythons that are not on this machine are skipped, visibly.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
EXAMPLES = sorted(Path("examples").glob("*.py"))  # the service runs until it is stopped
# The tests of an installed package must not find the checkout's one.
TESTED_WITHOUT_SOURCE = ("tests", "examples", "docs", "README.md", "pyproject.toml")

nox.options.sessions = ["lint", "types", "tests", "wheel", "examples"]
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
nox.needs_version = ">=2024.10"


@nox.session
def lint(session: nox.Session) -> None:
    """Run ruff: rules and format."""
    session.install("ruff>=0.9")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy and with pyright."""
    session.install("-e", ".[all,dev]", "pyright[nodejs]")
    session.run("mypy")
    session.run("pyright", "--pythonpath", shutil.which("python", path=session.bin) or "python")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on each Python."""
    session.install("-e", ".[all,dev]")
    session.run("pytest", *session.posargs)


@nox.session
def oldest(session: nox.Session) -> None:
    """Run the tests of FastAPI and Starlette on the oldest versions that are supported.

    So does ``tests`` where it can; this does nothing else, and fails where it cannot.
    """
    session.install("-e", ".[all,dev]")
    environment = {"AIODBKIT_REQUIRE": "oldest"}
    session.run("pytest", "tests/ext/test_fastapi_oldest.py", *session.posargs, env=environment)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, and run the tests on it where the source is not to be found."""
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    folder.mkdir()
    session.run("pip", "wheel", "--no-deps", "--wheel-dir", str(folder), ".", silent=True)
    (built,) = folder.glob("*.whl")
    session.install("--force-reinstall", "--no-deps", str(built))
    session.install(f"aiodbkit[all,dev] @ {built.as_uri()}")
    for name in TESTED_WITHOUT_SOURCE:
        _copy(Path(name), folder / name)
    session.chdir(folder)
    session.run("python", "-c", PROOF)
    session.run("pytest", *session.posargs)


PROOF = """
import aiodbkit, pathlib
place = pathlib.Path(aiodbkit.__file__)
assert "site-packages" in place.parts, f"{place} is not the installed package"
assert place.with_name("py.typed").exists(), "the wheel lacks py.typed"
print("testing", place)
"""


@nox.session
def examples(session: nox.Session) -> None:
    """Run each example on SQLite, as a newcomer would."""
    session.install(".")
    for example in EXAMPLES:
        session.run("python", str(example))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.exists():
        shutil.copy(source, target)
