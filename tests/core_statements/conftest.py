"""The tables, created on the backend at hand."""

from __future__ import annotations

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import insert

from tests.core_statements.tables import Color, metadata, people


@pytest.fixture
async def db(make_engine):
    db = await make_engine()
    await db.create_all(metadata)
    return db


@pytest.fixture
async def four(db):
    """Four people."""
    rows = [
        {"id": 1, "name": "Ann", "team": 7, "color": Color.RED},
        {"id": 2, "name": "Bob", "team": 7, "color": None},
        {"id": 3, "name": "Cy", "team": 8, "color": Color.GREEN},
        {"id": 4, "name": "Dee", "team": None, "color": None},
    ]
    await db.execute_many(insert(people), rows)
    return rows
