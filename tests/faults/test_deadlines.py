"""A server that stops answering in the middle: whatever ends a scope has a deadline too.

The wire swallows what is sent and what is answered, so nothing but a deadline of ours ends the
wait. `asyncio.timeout` only turns a hang into a failure.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import aiodbkit
from aiodbkit.driver import Capabilities
from aiodbkit.transaction import TransactionState
from tests.faults.postgres import Make, Proxies
from tests.servers.wire import WireProxy

NETWORKED = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postgres", "mysql")]
HANG = 20  # seconds: many times all deadlines together


@pytest.fixture(params=NETWORKED)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def proxy(url: str, wire_proxy: Proxies) -> WireProxy:
    return await wire_proxy(url)


@pytest.fixture
async def through(proxy: WireProxy, make_engine: Make) -> Make:
    """Make engines with a single connection, by way of the proxy, that wait 0.5 s to clean it."""

    async def make(**options: Any) -> aiodbkit.Engine:
        options = {"max_size": 1, "acquire_timeout": 20, "reset_timeout": 0.5, **options}
        return await make_engine(proxy.url, **options)

    return make


@pytest.fixture
async def hasty(through: Make) -> aiodbkit.Engine:
    """An engine with short deadlines."""
    return await through(command_timeout=0.5)


@pytest.fixture
async def patient(through: Make) -> aiodbkit.Engine:
    """An engine without a limit for statements: ``reset_timeout`` is all there is."""
    return await through()


@asynccontextmanager
async def hole_at(proxy: WireProxy, text: bytes) -> AsyncIterator[None]:
    """Let no answer through to what is sent after ``text`` has been, nor to that."""

    async def dig() -> None:
        await proxy.seen(text)
        proxy.hole()

    digging = asyncio.create_task(dig())
    await asyncio.sleep(0)  # it watches now
    try:
        yield
        assert digging.done(), f"{text!r} was never sent"
    finally:
        digging.cancel()


async def assert_recovers(db: aiodbkit.Engine, proxy: WireProxy) -> None:
    """With the wire healed, the only slot of the pool serves again, outside any transaction."""
    proxy.heal()
    async with asyncio.timeout(HANG), db.connection() as conn:
        assert await conn.fetch_val("select 41") == 41
        assert not conn.in_transaction


# The end of a transaction


@pytest.mark.parametrize("command_timeout", [0.5, None])
async def test_an_unanswered_rollback_ends_and_the_users_own_error_leaves_the_block(
    command_timeout: float | None, through: Make, proxy: WireProxy
) -> None:
    db = await through(command_timeout=command_timeout)
    undone: list[str] = []
    mine = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with asyncio.timeout(HANG), db.transaction() as tx:
            tx.on_rollback(lambda: undone.append("told"))
            await db.fetch_val("select 1")
            proxy.hole()
            raise mine
    assert caught.value is mine
    assert not hasattr(mine, "__notes__")  # the rollback has not failed: it has taken effect
    assert undone == ["told"]
    assert tx.state is TransactionState.ROLLED_BACK
    await assert_recovers(db, proxy)


async def test_an_unanswered_rollback_on_purpose_ends_and_its_connection_is_closed(
    patient: aiodbkit.Engine, proxy: WireProxy
) -> None:
    async with asyncio.timeout(HANG), patient.connection() as conn:
        async with patient.transaction() as tx:
            await conn.fetch_val("select 1")
            proxy.hole()
            await tx.rollback()
            assert not tx.is_active
        assert conn.is_closed
        with pytest.raises(aiodbkit.ConnectionLostError):
            await conn.fetch_val("select 1")
    await assert_recovers(patient, proxy)


async def test_an_unanswered_commit_ends_by_command_timeout_and_its_outcome_is_unknown(
    hasty: aiodbkit.Engine, proxy: WireProxy
) -> None:
    with pytest.raises(aiodbkit.CommitUnknownError, match=r"command_timeout=0\.5"):
        async with asyncio.timeout(HANG), hasty.transaction():
            await hasty.fetch_val("select 1")
            proxy.hole()
    await assert_recovers(hasty, proxy)


# Savepoints


async def test_an_unanswered_savepoint_ends_and_dooms_the_transaction(
    hasty: aiodbkit.Engine, proxy: WireProxy
) -> None:
    async with asyncio.timeout(HANG):
        with pytest.raises(aiodbkit.Error, match="gone"):
            async with hasty.transaction():
                await hasty.fetch_val("select 1")
                proxy.hole()
                with pytest.raises(aiodbkit.QueryTimeoutError, match="SAVEPOINT aiodbkit_1"):
                    await hasty.transaction().__aenter__()
                with pytest.raises(aiodbkit.Error, match="gone"):
                    await hasty.fetch_val("select 1")
    await assert_recovers(hasty, proxy)


async def test_an_unanswered_release_ends_and_dooms_the_transaction(
    hasty: aiodbkit.Engine, proxy: WireProxy
) -> None:
    async with asyncio.timeout(HANG):
        with pytest.raises(aiodbkit.Error, match="gone"):
            async with hasty.transaction():
                with pytest.raises(aiodbkit.QueryTimeoutError, match="RELEASE SAVEPOINT"):
                    async with hasty.transaction():
                        await hasty.fetch_val("select 1")
                        proxy.hole()
    await assert_recovers(hasty, proxy)


@pytest.mark.parametrize("command_timeout", [0.5, None])
async def test_an_unanswered_rollback_to_a_savepoint_leaves_the_users_own_error(
    command_timeout: float | None, through: Make, proxy: WireProxy
) -> None:
    db = await through(command_timeout=command_timeout)
    with pytest.raises(ValueError, match="mine") as caught:
        async with asyncio.timeout(HANG), db.transaction(), db.transaction():
            await db.fetch_val("select 1")
            proxy.hole()
            raise ValueError("mine")
    (note,) = caught.value.__notes__
    assert "ROLLBACK TO" in note
    assert ("command_timeout" if command_timeout else "reset_timeout") + "=0.5 s" in note
    await assert_recovers(db, proxy)


async def test_an_unanswered_rollback_to_a_savepoint_dooms_the_transaction(
    patient: aiodbkit.Engine, proxy: WireProxy
) -> None:
    async with asyncio.timeout(HANG), patient.connection() as conn:
        with pytest.raises(aiodbkit.Error, match="gone"):
            async with patient.transaction(), patient.transaction() as inner:
                await conn.fetch_val("select 1")
                proxy.hole()
                with pytest.raises(aiodbkit.QueryTimeoutError, match="ROLLBACK TO"):
                    await inner.rollback()
                assert conn.is_closed
    await assert_recovers(patient, proxy)


# The end of a stream


@pytest.mark.parametrize("command_timeout", [0.5, None])
@pytest.mark.parametrize("timeout", [0.5, None])
async def test_a_stream_whose_own_commit_is_not_answered_ends(
    timeout: float | None,
    command_timeout: float | None,
    through: Make,
    can: Capabilities,
    proxy: WireProxy,
) -> None:
    if not can.cursor_needs_transaction:
        pytest.skip("its streams have no transaction of their own")
    db = await through(command_timeout=command_timeout)
    with pytest.raises(aiodbkit.QueryTimeoutError, match="end of the iteration") as caught:
        async with asyncio.timeout(HANG), hole_at(proxy, b"COMMIT"):
            rows = db.iterate("select 1", timeout=timeout)
            assert tuple(await anext(rows)) == (1,)
            await anext(rows)
    assert caught.value.query == "select 1"
    await assert_recovers(db, proxy)


@pytest.mark.parametrize("scope", ["engine", "transaction"])
async def test_a_stream_that_cannot_be_closed_leaves_the_users_own_error(
    scope: str, patient: aiodbkit.Engine, proxy: WireProxy
) -> None:
    numbers = "with recursive n (i) as (select 1 union all select i + 1 from n where i < 900)"

    async def read() -> None:
        async with patient.iterate(f"{numbers} select i from n", batch_size=2) as rows:
            async for _ in rows:
                proxy.hole()
                raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        async with asyncio.timeout(HANG):
            if scope == "engine":
                await read()
            else:
                async with patient.transaction():
                    await read()
    await assert_recovers(patient, proxy)


async def test_what_a_dropped_stream_left_open_does_not_hang_the_next_statement(
    patient: aiodbkit.Engine, can: Capabilities, proxy: WireProxy
) -> None:
    if not can.cursor_needs_transaction:
        pytest.skip("its cursors are closed by draining them, which has a limit of its own")
    async with asyncio.timeout(HANG), patient.connection() as conn:
        rows = conn.iterate("select generate_series(1, 9)", batch_size=2)
        await anext(rows)
        del rows
        gc.collect()
        proxy.hole()
        with pytest.raises(aiodbkit.ConnectionLostError, match=r"reset_timeout=0\.5"):
            await conn.fetch_val("select 1")
    await assert_recovers(patient, proxy)


# Many rows


@pytest.mark.parametrize("timeout", [2, None])
@pytest.mark.parametrize("verb", ["insert_many", "execute_many"])
async def test_refused_rows_whose_rollback_is_not_answered_do_not_hang(
    verb: str, timeout: float | None, patient: aiodbkit.Engine, proxy: WireProxy
) -> None:
    await patient.execute("create table notes (id integer primary key, body text)")
    rows = [{"id": n % 400, "body": "x" * 10_000} for n in range(401)]  # the last one is refused
    with pytest.raises(aiodbkit.UniqueViolationError):
        async with asyncio.timeout(HANG), hole_at(proxy, b"ROLLBACK"):
            await _add(patient, verb, rows, timeout)
    await assert_recovers(patient, proxy)
    assert await patient.fetch_val("select count(*) from notes") == 0


async def test_rows_refused_in_a_transaction_do_not_hang_if_their_savepoint_is_not_answered(
    patient: aiodbkit.Engine, can: Capabilities, proxy: WireProxy
) -> None:
    if can.error_aborts_transaction:
        pytest.skip("the whole transaction is rolled back then")
    await patient.execute("create table notes (id integer primary key, body text)")
    rows = [{"id": n % 400, "body": "x" * 10_000} for n in range(401)]
    with pytest.raises(aiodbkit.Error, match="gone"):
        async with asyncio.timeout(HANG), patient.transaction():
            with pytest.raises(aiodbkit.UniqueViolationError):
                async with hole_at(proxy, b"ROLLBACK TO"):
                    await patient.insert_many("notes", rows)
    await assert_recovers(patient, proxy)
    assert await patient.fetch_val("select count(*) from notes") == 0


@pytest.mark.parametrize("timeout", [1.5, 2.5])  # the time of the first statement and of the second
@pytest.mark.parametrize("scope", ["engine", "transaction"])
@pytest.mark.parametrize("verb", ["insert_many", "execute_many"])
async def test_what_a_batch_takes_to_begin_and_to_end_is_part_of_its_timeout(
    verb: str, scope: str, *, timeout: float, url: str, patient: aiodbkit.Engine, proxy: WireProxy
) -> None:
    """Each statement takes 1 s by itself; there are three of them, or more."""
    if url.startswith("mysql"):
        pytest.skip("its two rows are a single statement")
    await patient.execute("create table notes (id integer primary key, body text)")
    await _add(patient, verb, NOTES, None)  # what has to be prepared is
    await patient.execute("delete from notes")

    async def add() -> None:
        with pytest.raises((aiodbkit.QueryTimeoutError, aiodbkit.CommitUnknownError)):
            async with asyncio.timeout(HANG):
                proxy.delay(0.5)
                await _add(patient, verb, NOTES, timeout)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        if scope == "engine":
            await add()
        else:
            async with patient.transaction():
                await patient.fetch_val("select 1")
                await add()
    await assert_recovers(patient, proxy)


NOTES = [{"id": 1, "body": "a"}, {"id": 2, "body": "b"}]


async def _add(
    db: aiodbkit.Engine, verb: str, rows: list[dict[str, Any]], timeout: float | None
) -> None:
    if verb == "insert_many":
        await db.insert_many("notes", rows, timeout=timeout)
    else:
        add = "insert into notes (id, body) values (:id, :body)"
        await db.execute_many(add, rows, timeout=timeout)


# Scripts


NO_MORE_STATEMENTS = b"\x03\x00\x00\x00\x1b\x01\x00"  # COM_SET_OPTION, of MySQL's protocol


@pytest.mark.parametrize("scope", ["connection", "transaction"])
async def test_a_script_that_was_answered_stands_although_what_follows_it_is_not(
    scope: str, patient: aiodbkit.Engine, url: str, proxy: WireProxy
) -> None:
    if not url.startswith("mysql"):
        pytest.skip("nothing follows a script")
    await patient.execute("create table notes (id integer primary key)")
    script = "insert into notes values (1); insert into notes values (2)"
    async with asyncio.timeout(HANG), patient.connection() as conn:
        if scope == "connection":
            async with hole_at(proxy, NO_MORE_STATEMENTS):
                await conn.execute_script(script)
        else:
            with pytest.raises(aiodbkit.Error, match="gone"):
                async with conn.transaction():
                    await conn.fetch_val("select 1")
                    async with hole_at(proxy, NO_MORE_STATEMENTS):
                        await conn.execute_script(script)
        assert conn.is_closed
    await assert_recovers(patient, proxy)
    kept = await patient.fetch_column("select id from notes order by id")
    assert kept == ([1, 2] if scope == "connection" else [])


# The first rows of a stream


@pytest.mark.parametrize(
    ("scope", "timeout"),
    [
        ("transaction", 1.5),
        pytest.param(
            "engine",
            2.5,
        ),
    ],
)
async def test_what_a_stream_takes_to_open_is_part_of_the_time_of_its_first_batch(
    scope: str, timeout: float, through: Make, can: Capabilities, proxy: WireProxy
) -> None:
    """Each statement takes 1 s by itself."""
    if not can.cursor_needs_transaction:
        pytest.skip("a single statement opens its streams and brings their rows")
    db = await through(reset_timeout=5)

    async def read(timeout: float | None) -> None:
        async with db.iterate("select 1", timeout=timeout) as rows:
            async for _ in rows:
                pass

    await read(None)  # what has to be prepared is
    with pytest.raises(ValueError, match="mine"):
        async with asyncio.timeout(HANG), db.connection() as conn:
            if scope == "transaction":
                await conn.begin()
            proxy.delay(0.5)
            with pytest.raises(aiodbkit.QueryTimeoutError):
                await read(timeout)
            raise ValueError("mine")
    await assert_recovers(db, proxy)
