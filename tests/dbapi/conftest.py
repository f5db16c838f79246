"""Engines over three modules, each on an empty database.

=================  =====================================================================
``module``         ``"sqlite3"``, ``"psycopg2"``, ``"pymysql"``: the test runs on each
``make_dbapi``     ``await make_dbapi(**options)``: an engine over that module
``db``             ``await make_dbapi()``
``connect_args``   keywords for the module's ``connect()``
=================  =====================================================================
"""

from __future__ import annotations

import threading
from contextlib import AsyncExitStack

import pytest

from aiodbkit import DBAPIEngine
from tests.contract.dialects import DIALECTS, split_url

BACKENDS = {"sqlite3": "sqlite", "psycopg2": "postgres", "pymysql": "mysql"}


def keywords(name, url):
    """The parts of a URL as the module calls them."""
    parts = split_url(url)
    if name == "psycopg2":
        parts["dbname"] = parts.pop("database")
    return parts


@pytest.fixture(
    params=[pytest.param(n, marks=getattr(pytest.mark, b)) for n, b in BACKENDS.items()]
)
def module(request):
    return pytest.importorskip(request.param)


@pytest.fixture
def sql(module):
    return DIALECTS[BACKENDS[module.__name__]]


@pytest.fixture
def connect_args(request, module):
    url = request.getfixturevalue(f"{BACKENDS[module.__name__]}_url")
    return keywords(module.__name__, url)


@pytest.fixture
async def make_dbapi(module, connect_args):
    async with AsyncExitStack() as stack:

        async def make(creator=None, /, **options):
            given = options if creator is not None else {**connect_args, **options}
            engine = DBAPIEngine(module if creator is None else creator, **given)
            stack.push_async_callback(engine.close, timeout=2)
            await engine.connect()
            return engine

        yield make


@pytest.fixture
async def db(make_dbapi):
    return await make_dbapi()


@pytest.fixture
async def people(db):
    await db.execute("create table people (id integer primary key, name varchar(100) not null)")
    rows = [(1, "Ann"), (2, "Bob"), (3, "50% :off ?")]
    await db.insert_many("people", rows, columns=["id", "name"])
    return rows


def workers():
    return [one for one in threading.enumerate() if one.name.startswith("aiodbkit-")]


@pytest.fixture(autouse=True)
def _no_worker_survives():
    before = set(workers())
    yield
    left = [one for one in workers() if one not in before]
    for thread in left:
        thread.join(5)
    assert not [thread.name for thread in left if thread.is_alive()]
