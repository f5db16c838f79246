"""Behind PgBouncer in transaction mode, with ``prepared_statements=False``."""

from __future__ import annotations

import asyncio
import io
import logging

import pytest

import aiodbkit
from tests.postgres.support import until_true
from tests.servers.environment import driver_of

pytestmark = pytest.mark.postgres


@pytest.fixture
async def db(bouncer, private_postgres):
    db = aiodbkit.create_engine(bouncer.url, driver=driver_of("postgres"), max_size=8)
    async with db:
        await db.execute("create table notes (id integer primary key, body text)")
        yield db


async def test_many_tasks_mix_statements_and_transactions(db):
    async def work(number):
        await db.execute("insert into notes values (:id, 'a')", {"id": number})
        async with db.transaction():
            body = await db.fetch_val("select body from notes where id = :id", {"id": number})
            await db.execute(
                "update notes set body = :body where id = :id", {"body": f"{body}b", "id": number}
            )
        return await db.fetch_one("select id, body from notes where id = $1", [number])

    found = await asyncio.gather(*(work(number) for number in range(100)))
    assert [tuple(row) for row in found] == [(number, "ab") for number in range(100)]


async def test_many_rows_go_in_and_out(db):
    rows = [{"id": number, "body": "x"} for number in range(2000)]
    assert await db.insert_many("notes", rows) == 2000
    await db.execute_many(
        "update notes set body = :b where id = :i", [{"b": "y", "i": n} for n in range(50)]
    )
    async with db.iterate("select id, body from notes order by id", batch_size=100) as stream:
        assert sum([row.body == "y" async for row in stream]) == 50
    file = io.BytesIO()
    query = "select id from notes where id < :n order by id"
    assert await db.copy_out(query, {"n": 3}, to=file) == 3
    assert file.getvalue() == b"0\n1\n2\n"
    assert await db.copy_in("notes", b"5000,z\n") == 1


async def test_a_rolled_back_transaction_leaves_nothing(db):
    async with db.transaction(force_rollback=True):
        await db.insert_many("notes", [{"id": 1, "body": "x"}])
        async with db.transaction():
            await db.execute("insert into notes values (2, 'x')")
    assert await db.fetch_column("select id from notes") == []


@pytest.mark.parametrize("timeout", [None, 0.05])
async def test_cancelled_statements_leave_the_engine_usable(db, private_postgres, timeout):
    tasks = [
        asyncio.create_task(db.execute("select pg_sleep(60)", timeout=timeout)) for _ in range(2)
    ]
    if timeout is None:  # both of the server's connections are busy: ask it directly
        async with aiodbkit.create_engine(private_postgres.url) as direct:
            sleeping = "select count(*) = 2 from pg_stat_activity where wait_event = 'PgSleep'"
            await until_true(direct, sleeping)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await until_true(direct, sleeping.replace("= 2", "= 0"))
    await asyncio.wait(tasks)
    found = await asyncio.gather(*(db.fetch_val("select :n::int", {"n": n}) for n in range(20)))
    assert found == list(range(20))


async def test_session_state_is_warned_of_once_and_set_local_is_not(db, caplog):
    caplog.set_level(logging.WARNING, "aiodbkit.session")
    for _ in range(2):
        await db.execute("set application_name = 'x'")
    async with db.transaction():
        await db.execute("set local application_name = 'y'")
        await db.execute("do $$ begin null; end $$")
    (record,) = [each for each in caplog.records if each.name == "aiodbkit.session"]
    assert "SET LOCAL" in record.getMessage()


async def test_what_needs_a_session_is_refused(db):
    with pytest.raises(aiodbkit.NotSupportedError, match="proxy"):
        db.listen("a")
    with pytest.raises(aiodbkit.NotSupportedError, match="proxy"):
        async with db.advisory_lock("job"):
            pass
    async with db.transaction(), db.advisory_lock("job", timeout=1):
        await db.notify("a", "this works")


async def test_a_lock_of_a_transaction_keeps_others_out(db):
    inside = 0

    async def enter():
        nonlocal inside
        async with db.transaction(), db.advisory_lock("job"):
            inside += 1
            assert inside == 1
            await db.fetch_val("select 1")
            inside -= 1

    await asyncio.gather(*(enter() for _ in range(10)))
