"""What the tables of docs/coming-from.md say about other libraries, next to aiodbkit."""

from __future__ import annotations

import asyncio

import pytest

import aiodbkit

pytestmark = pytest.mark.filterwarnings("default")  # their warnings are not ours to mend

TABLE = "create table item (id integer primary key, name varchar(50) unique)"
INSERT = "insert into item (name) values ('tea')"
COUNT = "select count(*) from item"


@pytest.fixture
async def db(sqlite_url):
    async with aiodbkit.create_engine(sqlite_url) as db:
        await db.execute(TABLE)
        yield db


def url_for(library, sqlite_url):
    pytest.importorskip(library)
    return sqlite_url.replace("sqlite:", "sqlite+aiosqlite:")


@pytest.fixture
async def database(db, sqlite_url):
    url = url_for("databases", sqlite_url)
    from databases import Database

    async with Database(url) as database:
        yield database


@pytest.fixture
async def engine(db, sqlite_url):
    url = url_for("sqlalchemy", sqlite_url)
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url)
    yield engine
    await engine.dispose()


async def test_the_verbs_of_databases_have_the_same_names(database, db):
    for verb in ("execute", "execute_many", "fetch_all", "fetch_one", "fetch_val", "iterate"):
        assert callable(getattr(database, verb))
        assert callable(getattr(db, verb))


async def test_execute_of_databases_returns_the_new_id_which_is_a_part_of_our_result(database, db):
    assert await database.execute(query=INSERT) == 1
    assert await db.execute("insert into item (name) values ('mug')") == (1, 2)


async def test_a_child_task_of_databases_is_outside_the_transaction_as_with_own(database, db):
    async with database.transaction():
        await database.execute(query=INSERT)
        assert await database.fetch_val(query=COUNT) == 1
        assert await asyncio.create_task(database.fetch_val(query=COUNT)) == 0

    async with db.transaction(child_tasks="own"):
        await db.execute("delete from item")
        assert await asyncio.create_task(db.fetch_val(COUNT)) == 1


async def test_a_child_task_is_an_error_where_nothing_else_is_said(db):
    async with db.transaction():
        with pytest.raises(aiodbkit.TransactionScopeError):
            await asyncio.create_task(db.fetch_val(COUNT))


async def test_a_connection_of_sqlalchemy_forgets_what_was_not_committed(engine, db):
    from sqlalchemy import text

    async with engine.connect() as conn:
        await conn.execute(text(INSERT))
    assert await db.fetch_val(COUNT) == 0


async def test_a_session_commits_at_its_end(db):
    async with db.session() as session:
        await session.execute(INSERT)
    assert await db.fetch_val(COUNT) == 1


async def test_begin_nested_of_sqlalchemy_is_a_transaction_in_a_transaction(engine, db):
    from sqlalchemy import exc, text

    async with engine.begin() as conn:
        await conn.execute(text(INSERT))
        with pytest.raises(exc.IntegrityError):
            async with conn.begin_nested():
                await conn.execute(text(INSERT))
    assert await db.fetch_val(COUNT) == 1

    async with db.transaction():
        await db.execute("insert into item (name) values ('mug')")
        with pytest.raises(aiodbkit.UniqueViolationError):
            async with db.transaction():
                await db.execute(INSERT)
    assert await db.fetch_val(COUNT) == 2


async def test_an_asyncpg_pool_does_not_know_of_a_transaction_and_an_engine_does(
    postgres_engine, postgres_url
):
    asyncpg = pytest.importorskip("asyncpg")
    db = await postgres_engine()
    await db.execute(TABLE.replace("integer", "int generated always as identity"))
    async with (
        asyncpg.create_pool(postgres_url, min_size=0) as pool,
        pool.acquire() as conn,
        conn.transaction(),
    ):
        await conn.execute(INSERT)
        assert await pool.fetchval(COUNT) == 0
    async with db.transaction():
        await db.execute("insert into item (name) values ('mug')")
        assert await db.fetch_val(COUNT) == 2
        assert isinstance(db.current_connection().raw, asyncpg.Connection)


async def test_a_cursor_of_asyncpg_needs_a_transaction_and_iterate_does_not(
    postgres_engine, postgres_url
):
    asyncpg = pytest.importorskip("asyncpg")
    async with asyncpg.create_pool(postgres_url, min_size=0) as pool, pool.acquire() as conn:
        with pytest.raises(asyncpg.NoActiveSQLTransactionError):
            [row async for row in conn.cursor("select 1")]
    db = await postgres_engine()
    async with db.iterate("select 1 as one") as rows:
        assert [row.one async for row in rows] == [1]


async def test_errors_of_peewee_and_ours_are_integrity_errors(db, sqlite_url):
    peewee = pytest.importorskip("peewee")
    await db.execute(INSERT)
    database = peewee.SqliteDatabase(sqlite_url.removeprefix("sqlite:///"))
    try:
        with pytest.raises(peewee.IntegrityError):
            database.execute_sql(INSERT)
    finally:
        database.close()
    with pytest.raises(aiodbkit.IntegrityError) as raised:
        await db.execute(INSERT)
    assert type(raised.value) is aiodbkit.UniqueViolationError
