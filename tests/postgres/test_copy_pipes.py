"""COPY from and to pipes, at whose other end nothing happens."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

import aiodbkit

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")


@pytest.fixture
async def db(db):
    await db.execute("create table notes (id integer primary key, body text)")
    return db


async def test_a_pipe_that_stays_silent_does_not_stop_the_event_loop(db, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    is_over, was_waited_for = threading.Event(), []

    def write():
        was_waited_for.append(is_over.wait(10))
        os.write(end, b"1,a\n")
        os.close(end)

    writing = threading.Thread(target=write)
    writing.start()
    with pytest.raises(aiodbkit.QueryTimeoutError):
        await db.copy_in("notes", path, timeout=0.05)
    assert await db.fetch_val("select count(*) from notes") == 0
    is_over.set()
    await asyncio.to_thread(writing.join)
    assert was_waited_for == [True]  # it was over before the pipe said anything


async def test_a_pipe_that_nobody_reads_does_not_hold_the_caller(db, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    is_over, was_waited_for = threading.Event(), []

    def read():
        was_waited_for.append(is_over.wait(10))
        os.close(end)

    reading = threading.Thread(target=read)
    reading.start()
    with pytest.raises(aiodbkit.QueryTimeoutError):
        await db.copy_out(
            "select repeat('x', 1000) from generate_series(1, 1000000000)", to=path, timeout=0.1
        )
    is_over.set()
    await asyncio.to_thread(reading.join)
    assert was_waited_for == [True]
    assert db.pool.stats().in_use == 0
