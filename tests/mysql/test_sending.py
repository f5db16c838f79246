"""What may be sent, how much at once, and over what."""

from __future__ import annotations

import asyncio
import os
import select
from urllib.parse import quote

import pytest

import aiodbkit
from tests.faults.mysql_support import cancelled
from tests.servers.environment import driver_of

PACKET = 65_536
ON = "set global local_infile = 1"


# max_allowed_packet


@pytest.fixture
async def small(private_mysql):
    """A server that takes no more than 64 kB at once."""
    async with aiodbkit.MySQLEngine(private_mysql.url) as db:
        await db.execute(f"set global max_allowed_packet = {PACKET}")
        await db.execute("create table notes (id integer primary key, body mediumtext)")
    async with aiodbkit.create_engine(with_driver(private_mysql.url)) as db:
        yield db


def with_driver(url):
    return url.replace("mysql://", f"mysql+{driver_of('mysql')}://")


async def test_many_rows_are_cut_into_statements_that_the_server_takes(small):
    rows = [{"id": n, "body": "x" * 1000} for n in range(500)]
    assert await small.insert_many("notes", rows) == 500
    assert await small.fetch_val("select sum(length(body)) from notes") == 500_000


async def test_a_row_that_the_server_does_not_take_is_refused_and_none_of_the_others_is_in(small):
    rows = [{"id": n, "body": "x" * 1000} for n in range(200)]
    with pytest.raises(aiodbkit.DataError, match="max_allowed_packet of 65,536; nothing was sent"):
        await small.insert_many("notes", [*rows, {"id": 200, "body": "x" * PACKET}])
    assert await small.fetch_val("select count(*) from notes") == 0


# LOAD DATA LOCAL


@pytest.fixture
async def files(private_mysql, tmp_path):
    """A server that takes files of its clients, and one of these."""
    path = tmp_path / "numbers.csv"
    path.write_text("1\n2\n3\n")
    async with aiodbkit.create_engine(private_mysql.url) as db:
        await db.execute(ON)
        await db.execute("create table numbers (n integer)")
    return private_mysql.url, f"load data local infile '{path}' into table numbers"


async def test_no_file_of_this_machine_is_sent_unless_asked_for(files):
    url, load = files
    async with aiodbkit.create_engine(with_driver(url)) as db:
        with pytest.raises(aiodbkit.Error):
            await db.execute(load)
        assert await db.fetch_val("select count(*) from numbers") == 0


@pytest.fixture
async def loader(files):
    url, load = files
    async with aiodbkit.create_engine(with_driver(url), local_infile=True, max_size=1) as db:
        yield db, load


async def test_asked_for_a_file_is_loaded_and_the_connection_stays_in_step(loader):
    db, load = loader
    assert await db.execute(load) == (3, None)
    assert await db.fetch_column("select n from numbers order by n") == [1, 2, 3]
    path = load.split("'")[1]
    await db.execute("load data local infile :path into table numbers", {"path": path})
    assert await db.fetch_val("select count(*) from numbers") == 6


async def test_a_large_file_is_sent_in_pieces(loader, tmp_path):
    db, load = loader
    (tmp_path / "numbers.csv").write_text("1234567\n" * 300_000)
    assert await db.execute(load) == (300_000, None)


async def test_no_file_but_the_one_in_the_statement_is_sent(loader, tmp_path):
    """A server may ask for any file; here it asks for another one than the statement seems to."""
    db, load = loader
    (tmp_path / "other.csv").write_text("7\n")
    path = load.split("'")[1]
    other = path.replace("numbers.csv", "other.csv")
    sql = f"load data /* local infile '{path}' */ local infile '{other}' into table numbers"
    with pytest.raises(aiodbkit.ConnectionLostError, match="a file that the statement does not"):
        await db.execute(sql)
    assert await db.fetch_column("select n from numbers") == []


async def test_a_missing_file_is_told_before_anything_is_sent(loader):
    db, load = loader
    session = await db.fetch_val("select connection_id()")
    with pytest.raises(aiodbkit.DataError, match="nothing was sent.*missing.csv"):
        await db.execute(load.replace("numbers.csv", "missing.csv"))
    assert await db.fetch_val("select connection_id()") == session


async def test_an_error_of_the_server_after_the_file_leaves_the_connection_in_step(loader):
    db, load = loader
    await db.execute(
        "create trigger refuse before insert on numbers for each row "
        "signal sqlstate '45000' set message_text = 'not these'"
    )
    session = await db.fetch_val("select connection_id()")
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.execute(load.replace("table numbers", "table nowhere"))
    with pytest.raises(aiodbkit.DatabaseError, match="not these"):
        await db.execute(load)
    assert await db.fetch_val("select connection_id()") == session


async def test_a_path_that_is_not_plain_is_refused(loader):
    db, _ = loader
    with pytest.raises(aiodbkit.ProgrammingError, match="single quotes"):
        await db.execute('load data local infile "numbers.csv" into table numbers')


async def test_a_load_that_is_cancelled_loads_nothing(loader, tmp_path):
    db, load = loader
    os.mkfifo(tmp_path / "slow")
    writer = os.open(tmp_path / "slow", os.O_RDWR)
    try:
        os.write(writer, b"1\n")
        loading = asyncio.create_task(db.execute(load.replace("numbers.csv", "slow")))
        while select.select([writer], [], [], 0)[0]:  # until it has been read
            await asyncio.sleep(0.01)
        await cancelled(loading)
    finally:
        os.close(writer)
    assert await db.fetch_val("select count(*) from numbers") == 0


# Unix sockets


async def test_a_unix_socket_is_a_way_to_the_server(private_mysql):
    async with aiodbkit.create_engine(private_mysql.url) as db:
        path = await db.fetch_val("select @@socket")
        await db.execute("create user app@localhost identified by 'secret'")
        await db.execute("grant all on *.* to app@localhost")
    url = f"mysql+{driver_of('mysql')}://app:secret@/test?unix_socket={quote(path, safe='')}"
    async with aiodbkit.create_engine(url) as db:
        assert await db.fetch_val("select user()") == "app@localhost"
        assert await db.fetch_val("select :text", {"text": "\N{SNOWMAN}"}) == "\N{SNOWMAN}"


async def test_a_missing_socket_is_named(tmp_path):
    async with aiodbkit.create_engine(f"mysql://app@/app?unix_socket={tmp_path}/none") as db:
        with pytest.raises(aiodbkit.CannotConnectError, match=f"MySQL at {tmp_path}/none"):
            await db.fetch_val("select 1")
