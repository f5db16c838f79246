"""``retry_reads=True`` by the clock: two tries share one deadline. The wire: tests/faults."""

from __future__ import annotations

from typing import Any

import pytest

from aiodbkit import ConnectionLostError, QueryTimeoutError
from aiodbkit.driver import Driver
from tests.unit.scripted_driver import ScriptedConnection, ScriptedDriver, ScriptedEngine, Server
from tests.virtual_time import virtual_time


class ReadingDriver(ScriptedDriver):
    def only_reads(self, sql: str) -> bool:
        return sql.startswith("select")

    async def connect(self) -> ReadingConnection:
        await self.server.play("connect")
        connection = ReadingConnection(self.server)
        self.server.connections.append(connection)
        return connection


class ReadingConnection(ScriptedConnection):
    """Remembers how much time each statement was given."""

    __slots__ = ()

    async def fetch(self, sql: str, params: Any, timeout: float | None, limit: int = 0) -> Any:
        self.server.limits.append(timeout)  # type: ignore[attr-defined]
        return await super().fetch(sql, params, timeout, limit)


class ReadingEngine(ScriptedEngine):
    def _create_driver(self, target: Any, options: Any) -> Driver:
        return ReadingDriver(self.server)


def engine(seconds: float, *, lost: int = 1, **options: Any) -> tuple[ReadingEngine, list[Any]]:
    """An engine whose first statements are lost, after so many seconds each."""
    server = Server()
    server.times["fetch"] = seconds
    server.fail("fetch", *(ConnectionLostError(f"loss {n}") for n in range(1, lost + 1)))
    limits: list[Any] = []
    server.limits = limits  # type: ignore[attr-defined]
    return ReadingEngine(server, **{"retry_reads": True, **options}), limits


@pytest.mark.parametrize("verb", ["fetch_all", "fetch_one", "fetch_val", "fetch_column"])
@virtual_time
async def test_the_second_try_has_the_time_that_is_left(verb: str) -> None:
    db, limits = engine(1.5)
    assert await getattr(db, verb)("select", timeout=4)
    assert limits == [4, 2.5]
    await db.close()


@virtual_time
async def test_without_a_deadline_the_second_try_has_none_either() -> None:
    db, limits = engine(1.5)
    assert await db.fetch_val("select") is not None
    assert limits == [None, None]
    await db.close()


@virtual_time
async def test_where_no_time_is_left_nothing_is_sent() -> None:
    db, limits = engine(5)
    with pytest.raises(QueryTimeoutError, match="nothing was sent") as caught:
        await db.fetch_val("select", timeout=4)
    assert isinstance(caught.value.__context__, ConnectionLostError)
    assert limits == [4]
    await db.close()


@virtual_time
async def test_the_second_loss_is_told() -> None:
    db, limits = engine(0, lost=2)
    with pytest.raises(ConnectionLostError, match="loss 2"):
        await db.fetch_val("select")
    assert len(limits) == 2
    await db.close()


@pytest.mark.parametrize("floor", ["session", "transaction", "connection"])
@virtual_time
async def test_in_a_block_or_for_what_may_write_the_loss_is_told_at_once(floor: str) -> None:
    db, limits = engine(0)
    with pytest.raises(ConnectionLostError):
        async with getattr(db, floor)():
            await db.fetch_val("select")
    db.server.fail("fetch", ConnectionLostError("again"))
    with pytest.raises(ConnectionLostError):
        await db.fetch_val("insert ... returning")
    assert len(limits) == 2
    await db.close()
