"""Several hosts: which one is taken, and where the engine goes after a failover."""

from __future__ import annotations

import asyncio

import pytest

import aiodbkit
from aiodbkit import RetryPolicy

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

ROLE = "select case when pg_is_in_recovery() then 'standby' else 'primary' end"


@pytest.fixture
async def engine_on(pair):
    engines = []

    async def make(order, wish, **options):
        ports = [pair[("primary", "standby").index(name)].port for name in order]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs={wish}"
        engines.append(aiodbkit.create_engine(url, **options))
        return engines[-1]

    yield make
    for engine in engines:
        await engine.close(timeout=1)


@pytest.mark.parametrize(
    ("wish", "first", "taken"),
    [
        ("any", "primary", "primary"),
        ("any", "standby", "standby"),
        ("primary", "standby", "primary"),
        ("read-write", "standby", "primary"),
        ("standby", "primary", "standby"),
        ("read-only", "primary", "standby"),
        ("prefer-standby", "primary", "standby"),
    ],
)
async def test_the_host_that_is_wished_for_is_taken(engine_on, wish, first, taken):
    second = "standby" if first == "primary" else "primary"
    db = await engine_on((first, second), wish)
    assert await db.fetch_val(ROLE) == taken


async def test_without_a_standby_prefer_standby_takes_the_primary(engine_on, pair):
    await pair[1].kill()
    preferring = await engine_on(("standby", "primary"), "prefer-standby")
    assert await preferring.fetch_val(ROLE) == "primary"
    only = await engine_on(("standby", "primary"), "standby")
    with pytest.raises(aiodbkit.CannotConnectError, match="target_session_attrs"):
        await only.fetch_val(ROLE)


async def test_a_frozen_first_host_leaves_time_for_the_second(engine_on, pair):
    await pair[0].freeze()
    try:
        db = await engine_on(("primary", "standby"), "any", connect_timeout=2)
        assert await db.fetch_val(ROLE) == "standby"
    finally:
        await pair[0].thaw()


async def test_after_a_failover_the_engine_finds_the_new_primary(engine_on, pair):
    primary, _ = pair
    policy = RetryPolicy(max_retries=50, backoff=0.05, max_backoff=0.2)
    db = await engine_on(("primary", "standby"), "primary", connect_retry=policy)
    reader = await engine_on(("standby",), "any")
    await db.execute("create table t (id int)")
    await _replicated(reader)

    @db.transaction(retry=policy)
    async def add(number):
        await db.execute("insert into t values (:number)", {"number": number})

    await add(1)
    await primary.kill()
    adding = asyncio.create_task(add(2))
    assert await reader.fetch_val("select pg_promote()")
    await adding
    assert 2 in await db.fetch_column("select id from t")
    assert await db.fetch_val(ROLE) == "primary"


async def _replicated(reader):
    while not await reader.fetch_val("select to_regclass('t') is not null"):
        await asyncio.sleep(0.01)


async def test_a_write_on_a_standby_is_an_error_that_may_pass(engine_on):
    db = await engine_on(("standby",), "any")
    with pytest.raises(aiodbkit.ReadOnlyError) as caught:
        await db.execute("create table t (id int)")
    assert caught.value.is_transient


async def test_a_listener_finds_the_new_primary_too(engine_on, pair):
    primary, _ = pair
    db = await engine_on(("primary", "standby"), "primary")
    reader = await engine_on(("standby",), "any")
    async with db.listen("a") as notifications:
        await primary.kill()
        assert await reader.fetch_val("select pg_promote()")
        assert (await anext(notifications)).is_gap
        await reader.notify("a", "from the new one")
        assert (await anext(notifications)).payload == "from the new one"


async def test_a_misspelt_wish_is_told_at_once():
    with pytest.raises(aiodbkit.ConfigurationError, match=r"one of 'any', 'primary'.*'primry'"):
        aiodbkit.create_engine("postgresql://localhost/app?target_session_attrs=primry")
