"""Fixtures for pytest: an engine per test, on a database given by option, and a sandbox in it.

=============================  ================================================================
``aiodbkit_url``               ``--aiodbkit-url``, the ini option ``aiodbkit_url`` or the
                               environment's ``AIODBKIT_URL``, in this order; without any, an
                               SQLite file of the test's own
``aiodbkit_engine_options``    options for the engine: none
``aiodbkit_make_engine``       ``await aiodbkit_make_engine(url, **options)``: a connected engine,
                               by default on ``aiodbkit_url``; closed after the test
``aiodbkit_engine``            a connected engine on ``aiodbkit_url``
``aiodbkit_sandbox``           ``aiodbkit_engine`` in a sandbox: rolled back after each test
=============================  ================================================================

Each can be overridden by a fixture of the same name: `aiodbkit_engine` by the app's own engine, for
one. They live as long as a test, and run in its event loop, under pytest-asyncio in any scope of
loops and under anyio's plugin on asyncio.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from aiodbkit.testing.fixtures import MakeEngine, for_loop_scopes, hidden_name, opened

if TYPE_CHECKING:
    from pathlib import Path

    from aiodbkit.engine import Engine

__all__ = [
    "MakeEngine",
    "aiodbkit_engine",
    "aiodbkit_engine_options",
    "aiodbkit_make_engine",
    "aiodbkit_sandbox",
    "aiodbkit_url",
    "pytest_addoption",
    "pytest_configure",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--aiodbkit-url`` and the ini option."""
    text = "the database that the fixtures of aiodbkit use"
    parser.getgroup("aiodbkit").addoption("--aiodbkit-url", metavar="URL", help=text)
    parser.addini("aiodbkit_url", text)


def pytest_configure(config: pytest.Config) -> None:
    """Put asynchronous fixtures into pytest-asyncio's hands, where it is installed."""
    if config.pluginmanager.hasplugin("asyncio"):
        from pytest_asyncio import fixture  # noqa: PLC0415 - not everybody has it

        config.pluginmanager.register(for_loop_scopes(fixture), "aiodbkit_fixtures_by_loop")


@pytest.fixture
def aiodbkit_url(request: pytest.FixtureRequest) -> str:
    """The database under test."""
    config = request.config
    given = (
        config.getoption("--aiodbkit-url")
        or config.getini("aiodbkit_url")
        or os.environ.get("AIODBKIT_URL")
    )
    if given:
        return str(given)
    folder: Path = request.getfixturevalue("tmp_path")
    return f"sqlite:///{folder / 'test.db'}"


@pytest.fixture
def aiodbkit_engine_options() -> dict[str, Any]:
    """Options of `aiodbkit_engine`: override it to give some."""
    return {}


for _kind in ("make_engine", "engine", "sandbox"):
    globals()[hidden_name(_kind, "anyio")] = pytest.fixture(
        name=hidden_name(_kind, "anyio"),
    )(opened(_kind))


@pytest.fixture
def aiodbkit_make_engine(request: pytest.FixtureRequest) -> MakeEngine:
    """``await aiodbkit_make_engine(url, **options)``: a connected engine, closed after the test."""
    found: MakeEngine = _in_the_loop_of_the_test(request, "make_engine")
    return found


@pytest.fixture
def aiodbkit_engine(request: pytest.FixtureRequest) -> Engine:
    """A connected engine on `aiodbkit_url`, closed after the test."""
    found: Engine = _in_the_loop_of_the_test(request, "engine")
    return found


@pytest.fixture
def aiodbkit_sandbox(request: pytest.FixtureRequest) -> Engine:
    """`aiodbkit_engine` in a sandbox: what the test and its fixtures do is rolled back."""
    found: Engine = _in_the_loop_of_the_test(request, "sandbox")
    return found


def _in_the_loop_of_the_test(request: pytest.FixtureRequest, kind: str) -> Any:
    return request.getfixturevalue(hidden_name(kind, _runner(request)))


def _runner(request: pytest.FixtureRequest) -> str:
    """Return who runs the test: ``"anyio"``, or the scope of pytest-asyncio's loop."""
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        name = backend if isinstance(backend, str) else backend[0]
        if name != "asyncio":
            pytest.fail(
                f"aiodbkit runs on asyncio, and this test on {name}: give it a fixture "
                'anyio_backend that returns "asyncio"',
                pytrace=False,
            )
        return "anyio"
    if not request.config.pluginmanager.hasplugin("asyncio"):
        pytest.fail(
            "the fixtures of aiodbkit are asynchronous: install pytest-asyncio, or mark the test "
            "with pytest.mark.anyio",
            pytrace=False,
        )
    marker = request.node.get_closest_marker("asyncio")
    given = {} if marker is None else marker.kwargs
    scope = given.get("loop_scope") or given.get("scope")
    return str(scope or request.config.getini("asyncio_default_test_loop_scope"))
