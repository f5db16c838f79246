"""The verbs: what they return, how parameters reach the database, how errors come back."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from aiodbkit.driver import ExecuteResult
from aiodbkit.engine import Engine
from aiodbkit.errors import (
    DatabaseError,
    Error,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    QueryTimeoutError,
)
from aiodbkit.sql import expand
from aiodbkit.testing.conformance.suite import ADD, NAMES, PEOPLE, Suite, case, raises

__all__ = ["StatementCases"]

_TELLTALE = "s3cr3t-p4rameter"

_VALUES: dict[str, list[Any]] = {
    "integer": [0, 7, -7, 2**31 - 1],
    "bigint": [2**63 - 1, -(2**63)],
    "float": [0.0, 1.5, -1e300],
    "text": ["", "plain", "ünïcode ☃ 🐍", "a'b\"c\\d%e:f", "line\nline"],
    "bytes": [b"", b"\x00\xff'\\"],
    "boolean": [True, False],
    "decimal": [Decimal("12.50"), Decimal("-0.01")],
    "date": [dt.date(2024, 2, 29)],
    "time": [dt.time(23, 59, 58)],
    "datetime": [dt.datetime(2024, 2, 29, 12, 30, 1)],  # noqa: DTZ001 - a naive one
    "uuid": [UUID("12345678-1234-5678-1234-567812345678")],
    "json": [{"a": [1, None, "ü"]}, [1, 2]],
}


@dataclass
class _Person:
    id: int
    name: str
    team: int | None


class StatementCases(Suite):
    """Cases of the verbs."""

    @case
    async def test_fetch_all_returns_rows_in_order(self, db: Engine) -> None:
        rows = await db.fetch_all("select id, name, team from conformance order by id")
        assert [tuple(row) for row in rows] == PEOPLE
        assert (rows[0].name, rows[0]["name"], rows[0][1]) == ("Ann",) * 3
        assert await db.fetch_all("select id from conformance where id < 0") == []

    @case
    async def test_fetch_one_fetch_val_and_fetch_column(self, db: Engine) -> None:
        assert tuple(await db.fetch_one(NAMES) or ()) == ("Ann",)
        assert await db.fetch_one("select id from conformance where id < 0") is None
        assert await db.fetch_val("select count(*) from conformance") == len(PEOPLE)
        assert await db.fetch_val("select id from conformance where id < 0") is None
        assert (
            await db.fetch_val("select id, name from conformance where id = 2", column=1) == "Bob"
        )
        assert await self.names(db) == [name for _, name, _ in PEOPLE]

    @case
    async def test_into_makes_objects(self, db: Engine) -> None:
        found = await db.fetch_all("select * from conformance order by id", into=_Person)
        assert found == [_Person(*row) for row in PEOPLE]

    @case
    async def test_execute_tells_how_many_rows(self, db: Engine) -> None:
        result = await db.execute("update conformance set team = 1 where id > :id", {"id": 1})
        assert isinstance(result, ExecuteResult)
        assert result.rows_affected in (3, -1)
        assert await db.fetch_val("select count(*) from conformance where team = 1") == 3

    @case
    async def test_execute_many_does_all_rows_or_none(self, db: Engine) -> None:
        rows: list[dict[str, Any]] = [
            {"id": 10 + n, "name": f"n{n}", "team": None} for n in range(50)
        ]
        result = await db.execute_many(ADD, rows)
        if db.capabilities.rows_affected_of_many:
            assert result.rows_affected == 50
        assert await db.fetch_val("select count(*) from conformance") == 54
        clash = [{"id": 100, "name": "new", "team": 1}, {"id": 1, "name": "newer", "team": 1}]
        with raises(IntegrityError):
            await db.execute_many(ADD, clash)
        assert await db.fetch_val("select count(*) from conformance") == 54, "some rows stayed"

    @case
    async def test_insert_many_takes_mappings_sequences_and_streams(self, db: Engine) -> None:
        assert await db.insert_many("conformance", [{"id": 11, "name": "x", "team": None}]) == 1
        columns = ["id", "name", "team"]
        listed = [(20 + n, f"n{n}", n) for n in range(100)]
        assert await db.insert_many("conformance", listed, columns=columns) == 100

        async def stream() -> AsyncIterator[tuple[int, str, None]]:
            for number in range(300, 310):
                await asyncio.sleep(0)
                yield number, f"s{number}", None

        assert await db.insert_many("conformance", stream(), columns=columns) == 10
        with raises(IntegrityError):
            await db.insert_many("conformance", [(500, "y", 1), (1, "z", 1)], columns=columns)
        assert await db.fetch_val("select count(*) from conformance") == 115, "some rows stayed"

    @case
    async def test_execute_script_runs_several_statements(self, db: Engine) -> None:
        await db.execute_script(
            "insert into conformance values (8, 'a;b', 1); delete from conformance where id < 3"
        )
        assert await self.names(db) == ["Cy", "Dee", "a;b"]

    @case
    async def test_iterate_reads_in_batches_and_may_end_early(self, db: Engine) -> None:
        rows = [(100 + n, f"n{n:03}", n) for n in range(100)]
        await db.insert_many("conformance", rows, columns=["id", "name", "team"])
        sql = "select id from conformance where id >= :first order by id"
        for size in (1, 7, 1000):
            found = [row.id async for row in db.iterate(sql, {"first": 100}, batch_size=size)]
            assert found == [number for number, *_ in rows], f"with batch_size={size}"
        async with db.iterate(sql, {"first": 100}, batch_size=5) as stream:
            async for row in stream:
                if row.id == 103:
                    break
        assert await db.fetch_val("select 1") == 1

    # Parameters

    @case
    async def test_named_parameters_and_what_only_looks_like_them(self, db: Engine) -> None:
        found = await db.fetch_val(
            "select name from conformance where id = :id and name <> ':no' -- :neither",
            {"id": 2},
        )
        assert found == "Bob"
        for missing in ({}, {"id": 1, "more": 2}):
            with raises(ProgrammingError) as caught:
                await db.fetch_val("select name from conformance where id = :id", missing)
            assert ("more" if missing else "id") in str(caught[0])

    @case
    async def test_positional_parameters_of_the_drivers_own_style(self, db: Engine) -> None:
        first, second = self.positional(1), self.positional(2)
        sql = f"select name from conformance where id = {first} and team = {second}"  # noqa: S608
        assert await db.fetch_val(sql, [2, 7]) == "Bob"

    @case
    async def test_a_list_expands_and_an_empty_one_matches_nothing(self, db: Engine) -> None:
        sql = "select name from conformance where id in (:ids) order by id"
        assert await db.fetch_column(sql, {"ids": expand([1, 3])}) == ["Ann", "Cy"]
        assert await db.fetch_column(sql, {"ids": expand([])}) == []

    @case
    async def test_no_value_breaks_out_of_its_place(self, db: Engine) -> None:
        nasty = [
            "'; drop table conformance; --",
            "\\",
            "\\'",
            "%s",
            "%(id)s",
            ":id",
            "?",
            "$1",
            '"',
        ]
        for number, text in enumerate(nasty, 50):
            await db.execute(ADD, {"id": number, "name": text, "team": None})
            sql = "select name from conformance where name = :name"
            assert await db.fetch_val(sql, {"name": text}) == text

    @case
    async def test_values_come_back_as_they_went_in(self, db: Engine) -> None:
        for kind, declared in self.types.items():
            table = f"conformance_{kind}"
            await db.execute(f"create table {table} (n integer, v {declared})")
            try:
                for number, value in enumerate([*_VALUES[kind], None]):
                    row = {"n": number, "v": value}
                    await db.execute(f"insert into {table} (n, v) values (:n, :v)", row)  # noqa: S608
                    sql = f"select v from {table} where n = :n"  # noqa: S608
                    back = await db.fetch_val(sql, {"n": number})
                    told = f"{kind}: {value!r} came back as {back!r}"
                    assert (back, type(back)) == (value, type(value)), told
            finally:
                await db.execute(f"drop table {table}")

    # Errors

    @case
    async def test_an_error_is_ours_and_tells_the_statement_and_no_value(self, db: Engine) -> None:
        row = {"id": 1, "name": _TELLTALE, "team": None}
        with raises(IntegrityError) as caught:
            await db.execute(ADD, row)
        error: Error = caught[0]
        assert error.query == ADD, f"its query is {error.query!r}"
        assert error.__cause__ is not None, "the driver's own exception has to be its cause"
        assert not error.is_transient
        assert _TELLTALE not in f"{error} {error!r}", "it tells a value"

    @case
    async def test_a_missing_value_is_an_integrity_error(self, db: Engine) -> None:
        with raises(IntegrityError):
            await db.execute("insert into conformance (id) values (9)")

    @case
    async def test_wrong_sql_is_an_error_and_harms_nothing(self, db: Engine) -> None:
        for sql in (self.wrong, "select nothing_like_it from conformance"):
            with raises(ProgrammingError, OperationalError):
                await db.fetch_all(sql)
        with raises(DatabaseError):
            await db.fetch_all("select * from no_such_table_at_all")
        assert await db.fetch_val("select 1") == 1

    # Time

    @case(max_size=1)
    async def test_a_statement_past_its_timeout_is_stopped(self, db: Engine) -> None:
        slow = self.slow_statement(20)
        begun = asyncio.get_running_loop().time()
        with raises(QueryTimeoutError) as caught:
            await db.fetch_val(slow, timeout=0.2)
        assert isinstance(caught[0], TimeoutError)
        assert asyncio.get_running_loop().time() - begun < 10, "it was not stopped in time"
        assert await db.fetch_val("select 1") == 1

    @case(max_size=1)
    async def test_a_cancelled_statement_leaves_the_next_one_alone(self, db: Engine) -> None:
        slow = self.slow_statement(20)
        for times in (1, 2):
            task = asyncio.create_task(db.fetch_val(slow))
            await asyncio.sleep(0.2)
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0)
            with raises(asyncio.CancelledError):
                await task
            assert await db.fetch_val("select 7") == 7
