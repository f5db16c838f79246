"""Engines over psycopg, whatever driver the other tests run on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

import aiodbkit

pytest.importorskip("psycopg")

Make = Callable[..., Awaitable[aiodbkit.Engine]]


def over_psycopg(url: str) -> str:
    return "postgresql+psycopg://" + url.partition("://")[2]


@pytest.fixture
def url(postgres_url: str) -> str:
    return over_psycopg(postgres_url)


@pytest.fixture
async def make(url: str) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def made(other: str | None = None, **options: Any) -> aiodbkit.Engine:
            given = {"acquire_timeout": 20, **options}
            engine = aiodbkit.create_engine(over_psycopg(other) if other else url, **given)
            stack.push_async_callback(engine.close, timeout=2)
            await engine.connect()
            return engine

        yield made


@pytest.fixture
async def db(make: Make) -> aiodbkit.Engine:
    db = await make()
    await db.execute("create table notes (id integer primary key, body text)")
    return db


@pytest.fixture
async def one(db: aiodbkit.Engine, make: Make) -> aiodbkit.Engine:
    """An engine with a single connection."""
    return await make(max_size=1)
