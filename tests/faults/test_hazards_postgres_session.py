"""What statements leave behind in a session of bare asyncpg's, and which ones it cannot take.

In pairs, as in `test_hazards_postgres`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import asyncpg
import pytest

import aiodbkit
from tests.faults.postgres import ADD, HANGS, Make, backend_of, bare, create_notes, ids


@pytest.fixture
async def db(postgres_engine: Make) -> aiodbkit.Engine:
    return await create_notes(postgres_engine)


# What a refused argument leaves behind


async def test_bare_refused_argument_leaves_a_lock(db: aiodbkit.Engine, postgres_url: str) -> None:
    async with bare(postgres_url) as connection:
        with pytest.raises(asyncpg.DataError):
            await connection.fetch("select id from notes where id = $1", "s3cret")
        assert not connection.is_in_transaction()
        with pytest.raises(aiodbkit.LockTimeoutError):
            await db.execute_script(
                "begin; set local lock_timeout = 100; alter table notes add more text; commit"
            )


async def test_a_refused_argument_leaves_no_lock_behind(
    db: aiodbkit.Engine, postgres_engine: Make
) -> None:
    other = await postgres_engine(max_size=1)
    with pytest.raises(aiodbkit.DataError):
        await other.fetch_all("select id from notes where id = :id", {"id": "s3cret"})
    await db.execute_script(
        "begin; set local lock_timeout = '10s'; alter table notes add more text; commit"
    )
    async with other.connection():
        with pytest.raises(aiodbkit.DataError):
            await other.fetch_all("select id from notes where id = :id", {"id": "s3cret"})
        async with other.transaction(isolation="serializable"):
            assert await other.fetch_all("select id from notes") == []


async def test_bare_refused_argument_is_shown_and_ours_is_named(
    db: aiodbkit.Engine, postgres_url: str
) -> None:
    async with bare(postgres_url) as connection:
        with pytest.raises(asyncpg.DataError, match="s3cret"):
            await connection.fetch("select $1::int", "s3cret")
    for sql, params, message in (
        ("select :age::int", {"age": "s3cret"}, r"parameter :age: this str.*int4"),
        ("select $1::int + $2::int", [1, "s3cret"], r"parameter \$2: this str.*int4"),
        (
            "select 1 where 'a' in (:l) or 1 = :n",
            {"l": aiodbkit.expand(["a", "b"]), "n": "s3cret"},
            ":n",
        ),
        ("select :text::text::int", {"text": "s3cret"}, "invalid input syntax"),
        ("select :text::text", {"text": "s3cret\0"}, "parameter :text holds a NUL"),
        ("select :list::text[]", {"list": ["s3cret\0"]}, "parameter :list holds a NUL"),
    ):
        with pytest.raises(aiodbkit.DataError, match=message) as caught:
            await db.fetch_all(sql, params)
        assert "s3cret" not in str(caught.value)
        assert caught.value.query == sql


# Several statements, none, and scripts


async def test_bare_execute_takes_several_statements_and_stumbles_over_none(
    db: aiodbkit.Engine, postgres_url: str
) -> None:
    async with bare(postgres_url) as connection:
        await connection.execute("insert into notes values (1); insert into notes values (2)")
        with pytest.raises(AttributeError):
            await connection.execute("-- nothing")
    assert await ids(db) == [1, 2]
    for sql, message in (
        ("insert into notes values (3); insert into notes values (4)", "has 2"),
        ("-- nothing", "has 0"),
        ("", "has 0"),
        ("select 1\0; select 2", "NUL"),
    ):
        with pytest.raises(aiodbkit.ProgrammingError, match=message):
            await db.execute(sql)
        with pytest.raises(aiodbkit.ProgrammingError, match=message):
            await db.fetch_all(sql)
    assert await ids(db) == [1, 2]
    await db.execute_script("-- nothing\n;")


@pytest.mark.parametrize(
    "end", ["commit", "END", "rollback", "abort", "begin", "start transaction"]
)
async def test_nothing_ends_a_transaction_behind_its_blocks_back(
    end: str, db: aiodbkit.Engine
) -> None:
    async with db.transaction() as tx:
        await db.execute(ADD, {"id": 1, "body": ""})
        with pytest.raises(aiodbkit.TransactionScopeError, match=f"(?i){end}"):
            await db.execute(f"/* out */ {end}")
        with pytest.raises(aiodbkit.TransactionScopeError, match=f"(?i){end}"):
            await db.execute_script(f"insert into notes values (2); {end}; select 1")
        await db.execute_script("""
            savepoint s; insert into notes values (3); rollback to s; release s;
            create function f() returns int begin atomic; select case 1 when 1 then 2 end; end;
            do $$ begin perform 1; end $$;
        """)
        await tx.rollback()
    assert await ids(db) == []


# What a borrower leaves behind

SESSION = """
    set search_path to pg_catalog; set role pg_monitor; listen news; select pg_advisory_lock(7);
    prepare mine as select 1; create temp table scratch (id integer);
"""
SEEN = """
    select current_setting('search_path'), current_user = session_user,
        (select count(*) from pg_listening_channels()),
        (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
        (select count(*) from pg_prepared_statements where from_sql),
        (select count(*) from pg_catalog.pg_class where relname = 'scratch')
"""
FRESH = ('"$user", public', True, 0, 0, 0, 0)


async def test_bare_reset_leaves_role_temporary_tables_and_prepared_statements(
    postgres_url: str,
) -> None:
    async with bare(postgres_url) as connection:
        await connection.execute(SESSION)
        await connection.reset()
        assert tuple(await connection.fetchrow(SEEN)) == (FRESH[0], False, 0, 0, 1, 1)


@pytest.mark.parametrize("way", ["script", "raw", "statements"])
async def test_a_session_is_as_fresh_for_the_next_borrower(
    way: str, db: aiodbkit.Engine, postgres_engine: Make
) -> None:
    one = await postgres_engine(max_size=1)
    async with one.connection() as conn:
        before = await conn.fetch_one(SEEN)
        pid = await backend_of(one)
        if way == "script":
            await conn.execute_script(SESSION)
        elif way == "raw":
            await conn.raw.execute(SESSION)
            await conn.raw.transaction().start()
        else:
            for statement in SESSION.split(";")[:-1]:
                await conn.execute(statement)
        assert await conn.fetch_one(SEEN) != before
    assert before == FRESH
    async with one.connection() as conn:
        assert await conn.fetch_one(SEEN) == FRESH
        assert await backend_of(one) == pid, "cleaned, not replaced"
        async with conn.raw.transaction():
            await conn.raw.execute("select 1")


async def test_a_session_is_set_up_again_after_its_reset(postgres_engine: Make) -> None:
    one = await postgres_engine(max_size=1, session_sql=["set statement_timeout = 54321"])
    pid = await backend_of(one)
    await one.execute("set statement_timeout = 1000")
    assert await one.fetch_val("show statement_timeout") == "54321ms"
    assert await backend_of(one) == pid


@pytest.mark.parametrize("sql", ["discard all", "deallocate all"])
async def test_bare_connection_that_lost_its_prepared_statements_never_recovers(
    sql: str, db: aiodbkit.Engine, postgres_url: str
) -> None:
    async with bare(postgres_url) as connection:
        await connection.fetchval("select 7")
        await connection.execute(sql)
        for _ in range(2):
            with pytest.raises(asyncpg.InvalidSQLStatementNameError):
                await connection.fetchval("select 7")


async def test_bare_copy_from_stdin_hangs(db: aiodbkit.Engine, postgres_url: str) -> None:
    async with bare(postgres_url) as connection:
        task = asyncio.create_task(connection.execute("copy notes from stdin"))
        done, _ = await asyncio.wait((task,), timeout=HANGS)
        assert not done
        task.cancel()
        await asyncio.wait((task,))


@pytest.mark.parametrize(
    "sql",
    [
        "discard all",
        "DEALLOCATE PREPARE ALL",
        "set client_encoding to latin1",
        "set names 'latin1'",
        "copy notes (id) from stdin",
    ],
)
async def test_what_would_break_the_connection_or_hang_is_refused(
    sql: str, db: aiodbkit.Engine
) -> None:
    for verb in (db.execute, db.execute_script):
        with pytest.raises(aiodbkit.ProgrammingError, match="driver") as caught:
            await verb(sql)
        assert caught.value.query == sql


async def test_a_script_may_say_what_is_so_anyway(db: aiodbkit.Engine) -> None:
    await db.execute_script("set client_encoding = 'UTF8'; set names 'utf-8'")
    assert await db.fetch_val("show client_encoding") == "UTF8"


# Limits of the server


async def test_a_limit_of_the_server_and_a_cancellation_by_others_are_told_apart(
    db: aiodbkit.Engine, postgres_engine: Make
) -> None:
    limited = await postgres_engine(server_settings={"statement_timeout": "500"})
    with pytest.raises(aiodbkit.QueryTimeoutError, match="limit of the server") as caught:
        await limited.fetch_val("select pg_sleep(30)")
    assert caught.value.sqlstate == "57014"
    async with db.connection() as conn:
        pid = await backend_of(db)
        sleeping = asyncio.create_task(conn.fetch_val("select pg_sleep(30)"))
        async with db.pool.acquire() as other:
            while not await other.fetch_val(
                "select true from pg_stat_activity where pid = :pid and wait_event = 'PgSleep'",
                {"pid": pid},
            ):
                await asyncio.sleep(0.01)
            await other.fetch_val("select pg_cancel_backend(:pid)", {"pid": pid})
        with pytest.raises(aiodbkit.OperationalError, match="pg_cancel_backend") as stopped:
            await sleeping
    assert not isinstance(stopped.value, TimeoutError)


async def test_a_changed_table_inside_a_transaction_asks_for_all_of_it_again(
    db: aiodbkit.Engine, postgres_engine: Make
) -> None:
    one = await postgres_engine(max_size=1)
    await one.fetch_all("select * from notes")
    async with one.transaction() as tx:
        await one.fetch_val("select 1")
        await db.execute("alter table notes add more text")
        with pytest.raises(aiodbkit.OperationalError, match="again") as caught:
            await one.fetch_all("select * from notes")
        assert caught.value.is_transient
        await tx.rollback()
    assert await one.fetch_all("select * from notes") == []


async def test_the_first_row_alone_is_asked_for_only_where_nothing_is_left_undone(
    db: aiodbkit.Engine,
) -> None:
    await db.insert_many("notes", [{"id": n, "body": ""} for n in range(3)])
    async with db.transaction(), db.pool.acquire() as other:
        assert await db.fetch_val("select id from notes order by id for update") == 0
        free = "select count(*) from (select from notes for update skip locked) unlocked"
        assert await other.fetch_val(free) == 0


async def test_types_of_before_an_alter_table_refuse_a_value_once_at_most(
    postgres_engine: Make,
) -> None:
    db = await postgres_engine(max_size=1)
    await db.execute("create table changed (v integer)")
    await db.execute("insert into changed values (:v)", {"v": 1})
    await db.execute("alter table changed alter v type text")
    with suppress(aiodbkit.DataError):
        await db.execute("insert into changed values (:v)", {"v": "x"})
    await db.execute("insert into changed values (:v)", {"v": "y"})
    assert "y" in await db.fetch_column("select v from changed")


UNSENDABLE = ["select '\ud800'", "select 'a\0b'"]


@pytest.mark.parametrize("sql", UNSENDABLE, ids=ascii)
@pytest.mark.parametrize("verb", ["fetch_all", "execute", "execute_script", "execute_many"])
async def test_sql_that_cannot_be_sent_is_refused_and_costs_nothing(
    verb: str, sql: str, db: aiodbkit.Engine
) -> None:
    call = getattr(db, verb)
    async with db.transaction():
        await db.execute(ADD, {"id": 1, "body": ""})
        backend = await backend_of(db)
        with pytest.raises(aiodbkit.ProgrammingError, match="NUL|surrogate"):
            await (call(sql, [{}]) if verb == "execute_many" else call(sql))
        assert await backend_of(db) == backend
    assert await ids(db) == [1]


@pytest.mark.parametrize("bad", ["\0", "\ud800"], ids=ascii)
@pytest.mark.parametrize("names", ["schema", "table", "column"])
async def test_names_that_cannot_be_sent_are_refused_and_cost_nothing(
    names: str, bad: str, db: aiodbkit.Engine
) -> None:
    table = {"schema": f"pub{bad}.notes", "table": f"notes{bad}"}.get(names, "notes")
    column = f"id{bad}" if names == "column" else "id"
    async with db.transaction():
        await db.execute(ADD, {"id": 1, "body": ""})
        backend = await backend_of(db)
        with pytest.raises(aiodbkit.ProgrammingError, match="NUL|surrogate"):
            await db.insert_many(table, [{column: 2}])
        assert await backend_of(db) == backend
    assert await ids(db) == [1]
