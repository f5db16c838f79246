"""A PostgreSQL primary with two hot standbys, for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.replicas.support import Cluster, streaming
from tests.servers.environment import Unavailable
from tests.servers.postgres import PostgresServer


@pytest.fixture
async def cluster(private_postgres: PostgresServer) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        standbys = []
        for _ in range(2):
            try:
                standby = private_postgres.standby()
            except Unavailable as why:
                pytest.skip(str(why))
            stack.push_async_callback(standby.remove)
            await standby.start()
            standbys.append(standby)
        cluster = await stack.enter_async_context(Cluster(private_postgres, standbys))
        await streaming(cluster)
        yield cluster
