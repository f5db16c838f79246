"""Pragmas, attached databases and extensions: on every connection, verified, put back."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess

import pytest

import aiodbkit
from tests.sqlite.library import IS_APSW, MEMORY

CAN_LOAD = IS_APSW or hasattr(sqlite3.Connection, "enable_load_extension")

EXTENSION = """
#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT1
static void answer(sqlite3_context *context, int count, sqlite3_value **values) {
  sqlite3_result_int(context, 42);
}
int sqlite3_extension_init(sqlite3 *db, char **message, const sqlite3_api_routines *api) {
  SQLITE_EXTENSION_INIT2(api);
  return sqlite3_create_function(db, "answer", 0, SQLITE_UTF8, 0, answer, 0, 0);
}
"""

# As SQLite shows each setting after it was asked for.
PRAGMAS = [
    ("analysis_limit", 100, 100),
    ("application_id", 7, 7),
    ("auto_vacuum", "full", 1),
    ("auto_vacuum", "incremental", 2),
    ("automatic_index", False, 0),
    ("busy_timeout", 1000, 1000),
    ("busy_timeout", -3, 0),
    ("cache_size", -321, -321),
    ("cache_spill", "off", 0),
    ("cache_spill", True, None),  # shown as pages
    ("case_sensitive_like", True, None),  # not shown at all
    ("cell_size_check", 1, 1),
    ("checkpoint_fullfsync", 1, 1),
    ("defer_foreign_keys", 1, None),  # until the next commit
    ("encoding", "UTF8", "UTF-8"),
    ("encoding", "utf-16", "UTF-16le"),
    ("foreign_keys", "off", 0),
    ("fullfsync", 1, 1),
    ("ignore_check_constraints", 1, 1),
    ("journal_mode", "TRUNCATE", "truncate"),
    ("journal_size_limit", -5, -1),
    ("legacy_alter_table", 1, 1),
    ("locking_mode", "Exclusive", "exclusive"),
    ("max_page_count", 5000, 5000),
    ("mmap_size", 1_000_000, 1_000_000),
    ("page_size", 8192, 8192),
    ("query_only", 0, 0),
    ("read_uncommitted", 1, 1),
    ("recursive_triggers", "yes", 1),
    ("reverse_unordered_selects", 1, 1),
    ("secure_delete", "fast", 2),
    ("synchronous", "extra", 3),
    ("temp_store", "memory", 2),
    ("threads", 4, 4),
    ("trusted_schema", "false", 0),
    ("user_version", 3, 3),
    ("wal_autocheckpoint", -1, 0),
    ("writable_schema", "reset", 0),
    ("main.cache_size", -111, -111),
]


@pytest.mark.parametrize(("name", "value", "shown"), PRAGMAS)
async def test_a_pragma_takes_effect_on_a_new_file_and_on_one_that_is_there(
    name, value, shown, sqlite_engine
):
    for _ in range(2):
        db = await sqlite_engine(pragmas={name: value}, max_size=1)
        if shown is not None:
            assert await db.fetch_val(f"pragma {name}") == shown
        await db.execute("create table if not exists t (v)")
        await db.close()


async def test_like_is_case_sensitive_where_that_was_asked_for(sqlite_engine):
    db = await sqlite_engine(pragmas={"case_sensitive_like": 1})
    assert await db.fetch_val("select 'a' like 'A'") == 0


async def test_what_a_file_was_made_with_is_no_longer_changed_and_that_is_told(sqlite_engine):
    db = await sqlite_engine()
    await db.execute("create table t (v)")
    for name, value in (("page_size", 8192), ("auto_vacuum", "full"), ("encoding", "utf-16")):
        with pytest.raises(aiodbkit.Error, match=f"{name}|encoding"):
            await sqlite_engine(pragmas={name: value}, min_size=1)


@pytest.mark.parametrize(
    ("url", "name", "value"),
    [(None, "optimize", 1), (None, "table_info", "t"), (MEMORY, "mmap_size", 1000)],
)
async def test_what_is_no_setting_is_told_apart_from_what_is_unknown(
    url, name, value, sqlite_engine
):
    with pytest.raises(aiodbkit.ConfigurationError, match="has no value that could be set"):
        await sqlite_engine(*([url] if url else []), pragmas={name: value}, min_size=1)


# Attached databases.


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "archive 1.db"
    with sqlite3.connect(path) as db:
        db.execute("create table old (v)")
        db.execute("insert into old values (1)")
    db.close()
    return path


@pytest.fixture(params=["file", "memory"])
async def attached(request, archive, sqlite_engine):
    urls = [MEMORY] if request.param == "memory" else []
    return await sqlite_engine(*urls, attach={"archive": archive})


async def test_a_database_is_attached_to_every_connection(attached, archive):
    async with attached.pool.acquire() as one, attached.pool.acquire() as other:
        assert await one.fetch_val("select v from archive.old") == 1
        await one.execute("insert into archive.old values (2)")
        assert await other.fetch_val("select count(*) from archive.old") == 2
    with sqlite3.connect(archive) as db:
        assert db.execute("select count(*) from old").fetchone() == (2,)
    db.close()


async def test_it_stays_attached_and_what_a_borrower_attached_does_not(attached, tmp_path):
    for _ in range(2):
        async with attached.connection() as conn:
            await conn.execute("attach :path as mine", {"path": str(tmp_path / "mine.db")})
            assert await conn.fetch_val("select count(*) from archive.old") == 1


async def test_one_that_a_borrower_detached_is_there_for_the_next(attached):
    await attached.execute("detach archive")
    assert await attached.fetch_val("select v from archive.old") == 1


async def test_an_attached_database_has_pragmas_of_its_own(archive, sqlite_engine):
    pragmas = {"archive.journal_mode": "persist", "synchronous": "normal"}
    db = await sqlite_engine(attach={"archive": archive}, pragmas=pragmas)
    assert await db.fetch_val("pragma archive.journal_mode") == "persist"
    assert await db.fetch_val("pragma main.journal_mode") == "wal"
    assert await db.fetch_val("pragma archive.synchronous") == 2


async def test_a_database_is_attached_for_reading_by_a_uri(archive, sqlite_engine):
    db = await sqlite_engine(attach={"archive": f"{archive.as_uri()}?mode=ro"})
    assert await db.fetch_val("select v from archive.old") == 1
    with pytest.raises(aiodbkit.ReadOnlyError):
        await db.execute("insert into archive.old values (2)")


@pytest.mark.parametrize(
    ("attach", "message"),
    [
        (["a.db"], "mapping of names to paths, not list"),
        ({"main": "a.db"}, "'main' cannot be the name"),
        ({"": "a.db"}, "cannot be the name"),
        ({7: "a.db"}, "7 cannot be the name"),
        ({"a": ":memory:"}, "each connection would"),
        ({"a": ""}, "needs the path"),
        ({"a": 7}, "needs the path"),
    ],
)
def test_what_cannot_be_attached_is_refused(attach, message):
    with pytest.raises(aiodbkit.ConfigurationError, match=message):
        aiodbkit.SQLiteEngine(database="a.db", attach=attach)


async def test_one_that_cannot_be_opened_is_told(tmp_path, sqlite_engine):
    with pytest.raises(aiodbkit.CannotConnectError, match="unable to open"):
        await sqlite_engine(attach={"a": tmp_path / "no" / "a.db"}, min_size=1)


# Extensions.


@pytest.fixture
def extension(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    source, made = tmp_path / "answer.c", tmp_path / "answer.so"
    source.write_text(EXTENSION)
    command = [compiler or "cc", "-shared", "-fPIC", "-o", made, source]
    if compiler is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no C compiler, or no sqlite3ext.h")
    return made


@pytest.mark.skipif(not CAN_LOAD, reason="this Python's sqlite3 cannot load extensions")
async def test_extensions_are_loaded_where_they_are_asked_for_and_not_by_sql(
    extension, sqlite_engine
):
    for given in (str(extension), extension, [extension]):
        db = await sqlite_engine(extensions=given)
        assert await db.fetch_val("select answer()") == 42
        with pytest.raises(aiodbkit.Error, match="not authorized"):
            await db.fetch_val("select load_extension(:path)", {"path": str(extension)})


async def test_without_being_asked_for_none_is_loaded(sqlite_engine, extension):
    db = await sqlite_engine()
    with pytest.raises(aiodbkit.Error, match=r"not authorized|no such function"):
        await db.fetch_val("select load_extension(:path)", {"path": str(extension)})


@pytest.mark.skipif(not CAN_LOAD, reason="this Python's sqlite3 cannot load extensions")
async def test_an_extension_that_is_not_there_is_told(tmp_path, sqlite_engine):
    with pytest.raises(aiodbkit.CannotConnectError, match="missing"):
        await sqlite_engine(extensions=[tmp_path / "missing"], min_size=1)


@pytest.mark.skipif(CAN_LOAD, reason="this Python's sqlite3 can load extensions")
async def test_a_python_that_cannot_load_extensions_says_so(sqlite_engine):
    with pytest.raises(aiodbkit.ConfigurationError, match="without loadable extensions"):
        await sqlite_engine(extensions=["answer.so"], min_size=1)


def test_extensions_that_are_no_paths_are_refused():
    for given in (7, [7]):
        with pytest.raises(aiodbkit.ConfigurationError, match="extensions must be paths"):
            aiodbkit.SQLiteEngine(database="a.db", extensions=given)
