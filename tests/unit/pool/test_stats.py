"""What the pool tells about itself."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import ConfigurationError, PoolOverloadedError, PoolTimeoutError
from aiodbkit.pool.stats import percentiles, recent_times
from tests.unit.pool.scripted import Script, about, settle, start, waiting
from tests.virtual_time import virtual_time


@virtual_time
async def test_counters_are_exact():
    async with (script := Script()).pool(max_size=2, max_waiting=1) as pool:
        one, two = await asyncio.gather(pool.acquire(), pool.acquire())
        with pytest.raises(PoolTimeoutError):
            await pool.acquire(timeout=0)
        waiter = start(pool.acquire())
        await waiting(pool, 1)
        with pytest.raises(PoolOverloadedError):
            await pool.acquire()
        stats = pool.stats()
        assert (stats.size, stats.idle, stats.in_use, stats.waiting) == (2, 0, 2, 1)
        assert (stats.opened, stats.closed, stats.acquired) == (2, 0, 2)
        assert (stats.timeouts, stats.overloads, stats.errors) == (1, 1, 0)
        one.resource.dirty = True
        script.fail("clean", OSError("broken"))
        pool.release(one)
        pool.release(two)
        pool.release(await waiter)
        await settle()
        stats = pool.stats()
        assert (stats.in_use, stats.waiting, stats.closed, stats.errors) == (0, 0, 1, 1)
        assert stats.acquired == 3
        assert stats.hold_time.count == 3


@virtual_time
async def test_a_timeout_says_who_holds_the_connections_and_what_to_do():
    async with Script().pool(max_size=1, name="orders") as pool:
        held = asyncio.Event()

        async def hold():
            async with pool.acquire():
                held.set()
                await asyncio.Event().wait()

        holder = asyncio.create_task(hold(), name="report-job")
        await held.wait()
        with pytest.raises(PoolTimeoutError) as caught:
            await pool.acquire(timeout=2)
        holder.cancel()
        await settle()
    text = str(caught.value)
    assert "orders" in text
    assert "1 of 1 in use" in text
    assert "task 'report-job' for" in text
    assert "raise max_size" in text


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_size": 0}, "max_size must be a whole number, 1 or more, not 0"),
        ({"min_size": 3, "max_size": 2}, "max_size=2 is below min_size=3"),
        ({"acquire_timeout": -1}, "acquire_timeout must be a number of seconds"),
        ({"connect_timeout": float("nan")}, "connect_timeout must be a number of seconds"),
        ({"check": "sometimes"}, "check must be one of 'never', 'idle', 'always'"),
        ({"max_uses": True}, "max_uses must be a whole number"),
    ],
)
def test_a_bad_option_is_refused_by_name(options, complaint):
    with pytest.raises(ConfigurationError) as caught:
        Script().pool(**options)
    assert complaint in str(caught.value)


@virtual_time
async def test_resizing_refuses_what_the_constructor_would():
    async with Script().pool(max_size=2) as pool:
        with pytest.raises(ConfigurationError, match="below min_size"):
            await pool.resize(min_size=3)
        assert (pool.min_size, pool.max_size) == (0, 2)


def test_percentiles_are_those_of_the_latest_times():
    times = recent_times()
    times.extend([1000.0] * 5000)
    times.extend(number / 1000 for number in range(1, 4097))
    found = percentiles(times)
    assert found.count == 4096
    assert found.max == 4.096
    assert found.p50 == pytest.approx(2.048, rel=0.01)
    assert found.p99 == pytest.approx(4.055, rel=0.01)
    assert found.mean == pytest.approx(2.0485)


def test_an_empty_distribution_is_all_zeros():
    found = percentiles(recent_times())
    assert (found.count, found.p50, found.max) == (0, 0.0, 0.0)


@virtual_time
async def test_times_are_exact():
    script = Script(connect=0.2)
    async with script.pool(max_size=1) as pool:

        async def hold(length):
            async with pool.acquire():
                await asyncio.sleep(length)

        await asyncio.gather(hold(1), hold(2), hold(3))
        stats = pool.stats()
    assert (stats.wait_time.count, stats.hold_time.count, stats.connect_time.count) == (3, 3, 1)
    assert stats.connect_time.max == about(0.2)
    assert stats.wait_time.max == about(3.2)
    assert stats.wait_time.p50 == about(1.2)
    assert stats.hold_time.max == about(3)
    assert stats.hold_time.mean == about(2)


@virtual_time
async def test_each_connection_is_counted_once_wherever_it_is():
    script = Script(connect=1, ping=1, clean=1)

    def counted():
        stats = pool.stats()
        assert stats.size == len(pool._keeper.slots)
        return stats.size, stats.idle, stats.in_use, stats.waiting

    async with script.pool(max_size=2, check="always") as pool:
        assert counted() == (0, 0, 0, 0)
        first = start(pool.acquire())
        await waiting(pool, 1)
        assert counted() == (1, 0, 0, 1)  # connecting
        lease = await first
        assert counted() == (1, 0, 1, 0)  # lent
        lease.resource.dirty = True
        pool.release(lease)
        assert counted() == (1, 0, 0, 0)  # being cleaned
        await asyncio.sleep(2)
        assert counted() == (1, 1, 0, 0)  # idle
        second = start(pool.acquire())
        await waiting(pool, 1)
        assert counted() == (1, 0, 0, 1)  # being checked
        pool.release(await second)
        assert counted() == (1, 1, 0, 0)
    assert counted() == (0, 0, 0, 0)
    stats = pool.stats()
    assert (stats.opened, stats.closed, stats.acquired, stats.errors) == (1, 1, 2, 0)


@virtual_time
async def test_the_figures_have_the_names_that_opentelemetry_gives_them():
    script = Script(connect=0.2)
    async with script.pool(min_size=2, max_size=4, name="orders") as pool:
        async with pool.acquire():
            await asyncio.sleep(3)
        async with pool.acquire():
            found = list(pool.stats().measurements())
    assert all(each.attributes["db.client.connection.pool.name"] == "orders" for each in found)
    assert {
        (each.name.removeprefix("db.client.connection."), *list(each.attributes.values())[1:]): (
            round(each.value, 6),
            each.unit,
        )
        for each in found
        if each.attributes.get("quantile") in (None, "0.99")
    } == {
        ("count", "idle"): (1, "{connection}"),
        ("count", "used"): (1, "{connection}"),
        ("idle.max",): (4, "{connection}"),
        ("idle.min",): (2, "{connection}"),
        ("max",): (4, "{connection}"),
        ("pending_requests",): (0, "{request}"),
        ("timeouts",): (0, "{timeout}"),
        ("create_time", "0.99"): (0.2, "s"),
        ("wait_time", "0.99"): (0, "s"),
        ("use_time", "0.99"): (3, "s"),
    }
