"""Cancelled at every await, and at every pair of awaits: the pool stays whole.

How tasks are stepped: `tests.unit.stepping`. Each scenario below is the whole life of one or two
victims, played with every set of options and every kind of cancellation, one step further each
time. What must hold is in `PoolStage.complaint`, at every step, and in `perform`, at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

from aiodbkit import PoolClosedError
from tests.unit.pool.scripted import Resource, Script, assert_whole, settle
from tests.unit.stepping import EVERYONE, OWN, Stage, each_pair, each_step, play, two_awaits

KINDS = ["edge", "level"]
PAIRS = [("edge", "edge"), ("level", "edge"), ("edge", "level")]


class SlowScript(Script):
    """Every call suspends before it has done its work, and after, until all is over."""

    is_slow = True

    async def _play(self, call: str) -> None:
        if self.is_slow:
            await two_awaits()
        await super()._play(call)
        if self.is_slow:
            await two_awaits()

    async def prepare(self, resource: Resource) -> None:
        await self._play("prepare")

    def abort(self, resource: Resource) -> None:
        resource.closed = True


class PoolStage(Stage):
    """A pool and those who use it."""

    def __init__(self, cuts=(), *, dirty=False, prepare=False, polite=False, **options) -> None:
        super().__init__(cuts)
        self.script = script = SlowScript()
        self.dirties = dirty
        self.is_polite = polite  # it knows no abort: a resource that is let go of closes by itself
        calls = {} if polite else {"abort": script.abort}
        if prepare:
            calls["prepare"] = script.prepare
        self.pool = script.pool(**{"max_size": 2, **calls, **options})
        self.most = self.pool.max_size  # the largest that it was set to
        self.held: set[int] = set()

    def complaint(self) -> str | None:
        size = len(self.pool._keeper.slots)  # what stats() says, without its percentiles
        if size > self.most:
            return f"{size} slots where {self.most} are allowed"
        if self.pool.in_use < 0:
            return f"miscounted: {self.pool.stats()}"
        if not self.is_polite and len(self.script.alive) > self.most:
            return f"{len(self.script.alive)} resources where {self.most} are allowed"
        return None

    @contextmanager
    def in_hand(self, resource: Resource) -> Iterator[None]:
        assert resource.number not in self.held, "one resource in two hands"
        assert not resource.dirty, "a dirty resource was lent"
        assert not resource.closed, "a closed resource was lent"
        self.held.add(resource.number)
        try:
            yield
        finally:
            self.held.discard(resource.number)

    async def use(self) -> None:
        """Borrow for a block."""
        async with self.pool.acquire() as lease:
            await self.work(lease)

    async def use_by_hand(self) -> None:
        """Acquire and release."""
        lease = await self.pool.acquire()
        try:
            await self.work(lease)
        finally:
            await self.pool.release(lease)

    async def work(self, lease) -> None:
        with self.in_hand(lease.resource):
            await two_awaits()
            lease.resource.dirty = self.dirties

    async def use_unless_closed(self) -> None:
        with suppress(PoolClosedError):
            await self.use()

    async def resize_and_back(self) -> None:
        await self.pool.resize(max_size=1)
        await two_awaits()
        await self.pool.resize(max_size=self.most)


# The scenarios: who does what. "victim" is stepped, and "other" with it in the scenarios of two.


async def uses_of_a_new_pool(stage):
    await stage.pool.open()
    stage.start(stage.use(), "victim")
    stage.start(stage.use_by_hand(), "other")
    stage.start(stage.use())


async def uses_one_after_another(stage):
    async def uses():
        for _ in range(2):
            await stage.use()
            await stage.use_by_hand()

    await stage.pool.open()
    stage.start(uses(), "victim")
    stage.start(stage.use_by_hand(), "other")


async def a_waiter_among_waiters(stage):
    await stage.pool.open()
    leases = [await stage.pool.acquire() for _ in range(stage.pool.max_size)]
    stage.start(stage.use())
    stage.start(stage.use(), "victim")
    stage.start(stage.use_by_hand(), "other")
    stage.start(stage.use())
    await settle()
    for lease in leases:
        lease.resource.dirty = stage.dirties
        stage.pool.release(lease)


async def a_holder_and_a_waiter(stage):
    await stage.pool.open()
    extra = [await stage.pool.acquire() for _ in range(stage.pool.max_size - 1)]
    stage.start(stage.use(), "victim")
    stage.start(stage.use(), "other")
    stage.start(stage.use())
    await settle()
    for lease in extra:
        stage.pool.release(lease)


async def an_open(stage):
    await stage.pool.resize(min_size=stage.pool.max_size)
    stage.start(stage.pool.open(), "victim")
    stage.start(stage.pool.open(), "other")


async def a_close_while_all_is_in_use(stage):
    await stage.pool.open()
    stage.start(stage.use_unless_closed())
    stage.start(stage.use_unless_closed(), "other")
    await two_awaits()
    stage.start(stage.use_unless_closed())
    stage.start(stage.use_unless_closed())
    stage.start(stage.pool.close(), "victim")
    await two_awaits()
    stage.start(stage.pool.close())


async def a_close_while_connecting(stage):
    await stage.pool.open()
    stage.start(stage.use_unless_closed(), "other")
    stage.start(stage.use_unless_closed())
    await two_awaits()
    stage.start(stage.pool.close(), "victim")


async def a_close_of_an_idle_pool(stage):
    await stage.pool.open()
    await stage.use()
    stage.start(stage.pool.close(), "victim")
    stage.start(stage.pool.close(), "other")


async def a_resize(stage):
    await stage.pool.open()
    for _ in range(2):
        stage.start(stage.use())
    stage.start(stage.resize_and_back(), "victim")
    stage.start(stage.use(), "other")
    stage.start(stage.use_by_hand())


async def a_check_and_an_expire(stage):
    async def upkeep():
        await stage.pool.check()
        await stage.pool.expire()

    await stage.pool.open()
    await asyncio.wait([stage.start(stage.use()) for _ in range(stage.pool.max_size)])
    stage.start(upkeep(), "victim")
    stage.start(stage.use(), "other")
    stage.start(stage.use())


SCENARIOS = [
    uses_of_a_new_pool,
    uses_one_after_another,
    a_waiter_among_waiters,
    a_holder_and_a_waiter,
    an_open,
    a_close_while_all_is_in_use,
    a_close_while_connecting,
    a_close_of_an_idle_pool,
    a_resize,
    a_check_and_an_expire,
]

OPTIONS = {
    "plain": {},
    "checked": {"check": "always"},
    "prepared": {"prepare": True, "dirty": True},
    "used up": {"max_uses": 1},
    "dirty": {"dirty": True},
    "dirty, checked, one": {"dirty": True, "check": "always", "max_size": 1},
    "one": {"max_size": 1},
    "polite": {"polite": True, "max_uses": 1, "max_size": 1},
}

scenarios = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
all_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())

PAIRED = ["plain", "dirty, checked, one"]  # pairs are many: two sets that differ in everything
paired_options = pytest.mark.parametrize("options", [OPTIONS[each] for each in PAIRED], ids=PAIRED)

WORKED = ["prepared", "used up", "polite"]  # together, every kind of task that the pool has
worked_options = pytest.mark.parametrize("options", [OPTIONS[each] for each in WORKED], ids=WORKED)


async def perform(scenario, options, cuts) -> int:
    """Play a scenario to its end; then nothing is lost, nobody waits, and the pool closes."""
    stage = PoolStage(cuts, **options)
    pool, script = stage.pool, stage.script
    with stage.watching():
        await scenario(stage)
        await stage.ended()
        stage.judge()
        script.is_slow = False
        if pool.is_open:
            await assert_whole(pool, script)
        await pool.close()
        await pool.open()
        await assert_whole(pool, script)
        await pool.close()
        await settle()
    assert not stage.complaints, stage.complaints
    assert pool.stats().size == 0
    assert script.alive == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return stage.reached


@all_options
@scenarios
def test_uncancelled_a_scenario_ends_well(scenario, options):
    play(partial(perform, scenario, options), [])


@pytest.mark.parametrize("kind", KINDS)
@all_options
@scenarios
def test_cancelled_at_each_await(scenario, options, kind):
    for victim in ("victim", "other"):
        each_step(partial(perform, scenario, options), victim, kind)


@pytest.mark.parametrize("kinds", PAIRS, ids=" then ".join)
@paired_options
@scenarios
def test_cancelled_twice_at_each_pair_of_awaits(scenario, options, kinds):
    each_pair(partial(perform, scenario, options), "victim", "victim", kinds)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("first", "second"), [("victim", "other"), ("other", "victim")])
@paired_options
@scenarios
def test_two_are_cancelled_at_each_pair_of_awaits(scenario, options, first, second, kind):
    each_pair(partial(perform, scenario, options), first, second, (kind, kind))


@pytest.mark.parametrize("victim", [OWN, EVERYONE])
@worked_options
@scenarios
def test_the_tasks_of_the_pool_are_cancelled_at_each_await(scenario, options, victim):
    each_step(partial(perform, scenario, options), victim)
