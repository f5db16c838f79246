"""Scopes cancelled at every turn of the loop: transactions whole, connections given back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest

from aiodbkit import (
    ConnectionLostError,
    InterfaceError,
    InternalError,
    TransactionScopeError,
)
from tests.unit.pool.scripted import settle, start
from tests.unit.scripted_driver import ScriptedEngine, Server


async def assert_whole(db, server):
    """The pool can lend all its connections, each out of any transaction and in step."""
    await settle()
    connections = await asyncio.gather(*(db.pool.acquire(timeout=5) for _ in range(3)))
    for connection in connections:
        assert not connection.in_transaction
        assert await connection.fetch_val("select") is not None
        db.pool.release(connection)
    assert db.pool.stats().in_use == 0


async def whole_transaction(db, number):
    async with db.transaction() as tx:
        tx.on_commit(lambda: db.server.hooks.append(number))
        await db.execute(f"{number} a")
        async with db.transaction():
            await db.execute(f"{number} b")
        await db.execute(f"{number} c")


async def held_connection(db, number):
    async with db.connection() as connection:
        await connection.execute(f"{number} a")
        async with connection.transaction():
            await db.execute(f"{number} b")
        await connection.begin()
        await connection.execute(f"{number} c")
        await connection.commit()


async def streamed(db, number):
    async with db.iterate("select", batch_size=2) as rows:
        async for row in rows:
            if row.number == 5:
                break


async def streamed_in_transaction(db, number):
    async with db.transaction():
        async for row in db.iterate("select", batch_size=2):
            await db.execute(f"{number} {row.number}")


async def separate(db, number):
    async with db.transaction():
        await db.execute(f"{number} a")
        async with db.execution_context():
            await db.execute(f"{number} log")


WORKS = [whole_transaction, held_connection, streamed, streamed_in_transaction, separate]


@pytest.mark.parametrize("kind", ["edge", "edge twice", "level"])
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
async def test_cancelled_at_any_turn_a_scope_gives_its_connection_back_clean(work, kind):
    for turn in range(60):
        server = Server()
        server.hooks = []
        async with ScriptedEngine(server, max_size=3) as db:

            async def limited(scope, db=db):
                with scope:
                    await work(db, 1)

            scope = anyio.CancelScope()
            other = asyncio.create_task(work(db, 2))
            victim = asyncio.create_task(limited(scope))
            for _ in range(turn):
                await asyncio.sleep(0)
            if kind == "level":
                scope.cancel()
            else:
                victim.cancel()
                if kind == "edge twice":
                    await asyncio.sleep(0)
                    victim.cancel()
            with suppress(asyncio.CancelledError):
                await victim
            await other
            await assert_whole(db, server)
            said = [text for text in server.committed if text.startswith("1")]
            if work is whole_transaction:
                assert said in ([], ["1 a", "1 b", "1 c"])
                assert server.hooks.count(1) == (1 if said else 0)
        assert all(connection.is_closed for connection in server.connections)


@pytest.mark.parametrize("kind", ["edge", "level"])
async def test_a_commit_whose_caller_is_cancelled_is_not_torn_apart_and_its_hooks_run(kind):
    server = Server()
    ran = asyncio.Event()
    async with ScriptedEngine(server, max_size=1) as db:
        scope = anyio.CancelScope()

        async def work():
            with scope:
                async with db.transaction() as tx:
                    tx.on_commit(ran.set)
                    await db.execute("kept")

        server.hold("commit")
        task = asyncio.create_task(work())
        await server.reached("commit")
        if kind == "level":
            scope.cancel()
        else:
            task.cancel()
        await asyncio.wait([task])
        # The connection is not lent while its COMMIT is still under way.
        waiter = start(db.pool.acquire())
        await settle()
        assert not waiter.done()
        server.let("commit")
        await ran.wait()
        assert server.committed == ["kept"]
        db.pool.release(await waiter)


async def test_a_commit_that_never_answers_costs_its_deadline_after_the_caller_is_gone():
    server = Server()
    async with ScriptedEngine(server, max_size=1, reset_timeout=0.02) as db:

        async def work():
            async with db.transaction():
                await db.execute("lost")

        server.hold("commit")
        server.hold("recover")
        task = asyncio.create_task(work())
        await server.reached("commit")
        task.cancel()
        await asyncio.wait([task])
        async with db.connection() as connection:
            assert await connection.fetch_val("select") == 2


async def test_a_transaction_rolls_back_when_its_body_is_cancelled():
    server = Server()
    async with ScriptedEngine(server, max_size=1) as db:
        undone = []

        async def work():
            async with db.transaction() as tx:
                tx.on_rollback(lambda: undone.append(True))
                await db.execute("never")
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await server.reached("execute")
        await settle()
        task.cancel()
        await asyncio.wait([task])
        await assert_whole_one(db)
        assert server.committed == []
        assert undone == [True]


async def assert_whole_one(db):
    async with db.connection() as connection:
        assert not connection.in_transaction
        await connection.fetch_val("select")


async def test_a_statement_after_an_interrupted_one_waits_until_the_server_is_in_step():
    server = Server()
    async with ScriptedEngine(server) as db, db.connection() as connection:
        server.hold("execute")
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await connection.execute("slow")
        server.let("execute")
        assert await connection.fetch_val("select") == 1
        assert server.calls["recover"] == 1


async def test_a_connection_lost_in_a_transaction_poisons_the_scope():
    server = Server()
    async with ScriptedEngine(server) as db:
        with pytest.raises(ConnectionLostError):
            async with db.transaction():
                server.connections[0].lost = True
                with suppress(ConnectionLostError):
                    await db.execute("first")
                with pytest.raises(ConnectionLostError, match="the statement was not sent"):
                    await db.execute("second")
        assert server.committed == []
        await db.execute("outside")
        assert server.committed == ["outside"]


async def test_a_transaction_that_the_server_gave_up_takes_no_statement_and_no_commit():
    server = Server()
    async with ScriptedEngine(server) as db:
        with pytest.raises(InternalError, match="nothing was committed"):
            async with db.transaction():
                await db.execute("first")
                server.connections[0].transaction_lost = GaveUpError("deadlock")
                with pytest.raises(InternalError, match="deadlock"):
                    await db.execute("second")
        assert server.committed == []


class GaveUpError(Exception):
    pass


async def test_a_savepoint_that_cannot_be_ended_leaves_only_a_rollback():
    server = Server()
    async with ScriptedEngine(server, reset_timeout=0.02) as db:
        with pytest.raises(InternalError, match="gone"):
            async with db.transaction():
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        async with db.transaction():
                            await db.execute("inner")
                            server.hold("execute")
                await db.execute("outer")
        server.let("execute")
        assert server.committed == []


async def test_a_scope_around_a_nested_one_outlives_its_cancellation():
    server = Server()
    async with ScriptedEngine(server) as db:
        async with db.transaction():
            await db.execute("one")
            with anyio.move_on_after(0.01):
                async with db.transaction():
                    await db.execute("two")
                    await asyncio.Event().wait()
            await db.execute("three")
        said = [text for text in server.committed if "SAVEPOINT" not in text]
        assert said == ["one", "two", "three"]  # the scripted server knows no savepoints
        assert any(text.startswith("ROLLBACK TO") for text in server.committed)


async def test_a_stream_left_open_does_not_keep_its_transaction_from_ending():
    server = Server()
    async with ScriptedEngine(server, max_size=1) as db:
        async with db.transaction():
            rows = db.iterate("select", batch_size=2)
            async for _ in rows:
                break
        with pytest.raises(InterfaceError):
            for _ in range(3):  # what was fetched before the end may still be there
                await anext(rows)
        await assert_whole_one(db)


async def test_a_stream_that_is_dropped_gives_its_connection_back():
    server = Server()
    async with ScriptedEngine(server, max_size=1) as db:
        async for _ in db.iterate("select", batch_size=2):
            break
        await assert_whole_one(db)


async def test_a_statement_beside_a_stream_that_needs_the_connection_is_refused():
    server = Server()
    async with ScriptedEngine(server) as db, db.connection() as connection:
        async for _ in connection.iterate("select", batch_size=2):
            with pytest.raises(InterfaceError, match="busy with an iterate"):
                await connection.execute("beside")
            break
        await connection.execute("after")
        assert server.committed == ["after"]


async def test_a_handed_over_connection_is_lent_again_only_after_the_other_task_is_done():
    server = Server()
    async with ScriptedEngine(server, max_size=1) as db:
        server.hold("execute")
        async with db.connection() as connection:
            other = start(connection.execute("still running"))
            await server.reached("execute")
        waiter = start(db.pool.acquire())
        await settle()
        assert not waiter.done()
        server.let("execute")
        await other
        db.pool.release(await waiter)


async def test_calls_of_two_tasks_take_turns_in_order():
    server = Server()
    async with ScriptedEngine(server) as db, db.connection() as connection:
        server.hold("execute")
        tasks = []
        for number in range(4):
            tasks.append(asyncio.create_task(connection.execute(f"{number}")))
            await settle()
        assert server.calls["execute"] == 1
        tasks[1].cancel()
        server.let("execute")
        await asyncio.wait(tasks)
        assert server.committed == ["0", "2", "3"]


async def test_a_begin_sent_as_sql_is_noticed():
    server = Server()
    async with ScriptedEngine(server) as db, db.connection() as connection:
        await connection._driver.begin(None)
        with pytest.raises(TransactionScopeError, match="begun by an SQL statement"):
            async with db.transaction():
                pass


async def test_a_commit_sent_as_sql_is_noticed():
    server = Server()
    async with ScriptedEngine(server) as db:
        with pytest.raises(TransactionScopeError, match="ended inside its block"):
            async with db.transaction() as tx:
                await tx.connection._driver.commit()
