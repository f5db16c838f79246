"""The pytest plugin, in small suites of their own, run by a pytest of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SUITE = """
import asyncio, pytest
{more}

@pytest.fixture(scope="session")
def aiodbkit_url(tmp_path_factory):  # one database for all: only a sandbox keeps them apart
    return f"sqlite:///{{tmp_path_factory.mktemp('db') / 'test.db'}}"

@{fixture}
async def people(aiodbkit_sandbox):
    await aiodbkit_sandbox.execute("create table people (name text)")
    async with aiodbkit_sandbox.transaction():
        await aiodbkit_sandbox.execute("insert into people values ('Ada')")
    return aiodbkit_sandbox

@pytest.mark.parametrize("again", [1, 2])
async def test_sandbox(people, aiodbkit_engine, again):
    assert people is aiodbkit_engine
    async with people.session() as session:
        await session.execute("insert into people values ('Bob')")
    names = await asyncio.create_task(people.fetch_column("select name from people"))
    assert names == ["Ada", "Bob"]

class TestInAClass:
    async def test_engine(self, aiodbkit_engine, aiodbkit_make_engine):
        other = await aiodbkit_make_engine("sqlite://", max_size=2)
        assert await other.fetch_val("select 1") == 1
        count = "select count(*) from sqlite_master"
        assert await aiodbkit_engine.fetch_val(count) == 0
"""

WITH_ASYNCIO = ("-p", "no:anyio")


@pytest.fixture
def run(tmp_path):
    """Run pytest on a suite; return what it printed, and how it ended."""

    def run(suite, *options, ini=""):
        (tmp_path / "test_it.py").write_text(suite)
        (tmp_path / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\n{ini}")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        # Also where the installed package names the plugin as its entry point.
        command += ["-p", "no:aiodbkit", "-p", "aiodbkit.testing.pytest_plugin", *options]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
        )

    return run


@pytest.mark.parametrize("scope", ["function", "class", "module", "package", "session"])
@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_under_pytest_asyncio_in_each_scope_of_loops(run, mode, scope):
    suite = SUITE.format(
        more=f"import pytest_asyncio\npytestmark = pytest.mark.asyncio(loop_scope={scope!r})",
        fixture=f"pytest_asyncio.fixture(loop_scope={scope!r})",
    )
    ini = f"asyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = function\n"
    done = run(suite, *WITH_ASYNCIO, ini=ini)
    assert "3 passed" in done.stdout, done.stdout


@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_under_pytest_asyncio_with_the_scope_in_the_ini_file(run, scope):
    suite = SUITE.format(more="", fixture="pytest.fixture")
    ini = (
        f"asyncio_mode = auto\nasyncio_default_fixture_loop_scope = {scope}\n"
        f"asyncio_default_test_loop_scope = {scope}\n"
    )
    done = run(suite, ini=ini)
    assert "3 passed" in done.stdout, done.stdout


@pytest.mark.parametrize("scope", ["function", "module", "session"])
@pytest.mark.parametrize("without", [("-p", "no:asyncio"), ()])
def test_under_the_plugin_of_anyio(run, scope, without):
    more = (
        "pytestmark = pytest.mark.anyio\n"
        f"@pytest.fixture(scope={scope!r})\ndef anyio_backend():\n    return 'asyncio'\n"
    )
    suite = SUITE.format(more=more, fixture="pytest.fixture")
    ini = "" if without else "asyncio_default_fixture_loop_scope = function\n"
    done = run(suite, *without, ini=ini)
    assert "3 passed" in done.stdout, done.stdout


def test_an_engine_that_lives_longer_than_a_test(run):
    done = run(
        """
import pytest, pytest_asyncio
from aiodbkit import create_engine

@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def aiodbkit_engine(tmp_path_factory):
    async with create_engine(f"sqlite:///{tmp_path_factory.mktemp('db') / 'test.db'}") as db:
        await db.execute("create table people (name text)")
        yield db

@pytest.mark.parametrize("again", [1, 2])
@pytest.mark.asyncio(loop_scope="session")
async def test_it(aiodbkit_sandbox, again):
    await aiodbkit_sandbox.execute("insert into people values ('Ada')")
    assert await aiodbkit_sandbox.fetch_val("select count(*) from people") == 1
""",
        ini="asyncio_default_fixture_loop_scope = session\n",
    )
    assert "2 passed" in done.stdout, done.stdout


PRINTS_URL = "def test_it(aiodbkit_url):\n    print('\\nURL', aiodbkit_url)\n"


def test_the_url_is_that_of_the_option_the_ini_file_or_the_environment(run, monkeypatch):
    def url(*options, ini=""):
        ini += "asyncio_default_fixture_loop_scope = function\n"
        out = run(PRINTS_URL, "-s", *options, ini=ini).stdout
        return next(line for line in out.splitlines() if line.startswith("URL"))

    assert url().startswith("URL sqlite:///")
    monkeypatch.setenv("AIODBKIT_URL", "sqlite:///env.db")
    assert url() == "URL sqlite:///env.db"
    assert url(ini="aiodbkit_url = sqlite:///ini.db\n") == "URL sqlite:///ini.db"
    option = ("--aiodbkit-url", "sqlite:///option.db")
    assert url(*option, ini="aiodbkit_url = sqlite:///ini.db\n") == "URL sqlite:///option.db"


def test_trio_and_a_missing_plugin_are_told_apart(run):
    test = "import pytest\nasync def test_it(aiodbkit_engine): pass\n"
    done = run(test, "-p", "no:asyncio")
    assert "install pytest-asyncio, or mark the test" in done.stdout
    trio = "@pytest.fixture\ndef anyio_backend(): return 'trio'\npytestmark = pytest.mark.anyio\n"
    done = run(test + trio, "-p", "no:asyncio")
    assert "aiodbkit runs on asyncio, and this test on trio" in done.stdout


def test_the_plugin_imports_no_driver():
    code = (
        "import sys, aiodbkit.testing.pytest_plugin\n"
        "print({'aiosqlite', 'asyncpg', 'aiomysql', 'sqlite3', 'pytest_asyncio'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
