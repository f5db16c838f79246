"""Bad input gets a clear error, and nothing is lost: every test here reads the message."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

import aiodbkit

from .dialects import Dialect
from .support import assert_whole

People = list[tuple[int, str, int | None]]


def test_an_unknown_scheme_lists_those_known() -> None:
    with pytest.raises(aiodbkit.ConfigurationError) as caught:
        aiodbkit.create_engine("oracle://app@db/app")
    for word in ("oracle", "sqlite", "postgresql", "mysql"):
        assert word in str(caught.value)


@pytest.mark.parametrize("url", ["app.db", "/var/app.db", "postgresql", "://x"])
def test_what_is_no_url_is_refused_with_the_form_of_one(url: str) -> None:
    with pytest.raises(aiodbkit.ConfigurationError, match="sqlite"):
        aiodbkit.create_engine(url)


def test_an_empty_url_is_told_so() -> None:
    with pytest.raises(aiodbkit.ConfigurationError, match=r"URL.*empty"):
        aiodbkit.create_engine("")


def test_a_url_that_is_no_text_is_refused_by_its_type() -> None:
    url: Any = 5
    with pytest.raises((aiodbkit.ConfigurationError, TypeError), match="int"):
        aiodbkit.create_engine(url)


@pytest.mark.parametrize(
    ("scheme", "module", "extra"),
    [("postgresql", "asyncpg", "postgres"), ("mysql", "aiomysql", "mysql")],
)
def test_a_missing_driver_names_the_command_that_installs_it(
    scheme: str, module: str, extra: str
) -> None:
    program = f"""
import asyncio, sys
sys.modules[{module!r}] = None
import aiodbkit
async def main():
    try:
        await aiodbkit.create_engine("{scheme}://app@127.0.0.1:1/app", min_size=1).connect()
    except aiodbkit.ConfigurationError as error:
        print(error)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert "pip install" in done.stdout
    assert f"aiodbkit[{extra}]" in done.stdout


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
@pytest.mark.parametrize("port", ["54x2", "99999", "-1"])
def test_a_malformed_port_is_told_so(scheme: str, port: str) -> None:
    """Its text is not shown: an unquoted ``@`` or ``/`` makes a password of it."""
    with pytest.raises(aiodbkit.ConfigurationError, match=r"port"):
        aiodbkit.create_engine(f"{scheme}://app:hidden@db:{port}/app")


async def test_an_unknown_option_is_named_at_the_latest_by_connect(
    url: str, db: aiodbkit.Engine
) -> None:
    for build in (
        lambda: aiodbkit.create_engine(url, max_sise=3),
        lambda: aiodbkit.create_engine(f"{url}?max_sise=3"),
        lambda: type(db)(url, max_sise=3),
    ):
        with pytest.raises(aiodbkit.ConfigurationError, match="max_sise"):
            await build().connect()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_size": 1, "min_size": 2}, r"max_size=1.*min_size=2"),
        ({"max_size": 0}, r"max_size.*0"),
        ({"min_size": -1}, r"min_size.*-1"),
        ({"max_size": "ten"}, r"max_size.*ten"),
        ({"acquire_timeout": -1}, r"acquire_timeout.*seconds.*-1"),
        ({"acquire_timeout": float("nan")}, r"acquire_timeout.*nan"),
        ({"check": "sometimes"}, r"check.*never.*idle.*always.*sometimes"),
        ({"reset": "perhaps"}, r"reset.*auto.*perhaps"),
        ({"command_timeout": "soon"}, r"command_timeout.*soon"),
        ({"child_tasks": "inherit"}, r"child_tasks.*error.*own.*share.*inherit"),
    ],
)
def test_a_wrong_option_names_itself_what_it_must_be_and_what_it_is(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(aiodbkit.ConfigurationError, match=message):
        aiodbkit.create_engine("sqlite://", **options)


def test_a_wrong_option_in_a_url_is_named() -> None:
    for query in ("max_size=ten", "max_size=", "acquire_timeout=soon", "max_size=2&min_size=3"):
        with pytest.raises(aiodbkit.ConfigurationError, match=r"max_size|acquire_timeout"):
            aiodbkit.create_engine(f"sqlite://?{query}")


async def test_a_database_that_cannot_be_reached_is_named(
    url: str, sql: Dialect, subtests: Any
) -> None:
    for what, (wrong, name) in sql.unconnectable(url).items():
        with subtests.test(what):
            db = aiodbkit.create_engine(wrong, min_size=1, connect_timeout=10)
            with pytest.raises(aiodbkit.CannotConnectError) as caught:
                await db.connect()
            assert name in str(caught.value)
            assert caught.value.__cause__ is not None
            await db.close()


async def test_a_verb_tells_the_real_reason_too(url: str, sql: Dialect, subtests: Any) -> None:
    for what, (wrong, name) in sql.unconnectable(url).items():
        with subtests.test(what):
            db = aiodbkit.create_engine(wrong, connect_timeout=5, acquire_timeout=2)
            with pytest.raises(aiodbkit.OperationalError, match=name):
                await db.fetch_val("select 1")
            await db.close()


async def test_after_close_the_cure_is_named(url: str) -> None:
    db = aiodbkit.create_engine(url)
    await db.connect()
    await db.close()
    with pytest.raises(aiodbkit.InterfaceError, match=r"connect\(\)"):
        await db.execute("select 1")


async def test_after_release_the_message_says_that_the_block_has_ended(
    db: aiodbkit.Engine,
) -> None:
    async with db.connection() as conn:
        pass
    with pytest.raises(aiodbkit.InterfaceError, match=r"ended|released|given back|block"):
        await conn.execute("select 1")


async def test_a_second_event_loop_is_named_and_the_first_one_goes_on(
    db: aiodbkit.Engine,
) -> None:
    await db.fetch_val("select 1")
    with pytest.raises(aiodbkit.InterfaceError, match="event loop"):
        await asyncio.to_thread(lambda: asyncio.run(db.fetch_val("select 1")))
    await assert_whole(db)


@pytest.mark.parametrize("verb", ["execute", "fetch_all", "fetch_one", "fetch_val", "fetch_column"])
@pytest.mark.parametrize(
    "text", ["select 1; select 2", "select 1; delete from people", "select 1 ; ; select 2;"]
)
async def test_several_statements_where_one_is_expected_name_execute_script(
    verb: str, text: str, db: aiodbkit.Engine, people: People
) -> None:
    with pytest.raises(aiodbkit.ProgrammingError, match="execute_script") as caught:
        await getattr(db, verb)(text)
    assert caught.value.query == text
    assert await db.fetch_val("select count(*) from people") == 4


async def test_several_statements_are_refused_by_batches_and_cursors_too(
    db: aiodbkit.Engine, people: People
) -> None:
    with pytest.raises(aiodbkit.ProgrammingError, match="execute_script"):
        await db.execute_many("delete from people where id = :id; select 1", [{"id": 1}])
    with pytest.raises(aiodbkit.ProgrammingError, match="execute_script"):
        async for _ in db.iterate("select 1; select 2"):
            pass
    assert await db.fetch_val("select count(*) from people") == 4


async def test_a_statement_may_end_with_a_semicolon_and_a_comment(db: aiodbkit.Engine) -> None:
    assert await db.fetch_val("select 41;") == 41
    assert await db.fetch_val("select 41; -- that's all; really") == 41


@pytest.mark.parametrize("text", ["", "   ", "-- nothing", "/* nothing */", ";"])
async def test_sql_without_a_statement_is_told_so(text: str, db: aiodbkit.Engine) -> None:
    for verb in (db.execute, db.fetch_all, db.fetch_val):
        with pytest.raises(aiodbkit.ProgrammingError, match=r"no statement|empty"):
            await verb(text)
    await assert_whole(db)


@pytest.mark.parametrize("given", [None, 5, b"select 1"])
async def test_sql_that_is_no_text_is_refused_by_its_type(given: Any, db: aiodbkit.Engine) -> None:
    with pytest.raises((aiodbkit.ProgrammingError, TypeError), match=type(given).__name__):
        await db.execute(given)
    await assert_whole(db)


@pytest.mark.parametrize("rows", [[], (), iter([])])
async def test_an_empty_execute_many_is_told_so(
    rows: Any, db: aiodbkit.Engine, people: People
) -> None:
    with pytest.raises(aiodbkit.ProgrammingError, match=r"no rows|empty"):
        await db.execute_many("delete from people where id = :id", rows)
    assert await db.fetch_val("select count(*) from people") == 4


async def test_execute_many_of_a_single_mapping_is_told_so(
    db: aiodbkit.Engine, people: People
) -> None:
    rows: Any = {"id": 1}
    with pytest.raises((aiodbkit.ProgrammingError, TypeError), match=r"dict|list|mapping|rows"):
        await db.execute_many("delete from people where id = :id", rows)
    assert await db.fetch_val("select count(*) from people") == 4


async def test_insert_many_names_what_is_wrong_with_a_row(
    db: aiodbkit.Engine, people: People
) -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ([{"id": 5, "name": "a"}, {"id": 6}], {}, "name"),
        ([{"id": 5, "name": "a"}, {"id": 6, "name": "b", "age": 1}], {}, "age"),
        ([(5, "a"), (6,)], {"columns": ["id", "name"]}, r"1\b.*2|2.*1\b"),
        ([(5, "a")], {}, "columns"),
        ([{"id": 5}], {"columns": ["id", "name"]}, "name"),
        ([5], {"columns": ["id"]}, "int"),
    ]
    for rows, options, message in wrong:
        with pytest.raises((aiodbkit.ProgrammingError, TypeError), match=message):
            await db.insert_many("people", rows, **options)
        assert await db.fetch_val("select count(*) from people") == 4
    await assert_whole(db)


async def test_insert_many_names_a_missing_table_or_column(
    db: aiodbkit.Engine, people: People
) -> None:
    with pytest.raises(aiodbkit.ProgrammingError, match="no_such_table"):
        await db.insert_many("no_such_table", [{"id": 1}])
    with pytest.raises(aiodbkit.ProgrammingError, match="no_such_column"):
        await db.insert_many("people", [{"no_such_column": 1}])


async def test_a_missing_column_of_a_row_lists_those_there_are(
    db: aiodbkit.Engine, people: People
) -> None:
    row: Any = await db.fetch_one("select id, name from people where id = 1")
    with pytest.raises(KeyError, match=r"nmae.*id.*name"):
        row["nmae"]
    with pytest.raises(AttributeError, match=r"nmae.*id.*name"):
        _ = row.nmae


async def test_text_with_a_nul_character_is_named_where_it_is_refused(
    db: aiodbkit.Engine, sql: Dialect, people: People
) -> None:
    if not sql.refuses_nul:
        pytest.skip("this backend keeps NUL characters in text")
    rename = "update people set name = :name where id = 1"
    with pytest.raises(aiodbkit.DataError, match="NUL") as caught:
        await db.execute(rename, {"name": "s3cret\x00"})
    assert "s3cret" not in str(caught.value)
    assert await db.fetch_val("select name from people where id = 1") == "Ann"


@pytest.mark.parametrize("seconds", [-1, "soon", float("nan")])
async def test_a_wrong_timeout_is_refused_by_its_value(seconds: Any, db: aiodbkit.Engine) -> None:
    with pytest.raises((aiodbkit.InterfaceError, TypeError, ValueError), match="timeout"):
        await db.fetch_val("select 1", timeout=seconds)
    await assert_whole(db)


@pytest.mark.parametrize("batch_size", [0, -1, "many"])
async def test_a_wrong_batch_size_is_refused_by_its_value(
    batch_size: Any, db: aiodbkit.Engine
) -> None:
    with pytest.raises((aiodbkit.InterfaceError, TypeError, ValueError), match="batch_size"):
        async for _ in db.iterate("select 1", batch_size=batch_size):
            pass
    await assert_whole(db)


async def test_a_verb_called_without_await_does_nothing_and_warns(db: aiodbkit.Engine) -> None:
    await db.execute("create table seen (id integer)")
    call: Any = db.execute("insert into seen (id) values (1)")
    with pytest.warns(RuntimeWarning, match="never awaited"):
        del call
    assert await db.fetch_val("select count(*) from seen") == 0
