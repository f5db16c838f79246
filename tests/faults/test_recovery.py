"""What the first caller pays whose pool's idle connections have all died with their server.

One connect, and one round trip where only that can tell: counted, not timed. The time is
reported, and printed with ``-s``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import aiodbkit
from tests.faults.load import MariaDB, Postgres, Server
from tests.servers.wire import WireProxy

Proxies = Callable[[str], Awaitable[WireProxy]]
COUNTS = pytest.mark.parametrize("number", [2, 8, 32])


async def fill(db: aiodbkit.Engine, number: int) -> None:
    """Have so many connections open, and idle."""
    leases = [await db.pool.acquire() for _ in range(number)]
    for lease in leases:
        await db.pool.release(lease)
    assert db.pool.stats().idle == number


async def first_answer(db: aiodbkit.Engine) -> float:
    """Return in how many seconds the first caller is served."""
    clock = asyncio.get_running_loop().time
    began = clock()
    assert await db.fetch_val("select 41") == 41
    return clock() - began


class FirstCaller:
    """The tests, for each server."""

    @pytest.fixture
    def report(self, request: pytest.FixtureRequest, record_property: Any) -> Any:
        def report(took: float) -> None:
            record_property("recovery_seconds", took)
            print(f"\n{request.node.nodeid.partition('::')[2]}: served in {took * 1000:.1f} ms")

        return report

    @COUNTS
    async def test_pays_one_connect_for_any_number_of_deaths(
        self, number: int, server: Server, wire_proxy: Proxies, report: Any
    ) -> None:
        proxy = await wire_proxy(server.url)
        async with aiodbkit.create_engine(proxy.url, max_size=32) as db:
            await fill(db, number)
            await server.control.kill()
            await server.control.start()
            before, accepted = db.pool.stats(), proxy.accepted
            took = await first_answer(db)
            after = db.pool.stats()
            assert after.opened - before.opened == 1
            assert after.errors == before.errors
            assert proxy.accepted - accepted == 1
            assert after.size == 1, "the dead ones are gone"
        report(took)

    @COUNTS
    async def test_pays_one_round_trip_more_where_only_that_can_tell(
        self, number: int, server: Server, wire_proxy: Proxies, report: Any
    ) -> None:
        proxy = await wire_proxy(server.url)
        async with aiodbkit.create_engine(proxy.url, max_size=32, check="always") as db:
            await fill(db, number)
            # A peer that has vanished without a word and is back: the first packet is answered
            # by a reset, and so would be those of all the other connections.
            proxy.hole("down")
            before, accepted = db.pool.stats(), proxy.accepted

            def reset(_: Any) -> None:
                proxy.cut()
                proxy.heal()

            asked = asyncio.ensure_future(proxy.seen())
            asked.add_done_callback(reset)
            took = await first_answer(db)
            after = db.pool.stats()
            assert asked.done()
            assert after.errors - before.errors == 1, "one check has failed"
            assert after.opened - before.opened == 1
            assert proxy.accepted - accepted == 1
            assert after.size == 1, "the dead ones are gone"
        report(took)


class TestPostgres(FirstCaller):
    @pytest.fixture
    def server(self, private_postgres: Any) -> Server:
        return Postgres(private_postgres)


class TestMariaDB(FirstCaller):
    @pytest.fixture
    def server(self, private_mysql: Any) -> Server:
        return MariaDB(private_mysql)
