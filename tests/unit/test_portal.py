"""The portal: threads without an event loop, each with blocks of its own."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import aiodbkit
from aiodbkit import (
    CannotConnectError,
    InterfaceError,
    PoolClosedError,
    Rollback,
    SessionClosedError,
    UniqueViolationError,
)
from aiodbkit.loopthread import LoopThread


@pytest.fixture
def running():
    """An event that the endless statement sets."""
    return threading.Event()


@pytest.fixture
def db(sqlite_url, running):
    async def add_function(conn):
        await conn.raw.create_function("running", 0, lambda: running.set() or 1)

    return aiodbkit.create_engine(sqlite_url, on_connect=add_function)


@pytest.fixture
def sync_db(db):
    with db.portal() as sync_db:
        sync_db.execute_script("create table things (id integer primary key)")
        yield sync_db
        assert db.pool.stats().in_use == 0


def insert(verbs, number):
    return verbs.execute("insert into things values (:n)", {"n": number})


def ids(verbs):
    return verbs.fetch_column("select id from things order by id")


@dataclasses.dataclass
class Thing:
    id: int


def test_the_verbs_return_what_those_of_the_engine_do(sync_db):
    assert insert(sync_db, 1).rows_affected == 1
    sync_db.execute_many("insert into things values (:n)", ({"n": n} for n in (2, 3)))
    assert sync_db.insert_many("things", ([n] for n in (4, 5)), columns=["id"]) == 2
    assert sync_db.fetch_all("select id from things where id < 3") == [(1,), (2,)]
    assert sync_db.fetch_all("select id from things where id < 2", into=Thing) == [Thing(1)]
    assert sync_db.fetch_one("select id from things where id = 2", into=Thing) == Thing(2)
    assert sync_db.fetch_one("select id from things where id = 9") is None
    assert sync_db.fetch_val("select count(*) from things") == 5
    assert ids(sync_db) == [1, 2, 3, 4, 5]
    with pytest.raises(UniqueViolationError):
        insert(sync_db, 1)


def test_iterate_reads_in_batches_and_gives_its_connection_back(sync_db, db):
    sync_db.insert_many("things", [[n] for n in range(7)], columns=["id"])
    sql = "select id from things order by id"
    assert [row.id for row in sync_db.iterate(sql, batch_size=3)] == list(range(7))
    assert list(sync_db.iterate(sql, into=Thing, batch_size=7)) == [Thing(n) for n in range(7)]
    with sync_db.iterate(sql, batch_size=2) as rows:
        assert next(rows).id == 0
        assert db.pool.stats().in_use == 1
    assert db.pool.stats().in_use == 0
    assert list(rows) == []


def test_an_iterate_that_is_left_early_gives_its_connection_back(sync_db, db):
    sync_db.insert_many("things", [[n] for n in range(7)], columns=["id"])
    gc.disable()
    try:
        for _ in sync_db.iterate("select id from things", batch_size=2):
            break
        assert db.pool.stats().in_use == 0
    finally:
        gc.enable()


def test_a_transaction_commits_rolls_back_and_nests(sync_db):
    with sync_db.transaction():
        insert(sync_db, 1)
        with pytest.raises(ZeroDivisionError), sync_db.transaction():
            insert(sync_db, 2)
            raise ZeroDivisionError
        with sync_db.transaction() as inner:
            insert(sync_db, 3)
            inner.rollback()
        with sync_db.transaction():
            raise Rollback
    with pytest.raises(ZeroDivisionError), sync_db.transaction():
        insert(sync_db, 4)
        raise ZeroDivisionError
    with sync_db.transaction(force_rollback=True):
        insert(sync_db, 5)
    assert ids(sync_db) == [1]


def test_a_session_is_lazy_joined_by_the_thread_and_refused_after_its_block(sync_db, db):
    with sync_db.session() as session:
        assert db.pool.stats().in_use == 0
        insert(session, 1)
        assert ids(sync_db) == [1]
        session.commit()
        assert not session.in_transaction
        insert(sync_db, 2)
        session.rollback()
        insert(session, 3)
        session.set_rollback_only()
    assert ids(sync_db) == [1]
    with pytest.raises(SessionClosedError):
        ids(session)


def test_each_thread_has_its_own_transaction(sync_db):
    with sync_db.transaction(), ThreadPoolExecutor(1) as other:
        insert(sync_db, 1)
        assert other.submit(ids, sync_db).result() == []
        assert ids(sync_db) == [1]


def test_sync_hooks_run_in_the_thread_that_waits_and_may_use_the_portal(sync_db):
    seen = []
    with sync_db.transaction() as tx:
        tx.on_commit(lambda: seen.append((threading.get_ident(), ids(sync_db))))
        tx.on_rollback(lambda: seen.append("rolled back"))
        insert(sync_db, 1)
        with sync_db.transaction() as inner:
            inner.on_commit(lambda: seen.append("inner"))
        assert seen == []
    assert seen == [(threading.get_ident(), [1]), "inner"]


def test_the_error_of_a_hook_is_raised_after_the_others_have_run(sync_db):
    seen = []
    with pytest.raises(ZeroDivisionError), sync_db.session() as session:
        session.on_commit(lambda: 1 / 0)
        session.on_commit(lambda: seen.append("ran"))
        insert(session, 1)
    assert seen == ["ran"]
    assert ids(sync_db) == [1]


SLOW = (
    "with recursive n(i) as (select running() union all select i + 1 from n) select max(i) from n"
)


def test_an_interrupt_cancels_the_statement_and_rolls_back(sync_db, running):
    def interrupt():
        running.wait()
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), sync_db.transaction():
        insert(sync_db, 1)
        thread = threading.Thread(target=interrupt)
        thread.start()
        sync_db.fetch_val(SLOW)
    thread.join()
    assert ids(sync_db) == []


def test_threads_share_one_portal_and_the_last_block_closes_it(db):
    with db.portal() as first, db.portal() as second:
        assert first is second
    assert not first.is_open
    with pytest.raises(PoolClosedError, match="enter"):
        first.fetch_val("select 1")
    first.close()
    with db.portal() as again:
        assert again.fetch_val("select 1") == 1


def test_a_portal_without_a_block_opens_itself(db):
    assert db.portal().fetch_val("select 1") == 1
    db.portal().close()


def test_closing_waits_for_a_transaction_that_ends(sync_db, db, monkeypatch):
    begun, closing = threading.Event(), threading.Event()
    stop = LoopThread.stop

    def announce_and_stop(self, grace):
        closing.set()
        stop(self, grace)

    monkeypatch.setattr(LoopThread, "stop", announce_and_stop)

    def work():
        with sync_db.transaction():
            insert(sync_db, 1)
            begun.set()
            closing.wait()
            insert(sync_db, 2)

    with ThreadPoolExecutor(2) as threads:
        working = threads.submit(work)
        begun.wait()
        ending = threads.submit(sync_db.close)
        working.result()
        ending.result()
    with db.portal() as again:
        assert ids(again) == [1, 2]


def test_closing_cuts_what_does_not_end_and_rolls_it_back(sync_db, db, running):
    def work():
        with sync_db.transaction():
            insert(sync_db, 1)
            sync_db.fetch_val(SLOW)

    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        running.wait()
        sync_db.close(timeout=0.1)
        with pytest.raises(InterfaceError):
            working.result()
    with db.portal() as again:
        assert ids(again) == []


def test_closing_inside_a_block_of_the_thread_is_refused(sync_db):
    with sync_db.transaction(), pytest.raises(InterfaceError, match="leave that first"):
        sync_db.close()


async def test_a_portal_is_refused_where_a_loop_runs(db):
    with pytest.raises(InterfaceError, match="await the engine's own verbs"):
        db.portal().__enter__()
    with pytest.raises(InterfaceError, match="await the engine's own verbs"):
        db.portal().fetch_val("select 1")


def test_a_portal_that_cannot_connect_says_why_and_leaves_no_thread(tmp_path):
    db = aiodbkit.create_engine(f"sqlite:///{tmp_path}/no/such.db", min_size=1)
    with pytest.raises(CannotConnectError):
        db.portal().__enter__()
    assert "aiodbkit portal" not in [thread.name for thread in threading.enumerate()]


AT_EXIT = """
import aiodbkit, sys
sync_db = aiodbkit.create_engine(sys.argv[1]).portal()
sync_db.execute("create table things (id integer)")
print("made")
"""


def test_a_program_that_forgets_to_close_its_portal_ends(sqlite_url):
    command = [sys.executable, "-X", "dev", "-c", AT_EXIT, sqlite_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "made\n", "")


FORKED = """
import aiodbkit, os, sys
sync_db = aiodbkit.create_engine(sys.argv[1]).portal()
sync_db.execute("create table things (id integer)")
with sync_db.transaction() as tx:
    sync_db.execute("insert into things values (1)")
    child = os.fork()
    if not child:
        found = sync_db.fetch_val("select count(*) from things")
        try:
            tx.rollback()
        except aiodbkit.InterfaceError as error:
            print(found, "forked from" in str(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
print(sync_db.fetch_val("select count(*) from things"))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_begins_anew_and_leaves_the_parents_block_alone(sqlite_url):
    command = [sys.executable, "-c", FORKED, sqlite_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.split() == ["0", "True", "1"], done.stderr
