"""What fails is told: the file, the statement, and what of it stays."""

from __future__ import annotations

import asyncio

import pytest

import aiodbkit
from aiodbkit import inspection
from aiodbkit.migrations import migrate, rollback, status

HALF = """\
create table first (id integer);
create table second (id integer);
insert into third values (1);
-- down
drop table second;
"""


async def tables_of(db):
    found = await inspection.tables(db)
    return [table.name for table in found if table.name != "aiodbkit_migrations"]


async def test_a_file_that_fails_leaves_nothing_or_says_what_stays(db, can, folder, write):
    write("0001_good.sql", "create table good (id integer);")
    write("0002_half.sql", HALF)
    with pytest.raises(aiodbkit.ProgrammingError, match="third") as caught:
        await migrate(db, folder)
    told = "\n".join(caught.value.__notes__)
    assert "in statement 3 of 3 of 0002_half.sql" in told
    assert "before it, 0001_good.sql succeeded and stays" in told
    if can.ddl_is_transactional:
        assert "it is rolled back" in told
        assert await tables_of(db) == ["good"]
    else:
        assert "statements 1 to 2 were applied and cannot be rolled back" in told
        assert await tables_of(db) == ["first", "good", "second"]
    assert [each.state for each in await status(db, folder)] == ["applied", "pending"]


async def test_a_function_that_fails_is_rolled_back_where_that_can_be(db, can, folder, write):
    write(
        "0001_half.py",
        """\
        async def up(db):
            await db.execute("create table first (id integer)")
            raise ValueError("no")
        """,
    )
    with pytest.raises(ValueError, match="no") as caught:
        await migrate(db, folder)
    (note,) = caught.value.__notes__
    assert note.startswith("in up() of 0001_half.py")
    assert await tables_of(db) == ([] if can.ddl_is_transactional else ["first"])


async def test_a_cancelled_migration_is_not_noted_down_and_lets_others_run(
    make_engine, can, folder, write
):
    db, other = await make_engine(), await make_engine()
    db.arrived = asyncio.Event()
    write(
        "0001_slow.py",
        """\
        import asyncio

        async def up(db):
            await db.execute("create table first (id integer)")
            db.arrived.set()
            await asyncio.Event().wait()
        """,
    )
    runner = asyncio.create_task(migrate(db, folder))
    await db.arrived.wait()
    runner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await runner
    (folder / "0001_slow.py").unlink()
    write("0001_quick.sql", "create table quick (id integer);")
    assert len(await migrate(other, folder, lock_timeout=20)) == 1
    left = [] if can.ddl_is_transactional else ["first"]
    assert await tables_of(other) == [*left, "quick"]


EDITED = "0001_create_users.sql was edited after it was applied on 20..-..-.."


@pytest.mark.usefixtures("two")
async def test_an_edited_file_is_refused_by_its_name(db, folder, write):
    await migrate(db, folder)
    write("0001_create_users.sql", "create table users (id integer);")
    write("0003_more.sql", "create table more (id integer);")
    for call in (migrate, rollback):
        with pytest.raises(aiodbkit.ConfigurationError, match=EDITED):
            await call(db, folder)
    assert await tables_of(db) == ["users"]


@pytest.mark.usefixtures("two")
async def test_a_file_that_is_gone_is_told_by_its_name(db, folder):
    await migrate(db, folder)
    (folder / "0002_first_user.py").unlink()
    with pytest.raises(aiodbkit.ConfigurationError, match="0002_first_user.py was applied on"):
        await migrate(db, folder)


@pytest.mark.usefixtures("two")
async def test_a_file_that_was_renamed_is_told_by_both_names(db, folder):
    await migrate(db, folder)
    (folder / "0002_first_user.py").rename(folder / "0002_ann.py")
    with pytest.raises(
        aiodbkit.ConfigurationError, match="0002_first_user.py .* called 0002_ann.py now"
    ):
        await migrate(db, folder)


@pytest.mark.usefixtures("two")
async def test_a_new_file_before_those_that_were_applied_is_refused(db, folder, write):
    await migrate(db, folder)
    write("0000_before.sql", "create table before_all (id integer);")
    with pytest.raises(aiodbkit.ConfigurationError, match="0000_before.sql was not applied"):
        await migrate(db, folder)


FILES = {
    "0001_a.sql and 0003_c.sql": {"0001_a.sql": "select 1", "0003_c.sql": "select 1"},
    "0001_a.sql and 0001_b.sql have the same number": {
        "0001_a.sql": "select 1",
        "0001_b.sql": "select 1",
    },
    "'users.sql' is not named as a migration": {"users.sql": "select 1"},
    "0001_a.sql has no statement": {"0001_a.sql": "-- nothing\n-- down\nselect 1"},
    "0001_a.sql has 2 lines `-- down`": {"0001_a.sql": "select 1;\n-- down\n-- down\n"},
    "0001_a.py needs `async def up": {"0001_a.py": "def up(db): ..."},
    "0001_a.py needs `async def down": {"0001_a.py": "async def up(db): ...\ndef down(db): ...\n"},
    "0001_a.py cannot be loaded: SyntaxError": {"0001_a.py": "async def"},
    "0001_a.py cannot be loaded: ModuleNotFoundError": {"0001_a.py": "import no_such_module"},
}


@pytest.mark.parametrize("message", FILES)
async def test_a_folder_that_cannot_be_is_refused_before_anything_is_done(
    sqlite_engine, folder, write, message
):
    db = await sqlite_engine()
    for name, text in FILES[message].items():
        write(name, text)
    with pytest.raises(aiodbkit.ConfigurationError, match=message):
        await migrate(db, folder)
    assert await tables_of(db) == []


async def test_files_of_other_kinds_and_helpers_are_left_out(sqlite_engine, folder, write):
    db = await sqlite_engine()
    for name in ("README.md", "_helper.py", ".hidden.sql", "__init__.py"):
        write(name, "no migration")
    assert await migrate(db, folder) == []


async def test_a_folder_that_is_not_there_is_told(sqlite_engine, tmp_path):
    with pytest.raises(aiodbkit.ConfigurationError, match="nowhere' is no folder"):
        await migrate(await sqlite_engine(), tmp_path / "nowhere")


@pytest.mark.usefixtures("two")
async def test_a_target_that_is_no_number_of_a_file_is_refused(sqlite_engine, folder):
    db = await sqlite_engine()
    with pytest.raises(aiodbkit.ConfigurationError, match="target=7 .* there are 1 to 2"):
        await migrate(db, folder, target=7)
    with pytest.raises(aiodbkit.ConfigurationError, match="target=7"):
        await rollback(db, folder, target=7)


@pytest.mark.usefixtures("two")
async def test_one_without_a_way_down_is_refused_before_anything_is_undone(db, folder, write):
    write("0003_last.sql", "create table last_one (id integer);\n-- down\ndrop table last_one;")
    write("0002_first_user.py", "async def up(db): ...")
    await migrate(db, folder)
    with pytest.raises(aiodbkit.ConfigurationError, match="0002_first_user.py has no way down"):
        await rollback(db, folder, target=0)
    assert await tables_of(db) == ["last_one", "users"]


@pytest.mark.usefixtures("two")
async def test_inside_a_transaction_it_is_refused(db, folder):
    async with db.transaction():
        with pytest.raises(aiodbkit.InterfaceError, match="call it outside of any"):
            await migrate(db, folder)


async def test_what_is_no_engine_is_refused(db, folder):
    async with db.connection() as connection:
        for call in (migrate, rollback, status):
            with pytest.raises(aiodbkit.InterfaceError, match="takes an engine"):
                await call(connection, folder)


async def test_sqlite_refuses_what_is_to_run_without_a_transaction(sqlite_engine, folder, write):
    db = await sqlite_engine()
    write("0001_vacuum.sql", "-- no transaction\nvacuum;")
    with pytest.raises(aiodbkit.NotSupportedError, match="0001_vacuum.sql .* without a trans"):
        await migrate(db, folder)
