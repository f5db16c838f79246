"""Engines over apsw, whatever driver the other tests use."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

import aiodbkit


def pytest_collection_modifyitems(items):
    for item in items:
        if "sqlite_apsw" in item.path.parts:
            item.add_marker("sqlite")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.db"


@pytest.fixture
async def make(path):
    """``await make(**options)``: a connected engine on ``path``, or in memory."""
    async with AsyncExitStack() as stack:

        async def make(database=path, **options):
            engine = aiodbkit.SQLiteEngine(driver="apsw", database=database, **options)
            stack.push_async_callback(engine.close, timeout=2)
            await engine.connect()
            return engine

        yield make


@pytest.fixture(params=["file", "memory"])
async def db(request, make, path):
    return await make(path if request.param == "file" else ":memory:")
