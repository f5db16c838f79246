"""Transactions: all or nothing, whatever ends them."""

from __future__ import annotations

import asyncio
from typing import get_args

from aiodbkit.engine import Engine
from aiodbkit.errors import (
    DatabaseError,
    Error,
    IntegrityError,
    NotSupportedError,
    Rollback,
    TransactionScopeError,
)
from aiodbkit.options import Isolation
from aiodbkit.testing.conformance.suite import ADD, Suite, case, raises

__all__ = ["TransactionCases"]

_NEW = {"id": 9, "name": "New", "team": None}
_DELETE = "delete from conformance"


class TransactionCases(Suite):
    """Cases of `transaction`, sessions and transactions by hand."""

    @case
    async def test_success_commits(self, db: Engine) -> None:
        async with db.transaction():
            await db.execute(ADD, _NEW)
            assert "New" in await self.names(db)
        assert "New" in await self.names(db)

    @case
    async def test_an_exception_rolls_back(self, db: Engine) -> None:
        for error in (ZeroDivisionError, Rollback, asyncio.CancelledError):
            try:
                async with db.transaction():
                    await db.execute(_DELETE)
                    raise error
            except (ZeroDivisionError, asyncio.CancelledError):
                pass
            assert len(await self.names(db)) == 4, f"after {error.__name__}"

    @case
    async def test_others_see_nothing_before_the_commit(self, db: Engine) -> None:
        if not db.capabilities.concurrent_writers:
            self.skip("one connection at a time can write")
        async with db.transaction():
            await db.execute(_DELETE)
            async with db.pool.acquire() as other:
                assert len(await self.names(other)) == 4

    @case
    async def test_a_nested_transaction_is_a_savepoint(self, db: Engine) -> None:
        async with db.transaction():
            await db.execute(ADD, _NEW)
            async with db.transaction():
                await db.execute(_DELETE)
                raise Rollback
            async with db.transaction():
                await db.execute("delete from conformance where id = 1")
        assert await self.names(db) == ["Bob", "Cy", "Dee", "New"]

    @case
    async def test_an_error_inside_a_savepoint_leaves_the_outer_one_usable(
        self, db: Engine
    ) -> None:
        async with db.transaction():
            await db.execute(ADD, _NEW)
            with raises(IntegrityError):
                async with db.transaction():
                    await db.execute(ADD, {**_NEW, "id": 1})
            await db.execute("delete from conformance where id = 1")
        assert await self.names(db) == ["Bob", "Cy", "Dee", "New"]

    @case
    async def test_a_swallowed_error_never_makes_a_commit_lie(self, db: Engine) -> None:
        """What the block's end says is what the database has."""
        try:
            async with db.transaction():
                await db.execute(ADD, _NEW)
                with raises(IntegrityError):
                    await db.execute(ADD, {**_NEW, "id": 1})
        except DatabaseError:
            committed = False
        else:
            committed = True
        assert committed is not db.capabilities.error_aborts_transaction
        assert ("New" in await self.names(db)) is committed

    @case
    async def test_isolation_levels_are_those_of_the_capabilities(self, db: Engine) -> None:
        for level in get_args(Isolation):
            if level in db.capabilities.isolation_levels:
                async with db.transaction(isolation=level):
                    assert len(await self.names(db)) == 4
            else:
                with raises(NotSupportedError):
                    async with db.transaction(isolation=level):
                        pass

    @case
    async def test_read_only_refuses_to_write_or_is_refused(self, db: Engine) -> None:
        with raises(Error):
            async with db.transaction(read_only=True):
                await db.execute(_DELETE)
        assert len(await self.names(db)) == 4

    @case
    async def test_what_a_backend_does_not_have_is_refused(self, db: Engine) -> None:
        if not db.capabilities.lock_modes:
            with raises(NotSupportedError):
                async with db.transaction(mode="exclusive"):
                    pass
        if not db.capabilities.deferrable:
            with raises(NotSupportedError):
                async with db.transaction(
                    isolation="serializable", read_only=True, deferrable=True
                ):
                    pass

    @case
    async def test_hooks_run_after_the_outermost_end(self, db: Engine) -> None:
        told: list[str] = []
        async with db.transaction() as tx:
            tx.on_commit(lambda: told.append("committed"))
            async with db.transaction() as inner:
                inner.on_rollback(lambda: told.append("undone"))
                raise Rollback
        assert sorted(told) == ["committed", "undone"]

    @case
    async def test_a_transaction_by_hand(self, db: Engine) -> None:
        async with db.connection() as conn:
            await conn.begin()
            assert conn.in_transaction
            await conn.execute(_DELETE)
            await conn.rollback()
            assert not conn.in_transaction
            await conn.begin()
            await conn.execute(ADD, _NEW)
            await conn.commit()
            with raises(TransactionScopeError):
                await conn.commit()
        assert len(await self.names(db)) == 5

    @case(max_size=1)
    async def test_a_forgotten_transaction_is_rolled_back_before_the_next_borrower(
        self, db: Engine
    ) -> None:
        async with db.connection() as conn:
            await conn.begin()
            await conn.execute(_DELETE)
        assert len(await self.names(db)) == 4

    @case(max_size=1)
    async def test_a_block_cancelled_while_its_statement_runs_is_rolled_back(
        self, db: Engine
    ) -> None:
        slow = self.slow_statement(20)

        async def work() -> None:
            async with db.transaction():
                await db.execute(_DELETE)
                await db.fetch_val(slow)

        task = asyncio.create_task(work())
        await asyncio.sleep(0.3)
        task.cancel()
        with raises(asyncio.CancelledError):
            await task
        assert len(await self.names(db)) == 4

    @case(max_size=1)
    async def test_a_session_holds_a_connection_only_while_it_works(self, db: Engine) -> None:
        async with db.session() as session:
            assert db.pool.stats().in_use == 0
            await session.execute(ADD, _NEW)
            assert db.pool.stats().in_use == 1
            await session.commit()
            assert db.pool.stats().in_use == 0
            await session.execute(_DELETE)
            session.set_rollback_only()
        assert len(await self.names(db)) == 5
