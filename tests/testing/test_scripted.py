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
    NothingLeft,
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


@virtual_time
async def test_a_function_may_be_async_and_answer_anything_that_a_rule_can():
    script = Script()

    async def slowly(sql, params):
        await asyncio.sleep(60)
        return [{"n": params["n"]}]

    script.on("select", answer=slowly)
    script.on("update", answer=lambda *_: DeadlockError("as you wish"))
    script.on("delete", answer=lambda *_: None)
    async with ScriptedEngine(script) as db:
        assert await db.fetch_val("select", {"n": 4}) == 4
        with pytest.raises(DeadlockError):
            await db.execute("update")
        assert (await db.execute("delete")).rows_affected == 1
        script.on("select", answer=lambda *_: "Ada")
        with pytest.raises(ConfigurationError, match="a list of rows, a number.*not str"):
            await db.fetch_val("select")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"affected": 1, "times": -1}, "times must be a whole number"),
        ({"affected": 1, "times": "twice"}, "times must be a whole number"),
        ({"affected": -1}, "affected must be a whole number"),
        ({"fault": "lose"}, "HANG or LOSE, not 'lose'"),
        ({"error": ValueError}, r"an exception, as ValueError\(\), not <class"),
        ({"answer": 3}, "a function of the SQL, not 3"),
        ({"rows": ADA}, "a list of mappings"),
        ({"rows": [(1, "Ada")]}, "a list of mappings"),
        ({"rows": 3}, "a list of mappings, not 3"),
        ({"rows": "Ada"}, "a list of mappings, not 'Ada'"),
        ({"rows": [{"a": 1}, {"b": 1}]}, r"same names.*\['b'\] is not \['a'\]"),
    ],
)
def test_an_answer_that_cannot_be_is_refused_when_it_is_written(answer, told):
    with pytest.raises(ConfigurationError, match=told):
        Script().on("select", **answer)


def test_what_is_no_regular_expression_or_script_is_refused_with_the_cure():
    with pytest.raises(ConfigurationError, match=r"'count\(' is none.*re.escape"):
        Script().on("count(", affected=1)
    with pytest.raises(ConfigurationError, match="None is none"):
        Script().on(None, affected=1)
    with pytest.raises(ConfigurationError, match="takes a Script, not 'select'"):
        ScriptedEngine("select")


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


def test_a_clock_is_given_an_async_function_and_tells_who_gives_something_else():
    async def main():
        return 1

    coroutine = main()
    with pytest.raises(TypeError, match=r"run_in_virtual_time\(\) takes .*function itself"):
        run_in_virtual_time(coroutine)
    coroutine.close()
    with pytest.raises(TypeError, match=r"@virtual_time.*async function.*main_sync"):

        @virtual_time
        def main_sync(): ...


def test_what_waits_for_nothing_is_told_by_its_name():
    async def stuck():
        await asyncio.Event().wait()

    with pytest.raises(NothingLeft, match=r"stuck > Event.wait"):
        run_in_virtual_time(stuck)
