"""Connections that tasks keep or share, cancelled at every await: each comes back, clean.

As `tests.unit.test_engine_cancelled_everywhere`, whose stage and whose judgement these use.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

import pytest

from aiodbkit import ConnectionLostError, Error
from tests.unit.stepping import EVERYONE, MIXED_MOMENTS, OWN, each_pair, each_step, play, two_awaits
from tests.unit.test_engine_cancelled_everywhere import KINDS, PAIRS, perform

# What is done to the connection before it is used again: nothing, or what has it replaced.


def die(connection) -> None:
    connection._driver.abort()


def grow_old(connection) -> None:
    connection._slot.expires_at = 0.0


def get_out_of_step(connection) -> None:
    connection._driver.suspect = True


# Persistent mode


async def counted(stage, harm) -> None:
    async with stage.db.connection():
        await stage.db.execute("kept")
        await stage.transaction()
    await two_awaits()
    await stage.db.execute("kept")
    harm(stage.db.current_connection())
    await stage.transaction()


def kept(harm):
    async def scenario(stage) -> None:
        stage.start(counted(stage, harm), "victim")
        stage.start(stage.stream(), "other")
        stage.start(stage.statements())

    return scenario


async def kept_by_one_used_by_others(stage) -> None:
    """Children are handed a handle; the task ends while their statements run or wait."""

    async def owner() -> None:
        await stage.db.execute("kept")
        async with stage.db.connection(shared=True) as handle:
            die(stage.db.current_connection())
            for name in ("victim", "other", ""):
                stage.start(child(handle), name)
            await two_awaits()

    async def child(handle) -> None:
        with suppress(Error):  # the block has ended
            await handle.execute("handed over")

    await asyncio.wait([stage.start(owner())])


async def closed_while_kept(stage) -> None:
    await stage.db.connect()

    async def keeps() -> None:
        await stage.unless_closed(stage.statements)
        await two_awaits()
        await stage.unless_closed(stage.statements)

    stage.start(keeps(), "other")
    stage.start(stage.unless_closed(stage.transaction))
    await two_awaits()
    stage.start(stage.db.close(), "victim")


# Shared


def shared(harm):
    async def scenario(stage) -> None:
        async def user() -> None:
            async with stage.db.connection(shared=True) as handle:
                await handle.execute("shared")
                source = handle._source
                if source.connection is not None and not source.connection.is_closed:
                    harm(source.connection)
                await use(handle)

        async def use(handle) -> None:
            with suppress(ConnectionLostError):  # of what was on its way when it died
                await handle.execute("shared")
                async for _ in handle.iterate("select", batch_size=4):
                    break  # dropped
                assert await handle.fetch_val("select") is not None

        stage.start(user(), "victim")
        stage.start(user(), "other")
        stage.start(user())

    return scenario


async def shared_with_a_transaction_beside(stage) -> None:
    async def user() -> None:
        async with stage.db.connection(shared=True) as handle:
            await handle.execute("shared")

    async def writer() -> None:
        await user()
        await stage.transaction()

    stage.start(user(), "other")
    stage.start(writer(), "victim")
    stage.start(stage.statements())


HARMS = [die, grow_old, get_out_of_step]
SCENARIOS = {
    **{f"kept, then {harm.__name__}": (kept(harm), {"persistent": True}) for harm in HARMS},
    "kept, and handed over": (kept_by_one_used_by_others, {"persistent": True}),
    "kept, and closed": (closed_while_kept, {"persistent": True}),
    "kept, always checked": (kept(die), {"persistent": True, "check": "always"}),
    **{f"shared, then {harm.__name__}": (shared(harm), {}) for harm in HARMS},
    "shared, always checked": (shared(grow_old), {"check": "always", "max_shared": 2}),
    "shared, and a transaction": (shared_with_a_transaction_beside, {}),
}

scenarios = pytest.mark.parametrize(
    ("scenario", "options"), SCENARIOS.values(), ids=SCENARIOS.keys()
)


@scenarios
def test_uncancelled_a_scenario_ends_well(scenario, options):
    play(partial(perform, scenario, options), [])


@pytest.mark.parametrize("kind", KINDS)
@scenarios
def test_cancelled_at_each_await(scenario, options, kind):
    for victim in ("victim", "other"):
        assert each_step(partial(perform, scenario, options), victim, kind)


@pytest.mark.parametrize("kinds", PAIRS, ids=" then ".join)
@scenarios
def test_cancelled_twice_at_each_pair_of_awaits(scenario, options, kinds):
    assert each_pair(
        partial(perform, scenario, options), "victim", "victim", kinds, MIXED_MOMENTS[:1]
    )


@scenarios
def test_nobody_hears_of_cancelled_tasks_of_the_engine_but_by_an_error(scenario, options):
    assert each_step(partial(perform, scenario, options), OWN)


@scenarios
def test_all_tasks_are_cancelled_at_each_await(scenario, options):
    assert each_step(partial(perform, scenario, options), EVERYONE)


def test_no_connection_is_left_to_the_garbage_collector(recwarn):
    """Renewals of one connection by several at once, and by those whose task has ended."""

    async def scenario(stage) -> None:
        await kept_by_one_used_by_others(stage)
        await asyncio.sleep(0)

    play(partial(perform, scenario, {"persistent": True}), [])
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]
