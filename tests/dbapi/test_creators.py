"""What can be given to DBAPIEngine: modules, functions, options; and what is refused, and how."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import types
from typing import ClassVar

import pytest

import aiodbkit
from aiodbkit import DBAPIEngine

from .conftest import workers


async def test_a_function_of_the_users_opens_the_connections_on_their_threads(
    make_dbapi, module, connect_args
):
    opened_on = []

    def connect():
        opened_on.append(threading.current_thread())
        return module.connect(**connect_args)

    db = await make_dbapi(connect, max_size=2)
    assert await db.fetch_val("select 1") == 1
    assert opened_on == workers()[-1:]
    assert db.capabilities.isolation_levels  # the database was recognised by its connection


async def test_arguments_of_a_function_are_passed_on(tmp_path):
    def connect(path, *, answer):
        db = sqlite3.connect(path)
        db.create_function("answer", 0, lambda: answer)
        return db

    async with DBAPIEngine(connect, tmp_path / "test.db", answer=42, max_size=1) as db:
        assert await db.fetch_val("select answer()") == 42


async def test_a_connection_class_of_psycopg2_is_its_connection_factory(make_dbapi, module):
    if module.__name__ != "psycopg2":
        pytest.skip("psycopg2 alone calls it so")

    class Mine(module.extensions.connection):
        def cursor(self, *args, **kwargs):
            kwargs.setdefault("cursor_factory", MyCursor)
            return super().cursor(*args, **kwargs)

    class MyCursor(module.extensions.cursor):
        executed: ClassVar[list[str]] = []

        def execute(self, query, args=None):
            self.executed.append(query)
            return super().execute(query, args)

    db = await make_dbapi(connection_factory=Mine)
    assert await db.fetch_val("select :n::int", {"n": 7}) == 7
    assert MyCursor.executed[-1] == "select %(p1)s::int"


async def test_an_async_connection_factory_opens_the_connections_in_the_loop(tmp_path):
    async def connect():
        return sqlite3.connect(tmp_path / "test.db", check_same_thread=False)

    async with DBAPIEngine(sqlite3, connection_factory=connect) as db:
        assert await db.fetch_val("select 1") == 1


async def test_the_raw_connection_is_the_modules_and_is_not_handed_on(make_dbapi, module):
    db = await make_dbapi(max_size=1)
    async with db.connection() as conn:
        used = conn.raw
        assert type(used).__module__.partition(".")[0] == module.__name__
    async with db.connection() as conn:
        assert conn.raw is not used


async def test_a_deferred_engine_is_told_later_what_it_is(tmp_path):
    db = DBAPIEngine(None, max_size=3)
    with pytest.raises(aiodbkit.InterfaceError, match="deferred"):
        await db.fetch_val("select 1")
    db.init(sqlite3, tmp_path / "test.db")
    async with db:
        assert await db.fetch_val("select 1") == 1
        assert db.pool_options.max_size == 3


async def test_a_database_that_cannot_be_reached_is_named_without_its_password(make_dbapi, module):
    wrong = {
        "sqlite3": {"database": "/nowhere/at/all.db"},
        "psycopg2": {"host": "127.0.0.1", "port": 1, "password": "hunter2"},
        "pymysql": {"host": "127.0.0.1", "port": 1, "password": "hunter2"},
    }[module.__name__]
    db = DBAPIEngine(module, **wrong)
    with pytest.raises(aiodbkit.CannotConnectError) as caught:
        await db.fetch_val("select 1")
    assert str(wrong.get("port", wrong.get("database"))) in str(caught.value)
    assert "hunter2" not in f"{caught.value} {db!r} {db.pool}"
    await db.close()


def _no_style():
    module = types.ModuleType("half")
    module.connect = sqlite3.connect
    return module


def _no_connect():
    module = types.ModuleType("half")
    module.paramstyle, module.Error = "qmark", Exception
    return module


async def _async_function():
    """Nothing that a thread could call."""


def _coroutine():
    return _async_function()


def _unknown():
    return _Unknown()


@pytest.mark.parametrize(
    ("creator", "said"),
    [
        (7, "not a int"),
        ("sqlite:///x.db", "create_engine"),
        (_no_style(), "half is no DB-API 2.0 module: it has no paramstyle"),
        (_no_connect(), r"half has no function connect\(\)"),
        (_async_function, "connection_factory="),
    ],
    ids=["number", "url", "no paramstyle", "no connect", "async"],
)
def test_what_is_no_creator_is_refused_at_once(creator, said):
    with pytest.raises(aiodbkit.ConfigurationError, match=said):
        DBAPIEngine(creator)


@pytest.mark.parametrize(
    ("creator", "said"),
    [
        (lambda: None, "returned None, which is no DB-API 2.0 connection"),
        (lambda: 7, "returned a int"),
        (_coroutine, "returned an awaitable"),
        (_unknown, r"DBAPIEngine\(creator, dbapi=module\)"),
    ],
    ids=["None", "number", "coroutine", "unknown module"],
)
async def test_what_is_no_connection_is_refused_when_it_comes(creator, said):
    async with DBAPIEngine(creator) as db:
        with pytest.raises(aiodbkit.ConfigurationError, match=said):
            await db.fetch_val("select 1")


class _Unknown:
    """A connection that no module is known for."""

    def cursor(self):
        """Not called."""

    commit = rollback = close = cursor


class Lite(DBAPIEngine):
    schemes = ("lite",)
    module = "sqlite3"
    url_options: ClassVar = {"timeout": float}


async def test_a_derived_class_takes_urls_whose_parts_and_options_reach_the_module(tmp_path):
    used = {}

    class Named(Lite):
        def connect_options(self, target):
            used.update(target)
            return {"database": tmp_path / target["database"]}

    async with Named("lite://me:pw@there:7/test.db?timeout=2.5&max_size=2&name=db") as db:
        assert await db.fetch_val("select 1") == 1
    assert used == {
        "user": "me",
        "password": "pw",
        "host": "there",
        "port": 7,
        "database": "test.db",
    }
    assert (db.pool_options.max_size, db.pool.name) == (2, "db")
    assert set(db.driver_options()) >= {"database", "timeout"}


async def test_a_derived_class_is_registered_and_also_made_by_keywords_or_later(tmp_path):
    aiodbkit.register_backend("lite", Lite)
    path = tmp_path / "test.db"
    by_keywords, later = Lite(database=path, max_size=1), Lite(None, max_size=1)
    later.init(f"lite:///{path}")
    for db in (aiodbkit.create_engine(f"lite:///{path}?max_size=1"), by_keywords, later):
        async with db:
            await db.execute("create table if not exists t (n int)")
            assert db.pool_options.max_size == 1
    with sqlite3.connect(path) as raw:
        assert raw.execute("select count(*) from t").fetchall() == [(0,)]
    raw.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("other:///x", "Lite takes URLs that begin with lite"),
        ("lite:///x?tymeout=2", r"'tymeout' \(did you mean 'timeout'"),
        ("lite:///x?timeout=soon", "timeout"),
        ("lite://there/x", "unknown option 'host'"),
    ],
)
def test_a_url_that_a_derived_class_cannot_take_is_refused(url, said):
    with pytest.raises(aiodbkit.ConfigurationError, match=said):
        Lite(url)


def test_a_derived_class_whose_module_is_missing_says_which():
    class Missing(Lite):
        module = "no_such_module_at_all"

    with pytest.raises(aiodbkit.ConfigurationError, match="no_such_module_at_all.*not installed"):
        Missing("lite:///x")


class _OfOneThread:
    """sqlite3 as it is where SQLite was built without its mutexes."""

    __name__ = "sqlite3"
    threadsafety = 0

    def __getattr__(self, name):
        return getattr(sqlite3, name)


def test_a_module_that_threads_may_not_share_is_refused_with_the_reason():
    with pytest.raises(aiodbkit.ConfigurationError, match="threadsafety is 0.*may not share"):
        DBAPIEngine(_OfOneThread(), "x.db")


async def test_a_connection_that_is_refused_is_closed(tmp_path):
    closed = threading.Event()

    class Watched(sqlite3.Connection):
        def close(self):
            super().close()
            closed.set()

        @property
        def cursor(self):
            return None  # no DB-API connection

    async with DBAPIEngine(lambda: sqlite3.connect(tmp_path / "t", factory=Watched)) as db:
        with pytest.raises(aiodbkit.ConfigurationError, match="no DB-API 2.0 connection"):
            await db.fetch_val("select 1")
        assert await asyncio.to_thread(closed.wait, 5)


def test_an_option_that_nobody_knows_is_named_with_the_one_that_was_meant(module):
    with pytest.raises(aiodbkit.ConfigurationError, match=r"'max_sise'.*did you mean 'max_size'"):
        DBAPIEngine(module, max_sise=4)


async def test_what_a_function_raises_is_no_text_of_ours():
    def connect():
        raise ValueError("hunter2")

    async with DBAPIEngine(connect) as db:
        with pytest.raises(aiodbkit.CannotConnectError, match="ValueError was raised") as caught:
            await db.fetch_val("select 1")
    assert "hunter2" not in str(caught.value)
    assert not caught.value.is_transient
