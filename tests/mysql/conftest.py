"""A MySQL engine by whichever driver the run is for, and a session that looks on."""

from __future__ import annotations

import pytest

from tests.faults.mysql_support import bare


@pytest.fixture
async def db(mysql_engine):
    return await mysql_engine()


@pytest.fixture
async def witness(mysql_url):
    async with bare(mysql_url) as connection:
        yield connection
