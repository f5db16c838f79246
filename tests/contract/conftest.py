"""Fixtures of the contract suite: the dialect, a small table, and an engine with one connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

import aiodbkit

from .dialects import DIALECTS, Dialect

PEOPLE = [(1, "Ann", 7), (2, "Bob", 7), (3, "Cy", 8), (4, "Dee", None)]


@pytest.fixture
def sql(backend: str) -> Dialect:
    """The SQL of the backend at hand."""
    return DIALECTS[backend]


@pytest.fixture
async def people(db: aiodbkit.Engine) -> list[tuple[int, str, int | None]]:
    """A table of four people; the rows as tuples."""
    await db.execute(
        "create table people (id integer primary key, name varchar(100) not null, team integer)"
    )
    await db.execute_many(
        "insert into people (id, name, team) values (:i, :n, :t)",
        [{"i": number, "n": name, "t": team} for number, name, team in PEOPLE],
    )
    return list(PEOPLE)


@pytest.fixture
async def one(make_engine: Callable[..., Awaitable[aiodbkit.Engine]]) -> aiodbkit.Engine:
    """An engine with a single connection: what one borrower leaves behind, the next one meets."""
    return await make_engine(max_size=1, acquire_timeout=20)
