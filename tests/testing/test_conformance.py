"""The conformance suite: passed by the backends that come with aiodbkit, failed by broken ones."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import unittest
from typing import ClassVar

import pytest

import aiodbkit
from aiodbkit.backends.sqlite.driver import SQLiteConnection, SQLiteDriver
from aiodbkit.options import TransactionOptions
from aiodbkit.testing import conformance
from aiodbkit.testing.conformance import ConformanceSuite
from tests.contract.dialects import DIALECTS, split_url

COMMON = ("bytes", "boolean", "decimal", "date", "time", "datetime", "uuid", "json")
CALLED = {
    "integer": "int",
    "text": "str",
    "boolean": "bool",
    "datetime": "naive",
}


def types_of(backend, *left_out):
    declared = DIALECTS[backend].types
    kinds = ("integer", "bigint", "float", "text", *COMMON)
    return {kind: declared[CALLED.get(kind, kind)] for kind in kinds if kind not in left_out}


def session_of(backend):
    change, show, _ = DIALECTS[backend].session_sql
    return change, show


class TestSQLite(ConformanceSuite):
    pytestmark = pytest.mark.sqlite
    session = session_of("sqlite")
    types = types_of("sqlite")

    @pytest.fixture(autouse=True)
    def _database(self, sqlite_url):
        self.url = sqlite_url

    def create_engine(self, **options):
        return aiodbkit.create_engine(self.url, **options)

    def slow(self, seconds):
        return DIALECTS["sqlite"].slow(seconds)


class TestPostgres(ConformanceSuite):
    pytestmark = pytest.mark.postgres
    session = session_of("postgres")
    types = types_of("postgres")

    @pytest.fixture(autouse=True)
    def _database(self, postgres_url):
        self.url = postgres_url

    def create_engine(self, **options):
        return aiodbkit.create_engine(self.url, **options)

    def positional(self, number):
        return f"${number}"

    def slow(self, seconds):
        return DIALECTS["postgres"].slow(seconds)


class TestMySQL(ConformanceSuite):
    pytestmark = pytest.mark.mysql
    session = session_of("mysql")
    types = types_of("mysql", "uuid", "json")  # MariaDB tells neither apart from text

    @pytest.fixture(autouse=True)
    def _database(self, mysql_url):
        self.url = mysql_url

    def create_engine(self, **options):
        return aiodbkit.create_engine(self.url, **options)

    def positional(self, number):
        return "%s"

    def slow(self, seconds):
        return DIALECTS["mysql"].slow(seconds)


class TestDBAPISQLite(TestSQLite):
    types = types_of("sqlite", *COMMON[1:])  # values are those of the module

    def create_engine(self, **options):
        return aiodbkit.DBAPIEngine(sqlite3, self.url.partition("///")[2], **options)


class TestDBAPIPostgres(TestPostgres):
    pytestmark: ClassVar = [pytest.mark.postgres, pytest.mark.leaves_sessions]
    types = types_of("postgres", "bytes", "uuid", "json")

    def create_engine(self, **options):
        psycopg2 = pytest.importorskip("psycopg2")
        return aiodbkit.DBAPIEngine(psycopg2, self.url, **options)

    def positional(self, number):
        return "%s"


class TestDBAPIMySQL(TestMySQL):
    pytestmark: ClassVar = [pytest.mark.mysql, pytest.mark.leaves_sessions]
    types = types_of("mysql", "boolean", "time", "uuid", "json")

    def create_engine(self, **options):
        pymysql = pytest.importorskip("pymysql")
        return aiodbkit.DBAPIEngine(pymysql, **split_url(self.url), **options)

    def slow(self, seconds):
        return None  # it cannot be stopped: tests/dbapi/test_stopping.py


# It can fail.


def engine_with(connection_class):
    """SQLite whose connections do something wrong."""

    class Driver(SQLiteDriver):
        async def connect(self):
            made = await super().connect()
            made.__class__ = connection_class
            return made

    class Engine(aiodbkit.SQLiteEngine):
        def _driver_class(self):
            return Driver

    return Engine


class AllRowsUpToTheFirstWrongOne(SQLiteConnection):
    __slots__ = ()

    async def execute_many(self, sql, rows, timeout):
        for row in rows:
            result = await self.execute(sql, row, timeout)
        return result


class ErrorsOfTheDriver(SQLiteConnection):
    __slots__ = ()

    async def execute(self, sql, params, timeout):
        try:
            return await super().execute(sql, params, timeout)
        except aiodbkit.IntegrityError as error:
            raise sqlite3.IntegrityError(str(error)) from error


class ForgetsToRollBack(SQLiteConnection):
    __slots__ = ()

    async def clean(self):
        await self.commit() if self.in_transaction else None


class KeepsNoOrder(SQLiteConnection):
    __slots__ = ()

    async def fetch(self, sql, params, timeout, limit=0):
        columns, rows = await super().fetch(sql, params, timeout, 0)
        return columns, rows[::-1]


class LeavesATask(SQLiteConnection):
    __slots__ = ()

    async def close(self):
        await super().close()
        LeavesATask.task = asyncio.create_task(asyncio.sleep(3600))


class LeavesAThread(SQLiteConnection):
    __slots__ = ()
    go_on = threading.Event()

    async def close(self):
        await super().close()
        threading.Thread(target=self.go_on.wait, args=(30,), daemon=True).start()


class LosesTheTransaction(SQLiteConnection):
    __slots__ = ()

    async def recover(self):
        await super().recover()
        await self.rollback()
        await self.begin(TransactionOptions())


class KnowsNothingOfRaw(SQLiteConnection):
    __slots__ = ()

    def expose(self):
        return self.raw


class CommitsBeforeAScript(SQLiteConnection):
    __slots__ = ()

    async def execute_script(self, sql, timeout):
        await self.commit()
        await super().execute_script(sql, timeout)
        await self.begin(TransactionOptions())


class SaysThatItHasCommitted(SQLiteConnection):
    __slots__ = ()

    async def commit(self):
        with contextlib.suppress(aiodbkit.ConnectionLostError, aiodbkit.CommitUnknownError):
            await super().commit()


@pytest.fixture(autouse=True)
def _thread_ends():
    LeavesAThread.go_on.clear()
    yield
    LeavesAThread.go_on.set()


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("wrong", "case"),
    [
        (AllRowsUpToTheFirstWrongOne, "test_execute_many_does_all_rows_or_none"),
        (ErrorsOfTheDriver, "test_an_error_is_ours_and_tells_the_statement_and_no_value"),
        (ForgetsToRollBack, "test_a_forgotten_transaction_is_rolled_back_before_the_next_borrower"),
        (KeepsNoOrder, "test_fetch_all_returns_rows_in_order"),
        (LeavesATask, "test_success_commits"),
        (LeavesAThread, "test_success_commits"),
        (LosesTheTransaction, "test_recovery_keeps_the_open_transaction"),
        (KnowsNothingOfRaw, "test_whatever_is_done_with_the_raw_connection_is_undone"),
        (CommitsBeforeAScript, "test_a_script_never_commits_the_open_transaction"),
        (SaysThatItHasCommitted, "test_a_commit_that_is_cut_off_never_lies"),
    ],
)
def test_a_backend_that_is_wrong_fails(wrong, case, sqlite_url, monkeypatch):
    monkeypatch.setattr(conformance.suite, "_SECONDS_TO_END", 0.1)

    class Suite(ConformanceSuite):
        def create_engine(self, **options):
            return engine_with(wrong)(sqlite_url, **options)

    with pytest.raises((AssertionError, sqlite3.IntegrityError)):
        getattr(Suite(), case)()


def test_without_an_engine_it_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="create_engine"):
        ConformanceSuite().test_success_commits()

    class Suite(ConformanceSuite):
        def create_engine(self, **options):
            return 3

    with pytest.raises(AssertionError, match="no engine"):
        Suite().test_success_commits()


@pytest.mark.sqlite
def test_unittest_runs_it_and_shows_what_was_skipped(sqlite_url):
    class Suite(ConformanceSuite, unittest.TestCase):
        def create_engine(self, **options):
            return aiodbkit.create_engine(sqlite_url, **options)

    names = [name for name in dir(Suite) if name.startswith("test_a")]
    result = unittest.TestResult()
    unittest.TestSuite(map(Suite, names)).run(result)
    assert result.testsRun == len(names) > 10
    assert not result.failures
    assert not result.errors
    assert {why for _, why in result.skipped} == {
        "slow() names no statement that takes its time",
        "session names no statement that changes a session",
    }
