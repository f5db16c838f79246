"""A pool under load from fifty tasks, while its server fails in every way.

Run alone by ``pytest -m load``; with ``-s`` each test prints its recovery time and its errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from aiodbkit import RetryPolicy
from tests.faults.load import Load, MariaDB, Postgres, Server, engine, loaded, until
from tests.servers.wire import WireProxy

pytestmark = pytest.mark.load

Proxies = Callable[[str], Awaitable[WireProxy]]
ROUNDS = 10


class Faults:
    """The tests, for each server."""

    @pytest.fixture
    def broken(
        self, server: Server, request: pytest.FixtureRequest, record_property: Any
    ) -> Callable[..., Any]:
        """`async with broken() as load:` a block that breaks what the load runs on.

        At its end: how long it takes to recover, and what must hold afterwards.
        """

        @asynccontextmanager
        async def block(url: str = server.url) -> AsyncIterator[Load]:
            async with engine(url) as db:
                async with loaded(db, server) as load:
                    await load.everybody_succeeds()
                    usual = await load.recovery()
                    yield load
                    took = await load.recovery()
                    await load.everybody_succeeds()
                await load.check()
                stats = db.pool.stats()
            record_property("recovery_seconds", took)
            print(
                f"\n{request.node.nodeid.partition('::')[2]}: recovered in {took * 1000:.0f} ms "
                f"(unbroken: {usual * 1000:.0f} ms), {stats.opened} connects, "
                f"{stats.errors} failures of the pool; {load.summary()}"
            )

        return block

    async def test_a_server_killed_and_restarted(self, server: Server, broken: Any) -> None:
        async with broken() as load:
            with bounded_by_one_prober(load):
                await server.control.kill()
                failed = load.db.pool.stats().errors
                await until(lambda: load.db.pool.stats().errors >= failed + 3)
                await server.control.start()

    async def test_a_server_frozen_for_five_seconds(self, server: Server, broken: Any) -> None:
        async with broken() as load:
            with bounded_by_one_prober(load):
                await server.control.freeze()
                await asyncio.sleep(5)
                await server.control.thaw()

    async def test_all_sessions_ended_by_an_administrator(
        self, server: Server, broken: Any
    ) -> None:
        async with broken() as load:
            for _ in range(ROUNDS):
                await server.end_sessions()
                await load.goes_on(100)

    async def test_the_wire_cut(self, server: Server, broken: Any, wire_proxy: Proxies) -> None:
        proxy = await wire_proxy(server.url)
        async with broken(proxy.url) as load:
            for _ in range(ROUNDS):
                proxy.cut()
                await load.goes_on(100)

    async def test_the_wire_cut_behind_a_commit(
        self, server: Server, broken: Any, wire_proxy: Proxies
    ) -> None:
        proxy = await wire_proxy(server.url)
        async with broken(proxy.url) as load:
            for _ in range(ROUNDS):
                await proxy.seen(b"COMMIT")
                proxy.hole("down")
                await server.ask("select 1")  # by then it has most likely committed
                proxy.cut()
                proxy.heal()
                await load.goes_on(100)
            assert load.errors["CommitUnknownError"] >= ROUNDS / 2

    async def test_a_black_hole_that_heals(
        self, server: Server, broken: Any, wire_proxy: Proxies
    ) -> None:
        proxy = await wire_proxy(server.url)
        async with broken(proxy.url) as load:
            await swallowed(proxy, load)
            proxy.heal()

    async def test_a_black_hole_whose_connections_never_come_back(
        self, server: Server, broken: Any, wire_proxy: Proxies
    ) -> None:
        proxy = await wire_proxy(server.url)
        async with broken(proxy.url) as load:
            await swallowed(proxy, load)
            proxy.cut()
            proxy.heal()


@contextmanager
def bounded_by_one_prober(load: Load) -> Iterator[None]:
    """In the block no more connects fail than one prober makes, after a first wave."""
    clock, pool = asyncio.get_running_loop().time, load.db.pool
    began, failed = clock(), pool.stats().errors
    yield
    wave = 2 * pool.max_size  # those that were being opened, and those that were being cleaned
    assert pool.stats().errors - failed <= wave + probes_within(clock() - began)


def probes_within(seconds: float) -> int:
    """How often a prober may try: each pause is at least half of what the backoff says."""
    policy = RetryPolicy()
    end, probes = 0.0, 0
    while end <= seconds:
        end += min(policy.backoff * 2**probes, policy.max_backoff) / 2
        probes += 1
    return probes


async def swallowed(proxy: WireProxy, load: Load) -> None:
    """Let everything sent disappear, until each connection has been found to be dead."""
    pool = load.db.pool
    with bounded_by_one_prober(load):
        accepted, opened = proxy.accepted, pool.stats().opened
        proxy.hole()
        # So many in all; one that was just being opened is not among them.
        await until(lambda: pool.stats().closed >= opened)
        # For each connection that is given up, two more to have its statement stopped.
        assert proxy.accepted - accepted <= 4 * pool.max_size


class TestPostgres(Faults):
    @pytest.fixture
    def server(self, private_postgres: Any) -> Server:
        return Postgres(private_postgres)


class TestMariaDB(Faults):
    @pytest.fixture
    def server(self, private_mysql: Any) -> Server:
        return MariaDB(private_mysql)
