"""Advisory locks: one block at a time, lost with their connection, never left in the pool."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from aiodbkit import (
    ConnectionLostError,
    InterfaceError,
    LockTimeoutError,
    NotSupportedError,
    Rollback,
)
from aiodbkit.backends.postgres import lock_key
from tests.postgres.support import terminate, until_true

HELD = "select count(*) from pg_locks where locktype = 'advisory' and granted and objid <> 0"
WAITING = "select count(*) = 1 from pg_locks where locktype = 'advisory' and not granted"


@pytest.fixture(params=["auto", "never"])
async def db(postgres_engine, request):
    return await postgres_engine(reset=request.param)


async def test_one_task_at_a_time_is_in_the_block(db):
    inside = 0

    async def enter():
        nonlocal inside
        async with db.advisory_lock("job"):
            inside += 1
            assert inside == 1
            await db.execute("select 1")
            inside -= 1

    await asyncio.gather(*(enter() for _ in range(20)))
    assert await db.fetch_val(HELD) == 0


async def test_the_lock_is_known_by_its_name_in_sql_too(db):
    async with db.advisory_lock("jöb") as lock:
        told = await db.fetch_val(
            "select ('x' || encode(substr(sha256(convert_to(:name, 'UTF8')), 1, 8), 'hex'))"
            "::bit(64)::bigint",
            {"name": "jöb"},
        )
        assert told == lock.key == lock_key("jöb")
        assert await db.fetch_val(
            "select (classid::bigint << 32) | objid::bigint from pg_locks "
            "where locktype = 'advisory' and pid = pg_backend_pid()"
        ) == told  # fmt: skip
        assert lock.is_held


async def test_statements_of_the_block_run_on_the_connection_that_holds_the_lock(postgres_engine):
    db = await postgres_engine(max_size=1)
    async with db.advisory_lock("job"):
        assert await db.fetch_val(f"{HELD} and pid = pg_backend_pid()") == 1


@pytest.mark.parametrize("timeout", [0, 0.05])
async def test_a_lock_that_another_holds_is_not_waited_for_longer_than_told(db, timeout):
    async with db.advisory_lock("job"):
        task = asyncio.create_task(_take(db, timeout=timeout))
        with pytest.raises(LockTimeoutError, match="'job'"):
            await task
        assert await db.fetch_val(HELD) == 1
    await _take(db, timeout=timeout)


async def _take(db, **options):
    async with db.advisory_lock("job", **options):
        return await db.fetch_val("select 1")


async def test_the_limit_of_the_wait_does_not_stay_in_the_session(postgres_engine):
    db = await postgres_engine(max_size=1)
    async with db.advisory_lock("job", timeout=5):
        assert await db.fetch_val("show lock_timeout") == "0"
    assert await db.fetch_val("show lock_timeout") == "0"


async def test_shared_locks_are_held_together_and_keep_others_out(db):
    async with db.advisory_lock("job", shared=True):
        await asyncio.create_task(_take(db, shared=True, timeout=0))
        with pytest.raises(LockTimeoutError):
            await asyncio.create_task(_take(db, timeout=0))


async def test_the_same_task_takes_it_again_and_keeps_it_to_the_outermost_end(db):
    async with db.advisory_lock("job"):
        async with db.advisory_lock("job", timeout=0):
            pass
        with pytest.raises(LockTimeoutError):
            await asyncio.create_task(_take(db, timeout=0))
    await asyncio.create_task(_take(db, timeout=0))


async def test_it_decorates_functions(db):
    @db.advisory_lock("job")
    async def work():
        return await db.fetch_val(HELD)

    assert [await work(), await work()] == [1, 1]
    assert await db.fetch_val(HELD) == 0


# Ends.


async def test_an_exception_in_the_block_gives_it_back(db):
    with pytest.raises(ZeroDivisionError):
        async with db.advisory_lock("job"):
            raise ZeroDivisionError
    assert await db.fetch_val(HELD) == 0


async def test_a_cancelled_wait_leaves_no_lock_behind(db):
    async with db.advisory_lock("job"):
        waiting = [asyncio.create_task(_take(db)) for _ in range(1)]
        await until_true(db, WAITING)
        waiting[0].cancel()
        await asyncio.wait(waiting)
        assert waiting[0].cancelled()
    await _take(db, timeout=0)
    await until_true(db, HELD.replace("count(*)", "count(*) = 0"))


async def test_cancelled_at_any_moment_it_leaves_no_lock_behind(db):
    for steps in range(40):
        task = asyncio.create_task(_take(db, timeout=5 if steps % 2 else None))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        task.cancel()
        await asyncio.wait([task])
        await until_true(db, HELD.replace("count(*)", "count(*) = 0"))


async def test_a_lock_whose_connection_was_lost_is_told_at_the_end(db):
    async def hold(body):
        async with db.advisory_lock("job") as lock:
            pid = await db.fetch_val("select pg_backend_pid()")
            await asyncio.create_task(terminate(db, pid))
            await body()
            assert not lock.is_held

    async def nothing():
        pass

    async def fails():
        raise ZeroDivisionError

    with pytest.raises(ConnectionLostError, match="was lost together with the connection"):
        await hold(nothing)
    with pytest.raises(ZeroDivisionError) as caught:
        await hold(fails)
    assert "was lost" in caught.value.__notes__[0]
    await _take(db, timeout=0)


# In a transaction.


async def test_in_a_transaction_it_is_held_until_the_commit(db):
    async with db.transaction():
        async with db.advisory_lock("job", timeout=1):
            pass
        with pytest.raises(LockTimeoutError):
            await asyncio.get_running_loop().create_task(_take_outside(db))
    await _take(db, timeout=0)


async def _take_outside(db):
    async with db.execution_context(transaction=False):
        await _take(db, timeout=0)


@pytest.mark.parametrize("timeout", [0, 0.05])
async def test_waiting_in_vain_leaves_the_transaction_usable(db, timeout):
    await db.execute("create table t (id int)")
    async with _Held(db), db.transaction():
        await db.execute("insert into t values (1)")
        with pytest.raises(LockTimeoutError):
            async with db.advisory_lock("job", timeout=timeout):
                pytest.fail("it was entered")
        assert await db.fetch_val("show lock_timeout") == "0"
    assert await db.fetch_column("select id from t") == [1]


class _Held:
    """The lock, held by another task meanwhile."""

    def __init__(self, db):
        self.db, self.is_held, self.end = db, asyncio.Event(), asyncio.Event()

    async def _hold(self):
        async with self.db.advisory_lock("job"):
            self.is_held.set()
            await self.end.wait()

    async def __aenter__(self):
        self.task = asyncio.create_task(self._hold())
        await self.is_held.wait()

    async def __aexit__(self, *exc):
        self.end.set()
        await self.task


async def test_a_rolled_back_transaction_gives_it_back(db):
    async with db.transaction(), db.advisory_lock("job"):
        raise Rollback
    await _take(db, timeout=0)


async def test_in_a_session_it_belongs_to_its_transaction(db):
    async with db.session() as session:
        async with db.advisory_lock("job"):
            await session.execute("select 1")
        await session.commit()
        await asyncio.create_task(_take_own(db))


async def test_a_commit_in_the_block_ends_the_lock_of_a_session_without_an_error(db):
    await db.execute("create table t (id int)")
    async with db.session() as session, db.advisory_lock("job") as lock:
        await session.execute("insert into t values (1)")
        assert lock.is_held
        await session.commit()
        assert not lock.is_held
        await asyncio.create_task(_take_own(db))
    async with db.transaction() as tx, db.advisory_lock("job") as lock:
        await tx.rollback()
        assert not lock.is_held
    assert await db.fetch_column("select id from t") == [1]


async def _take_own(db):
    from contextvars import Context

    await asyncio.get_running_loop().create_task(_take(db, timeout=0), context=Context())


async def test_misuse_is_told(db):
    for bad in ("", None, 7):
        with pytest.raises(InterfaceError, match="named by a text"):
            db.advisory_lock(bad)
    with pytest.raises(InterfaceError, match="surrogate"):
        db.advisory_lock("\ud800")
    block = db.advisory_lock("job")
    async with block:
        pass
    with pytest.raises(InterfaceError, match="entered before"):
        await block.__aenter__()


async def test_behind_a_transaction_pooler_only_a_transaction_can_hold_it(postgres_engine):
    db = await postgres_engine(prepared_statements=False)
    with pytest.raises(NotSupportedError, match="transaction-pooling proxy"):
        await _take(db)
    async with db.transaction(), db.advisory_lock("job", timeout=1):
        assert await db.fetch_val(HELD) == 1
    assert await db.fetch_val(HELD) == 0


async def test_a_cancel_scope_that_goes_on_cancelling_leaves_no_lock_behind(db):
    for steps in range(0, 30, 2):
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_soon(_later, steps, scope.cancel)
            async with db.advisory_lock("job", timeout=5):
                await anyio.sleep_forever()
        await until_true(db, HELD.replace("count(*)", "count(*) = 0"))


def _later(steps, call):
    """Call after so many turns of the loop."""
    if steps:
        asyncio.get_running_loop().call_soon(_later, steps - 1, call)
    else:
        call()
