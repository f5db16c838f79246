"""Scopes used in odd ways: each is told so, and nothing reaches somebody else's connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest

from aiodbkit import (
    CannotConnectError,
    InterfaceError,
    QueryTimeoutError,
    RetryPolicy,
    Rollback,
    TransactionScopeError,
)
from aiodbkit.scope import _scopes
from tests.unit.pool.scripted import settle, start
from tests.unit.scripted_driver import ScriptedEngine, Server


async def assert_whole_one(db):
    async with db.connection() as connection:
        assert not connection.in_transaction
        await connection.fetch_val("select")


async def transaction_left_open(db):
    async with db.transaction():
        await db.execute("orphan")
        yield


@pytest.mark.parametrize("how", ["closed", "run to its end"])
async def test_a_transaction_cannot_reach_its_connection_after_it_was_given_back(how):
    server = Server()
    async with ScriptedEngine(server, max_size=1) as db:
        async with db.connection():
            orphan = transaction_left_open(db)
            await anext(orphan)
        async with db.transaction():
            await db.execute("mine")
            if how == "closed":
                await orphan.aclose()
            else:
                with pytest.raises(InterfaceError, match="given back before its block ended"):
                    await anext(orphan)
            await db.execute("mine too")
        assert server.committed == ["mine", "mine too"]


async def test_an_outer_transaction_does_not_commit_what_an_open_inner_one_may_undo():
    server = Server()
    async with ScriptedEngine(server) as db:
        async with db.connection():
            with pytest.raises(TransactionScopeError, match="nested transaction was still open"):
                async with db.transaction():
                    orphan = transaction_left_open(db)
                    await anext(orphan)
            await orphan.aclose()
            assert server.committed == []
            async with db.transaction():
                await db.execute("after")
        assert server.committed == ["after"]


async def test_statements_in_line_behind_the_end_of_their_transaction_are_refused():
    server = Server()
    async with ScriptedEngine(server) as db:
        server.hold("rollback")
        with suppress(Rollback):
            async with db.transaction(child_tasks="share") as tx:
                children = []

                async def child(number):
                    await server.reached("rollback")
                    server.entered["rollback"].release()
                    await tx.connection.execute(f"child {number}")

                children = [asyncio.create_task(child(number)) for number in range(6)]
                let = asyncio.create_task(let_later(server))
                raise Rollback
        await let
        done = await asyncio.gather(*children, return_exceptions=True)
        assert all(isinstance(error, InterfaceError) for error in done)
        assert server.committed == []


async def let_later(server):
    await server.reached("rollback")
    server.entered["rollback"].release()
    await settle()
    server.let("rollback")


async def test_a_recovery_cut_short_is_waited_for_by_the_next_statement():
    server = Server()
    async with ScriptedEngine(server) as db, db.connection() as connection:
        server.hold("execute")
        server.hold("recover")
        with anyio.move_on_after(0.01):
            await connection.execute("slow")
        with anyio.move_on_after(0.01):
            await connection.fetch_val("select")
        server.let("execute")
        third = start(connection.fetch_val("select"))
        await settle()
        assert server.calls["recover"] == 1
        server.let("recover")
        assert await third == 1


async def test_rows_that_need_the_connection_they_go_to_are_refused_at_once():
    server = Server()
    async with ScriptedEngine(server) as db, db.transaction():
        with pytest.raises(InterfaceError, match="insert_many"):
            await db.insert_many("t", second_from(db))


async def second_from(db):
    yield {"a": 1}
    yield {"a": await db.fetch_val("select")}


async def test_two_tasks_that_read_one_stream_are_told_so():
    server = Server()
    async with ScriptedEngine(server, max_size=1) as db:
        stream = db.iterate("select", batch_size=2)
        results = await asyncio.gather(*(anext(stream) for _ in range(3)), return_exceptions=True)
        assert sum(isinstance(result, InterfaceError) for result in results) == 2
        await stream.aclose()
        await assert_whole_one(db)


async def test_a_stream_that_failed_does_not_look_finished():
    server = Server()
    async with ScriptedEngine(server, max_size=1) as db:
        stream = db.iterate("select", batch_size=2)
        await anext(stream)
        await anext(stream)
        server.fail("fetch", QueryTimeoutError("too slow"))
        with pytest.raises(QueryTimeoutError):
            await anext(stream)
        with pytest.raises(InterfaceError, match="ended by an error"):
            await anext(stream)
        await assert_whole_one(db)


async def test_ended_scopes_do_not_pile_up():
    server = Server()

    async def generator(db):
        async with db.connection():
            yield 1

    async with ScriptedEngine(server, max_size=2) as db:
        for _ in range(50):
            async for _ in generator(db):
                break
            await settle()
        depth, scope = 0, _scopes.get().get(db)
        while scope is not None:
            depth, scope = depth + 1, scope.outer
        assert depth <= 2


async def test_a_hook_on_an_ended_transaction_is_refused():
    server = Server()
    async with ScriptedEngine(server) as db:
        async with db.transaction() as tx:
            pass
        with pytest.raises(TransactionScopeError, match="would never be called"):
            tx.on_commit(print)


async def test_a_hook_that_uses_the_engine_has_the_connection_of_its_block():
    server = Server()
    seen = []
    async with ScriptedEngine(server, max_size=1) as db:

        async def hook():
            seen.append(await db.fetch_val("select"))

        async with db.connection(), db.transaction() as tx:
            tx.on_commit(hook)
    assert seen == [1]


async def test_opening_the_minimum_tries_again_as_connect_retry_says():
    server = Server()
    refusals = [CannotConnectError("starting up") for _ in range(2)]
    server.fail("connect", *refusals)
    policy = RetryPolicy(max_retries=2, backoff=0.001)
    async with ScriptedEngine(server, min_size=2, connect_retry=policy) as db:
        assert db.pool.stats().idle == 2
    server.fail("connect", CannotConnectError("starting up"))
    db = ScriptedEngine(server, min_size=1)
    with pytest.raises(CannotConnectError, match="starting up"):
        await db.connect()
    await db.close()


async def test_a_timeout_covers_the_wait_for_the_connection_too():
    server = Server()
    async with ScriptedEngine(server, max_size=1) as db, db.connection() as connection:
        with pytest.raises(TimeoutError):
            await asyncio.create_task(db.fetch_val("select", timeout=0.01))
        server.hold("execute")
        busy = start(connection.execute("slow"))
        await server.reached("execute")
        with pytest.raises(QueryTimeoutError, match="kept the connection busy"):
            await connection.fetch_val("select", timeout=0.01)
        server.let("execute")
        await busy
        assert await connection.fetch_val("select") == 1


async def test_what_a_dropped_stream_left_open_is_closed_although_the_next_task_is_cancelled():
    server = Server()
    async with ScriptedEngine(server, max_size=1) as db, db.connection() as connection:
        async for _ in connection.iterate("select", batch_size=2):
            break
        server.hold("close cursor")
        with anyio.move_on_after(0.01):
            await connection.fetch_val("select")
        server.let("close cursor")
        await connection.fetch_val("select")
        assert not connection.in_transaction
