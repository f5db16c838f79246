"""A primary and two hot standbys: where statements go, and what is read after a write."""

from __future__ import annotations

import asyncio
import logging

import pytest

import aiodbkit
from tests.replicas.support import PORT, Cluster, elsewhere, until

pytestmark = pytest.mark.postgres


async def test_reads_go_to_the_standbys_in_turn_and_all_else_to_the_primary(cluster: Cluster):
    async with cluster.engine() as db:
        assert {await db.fetch_val(PORT) for _ in range(4)} == cluster.ports
        assert (await db.fetch_one(PORT))[0] in cluster.ports
        assert (await db.fetch_all(PORT))[0][0] in cluster.ports
        assert (await db.fetch_column(PORT))[0] in cluster.ports
        assert {row[0] async for row in db.iterate(PORT)} <= cluster.ports
        with db.primary():
            assert await db.fetch_val(PORT) == cluster.primary.port

        await db.execute("create table notes (port integer)")
        await db.execute("insert into notes values (inet_server_port())")
        assert await db.insert_many("notes", [{"port": 1}]) == 1
        assert await db.fetch_column("select port from notes order by port desc") == [
            cluster.primary.port,
            1,
        ]


async def test_blocks_go_to_the_primary_and_reading_ones_to_a_standby(cluster: Cluster):
    async def reading(db: aiodbkit.ReplicatedEngine) -> None:
        async with db.transaction(read_only=True, isolation="repeatable read"):
            port = await db.fetch_val(PORT)
            assert port in cluster.ports
            assert await db.fetch_val(PORT) == port
            async with db.transaction():  # a savepoint, where the transaction is
                assert await db.fetch_val(PORT) == port
        async with db.session(read_only=True) as session:
            port = await session.fetch_val(PORT)
            assert port in cluster.ports
            assert await db.fetch_val(PORT) == port
            with pytest.raises(aiodbkit.ReadOnlyError):
                async with session.transaction():
                    await session.execute("create table refused (id integer)")

    async def writing(db: aiodbkit.ReplicatedEngine) -> None:
        async with db.transaction():
            assert await db.fetch_val(PORT) == cluster.primary.port
        async with db.session() as session:
            assert await session.fetch_val(PORT) == cluster.primary.port
        async with db.connection() as conn:
            assert await conn.fetch_val(PORT) == cluster.primary.port
        async with db.execution_context() as conn:
            assert await conn.fetch_val(PORT) == cluster.primary.port

    async with cluster.engine() as db:
        await elsewhere(reading(db))
        await elsewhere(writing(db))


async def test_what_a_standby_refuses_as_a_write_runs_on_the_primary(cluster: Cluster):
    """A function of the user's that writes cannot be told from one that reads."""
    async with cluster.engine(read_your_writes=None) as db:
        await cluster.primary_db.execute("create sequence numbers")
        await cluster.primary_db.execute(
            "create function next_number() returns bigint language sql "
            "as $$ select nextval('numbers') $$"
        )
        await cluster.caught_up()
        with _counted(db.replicas) as said:
            assert await db.fetch_val("select next_number()") == 1
            assert await db.fetch_val("select next_number()") == 2
            assert [row[0] async for row in db.iterate("select next_number() as n")] == [3]
        assert said == ["select next_number()", "select next_number() as n"]  # each text once


async def test_a_serializable_reading_transaction_is_on_the_primary(cluster: Cluster):
    """A hot standby refuses to begin one."""
    async with cluster.engine() as db:

        async def transaction() -> int:
            async with db.transaction(read_only=True, isolation="serializable", deferrable=True):
                port: int = await db.fetch_val(PORT)
            return port

        async def session() -> int:
            async with db.session(read_only=True, isolation="serializable") as session:
                port: int = await session.fetch_val(PORT)
            return port

        assert await elsewhere(transaction()) == cluster.primary.port
        assert await elsewhere(session()) == cluster.primary.port


async def test_what_a_server_in_recovery_cannot_tell_the_primary_does(cluster: Cluster):
    position = "select pg_current_wal_lsn()::text as at"
    async with cluster.engine() as db:
        assert "/" in await elsewhere(db.fetch_val(position))
        async with db.iterate(position + " limit 1") as rows:
            assert ["/" in row.at async for row in rows] == [True]


async def test_what_the_backend_alone_can_write_is_read_as_well(cluster: Cluster):
    async with cluster.engine(sticky_for=3600) as db:
        await cluster.primary_db.execute("create table notes (id integer)")
        await cluster.caught_up()
        await cluster.pause()
        await db.copy_in("notes", source=b"1\n2\n")
        assert await db.fetch_column("select id from notes order by id") == [1, 2]
        await cluster.resume()


async def test_by_position_a_task_reads_its_writes_and_then_from_a_standby_again(cluster: Cluster):
    async with cluster.engine(read_your_writes="position") as db:
        await db.execute("create table notes (id integer)")
        await cluster.caught_up()
        await cluster.pause()

        await db.execute("insert into notes values (1)")
        for _ in range(4):
            assert await db.fetch_column("select id from notes") == [1]
            assert await db.fetch_val(PORT) == cluster.primary.port
        # Who has not written is not held up, and reads what the standbys have.
        assert await elsewhere(db.fetch_column("select id from notes")) == []
        # A task that is started after the write reads it, too.
        assert await asyncio.create_task(db.fetch_column("select id from notes")) == [1]

        await cluster.resume()
        ports = {await db.fetch_val(PORT) for _ in range(4)}
        assert ports <= cluster.ports
        assert await db.fetch_column("select id from notes") == [1]


@pytest.mark.parametrize("rule", ["time", "position"])
async def test_after_a_transaction_or_session_its_writes_are_read(cluster: Cluster, rule: str):
    async with cluster.engine(read_your_writes=rule, sticky_for=3600) as db:
        await cluster.primary_db.execute("create table notes (id integer)")
        await cluster.caught_up()
        await cluster.pause()

        async def in_transaction() -> None:
            async with db.transaction() as tx:
                await tx.connection.execute("insert into notes values (1)")
            assert await db.fetch_column("select id from notes") == [1]

        async def in_session() -> None:
            async with db.session() as session:
                await session.execute("insert into notes values (2)")
                await session.commit()
            assert await db.fetch_column("select id from notes where id = 2") == [2]

        async def on_a_connection() -> None:
            async with db.connection() as conn:
                await conn.execute("insert into notes values (3)")
            assert await db.fetch_column("select id from notes where id = 3") == [3]
            async with db.transaction(read_only=True):  # goes to the primary, then
                assert await db.fetch_column("select id from notes where id = 3") == [3]

        async def on_a_shared_connection() -> None:
            async with db.connection(shared=True) as conn:
                await conn.execute("insert into notes values (4)")
            assert await db.fetch_column("select id from notes where id = 4") == [4]

        for work in (in_transaction, in_session, on_a_connection, on_a_shared_connection):
            await elsewhere(work())
        assert await elsewhere(db.fetch_column("select id from notes")) == []
        await cluster.resume()


@pytest.mark.parametrize("rule", ["time", "position"])
async def test_a_write_that_was_cancelled_is_read_if_it_took_effect(cluster: Cluster, rule: str):
    async with cluster.engine(read_your_writes=rule, sticky_for=3600) as db:
        await cluster.primary_db.execute("create table notes (id integer)")
        await cluster.caught_up()
        await cluster.pause()
        write = "do $$ begin insert into notes values (1); commit; perform pg_sleep(60); end $$"
        with pytest.raises(aiodbkit.QueryTimeoutError):
            await db.execute(write, timeout=0.5)
        assert await db.fetch_column("select id from notes") == [1]
        assert await elsewhere(db.fetch_column("select id from notes")) == []
        await cluster.resume()


async def test_no_read_fails_while_a_standby_is_killed_and_comes_back(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "aiodbkit.replicas")
    dead, alive = cluster.standbys
    stop = asyncio.Event()
    reads = dict.fromkeys((cluster.primary.port, dead.port, alive.port), 0)

    async def read(number: int) -> None:
        while not stop.is_set():
            if number % 4 == 0:
                async with db.transaction(read_only=True):
                    port = await db.fetch_val("select inet_server_port() from pg_sleep(0)")
            elif number % 4 == 1:
                (port,) = [row[0] async for row in db.iterate(PORT)]
            else:
                port = await db.fetch_val(PORT, timeout=30)
            reads[port] += 1

    def is_out() -> bool:
        return not db.replica_states()[0].is_available

    async def counted(port: int) -> bool:
        return reads[port] > before[port] + 100

    async with cluster.engine(max_size=8) as db, asyncio.TaskGroup() as tasks:
        # A transaction that had begun before is lost with its server: only what is sent again
        # as a whole is safe.
        for number in range(20):
            tasks.create_task(_again_if_begun(read, number))
        before = dict(reads)
        await until(lambda: counted(dead.port))
        await dead.kill()
        await until(_soon(is_out))
        before = dict(reads)
        await until(lambda: counted(alive.port))
        assert reads[dead.port] == before[dead.port]
        assert "is left out until it answers" in caplog.text

        await dead.start()
        await until(_soon(lambda: not is_out()))
        before = dict(reads)
        await until(lambda: counted(dead.port))
        stop.set()
    assert db.replica_states()[0].ejections >= 1
    assert "answers again" in caplog.text


async def test_with_all_standbys_down_the_primary_reads(cluster: Cluster):
    for standby in cluster.standbys:
        await standby.kill()
    async with cluster.engine(min_size=1) as db:  # which needs the primary alone
        assert not any(state.is_available for state in db.replica_states())
        assert await db.fetch_val(PORT) == cluster.primary.port
        async with db.transaction(read_only=True):
            assert await db.fetch_val(PORT) == cluster.primary.port
        async with db.session(read_only=True) as session:
            assert await session.fetch_val(PORT) == cluster.primary.port
        await cluster.standbys[1].start()
        await until(_soon(lambda: db.replica_states()[1].is_available))
        assert await db.fetch_val(PORT) == cluster.standbys[1].port


async def test_without_its_primary_the_engine_does_not_open(cluster: Cluster):
    await cluster.primary.kill()
    db = cluster.engine(min_size=1)
    with pytest.raises(aiodbkit.CannotConnectError):
        await db.connect()
    assert not any(engine.is_connected for engine in (db.primary_engine, *db.replicas))
    await db.close()


async def test_a_frozen_standby_is_left_out_after_the_first_timeout(cluster: Cluster):
    frozen = cluster.standbys[0]
    async with cluster.engine(check_timeout=0.2, connect_timeout=0.5, min_size=1) as db:
        await frozen.freeze()
        while db.replica_states()[0].is_available:
            try:
                await db.fetch_val(PORT, timeout=0.2)
            except aiodbkit.QueryTimeoutError:
                await until(_soon(lambda: not db.replica_states()[0].is_available))
        assert await db.fetch_val(PORT, timeout=5) == cluster.standbys[1].port
        await frozen.thaw()
        await until(_soon(lambda: db.replica_states()[0].is_available))
        assert {await db.fetch_val(PORT) for _ in range(2)} == cluster.ports


def _soon(condition):
    async def ask() -> bool:
        return condition()

    return ask


async def _again_if_begun(read, number):
    """Read; what a transaction or a stream loses after it has begun is its caller's to repeat."""
    while True:
        try:
            return await read(number)
        except (aiodbkit.ConnectionLostError, aiodbkit.CommitUnknownError):
            if number % 4 > 1:
                raise


class _counted:  # noqa: N801 - for `with`
    """The statements that reach any of several engines."""

    def __init__(self, engines) -> None:
        self._engines = engines
        self._said: list[str] = []

    def __enter__(self) -> list[str]:
        for engine in self._engines:
            engine._observation.count(self._said.append)
        return self._said

    def __exit__(self, *error: object) -> None:
        for engine in self._engines:
            engine._observation.stop_counting(self._said.append)
