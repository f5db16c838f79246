"""Policies, read-your-writes by time, and what else decides where a statement goes."""

from __future__ import annotations

import asyncio
from contextvars import Context

import pytest

import aiodbkit
from aiodbkit.testing import count_queries, sandbox
from aiodbkit.testing.scripted import HANG
from tests.replicas.scripted import WHERE, elsewhere, member, of, where
from tests.virtual_time import virtual_time

# Policies.


@virtual_time
async def test_round_robin_asks_each_in_turn():
    async with of(3) as db:
        assert [await where(db) for _ in range(5)] == ["r1", "r2", "r3", "r1", "r2"]


@virtual_time
async def test_random_asks_all_of_them():
    async with of(3, policy="random") as db:
        assert {await where(db) for _ in range(200)} == {"r1", "r2", "r3"}


@virtual_time
async def test_least_busy_asks_the_one_with_the_fewest_connections_in_use():
    async with of(3, policy="least_busy") as db:
        assert {await where(db) for _ in range(3)} == {"r1", "r2", "r3"}  # of equals in turn
        async with db.replicas[0].pool.acquire(), db.replicas[2].pool.acquire():
            assert [await where(db) for _ in range(4)] == ["r2"] * 4


@virtual_time
async def test_a_replica_without_a_free_connection_is_not_next():
    members = [member(f"r{n}", max_size=1) for n in (1, 2, 3)]
    async with aiodbkit.ReplicatedEngine(member("p"), members) as db:
        async with db.replicas[1].pool.acquire():
            assert [await where(db) for _ in range(4)] == ["r1", "r3", "r3", "r1"]
        assert {await where(db) for _ in range(3)} == {"r1", "r2", "r3"}


@virtual_time
async def test_without_replicas_the_primary_does_all():
    async with of(0) as db:
        assert await where(db) == "p"
        async with db.transaction(read_only=True):
            assert await where(db) == "p"


# After a write.


@virtual_time
async def test_a_task_that_wrote_reads_from_the_primary_for_sticky_for_seconds():
    async with of(1, sticky_for=5) as db:
        assert await where(db) == "r1"
        await db.execute("insert")
        assert await where(db) == "p"
        await asyncio.sleep(4.9)
        assert await where(db) == "p"
        await asyncio.sleep(0.2)
        assert await where(db) == "r1"


WRITES = {
    "execute": lambda db: db.execute("insert"),
    "execute_many": lambda db: db.execute_many("insert", [{}]),
    "execute_script": lambda db: db.execute_script("insert; insert"),
    "insert_many": lambda db: db.insert_many("t", [{"id": 1}]),
    "fetch_val": lambda db: db.fetch_val("insert returning"),
    "fetch_one": lambda db: db.fetch_one("insert returning"),
    "fetch_all": lambda db: db.fetch_all("insert returning"),
    "fetch_column": lambda db: db.fetch_column("insert returning"),
}


@pytest.mark.parametrize("verb", WRITES)
@virtual_time
async def test_every_verb_that_may_write_leaves_a_mark(verb):
    async with of(1) as db:
        await WRITES[verb](db)
        assert await where(db) == "p"
        assert "insert" in " ".join(db.primary_engine.script.said)


@virtual_time
async def test_a_stream_that_may_write_leaves_a_mark():
    async with of(1) as db:
        assert [row async for row in db.iterate("insert returning")] == []
        assert await where(db) == "p"


@virtual_time
async def test_a_session_that_ran_nothing_leaves_no_mark():
    async with of(1) as db:
        async with db.session():
            pass
        assert await where(db) == "r1"


@virtual_time
async def test_the_mark_belongs_to_the_task_that_wrote_and_those_it_starts():
    async with of(1) as db:
        start = asyncio.Event()

        async def sibling() -> str:
            await start.wait()
            return await where(db)

        before = asyncio.create_task(sibling())
        await db.execute("insert")
        start.set()
        assert await asyncio.create_task(where(db)) == "p"
        assert await before == "r1"


@virtual_time
async def test_a_child_that_is_started_in_a_block_reads_what_was_written_before_and_after():
    async with of(1, sticky_for=5) as db:
        async with db.connection() as conn:
            await conn.execute("insert")
            child = asyncio.create_task(_after(60, where(db)))
            await asyncio.sleep(59)
            await conn.execute("insert")
        assert await child == "p"


async def _after(seconds, work):
    await asyncio.sleep(seconds)
    return await work


@virtual_time
async def test_a_write_that_was_cancelled_counts():
    async with of(1) as db:
        db.primary_engine.script.on("insert", fault=HANG)

        async def write() -> str:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await db.execute("insert")
            return await where(db)

        assert await asyncio.create_task(write(), context=Context()) == "p"


@virtual_time
async def test_a_commit_that_was_cancelled_counts():
    async with of(1, sticky_for=5) as db:
        db.primary_engine.script.on("commit", fault=HANG)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), db.transaction():
                await db.execute("insert")
        await asyncio.sleep(1)
        assert await where(db) == "p"


@virtual_time
async def test_read_your_writes_can_be_left_out():
    async with of(1, read_your_writes=None) as db:
        await db.execute("insert")
        assert await where(db) == "r1"


# The primary on demand.


@virtual_time
async def test_primary_sends_reads_to_the_primary_for_a_block_or_a_function():
    async with of(1) as db:

        @db.primary()
        async def decorated() -> str:
            return await where(db)

        with db.primary():
            assert await where(db) == "p"
            with db.primary():
                pass
            assert await asyncio.create_task(where(db)) == "p"
            async with db.session(read_only=True) as session:
                assert await where(session) == "p"
        assert await where(db) == "r1"
        assert await decorated() == await decorated() == "p"
        assert await where(db) == "r1"


def test_primary_says_what_it_cannot_decorate():
    with pytest.raises(TypeError, match="async functions"):
        of().primary()(len)


# Blocks.


@virtual_time
async def test_a_block_on_a_member_itself_wins():
    async with of(2) as db:
        async with db.replicas[1].transaction():
            assert [await where(db) for _ in range(3)] == ["r2"] * 3
        async with db.primary_engine.connection():
            assert await where(db) == "p"


@virtual_time
async def test_a_session_that_is_handed_to_a_child_stays_on_its_replica():
    async with of(2) as db, db.session(read_only=True) as session:
        name = await asyncio.create_task(where(session))
        assert name in ("r1", "r2")
        assert [await where(session), await where(db)] == [name, name]


@virtual_time
async def test_a_child_of_an_open_reading_transaction_is_told():
    async with of(2) as db:
        async with db.transaction(read_only=True):
            with pytest.raises(aiodbkit.TransactionScopeError):
                await asyncio.create_task(where(db))
        async with db.transaction(read_only=True, child_tasks="own"):
            assert await asyncio.create_task(where(db)) in ("r1", "r2")


@virtual_time
async def test_a_decorated_function_reads_in_a_transaction_of_its_own_each_time():
    async with of(2) as db:

        @db.transaction(read_only=True)
        async def read() -> str:
            return await where(db)

        assert sorted(await asyncio.gather(read(), read())) == ["r1", "r2"]
        assert await db.run_in_transaction(where, db, read_only=True) in ("r1", "r2")


# With what stands around an engine.


@virtual_time
async def test_in_a_sandbox_everything_is_on_the_primary():
    async with of(2) as db:
        async with sandbox(db):
            await db.execute("insert")
            assert await elsewhere(db) == "p"
            async with db.transaction(read_only=True):
                assert await where(db) == "p"
            await db.close()  # as an app under test does
        assert await elsewhere(db) in ("r1", "r2")


@virtual_time
async def test_counts_and_listeners_are_of_all_members():
    class Listener:
        def __init__(self) -> None:
            self.engines: list[aiodbkit.Engine] = []

        def on_query(self, event: aiodbkit.QueryEvent) -> None:
            self.engines.append(event.engine)

    async with of(1) as db:
        listener = Listener()
        db.add_listener(listener)
        with count_queries(db, exactly=2):
            await where(db)
            await db.execute("insert")
        db.remove_listener(listener)
        await where(db)
        assert listener.engines == [db.replicas[0], db.primary_engine]


@virtual_time
async def test_a_proxy_and_a_lifespan_take_it():
    proxy = aiodbkit.EngineProxy()
    db = of(1)
    proxy.initialize(db)
    async with aiodbkit.lifespan(proxy)(None):
        assert db.is_connected
        assert db.replicas[0].is_connected
        assert proxy.replicas == db.replicas
        async with proxy.session(read_only=True) as session:
            assert await where(session) == "r1"
        (row,) = [row async for row in proxy.iterate(WHERE)]
        assert row.name == await where(proxy) == "r1"
        await proxy.execute("insert")
        (row,) = [row async for row in proxy.iterate(WHERE)]
        assert row.name == await where(proxy) == "p"
        with proxy.primary():
            assert await where(proxy) == "p"
        async with proxy.transaction():
            assert await where(db) == "p"
    assert not db.is_connected
    assert not db.replicas[0].is_connected


@virtual_time
async def test_in_a_sandbox_by_a_proxy_everything_is_on_the_primary():
    proxy = aiodbkit.EngineProxy()
    proxy.initialize(db := of(1))
    async with proxy:
        async with sandbox(proxy):
            async with proxy.transaction() as tx:
                tx.on_commit(lambda: db.execute("insert into hooks"))
                assert await where(db) == "p"
            assert await elsewhere(db) == await elsewhere(db.primary_engine) == "p"
        assert await elsewhere(db) == "r1"


# What cannot be.


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: aiodbkit.ReplicatedEngine(member("p"), "sqlite://"), "must be a list"),
        (lambda: aiodbkit.ReplicatedEngine(member("p"), None), "must be a list"),
        (
            lambda: aiodbkit.ReplicatedEngine("sqlite://", [member("r")]),
            "_Engine cannot be one of SQLiteEngine",
        ),
        (lambda: aiodbkit.ReplicatedEngine(aiodbkit.EngineProxy()), "is made of engines"),
        (lambda: aiodbkit.ReplicatedEngine(of()), "is made of engines"),
        (lambda: aiodbkit.ReplicatedEngine(7), "is made of engines"),
        (lambda: aiodbkit.ReplicatedEngine(member("p"), max_size=3), "max_size"),
        (lambda: aiodbkit.ReplicatedEngine(member("p", persistent=True)), "persistent"),
        (lambda: of(policy="best"), "policy must be one of"),
        (lambda: of(read_your_writes="always"), "read_your_writes must be one of"),
        (lambda: of(read_your_writes="position"), "is for PostgreSQL"),
        (lambda: of(sticky_for=-1), "sticky_for must be"),
        (lambda: of(probe_backoff="soon"), "probe_backoff must be"),
    ],
)
def test_what_cannot_be_is_told(make, told):
    with pytest.raises(aiodbkit.ConfigurationError, match=told):
        make()


def test_an_engine_cannot_be_two_members():
    engine = member("p")
    with pytest.raises(aiodbkit.ConfigurationError, match="of its own"):
        aiodbkit.ReplicatedEngine(engine, [engine])


@virtual_time
async def test_deferred_members_are_told_their_database_themselves():
    db = aiodbkit.ReplicatedEngine(aiodbkit.SQLiteEngine(None), [aiodbkit.SQLiteEngine(None)])
    with pytest.raises(aiodbkit.InterfaceError, match="deferred"):
        await db.fetch_val("select 1")
    with pytest.raises(aiodbkit.InterfaceError, match="primary_engine"):
        db.init("sqlite://")
