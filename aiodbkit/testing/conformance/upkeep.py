"""What pool and scopes count on: recovery, cleaning, cursors that end early, lost commits."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from aiodbkit.engine import Engine
from aiodbkit.errors import (
    CommitUnknownError,
    ConnectionLostError,
    Error,
    QueryTimeoutError,
)
from aiodbkit.testing.conformance.suite import ADD, NAMES, Suite, case, raises

__all__ = ["UpkeepCases"]

_NEW = {"id": 9, "name": "New", "team": None}
_NEWER = {"id": 10, "name": "Newer", "team": None}
_TURNS = 12  # of the loop, within which a job is handed over in one way or another


class UpkeepCases(Suite):
    """Cases of what a `DriverConnection` promises to those who keep it."""

    # Recovery

    @case(max_size=1)
    async def test_recovery_keeps_the_open_transaction(self, db: Engine) -> None:
        async with db.transaction() as tx:
            await db.execute(ADD, _NEW)
            driver = tx.connection._driver
            driver.suspect = True  # as whoever saw a call end with no error of ours leaves it
            await db.execute(ADD, _NEWER)
            assert not driver.suspect, "recover() has to clear suspect"
        assert await self.names(db) == ["Ann", "Bob", "Cy", "Dee", "New", "Newer"]

    @case(max_size=1)
    async def test_after_a_timeout_a_transaction_goes_on_or_says_that_it_cannot(
        self, db: Engine
    ) -> None:
        slow = self.slow_statement(20)
        try:
            async with db.transaction():
                await db.execute(ADD, _NEW)
                with raises(QueryTimeoutError):
                    await db.fetch_val(slow, timeout=0.2)
                await db.execute(ADD, _NEWER)
        except Error:
            expected = []
        else:
            expected = ["New", "Newer"]
        assert (await self.names(db))[4:] == expected

    @case(max_size=1)
    async def test_a_cancelled_statement_leaves_its_borrowers_connection_usable_or_closed(
        self, db: Engine
    ) -> None:
        slow = self.slow_statement(20)
        async with db.pool.acquire() as conn:
            task = asyncio.create_task(conn.fetch_val(slow))
            await asyncio.sleep(0.2)
            task.cancel()
            with raises(asyncio.CancelledError):
                await task
            try:
                assert await conn.fetch_val("select 7") == 7
            except ConnectionLostError:
                assert conn.is_closed

    # Cleaning

    @case(max_size=1)
    async def test_whatever_is_done_with_the_raw_connection_is_undone(self, db: Engine) -> None:
        async with db.pool.acquire() as conn:
            assert conn.raw is not None
            assert conn._driver.is_dirty, "expose() has handed out raw: clean() has to be called"
        assert await db.fetch_val("select 1") == 1

    @case(max_size=1)
    async def test_a_changed_session_is_not_handed_on(self, db: Engine) -> None:
        change, show = self.session_change()
        before = await db.fetch_val(show)
        async with db.connection() as conn:
            await conn.execute(change)
            assert await conn.fetch_val(show) != before, "session: it changes nothing"
        assert await db.fetch_val(show) == before

    @case(max_size=1)
    async def test_what_prepares_a_session_is_kept_and_costs_no_connection(
        self, db: Engine
    ) -> None:
        change, show = self.session_change()
        before = await db.fetch_val(show)
        async with self.create_engine(max_size=1, session_sql=[change]) as prepared:
            for _ in range(3):
                assert await prepared.fetch_val("select 1") == 1
            assert prepared.pool.stats().opened == 1, "keep_session() has to end what is dirty"
            assert await prepared.fetch_val(show) != before

    @case(max_size=1)
    async def test_a_rollback_of_nothing_succeeds(self, db: Engine) -> None:
        async with db.pool.acquire() as conn:
            await conn._driver.rollback()
            assert not conn.in_transaction
            assert await conn.fetch_val("select 1") == 1

    @case(max_size=1)
    async def test_a_closed_connection_says_so_and_closes_again(self, db: Engine) -> None:
        async with db.pool.acquire() as conn:
            driver = conn._driver
            await driver.close()
            await driver.close()
            driver.abort()
            assert driver.is_closed
            assert not driver.in_transaction
            with raises(ConnectionLostError) as caught:
                await conn.fetch_val("select 1")
            assert caught[0].is_transient, "nothing can have been sent"
        assert await db.fetch_val("select 1") == 1

    # Cursors

    @case(max_size=1)
    async def test_a_cursor_ends_early_or_late_and_twice(self, db: Engine) -> None:
        async with db.transaction() as tx:
            driver = tx.connection._driver
            cursor = await driver.open_cursor(NAMES, None, None, 3)
            columns, rows = await cursor.fetch()
            assert [*columns] == ["name"]
            assert [row[0] for row in rows] == ["Ann", "Bob", "Cy"]
            assert [row[0] for row in (await cursor.fetch())[1]] == ["Dee"]
            assert not (await cursor.fetch())[1]
            await cursor.close()
            await cursor.close()
            early = await driver.open_cursor(NAMES, None, None, 1)
            await early.fetch()
            await early.close()
            await early.close()
            await db.execute(ADD, _NEW)
        assert "New" in await self.names(db)

    @case(max_size=1)
    async def test_of_a_lost_connection_a_cursor_is_closed_without_an_error(
        self, db: Engine
    ) -> None:
        async with db.pool.acquire() as conn:
            await conn.begin()
            cursor = await conn._driver.open_cursor(NAMES, None, None, 1)
            await cursor.fetch()
            conn._driver.abort()
            await cursor.close()
        assert await db.fetch_val("select 1") == 1

    @case(max_size=1)
    async def test_rows_that_nobody_reads_hold_up_no_commit(self, db: Engine) -> None:
        async with db.transaction():
            async for row in db.iterate(NAMES, batch_size=1):
                assert row.name == "Ann"
                break
            await db.execute(ADD, _NEW)
        assert "New" in await self.names(db)

    # Commits

    @case(max_size=1)
    async def test_a_commit_that_is_cut_off_never_lies(self, db: Engine) -> None:
        """Wherever the connection is dropped, what the caller is told is what the database has."""
        for turns in range(_TURNS):
            key = 100 + turns
            async with db.pool.acquire() as conn:
                await conn.begin()
                await conn.execute(ADD, {"id": key, "name": f"n{key}", "team": None})
                commit = asyncio.create_task(conn.commit())
                for _ in range(turns):
                    await asyncio.sleep(0)
                conn._driver.abort()
                told: object = (await asyncio.gather(commit, return_exceptions=True))[0]
            assert told is None or isinstance(told, Error), f"{told!r} after {turns} turns"
            if isinstance(told, CommitUnknownError):
                assert not told.is_transient, "it may have been committed: no reason to repeat it"
                continue
            sql = "select count(*) from conformance where id = :id"
            kept = await db.fetch_val(sql, {"id": key}) == 1
            assert kept is (told is None), f"{told!r} after {turns} turns"

    @case(max_size=1)
    async def test_a_transaction_whose_connection_died_says_so(self, db: Engine) -> None:
        with raises(ConnectionLostError):
            async with db.transaction() as tx:
                await db.execute(ADD, _NEW)
                tx.connection._driver.abort()
                await db.execute(ADD, _NEWER)
        assert len(await self.names(db)) == 4

    @case
    async def test_a_script_never_commits_the_open_transaction(self, db: Engine) -> None:
        async with db.transaction(force_rollback=True):
            await db.execute(ADD, _NEW)
            await db.execute_script(
                "delete from conformance where id = 1; delete from conformance where id = 2"
            )
            assert await self.names(db) == ["Cy", "Dee", "New"]
        assert len(await self.names(db)) == 4

    # Connecting

    @case
    async def test_whoever_is_cancelled_while_connecting_leaves_nothing(self, db: Engine) -> None:
        for turns in range(_TURNS):
            async with AsyncExitStack() as stack:
                fresh = self.create_engine(max_size=1)
                stack.push_async_callback(fresh.close, timeout=5)
                task = asyncio.create_task(fresh.fetch_val("select 1"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                told: object = (await asyncio.gather(task, return_exceptions=True))[0]
                ended = told == 1 or isinstance(told, asyncio.CancelledError)
                assert ended, f"it ended in {told!r}"
                assert await fresh.fetch_val("select 2") == 2
        assert len(await self.names(db)) == 4
