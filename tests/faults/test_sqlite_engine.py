"""The SQLite engine: opening, options, sessions, scripts, cursors, errors, and the ways it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import aiodbkit
from aiodbkit.backends.sqlite import SQLiteEngine
from tests.sqlite.library import CAUSE, DRIVER, MEMORY, NAME, SCHEME, change_rows, on_raw, opened

ENDLESS = (
    "with recursive n(x) as (select 1 union all select x + 1 from n) select x from n where x < 0"
)

MakeEngine = Callable[..., Awaitable[aiodbkit.Engine]]


@pytest.fixture
async def one(sqlite_engine: MakeEngine) -> aiodbkit.Engine:
    """An engine with one connection, and the empty table t."""
    db = await sqlite_engine(max_size=1)
    await db.execute("create table t (id integer primary key, v)")
    return db


# Opening


async def test_wal_foreign_keys_and_the_busy_timeout_are_on(one: aiodbkit.Engine) -> None:
    assert await one.fetch_val("pragma journal_mode") == "wal"
    assert await one.fetch_val("pragma foreign_keys") == 1
    assert await one.fetch_val("pragma busy_timeout") == 5000


async def test_pragmas_are_set_on_every_connection_and_none_leaves_one_alone(
    sqlite_engine: MakeEngine,
) -> None:
    wanted = {"Foreign_Keys": None, "synchronous": "NORMAL", "temp_store": "memory"}
    db = await sqlite_engine(pragmas={**wanted, "recursive_triggers": True}, timeout=2)
    async with db.pool.acquire() as first, db.pool.acquire() as second:
        for conn in (first, second):
            assert await conn.fetch_val("pragma foreign_keys") == 0
            assert await conn.fetch_val("pragma synchronous") == 1
            assert await conn.fetch_val("pragma temp_store") == 2
            assert await conn.fetch_val("pragma recursive_triggers") == 1
            assert await conn.fetch_val("pragma busy_timeout") == 2000


async def test_a_url_has_options_and_pragmas(sqlite_url: str, sqlite_engine: MakeEngine) -> None:
    options = "pragma.cache_size=-321&pragma.journal_mode=delete&timeout=1.5"
    db = await sqlite_engine(f"{sqlite_url}?{options}")
    assert await db.fetch_val("pragma cache_size") == -321
    assert await db.fetch_val("pragma journal_mode") == "delete"
    assert await db.fetch_val("pragma busy_timeout") == 1500


@pytest.mark.parametrize(
    ("pragmas", "message"),
    [
        ({"jornal_mode": "wal"}, "knows no 'jornal_mode'"),
        ({"journal_mode": "wall"}, "journal_mode = 'wall' did not take.*None"),
        ({"synchronous": "sometimes"}, "synchronous = 'sometimes' did not take"),
        ({"a; drop table t": 1}, "no name of a pragma"),
        (["journal_mode"], "mapping, not list"),
    ],
)
async def test_a_pragma_that_does_not_take_is_named(
    pragmas: Any, message: str, sqlite_engine: MakeEngine
) -> None:
    with pytest.raises(aiodbkit.ConfigurationError, match=message):
        await sqlite_engine(pragmas=pragmas, min_size=1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"mode": "readonly"}, "mode"),
        ({"timeout": -1}, "timeout"),
        ({"lock_timeout": "long"}, "lock_timeout"),
        ({"host": "db"}, "host"),
        ({"jornal": 1}, "jornal"),
    ],
)
def test_a_wrong_option_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(aiodbkit.ConfigurationError, match=message):
        SQLiteEngine(database="app.db", **option)


def _make_text_file(path: Path) -> None:
    path.write_text("this is no database, but long enough to be read as one" * 20)


@pytest.mark.parametrize(
    ("name", "prepare", "options", "reason"),
    [
        ("missing/app.db", None, {}, "there is no folder"),
        ("folder", Path.mkdir, {}, "it is a folder"),
        ("text", _make_text_file, {}, "file is not a database"),
        ("missing.db", None, {"mode": "rw"}, "it does not exist"),
        ("empty.db", Path.touch, {"mode": "ro", "pragmas": {"journal_mode": "wal"}}, "readonly"),
    ],
)
async def test_what_cannot_be_opened_is_named_with_the_reason(
    name: str, prepare: Any, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if prepare is not None:
        prepare(path)
    db = SQLiteEngine(database=str(path), driver=NAME, min_size=1, **options)
    with pytest.raises(aiodbkit.CannotConnectError, match=reason) as caught:
        await db.connect()
    assert str(path) in str(caught.value)
    assert not caught.value.is_transient
    await db.close()


async def test_a_read_only_database_refuses_writes(
    one: aiodbkit.Engine, sqlite_url: str, sqlite_engine: MakeEngine
) -> None:
    db = await sqlite_engine(f"{sqlite_url}?mode=ro")
    assert await db.fetch_val("select count(*) from t") == 0
    with pytest.raises(aiodbkit.ReadOnlyError) as caught:
        await db.execute("insert into t (id) values (1)")
    assert not caught.value.is_transient


async def test_the_path_is_that_of_the_folder_in_which_the_engine_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    db = aiodbkit.create_engine(f"{SCHEME}:///here.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    async with db:
        await db.execute("create table t (id integer)")
    assert (tmp_path / "here.db").exists()


async def test_a_uri_is_taken_as_it_stands(tmp_path: Path) -> None:
    uri = f"file:{tmp_path}/with%20space.db?mode=rwc"
    async with SQLiteEngine(database=uri, uri=True, driver=NAME, cached_statements=7) as db:
        await db.execute("create table t (id integer)")
    assert (tmp_path / "with space.db").exists()


# In memory


async def test_memory_is_shared_by_the_connections_of_one_engine_and_by_no_other() -> None:
    async with aiodbkit.create_engine(MEMORY) as db, SQLiteEngine(driver=NAME) as other:
        await db.execute("create table t (id integer)")
        async with db.pool.acquire() as first, db.pool.acquire() as second:
            await first.execute("insert into t values (1)")
            assert await second.fetch_val("select count(*) from t") == 1
        await db.pool.expire()
        assert await db.fetch_val("select count(*) from t") == 1
        with pytest.raises(aiodbkit.ProgrammingError, match="no such table"):
            await other.fetch_val("select count(*) from t")
        await db.close()
        await db.connect()
        with pytest.raises(aiodbkit.ProgrammingError, match="no such table"):
            await db.fetch_val("select count(*) from t")


async def test_a_connection_to_memory_opens_while_another_writes() -> None:
    async with SQLiteEngine(driver=NAME, timeout=0) as db:
        await db.execute("create table t (id integer)")
        async with db.transaction():
            await db.execute("insert into t values (1)")
            async with db.pool.acquire() as other:
                assert not other.in_transaction


# Sessions

CHANGES = {
    "pragma": ("pragma cache_size = -4321", "pragma cache_size"),
    "query_only": ("pragma query_only = on", "pragma query_only"),
    "attach": ("attach ':memory:' as more", "select count(*) from pragma_database_list"),
    "temporary table": ("create temp table mine (id)", "select count(*) from sqlite_temp_master"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("how", ["execute", "script", "raw"])
async def test_what_a_borrower_changed_is_put_back(
    how: str, change: str, one: aiodbkit.Engine
) -> None:
    statement, look = CHANGES[change]
    await one.fetch_val("select count(*) from sqlite_temp_master")
    before = await one.fetch_val(look)
    async with one.connection() as conn:
        if how == "execute":
            await conn.execute(statement)
        elif how == "script":
            await conn.execute_script(f"select 1; {statement}; select 2")
        else:
            await on_raw(conn.raw.execute, statement)
            change_rows(conn.raw)
        assert await conn.fetch_val(look) != before
    assert await one.fetch_val(look) == before
    assert await one.fetch_all(look) == [(before,)]
    assert one.pool.stats().opened == 1


async def test_session_sql_is_a_part_of_the_session(sqlite_engine: MakeEngine) -> None:
    setting = "attach ':memory:' as more; pragma cache_size = -77; create temp table mine (id)"
    db = await sqlite_engine(max_size=1, session_sql=[setting])
    for _ in range(2):
        async with db.connection() as conn:
            await conn.execute("pragma cache_size = -99")
            await conn.execute("create temp table yours (id)")
        assert await db.fetch_val("pragma cache_size") == -77
        assert await db.fetch_column("select name from sqlite_temp_master") == ["mine"]
        assert "more" in await db.fetch_column("select name from pragma_database_list")
    assert db.pool.stats().opened == 1


async def test_a_read_only_transaction_ends_with_its_transaction(one: aiodbkit.Engine) -> None:
    for end in ("commit", "rollback"):
        async with one.connection() as conn:
            async with conn.transaction(read_only=True) as tx:
                with pytest.raises(aiodbkit.ReadOnlyError):
                    await conn.execute("insert into t (id) values (1)")
                if end == "rollback":
                    await tx.rollback()
            await conn.execute("insert into t (id) values (null)")
    assert await one.fetch_val("select count(*) from t") == 2


# Statements


async def test_last_insert_id_is_told_after_an_insert_only(one: aiodbkit.Engine) -> None:
    upsert = "insert into t (id, v) values (:id, 1) on conflict (id) do update set v = 2"
    assert await one.execute("insert into t (id) values (7)") == (1, 7)
    assert await one.execute("replace into t (id) values (8)") == (1, 8)
    assert await one.execute("update t set v = 1") == (2, None)
    assert await one.execute("insert or ignore into t (id) values (7)") == (0, None)
    assert await one.execute(upsert, {"id": 7}) == (1, None)
    assert await one.execute(upsert, {"id": 9}) == (1, 9)
    assert await one.execute("delete from t where id > 7") == (2, None)
    assert await one.execute("select * from t") == (-1, None)


async def test_rows_of_with_and_of_returning_are_counted(one: aiodbkit.Engine) -> None:
    new = "with n(x) as (values (1), (2), (3)) insert into t (id) select x from n"
    assert (await one.execute(new)).rows_affected == 3
    assert (await one.execute("with n(x) as (select 9) delete from t where id in n")) == (0, None)
    assert (await one.execute("delete from t where id < 3 returning id")).rows_affected == 2
    many = await one.execute_many("insert into t (id) values (?) returning id", [(5,), (6,)])
    assert many.rows_affected == 2
    assert await one.fetch_column("select id from t") == [3, 5, 6]


async def test_statements_that_cannot_be_in_a_transaction_run(
    one: aiodbkit.Engine, tmp_path: Path
) -> None:
    await one.execute("vacuum")
    await one.execute("pragma foreign_keys = off")
    await one.execute(f"attach '{tmp_path}/other.db' as other")
    await one.execute("pragma wal_checkpoint(truncate)")
    await one.execute("analyze")


# Scripts


async def test_a_script_is_done_as_a_whole_or_not_at_all(one: aiodbkit.Engine) -> None:
    with pytest.raises(aiodbkit.ProgrammingError, match="no such table: nowhere"):
        await one.execute_script("insert into t (id) values (1); insert into nowhere values (1)")
    assert await one.fetch_val("select count(*) from t") == 0


async def test_a_script_with_transactions_of_its_own_runs_as_it_stands(
    one: aiodbkit.Engine,
) -> None:
    await one.execute_script(
        "pragma foreign_keys = off; begin; insert into t (id) values (1); commit;"
        "insert into t (id) values (2); vacuum;"
    )
    with pytest.raises(aiodbkit.ProgrammingError, match="inside the transaction"):
        await one.execute_script("begin; insert into t (id) values (3);")
    assert await one.fetch_column("select id from t") == [1, 2]


async def test_a_script_is_cut_where_sqlite_would_cut_it(one: aiodbkit.Engine) -> None:
    await one.execute_script(
        """
        -- one; two
        create trigger twice after insert on t when new.v = ';' begin
            insert into t (v) values ('a;b'); insert into t (v) values ("c;""d");
        end;
        insert into t (v) values (';') /* ; */ ;;
        create table "odd;name" (id) -- no semicolon at the end"""
    )
    assert await one.fetch_column("select v from t order by id") == [";", "a;b", 'c;"d']
    assert await one.fetch_val('select count(*) from "odd;name"') == 0


# Cursors


async def test_a_result_ends_with_its_transaction(one: aiodbkit.Engine) -> None:
    await one.insert_many("t", [{"v": n} for n in range(100)])
    async with one.connection() as conn:
        await conn.begin()
        rows = conn.iterate("select * from t", batch_size=10)
        assert (await anext(rows)).v == 0
        await conn.rollback()
        await conn.execute("drop table t")  # no cursor holds it
        with pytest.raises(aiodbkit.InterfaceError, match="ended"):
            [row async for row in rows]


async def test_an_open_result_does_not_outlive_the_loan(one: aiodbkit.Engine) -> None:
    await one.insert_many("t", [{"v": n} for n in range(100)])
    async with one.connection() as conn:
        rows = conn.iterate("select * from t", batch_size=10)
        await anext(rows)
    await one.execute("drop table t")


async def test_a_result_that_failed_is_not_taken_for_a_finished_one(
    one: aiodbkit.Engine,
) -> None:
    await one.execute_script("create table d (v date); insert into d values ('2024-01-01'), ('x')")
    rows = one.iterate("select v from d", batch_size=1)
    assert (await anext(rows)).v.year == 2024
    with pytest.raises(aiodbkit.DataError, match="declared DATE"):
        [row async for row in rows]


# Errors


@pytest.mark.parametrize(
    ("sql", "error", "told"),
    [
        ("insert into e (id) values (1)", "UniqueViolationError", (1555, "e", "id", None)),
        ("insert into e (a, b) values (1, 2)", "UniqueViolationError", (2067, "e", None, None)),
        ("insert into e (n) values (null)", "NotNullViolationError", (1299, "e", "n", None)),
        ("insert into e (p) values (-1)", "CheckViolationError", (275, None, None, "positive")),
        ("insert into e (f) values (99)", "ForeignKeyViolationError", (787, None, None, None)),
        ("insert into e (id) values ('x')", "DataError", (20, None, None, None)),
        ("select * from nowhere", "ProgrammingError", (1, None, None, None)),
        ("select nothing from e", "ProgrammingError", (1, None, None, None)),
        ("selec 1", "ProgrammingError", (1, None, None, None)),
        ("create table e (id)", "ProgrammingError", (1, None, None, None)),
        ("begin; commit", "ProgrammingError", (None, None, None, None)),
    ],
)
async def test_errors_tell_what_sqlite_says(
    sql: str, error: str, told: tuple[Any, ...], one: aiodbkit.Engine
) -> None:
    await one.execute_script(
        """
        create table e (id integer primary key, a, b, n not null default 0,
                        p int constraint positive check (p > 0), f references e (id),
                        unique (a, b));
        insert into e (id, a, b) values (1, 1, 2);
        """
    )
    with pytest.raises(getattr(aiodbkit, error)) as caught:
        await one.execute(sql)
    found = caught.value
    assert type(found).__name__ == error
    assert (found.code, found.table, found.column, found.constraint) == told
    assert found.query == sql
    assert not found.is_transient
    if found.code is not None:
        assert isinstance(found.__cause__, CAUSE)


async def test_a_connection_closed_behind_our_back_is_replaced(one: aiodbkit.Engine) -> None:
    async with one.connection() as conn:
        await on_raw(conn.raw.close)
        assert conn.is_closed
        with pytest.raises(aiodbkit.ConnectionLostError) as caught:
            await conn.execute("insert into t (id) values (1)")
        assert caught.value.is_transient
    assert await one.fetch_val("select count(*) from t") == 0


# The ways it ends


def run(program: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own, which has to end by itself."""
    return subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", program, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


FORGOTTEN = """
import asyncio, sys, aiodbkit
db = aiodbkit.create_engine("{scheme}:///" + sys.argv[1])
async def main():
    await db.execute("create table t (id integer)")
    await db.execute("insert into t values (1)")
    print(await db.fetch_val("select count(*) from t"), flush=True)
    {last}
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        (
            "asyncio.get_running_loop().call_later(0.05, sys.exit, 4); await db.fetch_val(ENDLESS)",
            4,
        ),
    ],
    ids=["end", "exit", "exit during a statement"],
)
def test_a_forgotten_close_does_not_keep_the_interpreter_from_exiting(
    last: str, code: int, tmp_path: Path
) -> None:
    program = FORGOTTEN.format(scheme=SCHEME, last=last.replace("ENDLESS", repr(ENDLESS)))
    ended = run(program, tmp_path / "app.db")
    assert (ended.returncode, ended.stdout) == (code, "1\n"), ended.stderr
    db = opened(tmp_path / "app.db")
    assert db.execute("select count(*) from t").fetchone() == (1,)
    db.close()


LOOP_GONE = f"""
import asyncio, sys, threading, aiodbkit
{DRIVER}
threading.excepthook = lambda args: None
async def open():
    return await SQLiteDriver(dict(database=sys.argv[1]), dict()).connect()
first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
conn = first.run_until_complete(open())
thread = conn._thread._thread
task = first.create_task(conn.fetch(sys.argv[2], None, None))
first.run_until_complete(asyncio.sleep(0.05))
first.close()
conn._thread.stop()
thread.join()
async def use():
    print(conn.is_closed)
    for call in (conn.ping, conn.recover, conn.clean, conn.close):
        try:
            await call()
        except aiodbkit.Error as error:
            print(type(error).__name__)
    conn.abort()
second.run_until_complete(use())
second.close()
"""


def test_a_connection_whose_loop_is_gone_is_closed_and_nothing_hangs(tmp_path: Path) -> None:
    ended = run(LOOP_GONE, tmp_path / "app.db", ENDLESS)
    assert ended.stdout.split() == ["True"] + ["ConnectionLostError"] * 3, ended.stderr


FORKED = """
import asyncio, os, sys, warnings, aiodbkit
warnings.simplefilter("ignore")
from aiodbkit.backends.sqlite.driver import SQLiteDriver
async def main():
    conn = await SQLiteDriver({"database": sys.argv[1]}, {}).connect()
    child = os.fork()
    if child == 0:
        assert conn.is_closed
        os._exit(5)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    await conn.ping()
    await conn.close()
asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_in_a_forked_process_the_connection_is_closed(tmp_path: Path) -> None:
    ended = run(FORKED, tmp_path / "app.db")
    assert ended.stdout == "5\n", ended.stderr
