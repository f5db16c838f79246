"""A scripted engine and a virtual clock: outages, without a server and without waiting."""

from __future__ import annotations

import asyncio

import pytest

from aiodbkit import (
    CannotConnectError,
    CommitUnknownError,
    ConfigurationError,
    ConnectionLostError,
    DeadlockError,
    QueryTimeoutError,
    retry,
)
from aiodbkit.testing import (
    HANG,
    LOSE,
    Script,
    ScriptedEngine,
    count_queries,
    run_in_virtual_time,
    sandbox,
    virtual_time,
)

ADA = {"id": 1, "name": "Ada"}


@virtual_time
async def test_rows_and_numbers_are_answered_by_pattern_the_latest_rule_first():
    script = Script()
    script.on("select", rows=[{"n": 0}])
    script.on("SELECT .* from users", rows=[ADA, {"id": 2, "name": "Bob"}])
    script.on("update", affected=7)
    script.on("select twice", answer=lambda _, params: [{"n": params["n"] * 2}])
    async with ScriptedEngine(script) as db:
        assert dict(await db.fetch_one("select id, name\nfrom users")) == ADA
        assert await db.fetch_column("select id from users") == [1, 2]
        assert [row.id async for row in db.iterate("select * from users", batch_size=1)] == [1, 2]
        assert await db.fetch_val("select 1") == 0
        assert await db.fetch_val("select twice", {"n": 4}) == 8
        assert (await db.execute("update users")).rows_affected == 7
        assert (await db.execute("delete from users")).rows_affected == 1
        assert await db.insert_many("users", [ADA]) == 1
        assert await db.fetch_all("nothing is known of this") == []


@virtual_time
async def test_errors_come_as_often_as_the_script_says():
    script = Script()
    script.on("insert", error=DeadlockError("as you wish", is_transient=True), times=2)
    async with ScriptedEngine(script) as db:

        async def work():
            await db.execute("insert into t values (1)")

        loop = asyncio.get_running_loop()
        began = loop.time()
        await retry(max_retries=2, backoff=10, max_backoff=20, jitter=False)(work)()
        assert loop.time() - began == pytest.approx(30)
    assert [said for said in script.said if said.startswith("insert")] == [
        "insert into t values (1)"
    ] * 3


@virtual_time
async def test_a_server_that_hangs_is_left_by_timeout():
    script = Script()
    script.on("select", fault=HANG, times=1)
    async with ScriptedEngine(script, command_timeout=60) as db:
        with pytest.raises(QueryTimeoutError):
            await db.fetch_val("select 1")
        assert await db.fetch_all("select 1") == []


@virtual_time
async def test_a_lost_connection_is_lost_and_another_one_is_opened():
    script = Script()
    script.on("select", fault=LOSE, times=1)
    async with ScriptedEngine(script) as db:
        with pytest.raises(ConnectionLostError):
            async with db.transaction():
                await db.fetch_val("select 1")
        assert await db.fetch_all("select 1") == []
        assert script.connections == 2


@virtual_time
async def test_a_connection_lost_in_commit_leaves_it_unknown():
    script = Script()
    script.on("commit", fault=LOSE)
    async with ScriptedEngine(script) as db:
        with pytest.raises(CommitUnknownError):
            async with db.transaction():
                await db.execute("insert")


@virtual_time
async def test_a_server_that_is_away_at_first():
    script = Script()
    script.on("connect", error=CannotConnectError("down", is_transient=True), times=1)
    db = ScriptedEngine(script, min_size=1)
    with pytest.raises(CannotConnectError):
        await db.connect()
    async with db:
        assert script.connections == 1


@virtual_time
async def test_sandbox_and_count_work_on_it():
    async with ScriptedEngine() as db:
        with count_queries(db, exactly=1):
            async with sandbox(db):
                await db.execute("insert")
        assert db.script.said == ["connect", "begin", "insert", "rollback"]


def test_an_answer_of_two_kinds_or_none_is_refused():
    with pytest.raises(ConfigurationError, match="just one of"):
        Script().on("select", rows=[], affected=1)
    with pytest.raises(ConfigurationError, match="just one of"):
        Script().on("select")


def test_the_clock_returns_what_the_function_returns():
    async def main():
        await asyncio.sleep(3600)
        return "an hour later"

    assert run_in_virtual_time(main) == "an hour later"
