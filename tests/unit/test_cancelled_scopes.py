"""Scopes cancelled at every turn of the loop: transactions whole, connections given back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest

from aiodbkit import (
    CannotConnectError,
    ConnectionLostError,
    InterfaceError,
    InternalError,
    QueryTimeoutError,
    RetryPolicy,
    Rollback,
    TransactionScopeError,
)
from aiodbkit.scope import _scopes
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
