"""An engine cancelled at every await, and at every pair: its connections come back clean.

How tasks are stepped: `tests.unit.stepping`; the pool alone: `tests.unit.pool`. Each scenario is
the whole life of one or two victims. What must hold is in `ScriptedStage.complaint`, at every step,
in the hooks and at the server (no statement out of step), and in `perform`, at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

from aiodbkit import (
    CannotConnectError,
    CommitUnknownError,
    ConnectionLostError,
    OperationalError,
    PoolClosedError,
)
from tests.unit.pool.scripted import settle
from tests.unit.scripted_driver import ScriptedConnection, ScriptedDriver, ScriptedEngine, Server
from tests.unit.stepping import (
    EVERYONE,
    MIXED_MOMENTS,
    OWN,
    Stage,
    each_pair,
    each_step,
    play,
    two_awaits,
)

KINDS = ["edge", "level"]
PAIRS = [("edge", "edge"), ("level", "edge"), ("edge", "level")]


class SlowServer(Server):
    """Every call suspends before it has done its work, and after, until all is over."""

    is_slow = True

    def __init__(self) -> None:
        super().__init__()
        self.overlaps: list[str] = []

    async def play(self, call: str) -> None:
        if self.is_slow:
            await two_awaits()
        await super().play(call)
        if self.is_slow:
            await two_awaits()


class StrictConnection(ScriptedConnection):
    """Notes when it is used by two at once."""

    __slots__ = ("call",)

    def __init__(self, server: SlowServer) -> None:
        super().__init__(server)
        self.call: str | None = None

    @contextmanager
    def alone(self, call: str) -> Iterator[None]:
        if self.call is not None:
            self.server.overlaps.append(f"{call} during {self.call}")
        self.call = call
        try:
            yield
        finally:
            self.call = None

    async def _statement(self, call: str) -> None:
        with self.alone(call):
            await super()._statement(call)

    async def recover(self) -> None:
        with self.alone("recover"):
            await super().recover()


class StrictDriver(ScriptedDriver):
    async def connect(self) -> StrictConnection:
        await self.server.play("connect")
        connection = StrictConnection(self.server)
        self.server.connections.append(connection)
        return connection


class StrictEngine(ScriptedEngine):
    def _create_driver(self, target, options) -> StrictDriver:
        return StrictDriver(self.server)


class ScriptedStage(Stage):
    """An engine and those who use it."""

    # Of connecting, of COMMIT, of coming back in step, and of hooks.
    told = (CannotConnectError, CommitUnknownError, ConnectionLostError, OperationalError)

    def __init__(self, cuts=(), *, hooks=False, **options) -> None:
        super().__init__(cuts)
        self.server = SlowServer()
        if hooks:
            options |= dict.fromkeys(("on_connect", "on_acquire", "on_release"), self.hook)
        self.db = StrictEngine(self.server, **{"max_size": 2, **options})
        self.most = self.db.pool.max_size
        self.begun = 0  # transactions that have hooks
        self.hooks_run: list[str] = []

    def complaint(self) -> str | None:
        size = len(self.db.pool._keeper.slots)  # what stats() says, without its percentiles
        if size > self.most:
            return f"{size} slots where {self.most} are allowed"
        alive = [each.number for each in self.server.connections if not each.is_closed]
        if len(alive) > self.most:
            return f"connections {alive} where {self.most} are allowed"
        return None

    async def hook(self, connection) -> None:
        assert not connection.in_transaction
        await connection.execute("hook")

    # What users do

    async def statements(self) -> None:
        await self.db.execute("alone")
        assert await self.db.fetch_val("select") is not None

    async def transaction(self) -> None:
        async with self.db.transaction() as tx:
            tx.on_commit(lambda: self.hooks_run.append("commit"))
            tx.on_rollback(lambda: self.hooks_run.append("rollback"))
            self.begun += 1
            await self.db.execute("first")
            async with self.db.transaction():
                await self.db.execute("second")
            await self.db.execute("third")

    async def rolled_back(self) -> None:
        async with self.db.transaction(force_rollback=True):
            await self.db.execute("never")
            async with self.db.transaction(force_rollback=True):
                await self.db.execute("never")

    async def connection(self) -> None:
        async with self.db.connection() as connection:
            assert not connection.in_transaction, "lent with an open transaction"
            await connection.execute("held")
            await self.db.fetch_val("select")

    async def by_hand(self) -> None:
        connection = await self.db.pool.acquire()
        try:
            assert not connection.in_transaction, "lent with an open transaction"
            await connection.begin()
            await connection.execute("by hand")
            await connection.commit()
        finally:
            self.db.pool.release(connection)

    async def stream(self) -> None:
        async with self.db.iterate("select", batch_size=4) as rows:
            async for row in rows:
                if row.number == 5:
                    break

    async def repairs(self) -> None:
        """Leave a connection in disorder, twice: the next statement, or the end, mends it."""
        async with self.db.connection() as connection:
            async for _ in self.db.iterate("select", batch_size=4):
                break  # dropped
            await connection.execute("after a dropped stream")
            connection._driver.suspect = True  # as an interrupted statement leaves it
            await connection.execute("after a recovery")

    async def unless_closed(self, work) -> None:
        with suppress(PoolClosedError):
            await work()

    async def resize_and_back(self) -> None:
        await self.db.pool.resize(max_size=1)
        await two_awaits()
        await self.db.pool.resize(max_size=self.most)


# The scenarios: who does what. "victim" is stepped, and "other" with it in the scenarios of two.
# An engine that nobody has opened opens itself.


async def statements(stage):
    stage.start(stage.statements(), "victim")
    stage.start(stage.statements(), "other")
    stage.start(stage.transaction())


async def a_transaction(stage):
    await stage.db.connect()
    stage.start(stage.transaction(), "victim")
    stage.start(stage.rolled_back(), "other")
    stage.start(stage.connection())


async def a_connection(stage):
    await stage.db.connect()
    stage.start(stage.connection(), "victim")
    stage.start(stage.by_hand(), "other")
    stage.start(stage.connection())


async def a_transaction_by_hand(stage):
    await stage.db.connect()
    stage.start(stage.by_hand(), "victim")
    stage.start(stage.transaction(), "other")
    stage.start(stage.by_hand())


async def a_shared_connection(stage):
    async with stage.db.pool.acquire() as connection:
        shared = [
            stage.start(connection.execute("shared"), "victim"),
            stage.start(connection.execute("shared"), "other"),
            stage.start(connection.execute("shared")),
        ]
        stage.start(stage.connection())
        await asyncio.wait(shared)


async def a_stream(stage):
    await stage.db.connect()
    stage.start(stage.stream(), "victim")
    stage.start(stage.connection(), "other")
    stage.start(stage.stream())


async def repairs(stage):
    await stage.db.connect()
    stage.start(stage.repairs(), "victim")
    stage.start(stage.rolled_back(), "other")


async def a_connect(stage):
    await stage.db.pool.resize(min_size=stage.most)
    stage.start(stage.db.connect(), "victim")
    stage.start(stage.db.connect(), "other")
    stage.start(stage.statements())


async def a_close(stage):
    await stage.db.connect()
    stage.start(stage.unless_closed(stage.transaction), "other")
    stage.start(stage.unless_closed(stage.stream))
    stage.start(stage.unless_closed(stage.statements))
    await two_awaits()
    stage.start(stage.db.close(), "victim")


async def a_resize(stage):
    await stage.db.connect()
    stage.start(stage.transaction())
    stage.start(stage.stream())
    stage.start(stage.resize_and_back(), "victim")
    stage.start(stage.statements(), "other")


SCENARIOS = [
    statements,
    a_transaction,
    a_connection,
    a_transaction_by_hand,
    a_shared_connection,
    a_stream,
    repairs,
    a_connect,
    a_close,
    a_resize,
]

OPTIONS = {
    "plain": {},
    "one": {"max_size": 1},
    "all": {"hooks": True, "session_sql": ["set"], "check": "always", "max_uses": 2},
}


scenarios = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
all_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
two_options = pytest.mark.parametrize(  # "one" is for those of two victims
    "options", [OPTIONS["plain"], OPTIONS["all"]], ids=["plain", "all"]
)


async def assert_whole(stage) -> None:
    """The pool can lend all its connections, each out of any transaction and in step."""
    pool = stage.db.pool
    connections = await asyncio.gather(*(pool.acquire(timeout=5) for _ in range(pool.max_size)))
    assert pool.stats().in_use == len({connection._driver for connection in connections})
    for connection in connections:
        assert not connection.in_transaction
        assert connection._driver.pending is None, "the server still has a transaction open"
        assert await connection.fetch_val("select") is not None
        pool.release(connection)
    await settle()
    assert pool.stats().waiting == 0


def assert_all_or_nothing(stage, cuts) -> None:
    committed = stage.server.committed
    assert "never" not in committed
    whole = [text for text in committed if text in ("first", "second", "third")]
    assert whole == ["first", "second", "third"] * (len(whole) // 3), "a part was committed"
    commits, heard = len(whole) // 3, stage.hooks_run.count("commit")
    if cuts and cuts[0].victim in (OWN, EVERYONE):  # which may strike between commit and hook
        assert heard <= commits
    else:
        assert heard == commits
        assert len(stage.hooks_run) == stage.begun, "a transaction ended in neither way, or in two"


async def perform(scenario, options, cuts) -> int:
    """Play a scenario to its end; then nothing is lost, nobody waits, and the engine closes."""
    stage = ScriptedStage(cuts, **options)
    db, server = stage.db, stage.server
    with stage.watching():
        await scenario(stage)
        await stage.ended()
        stage.judge()
        server.is_slow = False
        if db.is_connected:
            await assert_whole(stage)
        await db.close()
        await db.connect()
        await assert_whole(stage)
        await db.close()
        await settle()
    assert not stage.complaints, stage.complaints
    assert not server.overlaps, server.overlaps
    assert db.pool.stats().size == 0
    assert all(connection.is_closed for connection in server.connections)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert_all_or_nothing(stage, cuts)
    return stage.reached


@all_options
@scenarios
def test_uncancelled_a_scenario_ends_well(scenario, options):
    play(partial(perform, scenario, options), [])


@pytest.mark.parametrize("kind", KINDS)
@two_options
@scenarios
def test_cancelled_at_each_await(scenario, options, kind):
    for victim in ("victim", "other"):
        assert each_step(partial(perform, scenario, options), victim, kind)


@pytest.mark.parametrize("kinds", PAIRS, ids=" then ".join)
@scenarios
def test_cancelled_twice_at_each_pair_of_awaits(scenario, kinds):
    performance = partial(perform, scenario, OPTIONS["plain"])
    assert each_pair(performance, "victim", "victim", kinds, MIXED_MOMENTS)


@pytest.mark.parametrize(
    ("first", "second", "kind"), [("victim", "other", "edge"), ("other", "victim", "level")]
)
@scenarios
def test_two_are_cancelled_at_each_pair_of_awaits(scenario, first, second, kind):
    kinds = (kind, kind)
    performance = partial(perform, scenario, OPTIONS["one"])
    assert each_pair(performance, first, second, kinds, MIXED_MOMENTS)


@two_options
@scenarios
def test_nobody_hears_of_cancelled_tasks_of_the_engine_but_by_an_error(scenario, options):
    assert each_step(partial(perform, scenario, options), OWN)


@scenarios
def test_all_tasks_are_cancelled_at_each_await(scenario):
    assert each_step(partial(perform, scenario, OPTIONS["all"]), EVERYONE)
