"""What is the psycopg driver's own: options, prepared statements, values, what is refused."""

from __future__ import annotations

from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any

import psycopg
import pytest
from psycopg.adapt import Dumper

import aiodbkit
from aiodbkit.backends.postgres import PostgresEngine

from .conftest import Make

pytestmark = pytest.mark.postgres

PREPARED = "select count(*) from pg_prepared_statements"


def test_the_driver_is_chosen_by_the_scheme_or_by_a_keyword() -> None:
    by_scheme = aiodbkit.create_engine("postgresql+psycopg://db/app")
    by_keyword = PostgresEngine(host="db", database="app", driver="psycopg")
    assert by_scheme.capabilities == by_keyword.capabilities
    assert by_keyword.capabilities.rows_affected_of_many


async def test_a_statement_is_prepared_when_it_has_run_often_enough(make: Make) -> None:
    db = await make(max_size=1, prepare_threshold=2)
    for turn, expected in enumerate([0, 0, 1]):
        assert await db.fetch_val("select :n::int", {"n": turn}) == turn
        assert await db.fetch_val(f"{PREPARED} where {turn} >= 0") == expected


async def test_nothing_is_prepared_where_that_is_asked_for(make: Make) -> None:
    db = await make(max_size=1, prepared_statements=False)
    for number in range(8):
        assert await db.fetch_val("select :n::int", {"n": number}) == number
    assert await db.fetch_val(PREPARED) == 0


async def test_a_changed_table_is_noticed_and_inside_a_transaction_told(
    db: aiodbkit.Engine, make: Make
) -> None:
    one = await make(max_size=1, prepare_threshold=0)
    assert await one.fetch_all("select * from notes") == []
    await db.execute("alter table notes add more text")
    assert await one.fetch_all("select * from notes") == []
    async with one.transaction() as tx:
        await one.fetch_val("select 1")
        await db.execute("alter table notes add still_more text")
        with pytest.raises(aiodbkit.OperationalError, match="again") as caught:
            await one.fetch_all("select * from notes")
        assert caught.value.is_transient
        await tx.rollback()


async def test_types_of_before_an_alter_table_refuse_a_value_once_at_most(
    db: aiodbkit.Engine, one: aiodbkit.Engine
) -> None:
    insert = "insert into notes (id, body) values (:id, :body)"
    for number in range(8):
        await one.execute(insert, {"id": number, "body": "x"})
    await db.execute("alter table notes alter body type integer using 1")
    with pytest.raises(aiodbkit.ProgrammingError):
        await one.execute(insert, {"id": 8, "body": "x"})
    await one.execute(insert, {"id": 8, "body": 7})
    assert await one.fetch_val("select body from notes where id = 8") == 7


@pytest.mark.parametrize("value", [1.5, Decimal("1.5"), "1", 2**31, [1]])
async def test_what_is_no_integer_is_refused_by_name_and_without_the_value(
    value: Any, one: aiodbkit.Engine
) -> None:
    pid = await one.fetch_val("select pg_backend_pid()")
    with pytest.raises(aiodbkit.DataError, match=r"parameter :n: this \w+ does not fit .*int4"):
        await one.execute("insert into notes (id) values (:n)", {"n": value})
    assert await one.fetch_val("select pg_backend_pid()") == pid


async def test_the_same_sql_runs_with_dollars_and_percents(db: aiodbkit.Engine) -> None:
    assert await db.fetch_val("select $1::int % 4 || '%s' || $2", [7, "%"]) == "3%s%"


async def test_values_are_those_of_the_other_driver(db: aiodbkit.Engine) -> None:
    await db.execute("set timezone = 'Asia/Tokyo'")
    row = await db.fetch_one(
        "select 0.1::real r, now() at_, array[now()] ats, inet '10.0.0.1' i, pg_sleep(0) v, "
        "array[[1, 2], [3, null]] m, :l::text[] l",
        {"l": ['"', "\\", "", None, "NULL", "{,}"]},
    )
    assert row is not None
    assert row.r == 0.10000000149011612
    assert str(row.at_.tzinfo) == str(row.ats[0].tzinfo) == "UTC"
    assert (row.i, row.v, row.m) == (IPv4Address("10.0.0.1"), None, [[1, 2], [3, None]])
    assert row.l == ['"', "\\", "", None, "NULL", "{,}"]


async def test_a_value_that_python_cannot_hold_costs_nothing(one: aiodbkit.Engine) -> None:
    pid = await one.fetch_val("select pg_backend_pid()")
    with pytest.raises(aiodbkit.DataError, match="could not read"):
        await one.fetch_val("select 'infinity'::date")
    assert await one.fetch_val("select pg_backend_pid()") == pid


async def test_adapters_of_a_connection_factory_are_used(url: str, make: Make) -> None:
    class Host(str):
        __slots__ = ()

    class Address:
        text = "10.0.0.2"

    class AddressDumper(Dumper):
        def dump(self, obj: Any) -> bytes:
            text: str = obj.text
            return text.encode()

    async def opened() -> psycopg.AsyncConnection[Any]:
        raw = await psycopg.AsyncConnection.connect(url.replace("+psycopg", ""))
        raw.adapters.register_dumper(Address, AddressDumper)
        return raw

    db = await make(connection_factory=opened)
    found = await db.fetch_val("select :a::inet", {"a": Address()})
    assert found == IPv4Address("10.0.0.2")
    assert await db.fetch_val("select :a::text", {"a": Host("h")}) == "h"


async def test_a_raw_connection_comes_back_as_it_was(one: aiodbkit.Engine) -> None:
    pid = await one.fetch_val("select pg_backend_pid()")
    async with one.connection() as conn:
        await conn.raw.set_autocommit(False)
        await conn.raw.execute("create temp table scratch (a int)")
        conn.raw.add_notify_handler(print)
        await conn.raw.execute("listen a")
    async with one.connection() as conn:
        assert conn.raw.autocommit
        assert not conn.in_transaction
        assert await conn.fetch_val("select count(*) from pg_listening_channels()") == 0
        assert await conn.fetch_val(PREPARED) == 0
    assert await one.fetch_val("select pg_backend_pid()") == pid


async def test_server_settings_may_hold_blanks(make: Make) -> None:
    db = await make(server_settings={"application_name": "two words\\ and"})
    assert await db.fetch_val("show application_name") == "two words\\ and"


async def test_a_wrong_password_is_told_without_it(private_postgres: Any, make: Make) -> None:
    wrong = private_postgres.auth_url.replace(":secret@", ":gue55ed@")
    with pytest.raises(aiodbkit.CannotConnectError, match="'app'") as caught:
        await make(wrong, min_size=1)
    assert not caught.value.is_transient
    assert "gue55ed" not in str(caught.value)


async def test_of_several_hosts_the_first_that_answers_is_taken(url: str, make: Make) -> None:
    place = url.rpartition("@")[2]
    db = await make(url.replace(place, f"127.0.0.1:1,{place}"))
    assert await db.fetch_val("select 41") == 41


async def test_an_option_that_libpq_does_not_know_is_refused() -> None:
    with pytest.raises(aiodbkit.ConfigurationError, match="sslmod"):
        aiodbkit.create_engine("postgresql+psycopg://db/app?sslmod=require")


async def test_a_refused_value_has_the_drivers_exception_as_its_cause(make: Make) -> None:
    db = await make()
    await db.execute("create table item (id integer)")
    with pytest.raises(aiodbkit.DataError) as caught:
        await db.execute("insert into item values (:id)", {"id": 2**70})
    seen: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None:
        assert error not in seen
        seen.append(error)
        error = error.__cause__
