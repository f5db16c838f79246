"""The portal: many threads, threads that die, and blocks that are entered or left wrongly."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import aiodbkit
from aiodbkit import InterfaceError, SessionClosedError

INSERT = "insert into things values (:n)"


@pytest.fixture
def db(sqlite_url):
    return aiodbkit.create_engine(sqlite_url, max_size=5)


@pytest.fixture
def sync_db(db):
    with db.portal() as sync_db:
        sync_db.execute_script("create table things (id integer)")
        yield sync_db
        assert db.pool.stats().in_use == 0


def count(sync_db):
    return sync_db.fetch_val("select count(*) from things")


def in_a_thread(function, *arguments):
    """Run it in a thread that has ended when this returns; return what it returned."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments).result()


def test_fifty_threads_over_five_connections_lose_nothing(sync_db, db):
    def work(number):
        for turn in range(4):
            with sync_db.session() as session:
                session.execute(INSERT, {"n": number})
                if turn % 2:
                    session.set_rollback_only()
            assert sync_db.fetch_val("select 1") == 1

    with ThreadPoolExecutor(50) as threads:
        list(threads.map(work, range(50)))
    assert count(sync_db) == 100
    stats = db.pool.stats()
    assert (stats.in_use, stats.waiting, stats.timeouts) == (0, 0, 0)
    assert stats.size <= 5


def hold_all_connections(sync_db):
    """Have five threads hold one each at the same time: none is missing then."""
    together = threading.Barrier(5, timeout=30)

    def hold(_number):
        with sync_db.session(read_only=True) as session:
            session.fetch_val("select 1")
            together.wait()

    with ThreadPoolExecutor(5) as threads:
        list(threads.map(hold, range(5)))


@pytest.mark.parametrize("keeps", [True, False], ids=["block kept", "block dropped"])
def test_a_thread_that_dies_in_its_block_has_it_rolled_back(sync_db, caplog, keeps):
    kept = []

    def die():
        block = sync_db.session()
        session = block.__enter__()
        session.execute(INSERT, {"n": 1})
        kept.extend([block, session] if keeps else [])

    thread = threading.Thread(target=die, name="worker 7")
    thread.start()
    thread.join()
    hold_all_connections(sync_db)
    assert count(sync_db) == 0
    assert "'worker 7' ended inside a session() or transaction() block" in caplog.text
    if keeps:
        block, session = kept
        with pytest.raises(SessionClosedError):
            session.execute(INSERT, {"n": 3})
        with pytest.raises(InterfaceError, match="enter and leave a block in one thread"):
            block.__exit__(None, None, None)


def test_a_block_left_by_another_thread_ends_for_the_one_that_entered_it(sync_db):
    # As a framework does that runs the halves of a generator in different threads.
    block = sync_db.session()
    block.__enter__().execute(INSERT, {"n": 1})
    in_a_thread(block.__exit__, None, None, None)
    assert count(sync_db) == 1
    with sync_db.transaction(force_rollback=True):
        sync_db.execute(INSERT, {"n": 2})
    assert count(sync_db) == 1


def test_a_block_is_entered_once_at_a_time(sync_db):
    block = sync_db.transaction()
    with block:
        sync_db.execute(INSERT, {"n": 1})
        with pytest.raises(InterfaceError, match="is open already"):
            block.__enter__()
        sync_db.execute(INSERT, {"n": 2})
    assert count(sync_db) == 2


def test_a_block_that_was_not_entered_cannot_be_left(sync_db):
    with pytest.raises(InterfaceError, match="without being entered"):
        sync_db.session().__exit__(None, None, None)


def test_a_hook_in_the_loop_of_the_portal_may_not_wait_for_it(sync_db):
    async def hook():
        sync_db.fetch_val("select 1")

    refused = pytest.raises(InterfaceError, match="await the engine's own verbs")
    with refused, sync_db.transaction() as tx:
        tx.on_commit(hook)


async def test_a_thread_of_an_app_with_a_loop_is_told_that_the_engine_is_its_own(db):
    async with db:
        with pytest.raises(InterfaceError, match="belongs to another event loop"):
            await asyncio.to_thread(db.portal().fetch_val, "select 1")


LEFT_OPEN = """
import aiodbkit, sys
sync_db = aiodbkit.create_engine(sys.argv[1]).portal()
block = sync_db.session()
block.__enter__().execute("create table things (id integer)")
print("made")
"""


def test_a_program_that_ends_inside_a_block_rolls_it_back_and_ends(sqlite_url):
    command = [sys.executable, "-X", "dev", "-c", LEFT_OPEN, sqlite_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "made\n")
    assert "ended inside a session() or transaction() block" in done.stderr
    assert "Traceback" not in done.stderr
    with aiodbkit.create_engine(sqlite_url).portal() as sync_db:
        assert sync_db.fetch_column("select name from sqlite_master") == []
