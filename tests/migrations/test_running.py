"""Migrations are applied once, in order, and undone in the reverse order."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

import aiodbkit
from aiodbkit import inspection
from aiodbkit.migrations import migrate, rollback, status
from aiodbkit.testing import sandbox


def names(migrations):
    return [migration.name for migration in migrations]


async def tables_of(db):
    found = await inspection.tables(db)
    return [table.name for table in found if table.name != "aiodbkit_migrations"]


@pytest.mark.usefixtures("two")
async def test_what_is_pending_is_applied_in_order_and_only_once(db, folder):
    assert names(await migrate(db, folder)) == ["0001_create_users.sql", "0002_first_user.py"]
    assert await db.fetch_all("select id, name from users") == [(1, "Ann")]
    assert await migrate(db, folder) == []


@pytest.mark.usefixtures("two")
async def test_in_a_sandbox_the_tables_are_there_until_its_end(db, can, folder):
    if not can.ddl_is_transactional:
        pytest.skip("DDL would commit the sandbox")
    async with sandbox(db):
        assert len(await migrate(db, folder)) == 2
        assert await db.fetch_val("select count(*) from users") == 1
    assert await inspection.tables(db) == []


@pytest.mark.usefixtures("two")
async def test_a_later_file_is_applied_after_those_that_were(db, folder, write):
    await migrate(db, folder)
    write("0003_second_user.sql", "insert into users values (2, 'Bob');")
    assert names(await migrate(db, folder)) == ["0003_second_user.sql"]
    assert await db.fetch_val("select count(*) from users") == 2


@pytest.mark.usefixtures("two")
async def test_a_target_is_the_last_one_applied(db, folder):
    assert names(await migrate(db, folder, target=1)) == ["0001_create_users.sql"]
    assert await db.fetch_val("select count(*) from users") == 0


@pytest.mark.usefixtures("two")
async def test_a_dry_run_tells_and_changes_nothing(db, folder):
    planned = await migrate(db, folder, dry_run=True)
    assert names(planned) == ["0001_create_users.sql", "0002_first_user.py"]
    assert await inspection.tables(db) == []
    await migrate(db, folder)
    assert names(await rollback(db, folder, dry_run=True)) == ["0002_first_user.py"]
    assert await db.fetch_val("select count(*) from users") == 1


@pytest.mark.usefixtures("two")
async def test_the_last_one_is_rolled_back_then_the_one_before(db, folder):
    await migrate(db, folder)
    assert names(await rollback(db, folder)) == ["0002_first_user.py"]
    assert await db.fetch_val("select count(*) from users") == 0
    assert names(await rollback(db, folder)) == ["0001_create_users.sql"]
    assert await tables_of(db) == []
    assert await rollback(db, folder) == []


@pytest.mark.usefixtures("two")
async def test_all_after_a_target_are_rolled_back_and_can_be_applied_again(db, folder):
    await migrate(db, folder)
    undone = await rollback(db, folder, target=0)
    assert names(undone) == ["0002_first_user.py", "0001_create_users.sql"]
    await migrate(db, folder)
    assert await db.fetch_val("select count(*) from users") == 1


@pytest.mark.usefixtures("two")
async def test_the_status_tells_what_was_applied_and_when(db, folder):
    found = await status(db, folder)
    assert [(each.number, each.state, each.applied_at) for each in found] == [
        (1, "pending", None),
        (2, "pending", None),
    ]
    await migrate(db, folder, target=1)
    first, second = await status(db, folder)
    assert (first.state, second.state) == ("applied", "pending")
    assert abs(datetime.now(UTC) - first.applied_at) < timedelta(minutes=5)


@pytest.mark.usefixtures("two")
async def test_the_status_shows_files_that_are_not_what_was_applied(db, folder, write):
    await migrate(db, folder)
    write("0001_create_users.sql", "create table users (id integer);")
    (folder / "0002_first_user.py").unlink()
    assert [each.state for each in await status(db, folder)] == ["edited", "missing"]


async def test_colons_and_semicolons_in_strings_and_comments_are_text(db, folder, write):
    write(
        "0001_notes.sql",
        """\
        create table notes (body varchar(100)); -- not the end; :nor_a_parameter
        insert into notes values ('a;b :c
        -- down
        d');
        """,
    )
    await migrate(db, folder)
    assert await db.fetch_val("select body from notes") == "a;b :c\n-- down\nd"
    with pytest.raises(aiodbkit.ConfigurationError, match="no way down"):
        await rollback(db, folder)


async def test_line_ends_are_no_edit(db, folder):
    file = folder / "0001_users.sql"
    file.write_bytes(b"create table users (id integer);\r\n-- down\r\ndrop table users;\r\n")
    await migrate(db, folder)
    file.write_bytes(file.read_bytes().replace(b"\r\n", b"\n"))
    assert [each.state for each in await status(db, folder)] == ["applied"]
    await rollback(db, folder)
    assert await tables_of(db) == []


async def test_a_proxy_is_an_engine(db, folder, two):
    proxy = aiodbkit.EngineProxy()
    proxy.initialize(db)
    assert len(await migrate(proxy, folder)) == 2
    assert len(await status(proxy, folder)) == 2


async def test_the_primary_is_migrated_where_there_are_replicas(make_engine, folder, two):
    primary, replica = await make_engine(), await make_engine()
    async with aiodbkit.ReplicatedEngine(primary, [replica]) as db:
        assert len(await migrate(db, folder)) == 2
        assert await primary.fetch_val("select count(*) from users") == 1


async def test_a_statement_that_cannot_run_in_a_transaction_says_so(postgres_engine, folder, write):
    db = await postgres_engine()
    write("0001_users.sql", "create table users (name text);")
    write(
        "0002_index.sql",
        "-- no transaction\ncreate index concurrently users_name on users (name);",
    )
    await migrate(db, folder)
    (users,) = await inspection.tables(db, "users")
    assert [index.name for index in users.indexes] == ["users_name"]


async def test_a_routine_is_one_statement(db, backend, folder, write):
    body = {
        "sqlite": """\
            create trigger loud after insert on words begin
                update words set word = upper(word); select 1;
            end;""",
        "postgres": """\
            create function loud() returns trigger language plpgsql as $$ begin
                new.word := upper(new.word); return new;
            end $$;
            create trigger loud before insert on words for each row execute function loud();""",
        "mysql": """\
            create trigger loud before insert on words for each row begin
                set new.word = upper(new.word); set @x = 1;
            end;""",
    }[backend]
    write("0001_words.sql", f"create table words (word varchar(9));\n{body}")
    write("0002_word.sql", "insert into words values ('a');")
    await migrate(db, folder)
    assert await db.fetch_val("select word from words") == "A"


async def test_a_function_may_use_dataclasses_and_transactions(db, folder, write):
    write("0001_users.sql", "create table users (id integer, name varchar(9));")
    write(
        "0002_fill.py",
        """\
        from __future__ import annotations

        from dataclasses import dataclass


        @dataclass
        class User:
            id: int
            name: str


        async def up(db):
            async with db.transaction():
                await db.execute("insert into users values (1, 'Ann')")
            assert await db.fetch_all("select * from users", into=User) == [User(1, "Ann")]
        """,
    )
    assert len(await migrate(db, folder)) == 2


async def test_sqlite_is_migrated_over_a_db_api_module_too(tmp_path, folder, two):
    async with aiodbkit.DBAPIEngine(sqlite3, str(tmp_path / "other.db")) as db:
        assert len(await migrate(db, folder)) == 2
        assert len(await rollback(db, folder, target=0)) == 2
        assert await tables_of(db) == []
