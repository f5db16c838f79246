"""The operations do the same on every database, outside of migrations too."""

from __future__ import annotations

import pytest

import aiodbkit
from aiodbkit import inspection
from aiodbkit.migrations import (
    add_column,
    add_index,
    add_not_null,
    drop_column,
    drop_index,
    drop_not_null,
    rename_column,
    rename_table,
)


@pytest.fixture
async def users(db):
    """Teams, users who refer to them, and posts which refer to users."""
    await db.execute("create table teams (id integer primary key, name varchar(20) unique)")
    await db.execute("""
        create table users (
            id integer primary key,
            name varchar(20) default 'x' not null, -- the name, not null
            team integer,
            age integer,
            constraint users_team foreign key (team) references teams (id) on delete cascade
        )
    """)
    await db.execute("create index users_age on users (age, name)")
    await db.execute("""
        create table posts (
            id integer primary key,
            author integer not null,
            constraint posts_author foreign key (author) references users (id) on delete cascade
        )
    """)
    await db.execute("insert into teams values (1, 'red')")
    await db.execute("insert into users values (1, 'Ann', 1, 30), (2, 'Bob', null, null)")
    await db.execute("insert into posts values (1, 1), (2, 2)")


async def table(db, name):
    (found,) = await inspection.tables(db, name)
    return found


async def column_names(db, name):
    return [column.name for column in (await table(db, name)).columns]


pytestmark = pytest.mark.usefixtures("users")


async def test_a_column_is_added_with_its_default_in_the_rows_that_are_there(db):
    await add_column(db, "users", "level", "integer not null default 3")
    assert await db.fetch_column("select level from users") == [3, 3]
    assert (await table(db, "users")).column("level").nullable is False


async def test_a_column_is_added_that_is_unique(db):
    await add_column(db, "users", "email", "varchar(20) unique")
    await db.execute("update users set email = 'a' where id = 1")
    with pytest.raises(aiodbkit.UniqueViolationError):
        await db.execute("update users set email = 'a' where id = 2")
    assert await db.fetch_val("select count(*) from posts") == 2


async def test_a_column_is_dropped_with_its_indexes(db):
    await drop_column(db, "users", "age")
    found = await table(db, "users")
    assert await column_names(db, "users") == ["id", "name", "team"]
    assert "users_age" not in [index.name for index in found.indexes]
    assert await db.fetch_all("select * from users order by id") == [
        (1, "Ann", 1),
        (2, "Bob", None),
    ]
    assert await db.fetch_val("select count(*) from posts") == 2


async def test_a_column_is_dropped_with_its_foreign_key(db):
    await drop_column(db, "users", "team")
    found = await table(db, "users")
    assert await column_names(db, "users") == ["id", "name", "age"]
    assert found.foreign_keys == ()
    assert [index.columns for index in found.indexes] == [("age", "name")]
    await db.execute("delete from users where id = 1")  # posts still refer to it
    assert await db.fetch_column("select id from posts") == [2]


async def test_a_column_is_dropped_that_is_unique(db):
    await drop_column(db, "teams", "name")
    assert await column_names(db, "teams") == ["id"]
    assert await db.fetch_val("select count(*) from users") == 2


async def test_a_column_is_renamed_and_its_index_follows(db):
    await rename_column(db, "users", "age", "years")
    assert await column_names(db, "users") == ["id", "name", "team", "years"]
    assert ("years", "name") in [index.columns for index in (await table(db, "users")).indexes]


async def test_a_table_is_renamed_and_foreign_keys_follow(db):
    await rename_table(db, "users", "people")
    (key,) = (await table(db, "posts")).foreign_keys
    assert (key.table, key.columns, key.references) == ("people", ("author",), ("id",))
    with pytest.raises(aiodbkit.ForeignKeyViolationError):
        await db.execute("insert into posts values (3, 99)")


async def test_an_index_is_added_and_dropped_by_the_name_it_was_given(db):
    name = await add_index(db, "users", ["name", "team"])
    assert name == "users_name_team"
    assert (name, ("name", "team"), False) in [
        (each.name, each.columns, each.unique) for each in (await table(db, "users")).indexes
    ]
    await drop_index(db, "users", name)
    assert name not in [index.name for index in (await table(db, "users")).indexes]


async def test_a_unique_index_refuses_duplicates(db):
    await add_index(db, "users", ["name"], unique=True, name="one_name")
    with pytest.raises(aiodbkit.UniqueViolationError):
        await db.execute("insert into users (id, name) values (3, 'Ann')")
    await drop_index(db, "users", "one_name")


async def test_a_long_name_of_an_index_is_shortened(db):
    columns = ["id", "name", "team", "age"]
    await rename_table(db, "users", "u" * 60)
    assert len(await add_index(db, "u" * 60, columns)) == 63


async def test_null_is_refused_and_then_allowed_again(db):
    await db.execute("update users set age = 1 where age is null")
    await add_not_null(db, "users", "age")
    with pytest.raises(aiodbkit.IntegrityError):
        await db.execute("insert into users (id, age) values (3, null)")
    await drop_not_null(db, "users", "age")
    await db.execute("insert into users (id, age) values (3, null)")
    found = await table(db, "users")
    assert found.column("age").nullable
    assert [index.name for index in found.indexes if index.columns == ("age", "name")]
    assert len(found.foreign_keys) == 1
    assert await db.fetch_column("select id from posts order by id") == [1, 2]


async def test_what_stood_beside_not_null_stays(db):
    await drop_not_null(db, "users", "name")
    found = (await table(db, "users")).column("name")
    assert found.nullable
    await db.execute("insert into users (id) values (3)")
    assert await db.fetch_val("select name from users where id = 3") == "x"
    await add_not_null(db, "users", "name")
    await add_not_null(db, "users", "name")  # nothing to do
    with pytest.raises(aiodbkit.IntegrityError):
        await db.execute("update users set name = null")


async def test_null_cannot_be_refused_where_it_is(db):
    with pytest.raises((aiodbkit.NotNullViolationError, aiodbkit.DataError)):
        await add_not_null(db, "users", "age")
    assert (await table(db, "users")).column("age").nullable
    assert await db.fetch_val("select count(*) from posts") == 2


async def test_a_column_that_is_not_there_is_told_with_its_neighbours(db):
    for call in (drop_column, add_not_null, drop_not_null):
        with pytest.raises(aiodbkit.ProgrammingError, match=r"no column 'agee' .*did you mean 'a"):
            await call(db, "users", "agee")
    with pytest.raises(aiodbkit.ProgrammingError, match="there is no table 'userz'"):
        await drop_column(db, "userz", "age")


async def test_a_column_that_is_there_cannot_be_added(db):
    with pytest.raises(aiodbkit.Error, match="age"):
        await add_column(db, "users", "age", "integer unique")
    assert await column_names(db, "users") == ["id", "name", "team", "age"]


async def test_an_index_needs_a_list_of_columns(db):
    for columns in ("name", []):
        with pytest.raises(aiodbkit.ProgrammingError, match="takes a list of columns"):
            await add_index(db, "users", columns)


async def test_an_operation_in_a_transaction_is_rolled_back_with_it(db, can):
    if not can.ddl_is_transactional:
        pytest.skip("DDL commits here")
    async with db.transaction(force_rollback=True):
        await drop_column(db, "posts", "author")  # nothing refers to posts
        assert await column_names(db, "posts") == ["id"]
    assert await column_names(db, "posts") == ["id", "author"]
    assert await db.fetch_column("select author from posts order by id") == [1, 2]
