"""One deadline for a call: what it waited for its connection is not there for its statement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from aiodbkit import (
    ConnectionLostError,
    Engine,
    ExecuteResult,
    PoolTimeoutError,
    QueryTimeoutError,
)
from aiodbkit.transaction import TransactionState
from tests.unit.pool.scripted import about, now, settle, start, waiting
from tests.unit.scripted_driver import ScriptedConnection, ScriptedDriver, ScriptedEngine, Server
from tests.virtual_time import VirtualTimeLoop, virtual_time


class Clocked(ScriptedConnection):
    """Notes, for each statement, the seconds it was given and when they will be over."""

    __slots__ = ("deadlines", "limits")

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.limits: list[float | None] = []
        self.deadlines: list[float] = []

    def note(self, timeout: float | None) -> None:
        self.limits.append(timeout)
        if timeout is not None:
            self.deadlines.append(now() + timeout)

    async def execute(self, sql: str, params: Any, timeout: float | None) -> ExecuteResult:
        self.note(timeout)
        return await super().execute(sql, params, timeout)

    async def execute_many(self, sql: str, rows: Any, timeout: float | None) -> ExecuteResult:
        self.note(timeout)
        return ExecuteResult(len(rows))

    async def execute_script(self, sql: str, timeout: float | None) -> None:
        self.note(timeout)
        await super().execute_script(sql, timeout)

    async def fetch(self, sql: str, params: Any, timeout: float | None, limit: int = 0) -> Any:
        self.note(timeout)
        return await super().fetch(sql, params, timeout, limit)

    async def insert_many(self, table: str, columns: Any, rows: Any, timeout: Any) -> int:
        self.note(timeout)
        return len(list(rows))

    async def savepoint(self, name: str) -> None:
        await self._statement("savepoint")

    async def release_savepoint(self, name: str) -> None:
        await self._statement("release")

    async def rollback_to_savepoint(self, name: str) -> None:
        await self._statement("rollback to")


class ClockedDriver(ScriptedDriver):
    async def connect(self) -> Clocked:
        await self.server.play("connect")
        connection = Clocked(self.server)
        self.server.connections.append(connection)
        return connection


class ClockedEngine(ScriptedEngine):
    def _create_driver(self, target: Any, options: Any) -> ClockedDriver:
        return ClockedDriver(self.server)

    @property
    def only(self) -> Clocked:
        """The driver's connection, where there has been but one."""
        (connection,) = self.server.connections
        assert isinstance(connection, Clocked)
        return connection


Verb = Callable[..., Awaitable[Any]]
VERBS: dict[str, Verb] = {
    "execute": lambda on, **how: on.execute("say", **how),
    "execute_many": lambda on, **how: on.execute_many("say", [(1,), (2,)], **how),
    "execute_script": lambda on, **how: on.execute_script("say", **how),
    "fetch_all": lambda on, **how: on.fetch_all("select", **how),
    "fetch_one": lambda on, **how: on.fetch_one("select", **how),
    "fetch_val": lambda on, **how: on.fetch_val("select", **how),
    "fetch_column": lambda on, **how: on.fetch_column("select", **how),
    "insert_many": lambda on, **how: on.insert_many("t", [{"a": 1}], **how),
}
every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)


def engine(**options: Any) -> ClockedEngine:
    return ClockedEngine(Server(), **{"max_size": 1, **options})


async def busy_for(on: Any, seconds: float) -> asyncio.Task[Any]:
    """Let another task keep a connection at work for so long, from now on."""
    connection = on._driver
    on._engine.server.times["script"] = seconds
    busy = start(on.execute_script("long"))
    await on._engine.server.reached("script")
    connection.limits.clear()
    connection.deadlines.clear()
    return busy


# Verbs


@every_verb
@virtual_time
async def test_a_verb_that_need_not_wait_has_its_whole_timeout(verb: Verb) -> None:
    async with engine() as db:
        await db.fetch_val("select")
        await verb(db, timeout=10)
        async with db.connection() as connection:
            await verb(connection, timeout=20)
        assert db.only.limits == [None, 10, 20]


@every_verb
@pytest.mark.parametrize("how", ["timeout", "command_timeout"])
@virtual_time
async def test_what_the_wait_for_the_pool_took_is_not_there_for_the_statement(
    verb: Verb, how: str
) -> None:
    async with engine(**({"command_timeout": 10} if how == "command_timeout" else {})) as db:
        async with db.pool.acquire():
            began = now()
            call = start(verb(db, **({"timeout": 10} if how == "timeout" else {})))
            await waiting(db.pool, 1)
            await asyncio.sleep(7)
        await call
        assert db.only.limits == [about(3)]
        assert db.only.deadlines == [about(began + 10)]


@virtual_time
async def test_a_statement_that_runs_out_of_time_after_a_wait_tells_of_that() -> None:
    async with engine() as db:
        db.server.times["connect"] = 4
        db.server.fail("fetch", QueryTimeoutError("too slow"), QueryTimeoutError("too slow"))
        with pytest.raises(QueryTimeoutError) as caught:
            await db.fetch_val("select", timeout=10)
        assert caught.value.__notes__ == ["the wait for the connection took 4.000 s of the 10 s"]
        with pytest.raises(QueryTimeoutError) as caught:
            await db.fetch_val("select", timeout=10)
        assert not hasattr(caught.value, "__notes__")


@virtual_time
async def test_what_connecting_took_is_not_there_for_the_statement() -> None:
    async with engine() as db:
        db.server.times["connect"] = 4
        await db.fetch_val("select", timeout=10)
        assert db.only.limits == [about(6)]


@every_verb
@virtual_time
async def test_what_the_wait_for_a_turn_took_is_not_there_for_the_statement(verb: Verb) -> None:
    async with engine() as db, db.connection() as connection:
        await busy_for(connection, 7)
        db.server.times.clear()
        began = now()
        await verb(connection, timeout=10)
        assert db.only.deadlines == [about(began + 10)]


@virtual_time
async def test_the_end_of_an_interrupted_statement_is_waited_for_on_the_same_clock() -> None:
    async with engine() as db, db.connection() as connection:
        db.server.times["execute"] = 100
        db.server.times["recover"] = 4
        with anyio.move_on_after(1):
            await connection.execute("slow")
        with pytest.raises(QueryTimeoutError, match="nothing was sent"):
            await connection.fetch_val("select", timeout=1)
        began = now()
        await connection.fetch_val("select", timeout=10)  # the recovery has 3 s to go
        assert db.only.deadlines == [about(began + 10)]
        assert db.only.limits[-1] == about(7)
        assert db.server.calls["recover"] == 1


@every_verb
@virtual_time
async def test_a_timeout_that_ends_in_the_pools_line_is_the_pools_error_and_nothing_is_sent(
    verb: Verb,
) -> None:
    async with engine() as db, db.pool.acquire():
        began = now()
        with pytest.raises(PoolTimeoutError, match="held by task"):
            await start(verb(db, timeout=10))
        assert now() == about(began + 10)
        assert db.only.limits == []


@every_verb
@virtual_time
async def test_a_timeout_that_ends_in_line_for_a_turn_says_that_nothing_was_sent(
    verb: Verb,
) -> None:
    async with engine() as db, db.connection() as connection:
        busy = await busy_for(connection, 30)
        began = now()
        with pytest.raises(QueryTimeoutError, match="nothing was sent"):
            await verb(connection, timeout=10)
        assert now() == about(began + 10)
        assert db.only.limits == []
        await busy
        await connection.fetch_val("select")


def later(seconds: float) -> None:
    """Let time pass at once, as a callback does that blocks the loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop._now += seconds


@virtual_time
async def test_a_connection_that_comes_when_time_is_up_goes_back() -> None:
    async with engine() as db:
        held = await db.pool.acquire()
        call = start(db.fetch_val("select", timeout=10))
        await waiting(db.pool, 1)
        db.pool.release(held)
        later(11)
        with pytest.raises(QueryTimeoutError, match="took all of the 10 s: nothing was sent"):
            await call
        assert db.only.limits == []
        assert db.pool.stats().in_use == 0
        assert await db.fetch_val("select", timeout=10) == 1


@virtual_time
async def test_a_turn_that_comes_when_time_is_up_goes_to_the_next() -> None:
    async with engine() as db, db.connection() as connection:

        async def busy() -> None:
            await connection.execute("say")
            later(11)

        db.server.hold("execute")
        first = start(busy())
        await db.server.reached("execute")
        call = start(connection.fetch_val("select", timeout=10))
        behind = start(connection.fetch_val("select"))
        await settle()
        db.server.let("execute")
        with pytest.raises(QueryTimeoutError, match="took all of the 10 s: nothing was sent"):
            await call
        assert await behind == 1
        await first


# Streams: the timeout is that of each batch


async def numbers(db: Engine, **how: Any) -> list[int]:
    return [row.number async for row in db.iterate("select", batch_size=2, **how)]


@virtual_time
async def test_a_stream_waits_for_its_connection_no_longer_than_its_timeout() -> None:
    async with engine() as db, db.pool.acquire():
        began = now()
        with pytest.raises(PoolTimeoutError, match="held by task"):
            await start(numbers(db, timeout=10))
        assert now() == about(began + 10)


@pytest.mark.parametrize("slow", ["begin", "open cursor", "fetch"])
@virtual_time
async def test_a_streams_first_batch_has_what_the_wait_for_the_pool_has_left(slow: str) -> None:
    async with engine() as db:
        async with db.pool.acquire():
            began = now()
            reading = start(numbers(db, timeout=10))
            await waiting(db.pool, 1)
            await asyncio.sleep(7)
            db.server.times[slow] = 5
        with pytest.raises(QueryTimeoutError):
            await reading
        assert now() == about(began + 10)
        db.server.times.clear()
        assert await db.fetch_val("select") == 1


@virtual_time
async def test_a_streams_later_batches_have_their_whole_timeout() -> None:
    async with engine() as db:
        async with db.pool.acquire():
            reading = start(numbers(db, timeout=10))
            await waiting(db.pool, 1)
            await asyncio.sleep(7)
            db.server.times["fetch"] = 2
        await db.server.reached("fetch")
        db.server.times["fetch"] = 9  # from the second on
        assert await reading == list(range(10))


@virtual_time
async def test_a_batch_that_waits_for_its_turn_has_the_rest_of_its_timeout() -> None:
    async with engine() as db, db.connection() as connection, db.transaction():
        stream = connection.iterate("select", batch_size=1, timeout=10)
        await anext(stream)
        await busy_for(connection, 7)
        db.server.times["fetch"] = 5
        began = now()
        with pytest.raises(QueryTimeoutError, match="a part"):
            await anext(stream)
        assert now() == about(began + 10)


# Transactions


@virtual_time
async def test_begin_has_what_the_wait_for_its_turn_has_left() -> None:
    async with engine(command_timeout=10) as db, db.connection() as connection:
        await busy_for(connection, 7)
        db.server.times["begin"] = 5
        began = now()
        with pytest.raises(QueryTimeoutError, match="BEGIN"):
            await connection.begin()
        assert now() == about(began + 10)


@virtual_time
async def test_a_rollback_has_the_reset_timeout_and_then_its_connection_is_closed() -> None:
    async with engine(reset_timeout=3) as db:
        db.server.hold("rollback")
        with pytest.raises(ValueError, match="mine"):
            async with db.transaction() as tx:
                began = now()
                raise ValueError("mine")
        assert now() == about(began + 3)
        assert tx.state is TransactionState.ROLLED_BACK
        assert db.only.shut


@virtual_time
async def test_a_commit_without_command_timeout_may_take_its_time() -> None:
    async with engine(reset_timeout=3) as db:
        db.server.times["commit"] = 3600
        async with db.transaction():
            await db.execute("say")
        assert db.server.committed == ["say"]


@pytest.mark.parametrize("slow", ["savepoint", "release", "rollback to"])
@virtual_time
async def test_a_savepoint_past_command_timeout_dooms_its_transaction(slow: str) -> None:
    async with engine(command_timeout=10) as db:
        db.server.hold(slow)
        with pytest.raises(Exception, match="gone: it was rolled back"):
            async with db.transaction() as outer:
                began = now()
                nested = db.transaction(force_rollback=slow == "rollback to")
                with pytest.raises(QueryTimeoutError, match=f"(?i){slow}"):
                    async with nested:
                        pass
                assert now() == about(began + 10)
                assert not outer.is_active
        assert outer.state is TransactionState.ROLLED_BACK
        assert db.server.committed == []


@virtual_time
async def test_what_a_dropped_stream_left_open_has_the_reset_timeout_to_be_closed() -> None:
    async with engine(reset_timeout=3) as db, db.connection() as connection:
        async for _ in connection.iterate("select", batch_size=2):
            break
        await settle()
        db.server.hold("close cursor")
        began = now()
        with pytest.raises(ConnectionLostError, match="reset_timeout=3"):
            await connection.fetch_val("select")
        assert now() == about(began + 3)
