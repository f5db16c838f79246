"""What the server warns of is in the log, without values and without disturbing the statement."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

import aiodbkit

LAX = "set session sql_mode = ''"


@pytest.fixture
async def db(mysql_engine):
    db = await mysql_engine(session_sql=[LAX], sql_mode="", max_size=1)
    await db.execute("create table t (id integer primary key auto_increment, n integer)")
    return db


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.WARNING, logger="aiodbkit.mysql")
    return lambda: [line.getMessage() for line in caplog.records if line.name == "aiodbkit.mysql"]


async def test_a_warning_is_logged_with_its_statement_and_without_the_value(db, log):
    await db.execute("insert into t (n) values (:n)", {"n": "s3cret"})
    (line,) = log()
    assert line.startswith("1 warning: Incorrect integer value for column")
    assert line.endswith("(1366): insert into t (n) values (:n)")
    assert "s3cret" not in line


async def test_values_are_shown_where_the_engine_shows_parameters(mysql_engine, log):
    db = await mysql_engine(log_params=True)
    await db.fetch_val("select '12 pieces' + 0")
    (line,) = log()
    assert "'12 pieces'" in line


@pytest.mark.parametrize(
    "statement",
    [
        "select cast('s3cret' as integer)",
        "select str_to_date('s3cret', '%Y')",
        "select inet_aton('s3cret')",
        "explain extended select * from t where n = 's3cret' and 's3cret' = n",
        "insert ignore into t (id, n) values (1, 1), (1, 1)",
    ],
)
async def test_no_text_tells_a_value(statement, db, log):
    await db.execute("create procedure warn() signal sqlstate '01000' set message_text = 's3cret'")
    await db.execute(statement)
    await db.execute("call warn()")
    assert "a warning of a routine's own (1642)" in log()[-1]
    assert not any("s3cret" in line.rpartition(f": {statement}")[0] for line in log())


async def test_what_the_statement_did_is_told_as_without_warnings(db, log):
    assert await db.execute("insert into t (n) values ('1x'), ('2x')") == (2, 1)
    assert await db.execute("insert into t (n) values ('3x')") == (1, 3)
    assert await db.execute("update t set n = '4x'") == (3, None)
    assert await db.fetch_all("select n, n / 0 as x from t where n = '4x' limit 1") == [(4, None)]
    assert await db.insert_many("t", [{"n": "5x"}, {"n": "6x"}]) == 2
    assert await db.fetch_val("select last_insert_id()") == 4
    assert len(log()) == 5


async def test_many_warnings_are_one_line(db, log):
    await db.insert_many("t", [{"n": f"{n}x"} for n in range(100)])
    (line,) = log()
    assert line.startswith("100 warnings: ")
    assert " and 95 more: " in line


async def test_they_can_be_switched_off(mysql_engine, mysql_url, wire_proxy, log):
    proxy = await wire_proxy(mysql_url)
    db = await mysql_engine(proxy.url, log_warnings=False)
    asked = asyncio.create_task(proxy.seen(b"SHOW WARNINGS"))
    await db.execute("drop table if exists nowhere")
    assert not asked.done()
    asked.cancel()
    assert log() == []


async def test_nobody_is_asked_where_nobody_listens(mysql_url, mysql_engine, wire_proxy):
    proxy = await wire_proxy(mysql_url)
    db = await mysql_engine(proxy.url)
    logger = logging.getLogger("aiodbkit.mysql")
    asked = asyncio.create_task(proxy.seen(b"SHOW WARNINGS"))
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        await db.execute("drop table if exists nowhere")
    finally:
        logger.setLevel(before)
    assert not asked.done()
    asked.cancel()


async def test_a_stream_is_not_disturbed(db, log):
    await db.insert_many("t", [{"n": n} for n in range(50)])
    async with db.iterate("select n / 0 as x from t", batch_size=7) as rows:
        assert len([row async for row in rows]) == 50
    assert log() == []


async def test_show_warnings_itself_still_shows_them(db, log):
    async with db.connection():
        await db.execute("insert into t (n) values ('1x')")
        rows = await db.fetch_all("show warnings")
    assert [row.Code for row in rows] == [1265]
    assert len(log()) == 1


async def test_a_connection_lost_while_asking_does_not_undo_what_was_done(
    mysql_engine, mysql_url, wire_proxy, db
):
    proxy = await wire_proxy(mysql_url)
    other = await mysql_engine(proxy.url, sql_mode="", max_size=1)

    async def cut():
        await proxy.seen(b"SHOW WARNINGS")
        proxy.cut()

    cutting = asyncio.create_task(cut())
    assert await other.execute("insert into t (n) values ('1x')") == (1, 1)
    await cutting
    assert await other.fetch_column("select n from t") == [1]


async def test_a_deadline_that_ends_while_asking_leaves_the_connection_in_step(db):
    for _ in range(20):
        with contextlib.suppress(aiodbkit.QueryTimeoutError):
            await db.execute("insert into t (n) values ('1x')", timeout=0.001)
        assert await db.fetch_val("select 42") == 42


async def test_a_note_is_no_warning(db, log, caplog):
    await db.execute("drop table if exists nowhere")
    assert log() == []
    caplog.set_level(logging.INFO, logger="aiodbkit.mysql")
    await db.execute("drop table if exists nowhere")
    assert log()[0].startswith("1 note: Unknown table")
