"""What users get wrong, or do in ways not thought of: nothing is damaged, errors are clear."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

import aiodbkit
from tests.sqlite.library import SCHEME, opened, path_of


@pytest.fixture
async def db(sqlite_engine):
    db = await sqlite_engine()
    await db.execute("create table t (id integer primary key, v)")
    await db.insert_many("t", [{"v": "x" * 500} for _ in range(100)])
    return db


# Functions


def test_a_function_that_sql_cannot_call_is_refused_where_it_is_defined(sqlite_url):
    db = aiodbkit.SQLiteEngine(sqlite_url)

    def joined(*words, separator):
        return separator.join(words)

    with pytest.raises(TypeError, match="SQL has no name for its argument 'separator'"):
        db.function(joined)
    for number in ("2", 2.0, None.__class__):
        with pytest.raises(ValueError, match="joined.*arguments="):
            db.function("joined", arguments=number)(str.join)
    with pytest.raises(TypeError, match="^an aggregate is a class"):
        db.aggregate("joined")(joined)


async def test_an_aggregate_may_have_static_methods_and_class_methods(db):
    class Seen:
        rows = 0

        @classmethod
        def step(cls, _value):
            cls.rows += 1

        def finalize(self):
            return self.rows

    class Nothing:
        @staticmethod
        def step(_value):
            pass

        def finalize(self):
            return "nothing"

    db.aggregate("seen")(Seen)
    db.aggregate("no_more")(Nothing)
    assert await db.fetch_val("select seen(v) || no_more(v) from t") == "100nothing"


async def test_names_that_differ_for_sqlite_are_two_functions(sqlite_url):
    db = aiodbkit.SQLiteEngine(sqlite_url)
    db.function("É", arguments=0)(lambda: "large")
    db.function("é", arguments=0)(lambda: "small")
    async with db:  # SQLite folds the case of ASCII only
        assert await db.fetch_val('select "É"() || "é"()') == "largesmall"


async def test_a_function_that_cannot_be_replaced_yet_keeps_no_other_from_being_made(db):
    db.function("sign_of", arguments=1)(lambda value: value)
    numbers = (
        "with recursive n (x) as (select 1 union all select x + 1 from n where x < 500) "
        "select sign_of(x) from n"
    )
    async with db.connection() as conn, conn.transaction():
        rows = conn.iterate(numbers, batch_size=10)
        assert (await anext(rows))[0] == 1
        db.function("sign_of", arguments=1)(lambda value: -value)
        db.function("other", arguments=0)(lambda: "other")
        assert await conn.fetch_val("select other()") == "other"
        await rows.aclose()
        assert await conn.fetch_val("select sign_of(1)") == -1


# Backups


async def test_a_backup_over_a_hard_link_of_its_source_is_refused(db, sqlite_url, tmp_path):
    link = tmp_path / "link.db"
    link.hardlink_to(path_of(sqlite_url))
    with pytest.raises(aiodbkit.InterfaceError, match="cannot be copied over itself"):
        await db.backup(link)
    async with aiodbkit.SQLiteEngine(f"{SCHEME}:///{link}") as other:
        with pytest.raises(aiodbkit.InterfaceError, match="cannot be copied over itself"):
            await db.backup(other)
    assert await db.fetch_val("pragma integrity_check") == "ok"


@pytest.mark.parametrize("target", ["", ":memory:", "a\0b", "file:copy.db?mode=rwc"])
async def test_a_backup_goes_to_a_path(db, target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(aiodbkit.InterfaceError, match="backup.*path"):
        await db.backup(target)
    assert set(tmp_path.iterdir()) == before


async def test_a_backup_says_which_of_the_two_files_it_could_not_open(db, tmp_path):
    with pytest.raises(aiodbkit.OperationalError, match="copy.db.*unable to open") as raised:
        await db.backup(tmp_path / "nowhere" / "copy.db")
    assert "there is no folder" in str(raised.value)
    text = tmp_path / "text.db"
    text.write_text("no database" * 100)
    with pytest.raises(aiodbkit.OperationalError, match=r"text\.db.*not a database"):
        await db.backup(text)
    assert text.read_text() == "no database" * 100


async def test_progress_that_is_async_and_raises_ends_the_backup_and_nothing_else(db, tmp_path):
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def progress(_remaining, _total):
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await db.backup(tmp_path / "copy.db", pages=1, progress=progress)
    await db.backup(tmp_path / "copy.db")
    with closing(opened(tmp_path / "copy.db")) as copy:
        assert copy.execute("select count(*) from t").fetchone() == (100,)
    assert told == []


# Blobs


async def test_a_blob_takes_bytes_and_whole_numbers_only(db):
    await db.execute("update t set v = x'0102030405' where id = 1")
    async with db.open_blob("t", "v", 1) as blob:
        for no_bytes in (3, "abc", None, [1, 2]):  # bytes(3) would be three zeros
            with pytest.raises(TypeError, match=r"write\(\)"):
                await blob.write(no_bytes)
        for number in (1.5, "1"):
            with pytest.raises(TypeError, match=r"seek\(\)"):
                blob.seek(number)
            with pytest.raises(TypeError, match=r"read\(\)"):
                await blob.read(number)
        assert blob.tell() == 0
        assert await blob.read() == b"\1\2\3\4\5"


@pytest.mark.parametrize(
    "where", [("t", "v", "1"), ("t", "v", 1.5), (None, "v", 1), ("t\0", "v", 1)]
)
async def test_a_blob_that_is_named_wrongly_is_told_so(db, where):
    with pytest.raises(aiodbkit.InterfaceError, match=r"open_blob\(\)"):
        async with db.open_blob(*where):
            pass


async def test_interrupt_takes_a_connection_only(db):
    with pytest.raises(aiodbkit.InterfaceError, match=r"interrupt\(\).*not 'x'"):
        db.interrupt("x")


# Search


@pytest.fixture
async def notes(db):
    await db.execute("create table note (id integer primary key, body text)")
    notes = db.fts("note_index", ["body"], content="note", content_rowid="id")
    await notes.create()
    await db.execute("insert into note values (1, 'a quick fox')")
    return notes


async def test_a_search_is_told_what_it_cannot_take(notes):
    for text in (None, b"fox", 5):
        with pytest.raises(aiodbkit.ProgrammingError, match="text"):
            await notes.search(text)
    for marks in ("<b>", ("<b>",), ("<b>", 5)):
        with pytest.raises(aiodbkit.ProgrammingError, match="highlight"):
            await notes.search("fox", highlight=marks)
    for weight in ("x", None, float("nan"), float("inf")):
        with pytest.raises(aiodbkit.ProgrammingError, match="weights"):
            await notes.search("fox", weights=[weight])


async def test_a_word_that_is_repeated_many_times_is_one_word(notes):
    found = await notes.search("fox " * 100_000, timeout=5)
    assert [row.rowid for row in found] == [1]


async def test_columns_may_come_from_a_generator(db):
    index = db.fts("generated", (name for name in ("a", "b")))
    await index.create()
    await db.execute("insert into generated values ('one', 'two')")
    assert [row.a for row in await index.search("two")] == ["one"]


async def test_a_table_that_is_no_index_is_not_taken_for_one(db):
    with pytest.raises(aiodbkit.ProgrammingError, match="'T' is a table already, and no"):
        await db.fts("T", ["v"]).create()


async def test_a_row_that_is_replaced_is_followed_with_recursive_triggers(sqlite_engine):
    db = await sqlite_engine(pragmas={"recursive_triggers": True})
    await db.execute("create table note (id integer primary key, body text)")
    notes = db.fts("note_index", ["body"], content="note", content_rowid="id")
    await notes.create()
    await db.execute("insert into note values (1, 'a quick fox')")
    await db.execute("insert or replace into note values (1, 'a dog')")
    assert await notes.search("fox") == []
    assert [row.rowid for row in await notes.search("dog")] == [1]
    await db.execute("insert into note_index (note_index, rank) values ('integrity-check', 1)")


async def test_a_row_that_is_upserted_is_followed(db, notes):
    upsert = "insert into note values (1, 'a dog') on conflict do update set body = excluded.body"
    await db.execute(upsert)
    assert await notes.search("fox") == []
    assert [row.rowid for row in await notes.search("dog")] == [1]
