"""Full-text search: the index follows its table, and no text of a user's is an error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aiodbkit
from aiodbkit.backends.sqlite.fts import fts_query

NOTES = [
    {"id": 10, "title": "Fox", "body": "The quick brown fox jumps over the lazy dog."},
    {"id": 20, "title": "Dog", "body": "A dog sleeps. The fox is far away, running."},
    {"id": 30, "title": "Empty", "body": None},
]


@pytest.fixture
async def db(sqlite_engine):
    db = await sqlite_engine()
    await db.execute('create table "my note" (id integer primary key, title text, body text)')
    await db.insert_many("my note", NOTES)
    return db


@pytest.fixture
async def notes(db):
    notes = db.fts(
        'the "index"',
        ["title", "body"],
        content="my note",
        content_rowid="id",
        tokenize="porter unicode61",
    )
    await notes.create()
    return notes


async def ids(index, text, **options):
    return [row.rowid for row in await index.search(text, **options)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("fox", {10, 20}),
        ("FOX quick", {10}),
        ("fox -quick", {20}),
        ('"fox jumps"', {10}),
        ('"jumps fox"', set()),
        ('fox -"far away"', {10}),
        ("slee*", {20}),
        ('"fox is f"*', {20}),
        ("runs", {20}),
        ("cat", set()),
        ("-fox", set()),
        ("", set()),
        ("*", set()),
        ("fox OR cat", set()),
        ("title:fox", set()),
        ("lazy-dog", {10}),
        ("fox\0 quick", {10}),
        ('fox"', {10, 20}),
        ('\'; drop table "my note"; --', set()),
    ],
)
async def test_what_is_typed_is_what_is_found(text, found, notes):
    assert set(await ids(notes, text)) == found


async def test_the_best_comes_first_by_the_weights_of_the_columns(notes):
    assert await ids(notes, "dog", weights=(10, 1)) == [20, 10]
    assert await ids(notes, "fox", weights=(10, 1)) == [10, 20]
    first, second = await notes.search("fox")
    assert first.rank <= second.rank < 0
    assert await ids(notes, "fox", limit=1) + await ids(notes, "fox", limit=1, offset=1) == [
        first.rowid,
        second.rowid,
    ]


async def test_matches_are_marked_in_columns_and_snippets(notes):
    (row,) = await notes.search("quick", highlight=("<b>", "</b>"), snippet=3)
    assert row.body == "The <b>quick</b> brown fox jumps over the lazy dog."
    assert row.snippet == "The <b>quick</b> brown…"
    (row,) = await notes.search("quick", snippet=3)
    assert (row.title, row.snippet) == ("Fox", "The quick brown…")


async def test_the_index_follows_its_table(notes, db):
    async with db.transaction():
        await db.execute("insert into \"my note\" values (40, 'Cat', 'A cat purrs.')")
        await db.execute("update \"my note\" set body = 'Only a cat' where id = 20")
        await db.execute('delete from "my note" where id = 10')
    assert set(await ids(notes, "cat")) == {20, 40}
    assert await ids(notes, "fox") == []
    await db.execute('insert into "the ""index"""("the ""index""") values (\'integrity-check\')')


async def test_what_is_rolled_back_is_not_found(notes, db):
    async with db.transaction(force_rollback=True):
        await db.execute("insert into \"my note\" values (40, 'Cat', 'A cat purrs.')")
        assert await ids(notes, "cat") == [40]
    assert await ids(notes, "cat") == []


async def test_creating_again_changes_nothing_and_dropping_leaves_the_table(notes, db):
    await notes.create()
    assert set(await ids(notes, "fox")) == {10, 20}
    await notes.drop()
    await notes.drop()
    await db.execute("insert into \"my note\" values (40, 'Cat', 'A cat purrs.')")
    with pytest.raises(aiodbkit.ProgrammingError, match="no such table"):
        await notes.search("fox")
    await notes.create()
    assert await ids(notes, "cat") == [40]


async def test_an_index_without_content_is_a_table_of_its_own(db):
    notes = db.fts("note", ["text"], prefix=(2, 3))
    await notes.create()
    assert await db.insert_many("note", [{"text": "one two"}, {"text": "two three"}]) == 2
    assert set(await ids(notes, "tw*")) == {1, 2}
    await notes.optimize()
    await notes.rebuild()
    assert await ids(notes, "three") == [2]


async def test_an_index_is_created_in_the_open_transaction_or_not_at_all(db):
    notes = db.fts("note", ["text"])
    async with db.transaction(force_rollback=True):
        await notes.create()
        assert await ids(notes, "a") == []
    with pytest.raises(aiodbkit.ProgrammingError, match="no such table"):
        await notes.search("a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": (1,)}, "1 weights for the 2 columns"),
        ({"snippet": 0}, "1 to 64"),
        ({"snippet": 65}, "1 to 64"),
        ({"limit": -1}, "limit"),
    ],
)
async def test_figures_that_cannot_be_are_refused(options, message, notes):
    with pytest.raises(aiodbkit.Error, match=message):
        await notes.search("fox", **options)


@pytest.mark.parametrize("columns", ["body", [], ["rank"], ["RowID"]])
async def test_columns_that_cannot_be_are_refused(columns, db):
    with pytest.raises(aiodbkit.ProgrammingError, match=r"fts\(\)"):
        db.fts("note", columns)


async def test_a_column_called_snippet_goes_without_one(db):
    index = db.fts("note", ["snippet"])
    await index.create()
    with pytest.raises(aiodbkit.ProgrammingError, match="of its own"):
        await index.search("a", snippet=3)


ODD = st.text(st.sampled_from("ab\"*-+^:(){}'\\ \t\n\0.,~ANDORNOTé中🦊\ud800"), max_size=30)


@settings(deadline=None)
@given(ODD | st.text(max_size=30))
def test_no_text_is_a_syntax_error(text):

    query = fts_query(text)
    if query:
        _index.execute("select * from i where i match ?", (query,)).fetchall()


def _make_index():
    import sqlite3

    db = sqlite3.connect(":memory:")
    db.execute("create virtual table i using fts5(a, b)")
    db.execute("insert into i values ('a b', 'ab')")
    return db


_index = _make_index()


def test_thousands_of_words_are_a_query_like_another():
    for text in ("a " * 5000, "a" + " -b" * 5000, "a* " * 5000, '"' + "a " * 5000 + '"'):
        assert _index.execute("select 1 from i where i match ?", (fts_query(text),)) is not None
