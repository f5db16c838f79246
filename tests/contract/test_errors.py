"""Contract §7: errors, each one provoked at a real server."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

import aiodbkit

from .dialects import Dialect
from .support import assert_whole, everything_said

SECRET = "s3cret-value"
SCHEMA = """
    create table teams (id integer primary key, name varchar(40) not null);
    create table users (
        id integer primary key,
        name varchar(40) not null,
        age integer,
        team integer,
        constraint uq_users_name unique (name),
        constraint ck_users_age check (age >= 0),
        constraint fk_users_team foreign key (team) references teams (id)
    );
    insert into teams (id, name) values (1, 'red');
    insert into users (id, name, age, team) values (1, 's3cret-value', 20, 1);
    insert into users (id, name, age, team) values (2, 'second', 20, 1);
"""
ADD = "insert into users (id, name, age, team) values (:id, :name, :age, :team)"
GOOD = {"id": 3, "name": SECRET + "3", "age": 30, "team": 1}
VIOLATIONS = {
    "UniqueViolationError": {"name": SECRET},
    "ForeignKeyViolationError": {"team": 4242},
    "NotNullViolationError": {"name": None},
    "CheckViolationError": {"age": -4242},
}


@pytest.fixture
async def users(db: aiodbkit.Engine) -> aiodbkit.Engine:
    await db.execute_script(SCHEMA)
    return db


async def violate(db: Any, name: str) -> aiodbkit.Error:
    with pytest.raises(getattr(aiodbkit, name)) as caught:
        await db.execute(ADD, {**GOOD, **VIOLATIONS[name]})
    error: aiodbkit.Error = caught.value
    return error


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violated_constraint_has_a_class_of_its_own(
    name: str, users: aiodbkit.Engine, sql: Dialect
) -> None:
    error = await violate(users, name)
    assert isinstance(error, aiodbkit.IntegrityError)
    assert error.query == ADD
    assert not error.is_transient
    assert type(error.__cause__).__module__.partition(".")[0] in sql.drivers
    assert error.code is not None or error.sqlstate is not None


@pytest.mark.parametrize(
    ("name", "known"),
    [
        (
            "UniqueViolationError",
            {"constraint": "uq_users_name", "table": "users", "column": "name"},
        ),
        ("ForeignKeyViolationError", {"constraint": "fk_users_team", "table": "users"}),
        ("NotNullViolationError", {"table": "users", "column": "name"}),
        ("CheckViolationError", {"constraint": "ck_users_age", "table": "users"}),
    ],
)
async def test_what_the_backend_tells_of_a_constraint_is_passed_on(
    name: str, known: dict[str, str], users: aiodbkit.Engine
) -> None:
    """Each attribute is the truth or None, and at least one of them is told where one can be."""
    error = await violate(users, name)
    told = {attribute: getattr(error, attribute) for attribute in ("constraint", "table", "column")}
    for attribute, value in told.items():
        if value is not None and attribute in known:
            assert value == known[attribute]
    if not isinstance(error, aiodbkit.ForeignKeyViolationError):
        assert any(told.values()), "nothing told"


@pytest.mark.parametrize("verb", ["execute", "execute_many", "insert_many", "fetch_all"])
@pytest.mark.parametrize("name", VIOLATIONS)
async def test_no_value_is_told_by_an_error(verb: str, name: str, users: aiodbkit.Engine) -> None:
    row = {**GOOD, **VIOLATIONS[name]}
    with pytest.raises(getattr(aiodbkit, name)) as caught:
        if verb == "insert_many":
            await users.insert_many("users", [row])
        elif verb == "execute_many":
            await users.execute_many(ADD, [row])
        else:
            await getattr(users, verb)(ADD, row)
    said = everything_said(caught.value)
    assert SECRET not in said
    assert "4242" not in said


async def test_a_key_still_referenced_is_a_foreign_key_violation(users: aiodbkit.Engine) -> None:
    with pytest.raises(aiodbkit.ForeignKeyViolationError):
        await users.execute("delete from teams where id = 1")
    assert await users.fetch_val("select count(*) from teams") == 1


WRONG_SQL = {
    "syntax": "selekt 1",
    "table": "select * from no_such_table",
    "column": "select no_such_column from users",
    "function": "select no_such_function(1)",
    "twice": "create table users (id integer)",
}


@pytest.mark.parametrize("wrong", WRONG_SQL)
async def test_wrong_sql_is_a_programming_error(
    wrong: str, users: aiodbkit.Engine, sql: Dialect
) -> None:
    for verb in (users.execute, users.fetch_all, users.execute_script):
        with pytest.raises(aiodbkit.ProgrammingError) as caught:
            await verb(WRONG_SQL[wrong])
        error = caught.value
        assert error.query == WRONG_SQL[wrong]
        assert type(error.__cause__).__module__.partition(".")[0] in sql.drivers
        assert not error.is_transient
    await assert_whole(users)


async def test_a_message_of_the_server_reaches_the_caller(users: aiodbkit.Engine) -> None:
    with pytest.raises(aiodbkit.ProgrammingError, match="no_such_table"):
        await users.fetch_all(WRONG_SQL["table"])


@pytest.mark.parametrize("way", ["execute", "execute_many", "insert_many"])
async def test_a_value_that_does_not_fit_is_a_data_error(way: str, users: aiodbkit.Engine) -> None:
    row = {**GOOD, "age": 2**70}
    with pytest.raises(aiodbkit.DataError) as caught:
        if way == "execute":
            await users.execute(ADD, row)
        elif way == "execute_many":
            await users.execute_many(ADD, [GOOD, row])
        else:
            await users.insert_many("users", [GOOD, row])
    assert str(2**70) not in everything_said(caught.value)
    assert await users.fetch_val("select count(*) from users") == 2
    await assert_whole(users)


async def test_a_write_in_a_read_only_transaction_is_a_read_only_error(
    users: aiodbkit.Engine, sql: Dialect
) -> None:
    with pytest.raises(aiodbkit.ReadOnlyError) as caught:
        async with users.transaction(read_only=True):
            await users.execute(ADD, GOOD)
    assert sql.read_only_code in (caught.value.code, caught.value.sqlstate)
    assert caught.value.query == ADD


async def test_a_lock_not_granted_is_a_lock_timeout(
    users: aiodbkit.Engine, make_engine: Any, sql: Dialect
) -> None:
    rename = "update users set name = :name where id = 1"
    other = await make_engine(**sql.busy)
    async with users.transaction() as tx:
        await users.execute(rename, {"name": "held"})
        with pytest.raises(aiodbkit.LockTimeoutError) as caught:
            # In a task of its own: one that waits for itself is told so at once.
            await asyncio.create_task(other.execute(rename, {"name": SECRET}))
        await tx.rollback()
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.is_transient
    assert caught.value.query == rename
    assert SECRET not in everything_said(caught.value)
    await other.execute(rename, {"name": "free"})


async def test_a_deadlock_ends_for_one_of_two_tasks(users: aiodbkit.Engine, can: Any) -> None:
    if not can.concurrent_writers:
        pytest.skip("one writer at a time cannot deadlock")
    rename = "update users set age = age + 1 where id = :id"
    both = asyncio.Barrier(2)

    async def cross(first: int, second: int) -> None:
        async with users.transaction():
            await users.execute(rename, {"id": first})
            await both.wait()
            await users.execute(rename, {"id": second})

    results = await asyncio.gather(
        asyncio.create_task(cross(1, 2)), asyncio.create_task(cross(2, 1)), return_exceptions=True
    )
    errors = [result for result in results if result is not None]
    assert [type(error) for error in errors] == [aiodbkit.DeadlockError]
    assert isinstance(errors[0], aiodbkit.Error)
    assert errors[0].is_transient
    assert await users.fetch_column("select age from users order by id") == [21, 21]
    await assert_whole(users)


async def test_statements_after_a_deadlock_do_not_run_outside_of_the_transaction(
    users: aiodbkit.Engine, can: Any
) -> None:
    if not can.concurrent_writers:
        pytest.skip("one writer at a time cannot deadlock")
    change = "update users set age = age + 1 where id = :id"
    both, losers = asyncio.Barrier(2), []

    async def cross(first: int, second: int) -> None:
        async with users.transaction():
            await users.execute(change, {"id": first})
            await both.wait()
            try:
                await users.execute(change, {"id": second})
            except aiodbkit.DeadlockError:
                losers.append(first)
                with pytest.raises(aiodbkit.DatabaseError):
                    await users.execute("update users set age = 99 where id = :id", {"id": first})
                with pytest.raises(aiodbkit.DatabaseError):
                    await users.fetch_val("select 1")

    results = await asyncio.gather(
        asyncio.create_task(cross(1, 2)), asyncio.create_task(cross(2, 1)), return_exceptions=True
    )
    assert len(losers) == 1
    failed = [result for result in results if result is not None]
    assert len(failed) == 1, "the loser's block must not end as if it had been committed"
    assert isinstance(failed[0], aiodbkit.Error)
    assert await users.fetch_column("select age from users order by id") == [21, 21]
    await assert_whole(users)


async def test_two_serializable_transactions_that_collide_give_a_transient_error(
    users: aiodbkit.Engine, can: Any, sql: Dialect
) -> None:
    if not can.concurrent_writers:
        pytest.skip("one writer at a time cannot collide")
    both = asyncio.Barrier(2)

    async def double() -> None:
        async with users.transaction(isolation="serializable"):
            age = await users.fetch_val("select age from users where id = 1")
            await both.wait()
            await users.execute("update users set age = :age where id = 1", {"age": age * 2})

    results = await asyncio.gather(
        asyncio.create_task(double()), asyncio.create_task(double()), return_exceptions=True
    )
    errors = [result for result in results if result is not None]
    assert [type(error) for error in errors] == [sql.conflict]
    assert isinstance(errors[0], aiodbkit.Error)
    assert errors[0].is_transient
    assert await users.fetch_val("select age from users where id = 1") == 40
    await assert_whole(users)


async def test_a_stale_snapshot_cannot_be_written_on(
    users: aiodbkit.Engine, can: Any, sql: Dialect
) -> None:
    if not can.lock_modes:
        pytest.skip("no deferred transactions here")
    change = "update users set age = 50 where id = 1"
    async with users.pool.acquire() as other:
        with pytest.raises(aiodbkit.OperationalError) as caught:
            async with users.transaction(mode="deferred"):
                await users.fetch_val("select age from users where id = 1")
                await other.execute("update users set age = 30 where id = 1")
                await users.execute(change)
    assert isinstance(caught.value, aiodbkit.SerializationError | aiodbkit.LockTimeoutError)
    assert caught.value.is_transient
    assert await users.fetch_val("select age from users where id = 1") == 30


async def test_a_query_timeout_is_also_a_timeout_error(
    users: aiodbkit.Engine, sql: Dialect
) -> None:
    with pytest.raises(TimeoutError) as caught:
        await users.fetch_val(sql.slow(30), timeout=0.1)
    assert isinstance(caught.value, aiodbkit.QueryTimeoutError)
    assert caught.value.query == sql.slow(30)
    assert not caught.value.is_transient


async def test_a_long_value_list_is_not_repeated_in_the_error(users: aiodbkit.Engine) -> None:
    names = aiodbkit.expand([SECRET, "4242"])
    with pytest.raises(aiodbkit.ProgrammingError) as caught:
        await users.fetch_all("select nope from users where name in (:names)", {"names": names})
    assert SECRET not in everything_said(caught.value)
    assert "4242" not in everything_said(caught.value)


async def test_an_error_survives_pickling(users: aiodbkit.Engine) -> None:
    error = await violate(users, "UniqueViolationError")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is type(error)
    assert (str(twin), twin.query, twin.code) == (str(error), error.query, error.code)
    assert (twin.sqlstate, twin.constraint) == (error.sqlstate, error.constraint)


def test_the_tree_is_that_of_the_contract() -> None:
    under = {
        "Error": ["InterfaceError", "DatabaseError"],
        "DatabaseError": ["DataError", "OperationalError", "IntegrityError", "InternalError"],
        "IntegrityError": list(VIOLATIONS),
        "InterfaceError": [
            "ConfigurationError",
            "TransactionScopeError",
            "SessionClosedError",
            "PoolClosedError",
        ],
        "OperationalError": [
            "ConnectionLostError",
            "CannotConnectError",
            "TooManyConnectionsError",
            "SerializationError",
            "DeadlockError",
            "LockTimeoutError",
            "QueryTimeoutError",
            "ReadOnlyError",
            "CommitUnknownError",
            "PoolTimeoutError",
            "PoolOverloadedError",
        ],
        "TimeoutError": ["LockTimeoutError", "QueryTimeoutError", "PoolTimeoutError"],
    }
    under["DatabaseError"] += ["ProgrammingError", "NotSupportedError"]
    for base, names in under.items():
        parent = TimeoutError if base == "TimeoutError" else getattr(aiodbkit, base)
        for name in names:
            assert issubclass(getattr(aiodbkit, name), parent)
    assert issubclass(aiodbkit.Error, Exception)
