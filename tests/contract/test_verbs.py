"""Contract §2: the verbs, their return types, their None cases, and their timeouts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

import aiodbkit

from .dialects import Dialect
from .support import FLOORS, assert_whole, verbs_on

NAMES = "select name from people order by id"
ADD = "insert into people (id, name, team) values (:id, :name, :team)"
People = list[tuple[int, str, int | None]]


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": number, "name": f"n{number}", "team": None} for number in numbers]


@pytest.mark.parametrize("floor", FLOORS)
async def test_every_verb_works_on_every_floor(
    floor: str, db: aiodbkit.Engine, people: People
) -> None:
    async with verbs_on(db, floor) as on:
        assert (await on.execute("update people set team = 9 where id < 3")).rows_affected == 2
        await on.execute_many(ADD, rows(11, 12))
        await on.execute_script("delete from people where id = 11; delete from people where id = 4")
        assert await on.insert_many("people", rows(13)) == 1
        assert [row.id for row in await on.fetch_all("select id from people order by id")] == [
            1,
            2,
            3,
            12,
            13,
        ]
        assert (await on.fetch_one("select name from people where id = 12")).name == "n12"
        assert await on.fetch_val("select team from people where id = 2") == 9
        assert await on.fetch_column("select id from people where id < 4 order by id") == [1, 2, 3]
        assert [row.id async for row in on.iterate("select id from people order by id desc")] == [
            13,
            12,
            3,
            2,
            1,
        ]


async def test_execute_tells_rows_affected(db: aiodbkit.Engine, people: People) -> None:
    result = await db.execute("update people set team = 1 where id > :id", {"id": 1})
    assert isinstance(result, aiodbkit.ExecuteResult)
    assert result.rows_affected == 3
    assert (await db.execute("delete from people where id = 99")).rows_affected == 0
    assert (await db.execute(ADD, rows(5)[0])).rows_affected == 1


async def test_rows_affected_counts_the_rows_that_matched_even_if_nothing_changed(
    db: aiodbkit.Engine, people: People
) -> None:
    assert (await db.execute("update people set team = 7 where id < 3")).rows_affected == 2


async def test_execute_tells_the_generated_key(db: aiodbkit.Engine, can: Any, sql: Dialect) -> None:
    await db.execute(f"create table notes ({sql.key}, body varchar(50))")
    first = await db.execute("insert into notes (body) values ('a')")
    second = await db.execute("insert into notes (body) values ('b')")
    if can.last_insert_id:
        assert (first.last_insert_id, second.last_insert_id) == (1, 2)
    else:
        assert (first.last_insert_id, second.last_insert_id) == (None, None)


async def test_an_insert_returning_is_fetched_and_kept(
    db: aiodbkit.Engine, can: Any, sql: Dialect
) -> None:
    if not can.returning:
        pytest.skip("this backend has no RETURNING")
    await db.execute(f"create table notes ({sql.key}, body varchar(50))")
    insert = "insert into notes (body) values ('a'), ('b'), ('c') returning id"
    assert await db.fetch_val(insert) == 1
    assert await db.fetch_val("select count(*) from notes") == 3
    assert len(await db.fetch_all(insert)) == 3
    assert (await db.fetch_one(insert)).id == 7
    assert await db.fetch_column(insert) == [10, 11, 12]
    assert await db.fetch_val("select count(*) from notes") == 12


async def test_fetch_all_returns_a_list_of_rows_and_an_empty_one_for_none(
    db: aiodbkit.Engine, people: People
) -> None:
    found = await db.fetch_all("select id, name, team from people order by id")
    assert isinstance(found, list)
    assert all(isinstance(row, aiodbkit.Row) for row in found)
    assert found == people
    assert await db.fetch_all("select id from people where id = 99") == []


async def test_fetch_one_returns_the_first_row_or_none(db: aiodbkit.Engine, people: People) -> None:
    assert await db.fetch_one("select id, name from people order by id desc") == (4, "Dee")
    assert await db.fetch_one("select id from people where id = 99") is None


async def test_fetch_val_returns_the_first_value_or_none(
    db: aiodbkit.Engine, people: People
) -> None:
    assert await db.fetch_val(NAMES) == "Ann"
    assert await db.fetch_val("select id from people where id = 99") is None
    assert await db.fetch_val("select team from people where id = 4") is None


async def test_fetch_column_returns_a_list(db: aiodbkit.Engine, people: People) -> None:
    assert await db.fetch_column("select team from people order by id") == [7, 7, 8, None]
    assert await db.fetch_column("select id from people where id = 99") == []


@pytest.mark.parametrize("column", [1, -2, "name"])
async def test_a_column_is_chosen_by_position_or_name(
    column: int | str, db: aiodbkit.Engine, people: People
) -> None:
    select = "select id, name, team from people order by id"
    assert await db.fetch_val(select, column=column) == "Ann"
    assert await db.fetch_column(select, column=column) == ["Ann", "Bob", "Cy", "Dee"]


@pytest.mark.parametrize("verb", ["fetch_val", "fetch_column"])
async def test_a_missing_column_lists_those_there_are(
    verb: str, db: aiodbkit.Engine, people: People
) -> None:
    with pytest.raises(LookupError, match=r"nmae.*id.*name"):
        await getattr(db, verb)("select id, name from people", column="nmae")
    with pytest.raises(LookupError):
        await getattr(db, verb)("select id, name from people", column=2)


async def test_execute_many_writes_all_rows(db: aiodbkit.Engine, can: Any, people: People) -> None:
    result = await db.execute_many(ADD, rows(*range(10, 60)))
    assert result.rows_affected == (50 if can.rows_affected_of_many else -1)
    assert await db.fetch_val("select count(*) from people") == 54


@pytest.mark.parametrize("floor", ["engine", "connection"])
async def test_execute_many_writes_all_rows_or_none(
    floor: str, db: aiodbkit.Engine, people: People
) -> None:
    async with verbs_on(db, floor) as on:
        with pytest.raises(aiodbkit.UniqueViolationError):
            await on.execute_many(ADD, rows(*range(10, 500), 1))
        assert await on.fetch_val("select count(*) from people") == 4


async def test_a_failed_execute_many_in_a_transaction_leaves_the_rest_of_it(
    db: aiodbkit.Engine, people: People
) -> None:
    async with db.transaction():
        await db.execute(ADD, rows(5)[0])
        with pytest.raises(aiodbkit.UniqueViolationError):
            async with db.transaction():
                await db.execute_many(ADD, rows(6, 7, 1))
    assert await db.fetch_column("select id from people order by id") == [1, 2, 3, 4, 5]


async def test_execute_many_takes_positional_rows_and_any_iterable(
    db: aiodbkit.Engine, sql: Dialect, people: People
) -> None:
    marks = f"{sql.positional(1)}, {sql.positional(2)}"
    insert = f"insert into people (id, name) values ({marks})"
    await db.execute_many(insert, ((number, f"n{number}") for number in range(10, 13)))
    assert await db.fetch_column(NAMES) == ["Ann", "Bob", "Cy", "Dee", "n10", "n11", "n12"]


async def test_execute_many_updates_too(db: aiodbkit.Engine, people: People) -> None:
    changes = [{"id": 1, "team": 70}, {"id": 3, "team": 80}]
    await db.execute_many("update people set team = :team where id = :id", changes)
    assert await db.fetch_column("select team from people order by id") == [70, 7, 80, None]


async def test_execute_script_runs_several_statements_and_no_parameters(
    db: aiodbkit.Engine,
) -> None:
    assert (
        await db.execute_script(
            """
            create table notes (id integer, body varchar(50));
            -- a comment; with a semicolon
            insert into notes (id, body) values (1, 'a; b :nope ?');
            insert into notes (id, body) values (2, 'c');
            """
        )
        is None
    )
    assert await db.fetch_column("select body from notes order by id") == ["a; b :nope ?", "c"]


async def test_execute_script_does_not_commit_an_open_transaction(
    db: aiodbkit.Engine, people: People
) -> None:
    async with db.transaction() as tx:
        await db.execute(ADD, rows(5)[0])
        await db.execute_script("delete from people where id = 1; delete from people where id = 2;")
        await tx.rollback()
    assert await db.fetch_val("select count(*) from people") == 4


async def test_insert_many_takes_mappings_sequences_and_both_kinds_of_generators(
    db: aiodbkit.Engine, people: People
) -> None:
    def pairs() -> Iterator[tuple[int, str]]:
        yield from ((number, f"n{number}") for number in range(20, 25))

    async def mappings() -> AsyncIterator[dict[str, Any]]:
        for row in rows(*range(30, 37)):
            yield row

    async def lists() -> AsyncIterator[list[Any]]:
        yield ["n40", 40]

    assert await db.insert_many("people", rows(10, 11)) == 2
    assert await db.insert_many("people", [(12, "n12")], columns=["id", "name"]) == 1
    assert await db.insert_many("people", pairs(), columns=("id", "name")) == 5
    assert await db.insert_many("people", iter(rows(25, 26))) == 2
    assert await db.insert_many("people", mappings()) == 7
    assert await db.insert_many("people", lists(), columns=["name", "id"]) == 1
    names = await db.fetch_column("select name from people where id > 9 order by id")
    assert names == [f"n{n}" for n in [10, 11, 12, *range(20, 27), *range(30, 37), 40]]


async def test_insert_many_picks_the_named_columns_of_mappings(
    db: aiodbkit.Engine, people: People
) -> None:
    given = [{"id": 5, "name": "Eve", "team": 1}]
    assert await db.insert_many("people", given, columns=["id", "name"]) == 1
    assert await db.fetch_one("select name, team from people where id = 5") == ("Eve", None)


async def test_insert_many_of_nothing_is_zero(db: aiodbkit.Engine, people: People) -> None:
    async def nothing() -> AsyncIterator[dict[str, Any]]:
        for row in rows():
            yield row

    assert await db.insert_many("people", []) == 0
    assert await db.insert_many("people", nothing()) == 0
    assert await db.insert_many("people", [], columns=["id"]) == 0


async def test_insert_many_inserts_all_rows_or_none(db: aiodbkit.Engine, people: People) -> None:
    with pytest.raises(aiodbkit.UniqueViolationError):
        await db.insert_many("people", rows(*range(10, 3000), 1))
    assert await db.fetch_val("select count(*) from people") == 4


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_insert_many_inserts_nothing_when_the_source_fails(
    kind: str, db: aiodbkit.Engine, people: People
) -> None:
    class SourceError(Exception):
        pass

    def source() -> Iterator[dict[str, Any]]:
        yield from rows(*range(10, 3000))
        raise SourceError

    async def async_source() -> AsyncIterator[dict[str, Any]]:
        for row in source():
            yield row

    with pytest.raises(SourceError):
        await db.insert_many("people", source() if kind == "sync" else async_source())
    assert await db.fetch_val("select count(*) from people") == 4
    await assert_whole(db)


async def test_insert_many_quotes_the_names_of_table_and_columns(
    db: aiodbkit.Engine, sql: Dialect
) -> None:
    table, group, odd = (f"{sql.quote}{name}{sql.quote}" for name in ("order", "group", "odd name"))
    await db.execute(f"create table {table} ({group} integer, {odd} integer)")
    assert await db.insert_many("order", [{"group": 1, "odd name": 2}]) == 1
    assert await db.fetch_one(f"select * from {table}") == (1, 2)


async def test_insert_many_is_part_of_the_open_transaction(
    db: aiodbkit.Engine, people: People
) -> None:
    async with db.transaction(force_rollback=True):
        assert await db.insert_many("people", rows(5, 6)) == 2
        assert await db.fetch_val("select count(*) from people") == 6
    assert await db.fetch_val("select count(*) from people") == 4


SLOW_CALLS = ["execute", "fetch_all", "fetch_one", "fetch_val", "fetch_column", "execute_script"]


@pytest.mark.parametrize("verb", SLOW_CALLS)
async def test_past_its_timeout_a_statement_is_stopped_and_the_connection_is_clean(
    verb: str, one: aiodbkit.Engine, sql: Dialect
) -> None:
    with pytest.raises(aiodbkit.QueryTimeoutError, match=r"0\.2") as caught:
        await getattr(one, verb)(sql.slow(30), timeout=0.2)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.query == sql.slow(30)
    assert await one.fetch_val("select 41", timeout=20) == 41
    await assert_whole(one)


@pytest.mark.parametrize("floor", ["connection", "transaction"])
async def test_a_scope_is_usable_or_refused_after_a_timeout_but_never_out_of_step(
    floor: str, db: aiodbkit.Engine, sql: Dialect
) -> None:
    after: Any = None
    with suppress(aiodbkit.ConnectionLostError, aiodbkit.InternalError):
        async with verbs_on(db, floor) as on:
            with pytest.raises(aiodbkit.QueryTimeoutError):
                await on.fetch_val(sql.slow(30), timeout=0.2)
            after = await on.fetch_val("select 41")
    assert after in (None, 41)
    await assert_whole(db)


async def test_a_timed_out_write_is_stopped_at_the_server(
    db: aiodbkit.Engine, sql: Dialect
) -> None:
    await db.execute("create table late (id integer)")
    with pytest.raises(aiodbkit.QueryTimeoutError):
        await db.execute(sql.slow_insert("late", 2), timeout=0.3)
    # DDL waits for whatever still runs on the table.
    await db.execute("alter table late add column settled integer")
    assert await db.fetch_val("select count(*) from late") == 0


@pytest.mark.parametrize("verb", ["execute_many", "insert_many"])
async def test_a_batch_that_timed_out_has_written_nothing(
    verb: str, db: aiodbkit.Engine, people: People
) -> None:
    """The deadline falls into every phase: binding, sending, running, and the answer."""
    many = [{"id": number, "name": "x" * 90, "team": 1} for number in range(100, 20_100)]
    for milliseconds in (1, 3, 6, 10, 14, 18, 22, 26, 30, 40, 50, 65, 80, 100, 130, 160):
        call: dict[str, Any] = {
            "execute_many": lambda limit: db.execute_many(ADD, many, timeout=limit),
            "insert_many": lambda limit: db.insert_many("people", many, timeout=limit),
        }
        try:
            await call[verb](milliseconds / 1000)
        except aiodbkit.QueryTimeoutError:
            written = {0}
        except aiodbkit.CommitUnknownError:  # in the middle of its COMMIT, and it says so
            written = {0, len(many)}
        else:
            written = {len(many)}
        # DDL waits for whatever still runs on the table.
        await db.execute(f"alter table people add column settled_{milliseconds} integer")
        assert await db.fetch_val("select count(*) from people where id >= 100") in written
        await db.execute("delete from people where id >= 100")
    await assert_whole(db)


async def test_command_timeout_is_the_default_timeout(make_engine: Any, sql: Dialect) -> None:
    db = await make_engine(command_timeout=0.2)
    with pytest.raises(aiodbkit.QueryTimeoutError):
        await db.fetch_val(sql.slow(30))
    assert await db.fetch_val("select 41", timeout=20) == 41
