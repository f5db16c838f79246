"""The parts of the MySQL backend that need no server: what SQL does, batches, ends of results."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aiodbkit
from aiodbkit.backends.mysql.bulk import chunks, multi_row
from aiodbkit.backends.mysql.by_aiomysql import AiomysqlLink
from aiodbkit.backends.mysql.connect import Opener
from aiodbkit.backends.mysql.cursors import _Tail
from aiodbkit.backends.mysql.errors import translate
from aiodbkit.backends.mysql.literals import Literals
from aiodbkit.backends.mysql.sql import plan, script
from aiodbkit.backends.mysql.stop import Stopper, Victim
from aiodbkit.sql import Dialect, compile_sql

MYSQL = Dialect.MYSQL


# What a statement does to its session


@pytest.mark.parametrize(
    "sql",
    [
        "set names utf8mb4",
        "/* note */ SET @x = 1",
        "/*!40101 SET sql_mode = '' */",
        "use other",
        "select get_lock('a', 1)",
        "select @x := 1",
        "create temporary table t (id int)",
        "create or replace temporary table t (id int)",
        "lock tables t read",
        "prepare s from 'select 1'",
        "call p()",
    ],
)
def test_what_outlives_its_transaction_touches_the_session(sql: str) -> None:
    assert plan(sql, MYSQL)[1].touches


@pytest.mark.parametrize(
    "sql",
    [
        "select 'a@b', `c@d` from t -- @e",
        "select @@version",
        "select 1 from t for update",
        "insert into setting (lock_) values (1)",
        "create table t (id int)",
    ],
)
def test_what_leaves_nothing_behind_does_not(sql: str) -> None:
    assert not plan(sql, MYSQL)[1].touches


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("create table t (id int)", "CREATE TABLE"),
        ("-- note\nCREATE  OR REPLACE\ttable t (id int)", "CREATE OR REPLACE TABLE"),
        ("drop index i on t", "DROP INDEX"),
        ("alter table t add n int", "ALTER TABLE"),
        ("truncate t", "TRUNCATE T"),
        ("analyze local table t", "ANALYZE LOCAL TABLE"),
        ("lock tables t read", "LOCK TABLES"),
        ("create temporary table t (id int)", ""),
        ("create or replace temporary table t (id int)", ""),
        ("drop temporary table t", ""),
        ("analyze select 1", ""),
        ("check_this", ""),
        ("select 'create table'", ""),
    ],
)
def test_statements_that_commit_are_known_by_name(sql: str, name: str) -> None:
    assert plan(sql, MYSQL)[1].commits == name


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("begin", "BEGIN"),
        ("Start  Transaction read only", "START TRANSACTION"),
        ("/* now */ commit and chain", "COMMIT"),
        ("rollback", "ROLLBACK"),
        ("rollback to savepoint a", ""),
        ("rollback work to a", ""),
        ("begin not atomic select 1; end", ""),
        ("start slave", ""),
        ("savepoint a", ""),
    ],
)
def test_statements_that_end_a_transaction_are_known_by_name(sql: str, name: str) -> None:
    assert plan(sql, MYSQL)[1].ends == name


def test_a_script_does_what_its_statements_do() -> None:
    found, text = script(
        "select ';commit'; /* ; begin */ insert into t values (1); drop table t", MYSQL
    )
    assert (found.ends, found.commits, found.touches) == ("", "DROP TABLE", False)
    assert text.endswith(b"drop table t")
    assert not script("set @x = 1; select get_lock('a', 1)", MYSQL)[0].replays
    assert script("set names utf8mb4; use other", MYSQL)[0].replays


# Many rows


@pytest.mark.parametrize(
    "sql",
    [
        "insert into t (a, b) values (:a, :b)",
        "INSERT INTO t VALUES(:a,:b) ;",
        "replace into t (`values`, b) value (:a, 5 , :b)",
        "insert into t (a) values (:a) on duplicate key update a = values(a)",
        "insert into t values (%s, 100 %% 7)",
    ],
)
def test_inserts_of_plain_rows_take_several(sql: str) -> None:
    assert multi_row(compile_sql(sql, MYSQL)) is not None


@pytest.mark.parametrize(
    "sql",
    [
        "insert into t values (1)",
        "insert into t values (:a), (:b)",
        "insert into t values (:a, now(), :b)",
        "insert into t select :a",
        "insert into t set a = :a",
        "insert into t values (:a, ':b')",
        "insert into t values (:a) -- the end",
        "insert into t values (:a) returning id",
        "insert into t values (:a) on duplicate key update a = :b",
        "update t set a = :a",
        "select :a",
    ],
)
def test_other_statements_are_run_row_by_row(sql: str) -> None:
    assert multi_row(compile_sql(sql, MYSQL)) is None


async def texts(rows: Any, most: int) -> list[str]:
    sql = "insert into t (a, b) values (:a, 100 % 7, :b) on duplicate key update b = 1"
    pieces = multi_row(compile_sql(sql, MYSQL))
    assert pieces is not None
    return [text.decode() async for text in chunks(pieces, rows, Literals(None), sql, most)]


async def test_rows_are_packed_into_statements_that_fit() -> None:
    rows = [(n, "x" * 20) for n in range(1, 6)]
    found = await texts(rows, 150)
    assert all(len(text) <= 150 for text in found)
    assert all(text.startswith("insert into t (a, b) values (") for text in found)
    assert all(text.endswith(") on duplicate key update b = 1") for text in found)
    assert "".join(found).count("100 % 7") == 5
    assert len(found) == 3


async def test_a_row_that_fits_nowhere_stands_alone() -> None:
    assert len(await texts([(1, "x" * 500), (2, "y")], 150)) == 2
    assert await texts([], 150) == []


async def test_rows_may_come_asynchronously() -> None:
    async def rows() -> AsyncIterator[tuple[int, str]]:
        for n in range(5):
            yield n, "x"

    assert await texts(rows(), 1000) == await texts([(n, "x") for n in range(5)], 1000)


async def test_a_value_that_cannot_be_sent_is_told_by_row_and_place() -> None:
    with pytest.raises(aiodbkit.DataError, match=r"row 1: value 2: .*object"):
        await texts([(1, 2), (3, object())], 1000)


# The end of a result


def packet(payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + b"\x05" + payload


@given(
    st.lists(st.binary(min_size=1, max_size=40).filter(lambda row: row[0] < 0xFC), max_size=20),
    st.sampled_from([b"\xfe\x00\x00\x02\x00", b"\xff\x25\x05#70100killed"]),
    st.lists(st.integers(1, 60), min_size=1),
)
def test_the_end_of_a_result_is_found_however_it_is_cut(
    rows: list[bytes], end: bytes, cuts: list[int]
) -> None:
    wire = b"".join(map(packet, [*rows, end]))
    tail, at, found = _Tail(), 0, None
    while found is None:
        size = cuts[at % len(cuts)]
        assert wire
        found, wire, at = tail.feed(wire[:size]), wire[size:], at + 1
    assert found == end


def test_a_row_of_more_than_a_packet_is_no_end() -> None:
    full = b"\xff\xff\xff\x00" + b"\xfe" + bytes(0xFFFFFF - 1)
    rest = packet(b"\xff not an error")
    tail = _Tail()
    assert tail.feed(full[:5_000_000]) is None
    assert tail.feed(full[5_000_000:]) is None
    assert tail.feed(rest) is None
    assert tail.feed(packet(b"\xfe\x00\x00\x02\x00")) == b"\xfe\x00\x00\x02\x00"


# Stopping


class Side:
    """A connection for KILL that does as told."""

    def __init__(self, sent: list[str], answer: Callable[[], None]) -> None:
        self.victim = Victim("here", 1)
        self._sent = sent
        self._answer = answer

    async def command(self, text: str) -> None:
        self._sent.append(text)
        self._answer()

    def abort(self) -> None:
        self._sent.append("closed")


def raising(error: Exception | None) -> Callable[[], None]:
    def answer() -> None:
        if error is not None:
            raise error

    return answer


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (None, True),
        (pymysql.err.OperationalError(1094, "Unknown thread id: 7"), True),
        (pymysql.err.OperationalError(2013, "Lost connection"), False),
        (OSError(), False),
    ],
)
async def test_it_is_told_whether_a_kill_may_still_come(error: Any, known: bool) -> None:
    sent: list[str] = []

    async def open_side() -> Side:
        return Side(sent, raising(error))

    assert await Stopper(open_side).stop_statement(Victim("here", 7)) is known
    assert sent == ["KILL QUERY 7", "closed"]


async def test_a_session_of_another_server_is_left_alone() -> None:
    sent: list[str] = []

    async def open_side() -> Side:
        return Side(sent, raising(None))

    assert await Stopper(open_side).stop_statement(Victim("elsewhere", 7)) is True
    assert sent == ["closed"]


async def test_a_server_that_lets_nobody_in_gets_no_kill() -> None:
    async def open_side() -> Side:
        raise aiodbkit.CannotConnectError

    assert await Stopper(open_side).stop_statement(Victim("here", 7)) is True


# Errors and options


@pytest.mark.parametrize(
    ("code", "text", "kind", "names"),
    [
        (1062, "Duplicate entry 's3cret' for key 'uq'", "UniqueViolationError", ("uq", None, None)),
        (
            1062,
            "Duplicate entry 's3cret' for key 't.uq'",
            "UniqueViolationError",
            ("uq", "t", None),
        ),
        (
            1452,
            (
                "Cannot add or update a child row: a foreign key constraint fails "
                "(`shop`.`orders`, CONSTRAINT `fk` "
                "FOREIGN KEY (`customer`) REFERENCES `customers` (`id`))"
            ),
            "ForeignKeyViolationError",
            ("fk", "orders", "customer"),
        ),
        (1048, "Column 'n' cannot be null", "NotNullViolationError", (None, None, "n")),
        (
            1364,
            "Field 'n' doesn't have a default value",
            "NotNullViolationError",
            (None, None, "n"),
        ),
        (4025, "CONSTRAINT `ck` failed for `shop`.`t`", "CheckViolationError", ("ck", "t", None)),
        (3819, "Check constraint 'ck' is violated.", "CheckViolationError", ("ck", None, None)),
        (
            1366,
            "Incorrect integer value: 's3cret' for column `shop`.`t`.`n` at row 1",
            "DataError",
            (None, "t", "n"),
        ),
        (1064, "error near 'frm t where x = 's3cret'' at line 1", "ProgrammingError", (None,) * 3),
        (1054, "Unknown column 't.x' in 'field list'", "ProgrammingError", (None, "t", "x")),
        (1146, "Table 'shop.t' doesn't exist", "ProgrammingError", (None, "t", None)),
        (1020, "Record has changed since last read", "SerializationError", (None,) * 3),
        (1205, "Lock wait timeout exceeded", "LockTimeoutError", (None,) * 3),
        (1290, "running with the --read-only option", "ReadOnlyError", (None,) * 3),
        (1142, "SELECT command denied to user", "OperationalError", (None,) * 3),
        (9999, "something new", "OperationalError", (None,) * 3),
    ],
)
def test_an_error_has_its_class_and_names_and_no_value(
    code: int, text: str, kind: str, names: Any
) -> None:
    error = translate(pymysql.err.OperationalError(code, text), "select 1")
    assert type(error).__name__ == kind
    assert (error.constraint, error.table, error.column) == names
    assert (error.code, error.query) == (code, "select 1")
    assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"charset": "latin1"}, "charset.*utf8mb4"),
        ({"ssl": "perhaps"}, "ssl must be.*verify-full.*'perhaps'"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: Any, message: str) -> None:
    with pytest.raises(aiodbkit.ConfigurationError, match=message):
        Opener({}, options, None, AiomysqlLink)


def test_one_host_is_one_host() -> None:
    with pytest.raises(aiodbkit.ConfigurationError, match="one host"):
        Opener({"hosts": [("a", 3306), ("b", 3306)]}, {}, None, AiomysqlLink)


def test_where_it_connects_to_is_told_without_the_password() -> None:
    opener = Opener(
        {"host": "db", "user": "app", "password": "s3cret", "database": "shop"},
        {},
        None,
        AiomysqlLink,
    )
    assert opener.where == "MySQL at db:3306 as user 'app', database 'shop'"
