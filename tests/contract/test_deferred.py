"""Deferred engines: made at module level, told at run time which database they are."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

import pytest

import aiodbkit
from aiodbkit import ConfigurationError, InterfaceError, RetryPolicy


@pytest.fixture
async def deferred(backend, url):
    name = {"sqlite": "SQLiteEngine", "postgres": "PostgresEngine", "mysql": "MySQLEngine"}[backend]
    db = getattr(aiodbkit, name)(None, max_size=3)
    yield db
    if db._pool is not None:
        await db.close(timeout=2)


async def test_it_is_one_like_others_once_it_was_told(deferred, url):
    deferred.init(url)
    assert await deferred.fetch_val("select 1") == 1
    assert deferred.pool_options.max_size == 3  # what it was made with holds


async def test_what_init_says_goes_before_what_it_was_made_with(deferred, url):
    deferred.init(url, max_size=2)
    assert deferred.pool_options.max_size == 2


@pytest.mark.parametrize(
    "use",
    [
        lambda db: db.connect(),
        lambda db: db.fetch_val("select 1"),
        lambda db: db.execute("select 1"),
        lambda db: anext(db.iterate("select 1")),
        lambda db: db.connection().__aenter__(),
        lambda db: db.connection(shared=True).__aenter__(),
        lambda db: db.transaction().__aenter__(),
        lambda db: db.execution_context().__aenter__(),
        lambda db: db.session().__aenter__(),
        lambda db: db.__aenter__(),
        lambda db: db.pool,
        lambda db: db.capabilities,
    ],
)
async def test_used_before_it_says_what_to_do(deferred, use):
    async def call() -> Any:
        made = use(deferred)
        if hasattr(made, "__await__"):
            made = await made
        if hasattr(made, "fetch_val"):
            await made.fetch_val("select 1")

    with pytest.raises(InterfaceError, match=r'init\("'):
        await call()


async def test_it_is_no_problem_to_close_it_or_to_show_it(deferred):
    await deferred.close()
    assert "deferred" in repr(deferred)
    assert not deferred.is_connected


async def test_decorators_come_before_it_is_told(deferred, url):
    @deferred.transaction(retry=RetryPolicy(max_retries=1, backoff=0))
    async def write():
        await deferred.execute("insert into item (id) values (1)")

    @deferred.connection()
    async def read():
        return await deferred.fetch_val("select count(*) from item")

    @deferred.retry
    async def read_again():
        return await deferred.fetch_val("select count(*) from item")

    with pytest.raises(InterfaceError, match="deferred"):
        await write()
    deferred.init(url)
    await deferred.execute("create table item (id integer)")
    await write()
    assert await read() == await read_again() == 1


async def test_an_engine_that_has_its_database_is_not_told_another(deferred, url):
    deferred.init(url)
    await deferred.connect()
    with pytest.raises(InterfaceError, match=r"close\(\) it first"):
        deferred.init(url)
    await deferred.close()
    deferred.init(url)
    assert await deferred.fetch_val("select 1") == 1


async def test_init_refuses_what_the_constructor_refuses(deferred, url):
    with pytest.raises(ConfigurationError, match="no_such_option"):
        deferred.init(url, no_such_option=1)
    with pytest.raises(ConfigurationError, match="begin with"):
        deferred.init("oracle://host/db")
    deferred.init(url)
    assert await deferred.fetch_val("select 1") == 1


# Backends of others.


@pytest.fixture
def backend_of_mine(monkeypatch):
    factory = importlib.import_module("aiodbkit.factory")
    monkeypatch.setattr(factory, "_registered", {})

    class MineEngine(aiodbkit.SQLiteEngine):
        schemes = ("mine", "mine+aiosqlite")

    return MineEngine


async def test_a_backend_that_was_registered_is_chosen_by_its_scheme(backend_of_mine, tmp_path):
    aiodbkit.register_backend("mine", backend_of_mine)
    async with aiodbkit.create_engine(f"mine:///{tmp_path / 'x.db'}") as db:
        assert type(db) is backend_of_mine
        assert await db.fetch_val("select 1") == 1


async def test_an_installed_package_can_bring_a_backend(backend_of_mine, monkeypatch, tmp_path):
    class EntryPoint:
        name = "mine"

        def load(self):
            return backend_of_mine

    def entry_points(*, group):
        return [EntryPoint()] if group == "aiodbkit.backends" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    async with aiodbkit.create_engine(f"mine:///{tmp_path / 'x.db'}") as db:
        assert type(db) is backend_of_mine
    with pytest.raises(ConfigurationError, match="mine"):
        aiodbkit.create_engine("mien://")


def test_what_is_no_engine_is_no_backend():
    with pytest.raises(ConfigurationError, match="class of engines"):
        aiodbkit.register_backend("mine", object)
