"""SQLite: a table that is rebuilt keeps all that belongs to it, and nobody loses a row."""

from __future__ import annotations

import asyncio
import itertools

import pytest

import aiodbkit
from aiodbkit import inspection
from aiodbkit.backends.sqlite import SQLiteEngine
from aiodbkit.migrations import add_column, add_not_null, drop_column, drop_not_null, migrate
from aiodbkit.testing import sandbox

SCHEMA = """\
create table teams (id integer primary key);
create table "my users" ( -- a comment, with a comma
    id integer primary key autoincrement,
    "the name" text not null default 'a, (b', /* not null */
    kind text collate nocase constraint kind_known check (kind is not null and kind <> ','),
    team integer not null constraint one_team unique references teams (id),
    boss integer references "my users" (id) on delete cascade,
    shout text as (upper("the name")),
    unique (kind, team),
    check (team > 0)
);
create index kinds on "my users" (kind) where team > 1;
create unique index names on "my users" (lower("the name"));
create table log (line text);
create trigger noted after insert on "my users" begin
    insert into log values (new.kind); insert into log values (';');
end;
create view everybody as select id, "the name" from "my users";
create table posts (author integer not null references "my users" (id) on delete cascade);
insert into teams values (1), (2), (3);
insert into "my users" ("the name", kind, team, boss) values
    ('Ann', 'k', 1, null), ('Bob', 'l', 2, 1);
insert into "my users" (id, "the name", kind, team) values (50, 'Cy', 'm', 3);
delete from "my users" where id = 50;
insert into posts values (1), (2);
"""


@pytest.fixture
async def db(sqlite_engine):
    engine = await sqlite_engine()
    await engine.execute_script(SCHEMA)
    return engine


async def objects(db):
    rows = await db.fetch_all("select type, name, sql from sqlite_master order by name")
    return {(row.type, row.name): row.sql for row in rows}


async def test_all_that_belongs_to_the_table_stays(db):
    before = await objects(db)
    await drop_not_null(db, "my users", "team")
    after = await objects(db)
    changed = {key for key in before if before[key] != after[key]}
    assert before.keys() == after.keys()
    assert changed == {("table", "my users")}
    assert await db.fetch_all('select id, "the name", kind, team, boss, shout from "my users"') == [
        (1, "Ann", "k", 1, None, "ANN"),
        (2, "Bob", "l", 2, 1, "BOB"),
    ]
    assert await db.fetch_column("select author from posts") == [1, 2]


async def test_only_the_one_piece_of_its_definition_changes(db):
    key = ("table", "my users")
    before = (await objects(db))[key]
    await drop_not_null(db, "my users", "the name")
    body = before[before.index("(") :].replace("text not null default", "text default")
    text = (await objects(db))[key]
    assert text[text.index("(") :].replace("'a, (b' null,", "'a, (b',") == body
    await add_not_null(db, "my users", "the name")
    assert not (await inspection.tables(db, "my users"))[0].column("the name").nullable


async def test_its_triggers_indexes_and_constraints_work_as_before(db):
    await drop_not_null(db, "my users", "team")
    await db.execute("""insert into "my users" ("the name", kind) values ('Dan', 'n')""")
    assert await db.fetch_column("select line from log order by rowid desc limit 2") == [";", "n"]
    for kind, error in ((None, aiodbkit.CheckViolationError), (",", aiodbkit.CheckViolationError)):
        with pytest.raises(error):
            await db.execute(
                """insert into "my users" ("the name", kind) values ('E', :k)""", {"k": kind}
            )
    with pytest.raises(aiodbkit.UniqueViolationError):
        await db.execute("""insert into "my users" ("the name", kind) values ('dan', 'o')""")
    await db.execute('delete from "my users" where id = 1')  # bosses and authors cascade
    assert await db.fetch_column("select author from posts") == []


async def test_numbers_that_were_given_are_not_given_again(db):
    await drop_not_null(db, "my users", "team")
    result = await db.execute("""insert into "my users" ("the name", kind) values ('Dan', 'n')""")
    assert result.last_insert_id == 51


async def test_the_session_is_as_it_was(db):
    async with db.connection() as connection:
        await drop_not_null(db, "my users", "team")
        assert await connection.fetch_val("pragma foreign_keys") == 1
        assert await connection.fetch_val("pragma legacy_alter_table") == 0


async def test_a_unique_column_is_dropped_with_the_constraints_that_name_it(db):
    await drop_column(db, "my users", "kind")
    (found,) = await inspection.tables(db, "my users")
    assert [column.name for column in found.columns] == [
        *("id", "the name", "team", "boss", "shout")
    ]
    assert sorted(index.columns for index in found.indexes) == [("",), ("team",)]


async def test_a_column_that_a_view_needs_is_not_dropped(db):
    before = await objects(db)
    await db.execute("drop index names")
    await drop_column(db, "my users", "shout")
    await db.execute('create index again on "my users" ("the name")')
    with pytest.raises(aiodbkit.ProgrammingError, match="the name"):
        await drop_column(db, "my users", "the name")
    assert ("view", "everybody") in before.keys() & (await objects(db)).keys()
    assert await db.fetch_column('select "the name" from everybody') == ["Ann", "Bob"]


async def test_a_column_is_added_before_the_constraints(db):
    await add_column(db, "my users", "made", "text default (lower('X'))")
    assert await db.fetch_column('select made from "my users"') == ["x", "x"]
    (found,) = await inspection.tables(db, "my users")
    assert [column.name for column in found.columns][-2:] == ["shout", "made"]


async def test_in_a_transaction_with_foreign_keys_on_it_says_what_to_do(db):
    async with db.transaction():
        with pytest.raises(aiodbkit.NotSupportedError, match="my users, posts refers to"):
            await drop_not_null(db, "my users", "team")
        assert await db.fetch_column("select author from posts") == [1, 2]


async def test_in_a_sandbox_nobody_loses_a_row(db):
    async with sandbox(db):
        with pytest.raises(aiodbkit.NotSupportedError, match="as in a sandbox"):
            await drop_not_null(db, "my users", "team")
        assert await db.fetch_column("select author from posts") == [1, 2]


async def test_in_a_migration_foreign_keys_are_off_and_checked_at_the_end(db, folder, write):
    write(
        "0001_loosen.py",
        """\
        from aiodbkit.migrations import drop_not_null

        async def up(db):
            await db.execute("insert into teams values (4)")
            await drop_not_null(db, "my users", "team")
        """,
    )
    assert len(await migrate(db, folder)) == 1
    assert await db.fetch_column("select author from posts") == [1, 2]
    assert await db.fetch_val("select count(*) from teams") == 4
    write(
        "0002_orphans.py",
        """\
        from aiodbkit.migrations import add_not_null

        async def up(db):
            await add_not_null(db, "my users", "team")
            await db.execute("insert into posts values (99)")
        """,
    )
    with pytest.raises(aiodbkit.ForeignKeyViolationError, match="1 rows of posts refer to rows of"):
        await migrate(db, folder)
    (found,) = await inspection.tables(db, "my users")
    assert found.column("team").nullable
    async with db.connection():
        assert await db.fetch_val("pragma foreign_keys") == 1


async def test_orphans_that_were_there_before_are_no_obstacle(db):
    async with db.connection():
        await db.execute("pragma foreign_keys = 0")
        await db.execute("insert into posts values (99)")
        await db.execute("pragma foreign_keys = 1")
        await drop_not_null(db, "my users", "team")
        assert await db.fetch_column("select author from posts") == [1, 2, 99]


async def test_a_table_without_rowid_and_strict_stays_so(sqlite_engine):
    db = await sqlite_engine()
    await db.execute("create table t (a text primary key, b int not null) strict, without rowid")
    await db.execute("insert into t values ('x', 1)")
    await drop_not_null(db, "t", "b")
    assert await db.fetch_one("select wr, strict from pragma_table_list where name = 't'") == (1, 1)
    assert await db.fetch_all("select * from t") == [("x", 1)]


async def test_the_only_column_stays(sqlite_engine):
    db = await sqlite_engine()
    await db.execute("create table t (a text primary key)")
    with pytest.raises(aiodbkit.ProgrammingError, match="'a' is the only column"):
        await drop_column(db, "t", "a")


async def test_a_table_of_an_attached_database_is_refused(tmp_path):
    path = tmp_path / "other.db"
    async with SQLiteEngine("sqlite://", attach={"other": str(path)}) as db:
        await db.execute("create table other.t (a text not null, b text unique)")
        await add_column(db, "other.t", "c", "text")
        with pytest.raises(aiodbkit.NotSupportedError, match=r"drop_not_null\(\): other.t would"):
            await drop_not_null(db, "other.t", "a")


async def test_one_rebuild_that_fails_leaves_all_as_it_was(db):
    before = await objects(db)
    await db.execute("""update "my users" set boss = null""")
    with pytest.raises(aiodbkit.NotNullViolationError):
        await add_not_null(db, "my users", "boss")
    assert await objects(db) == before
    async with db.connection():
        assert await db.fetch_val("pragma foreign_keys") == 1
        assert await db.fetch_val("pragma legacy_alter_table") == 0


class Canceller(aiodbkit.Listener):
    """Cancels a task when so many statements have ended, and then with each that follows."""

    def __init__(self, count, times):
        self.count, self.times, self.task = count, times, None

    def on_query(self, event):
        self.count -= 1
        if self.count <= 0 < self.times and self.task is not None:
            self.times -= 1
            self.task.cancel()


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_cancelled_anywhere_it_is_all_or_nothing_and_foreign_keys_are_on(db, times):
    before = await objects(db)
    cancelled = 0
    for count in itertools.count(1):
        canceller = Canceller(count, times)
        db.add_listener(canceller)
        still = []

        async def work(canceller=canceller, still=still):
            async with db.connection() as connection:
                try:
                    await drop_not_null(db, "my users", "team")
                finally:
                    canceller.task = None
                    if not connection.is_closed:
                        still.append(await connection.fetch_val("pragma foreign_keys"))
                        still.append(await connection.fetch_val("pragma legacy_alter_table"))

        canceller.task = asyncio.create_task(work())
        (result,) = await asyncio.gather(canceller.task, return_exceptions=True)
        db.remove_listener(canceller)
        assert still in ([1, 0], [])
        assert await db.fetch_column("select author from posts") == [1, 2]
        if result is None:
            break
        assert isinstance(result, asyncio.CancelledError)
        cancelled += 1
        changed = await objects(db)
        if changed != before:  # the last one, after the commit
            assert changed.keys() == before.keys()
            break
    assert cancelled > 10
