"""What a database says of its tables is the same for the same tables."""

from __future__ import annotations

import pytest

import aiodbkit
from aiodbkit import inspection
from aiodbkit.inspection import Column, ForeignKey, Index
from tests.contract.dialects import split_url


@pytest.fixture
async def schema(db):
    await db.execute("create table teams (id integer primary key, name varchar(20) unique)")
    await db.execute("""
        create table users (
            second integer not null,
            first integer not null,
            team integer,
            level integer default 3,
            primary key (first, second),
            constraint users_team foreign key (team) references teams (id) on delete cascade
        )
    """)
    await db.execute("create unique index users_levels on users (level, team)")
    await db.execute("create view seniors as select * from users where level > 5")


async def test_tables_come_by_name_without_views(db, schema):
    assert [table.name for table in await inspection.tables(db)] == ["teams", "users"]
    assert [table.name for table in await inspection.tables(db, "users")] == ["users"]


async def test_columns_tell_whether_they_are_in_the_key_and_take_null(db, schema):
    (users,) = await inspection.tables(db, "users")
    assert [(c.name, c.nullable, c.primary_key) for c in users.columns] == [
        ("second", False, True),
        ("first", False, True),
        ("team", True, False),
        ("level", True, False),
    ]
    assert users.primary_key == ("first", "second")
    assert (users.column("team").default, users.column("level").default) == (None, "3")
    (teams,) = await inspection.tables(db, "teams")
    assert not teams.column("id").nullable


async def test_types_are_the_databases_words(db, schema, backend):
    (teams,) = await inspection.tables(db, "teams")
    words = {
        "sqlite": ("INTEGER", "varchar(20)"),
        "postgres": ("integer", "character varying(20)"),
        "mysql": ("int(11)", "varchar(20)"),
    }[backend]
    if teams.column("id").type == "int":  # MySQL 8 has no width
        words = ("int", "varchar(20)")
    assert tuple(column.type for column in teams.columns) == words


async def test_indexes_and_foreign_keys_are_told(db, schema, backend):
    teams, users = await inspection.tables(db)
    assert Index("users_levels", ("level", "team"), unique=True) in users.indexes
    assert [(index.columns, index.unique) for index in teams.indexes] == [(("name",), True)]
    (key,) = users.foreign_keys
    assert (key.columns, key.table, key.references) == (("team",), "teams", ("id",))
    assert key.on_delete == "CASCADE"
    assert key.name == (None if backend == "sqlite" else "users_team")


async def test_a_connection_and_a_session_can_be_asked(db, schema):
    wanted = await inspection.tables(db)
    async with db.connection() as connection:
        assert await inspection.tables(connection) == wanted
    async with db.session() as session:
        await session.execute("insert into teams values (1, 'red')")
        assert await inspection.tables(session) == wanted


async def test_a_dbapi_module_says_the_same(db, schema, backend, url):
    name = {"sqlite": "sqlite3", "postgres": "psycopg2", "mysql": "pymysql"}[backend]
    module = pytest.importorskip(name)
    parts = split_url(url)
    if backend == "postgres":
        parts["dbname"] = parts.pop("database")
    async with aiodbkit.DBAPIEngine(lambda: module.connect(**parts)) as other:
        assert await inspection.tables(other) == await inspection.tables(db)


async def test_another_schema_is_asked_by_name(postgres_engine):
    db = await postgres_engine()
    await db.execute_script("""
        create table teams (id integer primary key);
        create schema other;
        create table other.users (
            id integer primary key, team integer references public.teams (id),
            names text[], lower text generated always as ('x') stored
        );
        create index shout on other.users (upper(lower));
    """)
    (users,) = await inspection.tables(db, schema="other")
    assert users.foreign_keys == (
        ForeignKey("users_team_fkey", ("team",), "public.teams", ("id",)),
    )
    assert users.column("names") == Column("names", "text[]", nullable=True)
    assert users.column("lower").default is None
    assert users.indexes == (Index("shout", ("upper(lower)",), unique=False),)


async def test_what_is_not_there_is_told_with_what_is(db, schema):
    with pytest.raises(aiodbkit.ProgrammingError, match=r"'user' \(did you mean 'users'\?\)"):
        await inspection.tables(db, "user")
    (users,) = await inspection.tables(db, "users")
    with pytest.raises(aiodbkit.ProgrammingError, match="no column 'x'; it has second, first"):
        users.column("x")


async def test_what_is_no_engine_is_refused():
    with pytest.raises(aiodbkit.InterfaceError, match="'db' is none"):
        await inspection.tables("db")  # type: ignore[arg-type]


async def test_a_deferred_engine_is_refused():
    with pytest.raises(aiodbkit.InterfaceError, match="deferred"):
        await inspection.tables(aiodbkit.PostgresEngine(None))
