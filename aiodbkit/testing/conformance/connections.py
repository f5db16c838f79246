"""Connections: whose they are, what they keep, how they end."""

from __future__ import annotations

import asyncio

from aiodbkit.engine import Engine
from aiodbkit.errors import InterfaceError, PoolClosedError, TransactionScopeError
from aiodbkit.testing.conformance.suite import Suite, case, raises

__all__ = ["ConnectionCases"]


class ConnectionCases(Suite):
    """Cases of connections, the pool and the engine's life."""

    @case
    async def test_an_engine_is_made_without_a_loop_and_can_open_again(self, db: Engine) -> None:
        await db.connect()
        await db.close()
        await db.close()
        with raises(PoolClosedError):
            await db.fetch_val("select 1")
        await db.connect()
        assert await db.fetch_val("select 1") == 1

    @case
    async def test_an_option_that_nobody_knows_is_refused(self, db: Engine) -> None:  # noqa: ARG002
        with raises(InterfaceError) as caught:
            async with self.create_engine(no_such_option_at_all=1):
                pass
        assert "no_such_option_at_all" in str(caught[0])

    @case
    async def test_verbs_use_the_tasks_connection_and_a_child_takes_its_own(
        self, db: Engine
    ) -> None:
        async with db.connection() as conn:
            assert db.current_connection() is conn
            async with db.connection() as again:
                assert again is conn

            async def child() -> None:
                async with db.connection() as own:
                    assert own is not conn

            await asyncio.create_task(child())
        with raises(InterfaceError):
            await conn.fetch_val("select 1")

    @case
    async def test_a_child_of_an_open_transaction_is_told(self, db: Engine) -> None:
        async with db.transaction():
            await db.fetch_val("select 1")
            with raises(TransactionScopeError):
                await asyncio.create_task(db.fetch_val("select 1"))

    @case
    async def test_two_tasks_on_one_connection_take_turns(self, db: Engine) -> None:
        async with db.connection() as conn:
            answers = await asyncio.gather(*(conn.fetch_val(f"select {n}") for n in range(20)))
            assert answers == list(range(20))

    @case
    async def test_twenty_tasks_never_see_each_others_rows(self, db: Engine) -> None:
        async def work(number: int) -> bool:
            for turn in range(10):
                value = number * 100 + turn
                if await db.fetch_val("select :v + 0", {"v": value}) != value:
                    return False
            return True

        assert all(await asyncio.gather(*map(work, range(20))))

    @case
    async def test_tasks_that_write_at_once_lose_nothing(self, db: Engine) -> None:
        async def work(number: int) -> None:
            for turn in range(5):
                async with db.transaction():
                    key = 1000 + number * 10 + turn
                    await db.execute(
                        "insert into conformance (id, name) values (:id, :name)",
                        {"id": key, "name": f"n{key}"},
                    )

        await asyncio.gather(*map(work, range(10)))
        assert await db.fetch_val("select count(*) from conformance") == 54

    @case(max_size=1)
    async def test_a_connection_that_died_is_replaced(self, db: Engine) -> None:
        async with db.connection() as conn:
            conn._driver.abort()
            assert conn.is_closed
        assert await db.fetch_val("select 1") == 1

    @case(max_size=1, check="always")
    async def test_a_ping_keeps_a_live_connection(self, db: Engine) -> None:
        for _ in range(3):
            assert await db.fetch_val("select 1") == 1
        assert db.pool.stats().opened == 1

    @case(max_size=1, reset="always")
    async def test_a_full_reset_keeps_a_connection_usable(self, db: Engine) -> None:
        for _ in range(3):
            assert await db.fetch_val("select 1") == 1

    @case(max_size=2)
    async def test_callers_of_a_full_pool_are_cancelled_without_a_loss(self, db: Engine) -> None:
        async with db.pool.acquire(), db.pool.acquire():
            waiting = [asyncio.create_task(db.fetch_val("select 1")) for _ in range(10)]
            await asyncio.sleep(0)
            for task in waiting[::2]:
                task.cancel()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert answers[1::2] == [1] * 5
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
