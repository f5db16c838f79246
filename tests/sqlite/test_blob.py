"""One value, read and written piece by piece."""

from __future__ import annotations

import asyncio
import os

import pytest

import aiodbkit
from aiodbkit.testing import sandbox
from tests.sqlite.library import MEMORY

OPEN = ("file", "data", 1)


@pytest.fixture(params=["file", "memory"])
async def db(request, sqlite_engine):
    db = await sqlite_engine(*([MEMORY] if request.param == "memory" else []))
    await db.execute("create table file (id integer primary key, data blob)")
    await db.execute("insert into file (data) values (zeroblob(10)), (null)")
    return db


async def data(db):
    return await db.fetch_val("select data from file where id = 1")


async def test_it_is_read_and_written_like_a_file(db):
    async with db.open_blob(*OPEN) as blob:
        assert len(blob) == 10
        assert await blob.write(b"hello") == 5
        assert await blob.write(bytearray(b"!")) == 1
        assert blob.tell() == 6
        assert await blob.read() == bytes(4)
        assert await blob.read() == b""
        assert blob.seek(-9, os.SEEK_END) == 1
        assert await blob.read(3) == b"ell"
        assert blob.seek(1, os.SEEK_CUR) == 5
        assert await blob.read(1) == b"!"
        blob.seek(0)
        assert [chunk async for chunk in blob.chunks(4)] == [b"hell", b"o!\0\0", b"\0\0"]
    assert await data(db) == b"hello!" + bytes(4)


async def test_an_exception_undoes_what_was_written(db):
    with pytest.raises(ZeroDivisionError):
        async with db.open_blob(*OPEN) as blob:
            await blob.write(b"hello")
            raise ZeroDivisionError
    assert await data(db) == bytes(10)


async def test_in_a_transaction_it_is_a_part_of_it(db):
    async with db.transaction(force_rollback=True):
        async with db.open_blob(*OPEN) as blob:
            await blob.write(b"hello")
        assert (await data(db))[:5] == b"hello"
    assert await data(db) == bytes(10)


async def test_it_works_in_a_session_and_in_a_sandbox(db):
    async with db.session(), db.open_blob(*OPEN) as blob:
        await blob.write(b"session")
    async with sandbox(db):
        async with db.open_blob(*OPEN) as blob:
            await blob.write(b"sandbox")
        assert (await data(db))[:7] == b"sandbox"
    assert (await data(db))[:7] == b"session"


async def test_statements_run_beside_it(db):
    async with db.open_blob(*OPEN) as blob:
        await db.execute("insert into file (data) values ('x')")
        assert await db.fetch_val("select count(*) from file") == 3
        await blob.write(b"still")
    assert (await data(db))[:5] == b"still"


async def test_other_writers_wait_for_it(db):
    async with db.open_blob(*OPEN) as blob:
        other = asyncio.create_task(write_elsewhere(db))
        await asyncio.sleep(0)
        await blob.write(b"first")
        assert not other.done()
    await other
    assert await data(db) == b"other"


async def write_elsewhere(db):
    async with db.execution_context():
        await db.execute("update file set data = 'other' where id = 1")
        await db.execute("update file set data = x'6f74686572' where id = 1")


async def test_read_only_it_leaves_writers_of_a_file_alone(sqlite_engine):
    db = await sqlite_engine()
    await db.execute("create table file (id integer primary key, data blob)")
    await db.execute("insert into file (data) values (x'010203')")
    async with db.open_blob(*OPEN, read_only=True) as blob:
        async with db.execution_context():
            await db.execute("update file set data = null")
        assert await blob.read() == b"\1\2\3"


async def test_a_read_only_one_refuses_to_be_written_and_stays_good(db):
    async with db.open_blob(*OPEN, read_only=True) as blob:
        with pytest.raises(aiodbkit.ReadOnlyError, match="read_only=True"):
            await blob.write(b"x")
        assert await blob.read(1) == b"\0"


async def test_it_cannot_grow(db):
    async with db.open_blob(*OPEN) as blob:
        blob.seek(8)
        with pytest.raises(aiodbkit.DataError, match=r"beyond the 10.*zeroblob"):
            await blob.write(b"abc")
        assert await blob.write(b"ab") == 2
    assert (await data(db))[8:] == b"ab"


@pytest.mark.parametrize(("offset", "whence"), [(-1, 0), (11, 0), (1, 2), (-1, 1), (0, 9)])
async def test_seeking_outside_is_refused(offset, whence, db):
    async with db.open_blob(*OPEN) as blob:
        with pytest.raises(ValueError, match="seek"):
            blob.seek(offset, whence)
        assert blob.tell() == 0


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (("file", "data", 99), "no such rowid"),
        (("file", "data", 2), "cannot open value of type null"),
        (("file", "nothing", 1), "no such column"),
        (("nothing", "data", 1), "no such table"),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
async def test_what_cannot_be_opened_is_told(where, message, read_only, db):
    with pytest.raises(aiodbkit.ProgrammingError, match=message):
        async with db.open_blob(*where, read_only=read_only):
            raise AssertionError("not opened")
    assert db.pool.stats().in_use == 0


async def test_after_its_block_it_is_refused(db):
    async with db.open_blob(*OPEN) as blob:
        pass
    with pytest.raises(aiodbkit.InterfaceError, match="after its block"):
        await blob.read()


async def test_a_row_that_was_changed_meanwhile_is_told(db):
    async with db.open_blob(*OPEN) as blob:
        await db.execute("update file set data = 'other' where id = 1")
        with pytest.raises(aiodbkit.OperationalError, match="open it again"):
            await blob.read(1)


async def test_the_end_of_the_transaction_around_it_closes_it(db):
    async with db.transaction() as tx, db.open_blob(*OPEN, read_only=True) as blob:
        await tx.rollback()
        with pytest.raises(aiodbkit.InterfaceError):
            await blob.read(1)
    await db.execute("update file set data = 'free' where id = 1")


async def test_cancelled_in_its_block_nothing_stays_open_and_nothing_is_written(db):
    opened = asyncio.Event()

    async def work():
        async with db.open_blob(*OPEN) as blob:
            await blob.write(b"hello")
            opened.set()
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await opened.wait()
    task.cancel()
    await asyncio.wait([task])
    assert await data(db) == bytes(10)
    await db.execute("update file set data = 'free' where id = 1")


async def test_cancelled_at_any_step_nothing_stays_open(db):
    async def work():
        async with db.open_blob(*OPEN) as blob:
            await blob.write(b"hello")
            await blob.read(2)

    for steps in range(30):
        task = asyncio.create_task(work())
        for _ in range(steps * 20):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert await data(db) in (bytes(10), b"hello" + bytes(5))
        await db.execute("update file set data = zeroblob(10) where id = 1")
