"""A PostgreSQL engine, a primary with a standby, PgBouncer."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from tests.conftest import SERVERS
from tests.postgres.servers import Bouncer, Standby, allow_replication, find_pgbouncer
from tests.servers.environment import Unavailable, driver_of


@pytest.fixture
async def db(postgres_engine):
    return await postgres_engine()


@pytest.fixture
def asyncpg_only():
    if driver_of("postgres") not in ("asyncpg", "psycopg"):
        pytest.skip(f"not there with {driver_of('postgres')}")


@pytest.fixture
async def pair(request):
    """A primary and a standby that follows it."""
    servers = request.config.stash[SERVERS]
    try:
        primary = servers.private("postgres")
    except Unavailable as why:
        pytest.skip(str(why))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(primary.remove)
        allow_replication(primary)
        await primary.start()
        standby = Standby(primary, servers.binaries.postgres)
        stack.push_async_callback(standby.remove)
        await standby.start()
        yield primary, standby


@pytest.fixture
async def bouncer(private_postgres):
    program = find_pgbouncer()
    if program is None:
        pytest.skip("PgBouncer was not found; to run this test: apt-get install pgbouncer")
    bouncer = Bouncer(program, private_postgres)
    try:
        await bouncer.start()
        yield bouncer
    finally:
        await bouncer.remove()
