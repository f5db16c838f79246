"""Databases for the tests: real ones, empty at the start of each test, checked at its end.

=========================  ==============================================================
``backend``                ``"sqlite"``, ``"postgres"``, ``"mysql"``: the test runs on each
``url``                    an empty database of that backend
``make_engine``            ``await make_engine(**options)``: a connected engine on ``url``;
                           ``await make_engine(proxy.url)`` on another one
``db``                     ``await make_engine()``
``can``                    the backend's `Capabilities`
``sqlite_url`` ...         the same for one backend: ``postgres_url``, ``mysql_url``
``sqlite_engine`` ...      factories like ``make_engine``: ``postgres_engine``, ``mysql_engine``
``private_postgres``,      a server of the test's own: ``url``, ``auth_url`` (with a password),
``private_mysql``          ``ca`` and, to be awaited, ``kill``, ``start``, ``stop``,
                           ``freeze``, ``thaw``
``wire_proxy``             ``await wire_proxy(url)``: see `tests.servers.wire.WireProxy`
``tls_ca``                 the authority behind the server's certificate
=========================  ==============================================================

How servers are found, and the environment variables that steer it: `tests.servers.environment`.
"""

from __future__ import annotations

import gc
import sys
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NoReturn

import pytest

from tests.servers.environment import Unavailable, driver_of, given_url, required
from tests.servers.suite import BACKENDS, Servers
from tests.servers.wire import WireProxy

SERVERS = pytest.StashKey[Servers]()
SCHEMES = {"sqlite": "sqlite", "postgres": "postgresql", "mysql": "mysql"}


# The run: servers are looked for before the first test, within no test's time limit.


def pytest_configure(config):
    def say(line):
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(line, yellow=True)

    config.stash[SERVERS] = Servers(say)


def pytest_unconfigure(config):
    if SERVERS in config.stash:
        config.stash[SERVERS].close()


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(items):
    for item in items:
        for name in BACKENDS:
            fixtures = {f"{name}_url", f"{name}_engine", f"private_{name}"}
            if fixtures & set(item.fixturenames):
                item.add_marker(name)
        if "faults" in item.path.parts:
            item.add_marker("faults")


def pytest_collection_finish(session):
    if session.config.option.collectonly:
        return
    for name in ("postgres", "mysql"):
        if any(_needs_programs(item, name) for item in session.items):
            session.config.stash[SERVERS].prepare(name)


def _needs_programs(item, name):
    private = f"private_{name}" in item.fixturenames
    shared = item.get_closest_marker(name) is not None and given_url(name) is None
    return private or shared


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash[SERVERS].report():
        terminalreporter.write_line(line)


# Servers.


def _missing(name, why: Unavailable) -> NoReturn:
    """Skip, visibly; fail where AIODBKIT_REQUIRE names the backend."""
    if name in required():
        pytest.fail(f"AIODBKIT_REQUIRE names {name}, but {why}", pytrace=False)
    pytest.skip(str(why))


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in BACKENDS])
def backend(request):
    return request.param


@pytest.fixture
def url(request, backend):
    return request.getfixturevalue(f"{backend}_url")


@pytest.fixture
def sqlite_url(tmp_path):
    return _with_driver(f"sqlite:///{tmp_path / 'test.db'}", "sqlite")


@pytest.fixture
def postgres_url(request):
    yield from _url(request, "postgres")


@pytest.fixture
def mysql_url(request):
    yield from _url(request, "mysql")


def _with_driver(url, name):
    """The same database by the driver that AIODBKIT_TEST_DRIVERS names."""
    driver = driver_of(name)
    is_default = driver in ("aiosqlite", "asyncpg", "aiomysql")
    return url if is_default else f"{SCHEMES[name]}+{driver}://{url.partition('://')[2]}"


def _url(request, name):
    servers = request.config.stash[SERVERS]
    try:
        database = servers.database(name)
    except Unavailable as why:
        _missing(name, why)
    yield _with_driver(database.url, name)
    may_leave = request.node.get_closest_marker("leaves_sessions") is not None
    left = [] if may_leave else servers.run(database.leftovers())
    servers.run(database.wipe())
    if left:
        pytest.fail(f"{len(left)} sessions were left open: {'; '.join(left)}", pytrace=False)


@pytest.fixture
def can(backend):
    from aiodbkit import create_engine

    return create_engine(f"{SCHEMES[backend]}+{driver_of(backend)}://").capabilities


@pytest.fixture
async def private_postgres(request):
    async with _private(request, "postgres") as server:
        yield server


@pytest.fixture
async def private_mysql(request):
    async with _private(request, "mysql") as server:
        yield server


@asynccontextmanager
async def _private(request, name):
    try:
        server = request.config.stash[SERVERS].private(name)
    except Unavailable as why:
        _missing(name, why)
    try:
        await server.start()
        yield server
    finally:
        await server.remove()


@pytest.fixture
def tls_ca(request):
    """The authority of the server whose URL the test also asks for, by name or by `backend`."""
    wanted = [name for name in ("postgres", "mysql") if request.node.get_closest_marker(name)]
    if not wanted:
        pytest.skip("SQLite has no TLS")
    try:
        return request.config.stash[SERVERS].ca(wanted[0])
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture
async def wire_proxy():
    async with AsyncExitStack() as stack:

        async def make(url, *, tls=False):
            proxy = WireProxy(url, tls=tls)
            await proxy.start()
            stack.push_async_callback(proxy.close)
            return proxy

        yield make


# Engines.


@asynccontextmanager
async def _engines(url):
    from aiodbkit import create_engine

    async with AsyncExitStack() as stack:

        async def make(other_url=None, /, **options):
            engine = create_engine(other_url or url, **options)
            stack.push_async_callback(engine.close, timeout=2)
            await engine.connect()
            return engine

        yield make


@pytest.fixture
async def make_engine(url):
    async with _engines(url) as make:
        yield make


@pytest.fixture
async def sqlite_engine(sqlite_url):
    async with _engines(sqlite_url) as make:
        yield make


@pytest.fixture
async def postgres_engine(postgres_url):
    async with _engines(postgres_url) as make:
        yield make


@pytest.fixture
async def mysql_engine(mysql_url):
    async with _engines(mysql_url) as make:
        yield make


@pytest.fixture
async def db(make_engine):
    return await make_engine()


# Threads.


@pytest.fixture(autouse=True)
def no_sqlite_thread_survives():
    """A forgotten worker of aiosqlite would keep the interpreter from exiting."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    left = [thread for thread in left if _works_for_aiosqlite(thread)]
    for thread in left:
        thread.join(2)
    if alive := [thread.name for thread in left if thread.is_alive()]:
        _stop_workers()
        pytest.fail(f"{len(alive)} SQLite connections were left open: {alive}", pytrace=False)


def _works_for_aiosqlite(thread):
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", "").startswith(("aiosqlite", "aiodbkit.backends.sqlite"))


def _stop_workers():
    """Stop the workers, so that the run as a whole can end."""
    names = {"aiosqlite": "Connection", "aiodbkit.backends.sqlite.apsw.worker": "Worker"}
    kinds = tuple(getattr(sys.modules[at], name) for at, name in names.items() if at in sys.modules)
    for found in gc.get_objects():
        if isinstance(found, kinds) and found._thread.is_alive():
            found.stop()
