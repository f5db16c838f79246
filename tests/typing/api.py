"""Never run: mypy and pyright check that a user's editor knows what each public call returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict, assert_type

import sqlalchemy
from sqlalchemy.schema import CreateTable

import aiodbkit
from aiodbkit import (
    Connection,
    Engine,
    ExecuteResult,
    MySQLEngine,
    Pool,
    PostgresEngine,
    RetryEvent,
    RetryPolicy,
    Row,
    Session,
    SQLiteEngine,
    Transaction,
)


@dataclass
class User:
    id: int
    name: str


class Point(NamedTuple):
    x: int
    y: int


class Settings(TypedDict):
    theme: str


def greet(row: Row) -> str:
    return f"Hello {row['name']}"


def engines() -> None:
    db = aiodbkit.create_engine("sqlite:///app.db", max_size=5, command_timeout=2.5)
    assert_type(db, Engine)
    assert_type(SQLiteEngine("sqlite://"), SQLiteEngine)
    assert_type(PostgresEngine(host="db", user="app", database="app"), PostgresEngine)
    assert_type(MySQLEngine("mysql://app@db/app", child_tasks="own"), MySQLEngine)
    some: list[Engine] = [SQLiteEngine("sqlite://"), PostgresEngine(database="a")]
    assert_type(some[0].pool.stats().size, int)


async def lifetime(db: PostgresEngine) -> None:
    await db.connect()
    await db.close(timeout=3)
    async with db as same:
        assert_type(same, PostgresEngine)
    async with aiodbkit.create_engine("sqlite://") as lite:
        assert_type(lite, Engine)


async def verbs(db: Engine) -> None:
    assert_type(await db.execute("delete from t where id = :id", {"id": 1}), ExecuteResult)
    assert_type((await db.execute("delete from t")).rows_affected, int)
    assert_type((await db.execute("delete from t", timeout=1)).last_insert_id, int | None)
    assert_type(await db.execute_many("insert into t values (:a)", [{"a": 1}]), ExecuteResult)
    assert_type(await db.execute_many("insert into t values (?)", [(1,), (2,)]), ExecuteResult)
    await db.execute_script("create table t (a int); create table u (a int)")
    assert_type(await db.fetch_all("select 1"), list[Row])
    assert_type(await db.fetch_one("select 1", [1], timeout=0.5), Row | None)
    assert_type(await db.fetch_val("select 1", column="a"), Any)
    assert_type(await db.fetch_column("select 1", column=0), list[Any])
    assert_type(await db.insert_many("t", [{"a": 1}]), int)
    assert_type(await db.insert_many("t", [(1, 2)], columns=["a", "b"]), int)


async def core_statements(db: Engine) -> None:
    metadata = sqlalchemy.MetaData()
    table = sqlalchemy.Table("t", metadata, sqlalchemy.Column("a", sqlalchemy.Integer))
    query = sqlalchemy.select(table)
    assert_type(await db.execute(sqlalchemy.insert(table), {"a": 1}), ExecuteResult)
    assert_type(await db.execute_many(sqlalchemy.insert(table), [{"a": 1}]), ExecuteResult)
    assert_type(await db.execute(CreateTable(table)), ExecuteResult)
    assert_type(await db.fetch_all(query), list[Row])
    assert_type(await db.fetch_all(query.union_all(query), into=User), list[User])
    assert_type(await db.fetch_one(sqlalchemy.text("select :a"), {"a": 1}), Row | None)
    assert_type(await db.fetch_one(query, into=greet), str | None)
    assert_type(await db.fetch_val(sqlalchemy.func.now()), Any)
    async for user in db.iterate(query, into=User):
        assert_type(user, User)
    assert_type(await db.insert_many(table, [{"a": 1}]), int)
    await db.create_all(metadata, checkfirst=False, tables=[table])
    await db.drop_all(metadata)
    await db.fetch_all(b"select 1")  # type: ignore[call-overload]


async def into(db: Engine) -> None:
    assert_type(await db.fetch_all("select 1", into=User), list[User])
    assert_type(await db.fetch_all("select 1", {"a": 1}, into=Point, timeout=1), list[Point])
    assert_type(await db.fetch_all("select 1", into=greet), list[str])
    assert_type(await db.fetch_one("select 1", into=User), User | None)
    assert_type(await db.fetch_one("select 1", into=Settings), Settings | None)
    assert_type(await db.fetch_one("select 1", into=greet), str | None)
    nothing: type[User] | None = None
    assert_type(await db.fetch_all("select 1", into=None), list[Row])
    del nothing


async def iterating(db: Engine) -> None:
    async for row in db.iterate("select 1", batch_size=100):
        assert_type(row, Row)
    async for user in db.iterate("select 1", into=User):
        assert_type(user, User)
    async with db.iterate("select 1", {"a": 1}, into=User, timeout=1) as users:
        async for user in users:
            assert_type(user, User)
    async with db.iterate("select 1") as rows:
        async for row in rows:
            assert_type(row, Row)


async def insert_sources(db: Engine) -> None:
    async def mappings() -> AsyncIterator[dict[str, int]]:
        yield {"a": 1}

    async def tuples() -> AsyncIterator[tuple[int, str]]:
        yield 1, "a"

    assert_type(await db.insert_many("t", mappings()), int)
    assert_type(await db.insert_many("t", tuples(), columns=("a", "b")), int)
    assert_type(await db.insert_many("t", ({"a": n} for n in range(3))), int)


def rows(row: Row) -> None:
    assert_type(row["id"], Any)
    assert_type(row[0], Any)
    assert_type(row.id, Any)
    assert_type(len(row), int)
    mapping: dict[str, Any] = dict(row)
    values: tuple[Any, ...] = tuple(row)
    del mapping, values


async def connections(db: Engine) -> None:
    async with db.connection() as conn:
        assert_type(conn, Connection)
        assert_type(await conn.fetch_all("select 1", into=User), list[User])
        assert_type(await conn.fetch_one("select 1"), Row | None)
        assert_type(conn.is_closed, bool)
        assert_type(conn.in_transaction, bool)
        assert_type(conn.raw, Any)
        await conn.begin()
        await conn.commit()
        await conn.rollback()
        async with conn.transaction() as tx:
            assert_type(tx, Transaction)
        async for user in conn.iterate("select 1", into=User):
            assert_type(user, User)
    assert_type(db.current_connection(), Connection | None)
    async with db.execution_context() as own:
        assert_type(own, Connection)
    async with db.execution_context(transaction=False) as plain:
        assert_type(plain, Connection)


async def transactions(db: Engine) -> None:
    async with db.transaction() as tx:
        assert_type(tx, Transaction)
        tx.on_commit(lambda: None)
        tx.on_rollback(lambda: print("undone"))
        tx.on_commit(lambda: asyncio.sleep(0))
        await tx.rollback()
    async with db.transaction(
        isolation="repeatable read",
        read_only=True,
        deferrable=False,
        force_rollback=True,
        child_tasks="share",
    ):
        pass
    async with db.transaction(mode="immediate"):
        pass


async def decorators(db: Engine) -> None:
    @db.transaction(isolation="serializable")
    async def transfer(source: int, target: int, *, amount: float = 1.0) -> str:
        return f"{source} {target} {amount}"

    @db.connection()
    async def report(since: str) -> list[Row]:
        return await db.fetch_all("select 1")

    @db.execution_context(transaction=True)
    async def audit(text: str) -> None:
        await db.execute("insert into log values (:text)", {"text": text})

    assert_type(await transfer(1, 2, amount=3.0), str)
    assert_type(await report("2024"), list[Row])
    await audit("x")
    await transfer("1", 2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await transfer(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def chosen_at_run_time(db: SQLiteEngine, other: PostgresEngine) -> None:
    proxy = aiodbkit.EngineProxy()
    proxy.initialize(db)

    @proxy.attach_callback
    def prepare(engine: Engine) -> int:
        return 1

    assert_type(prepare(db), int)

    @proxy.using(other)
    async def total(team: int, *, since: str = "") -> float:
        return await proxy.fetch_val("select 1.5")  # type: ignore[no-any-return]

    assert_type(await total(1, since="today"), float)
    with proxy.using(other) as chosen:
        assert_type(chosen, Engine)
    async with proxy as opened:
        assert_type(opened, aiodbkit.EngineProxy)
    assert_type(await proxy.fetch_one("select 1", into=User), User | None)


async def shared_connections(db: Engine) -> None:
    async with db.connection(shared=True) as conn:
        assert_type(conn, aiodbkit.SharedConnection)
        assert_type(await conn.fetch_all("select 1", into=User), list[User])
        conn.transaction()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]

    @db.connection(shared=True)
    async def total(team: int) -> float:
        return 1.5

    assert_type(await total(1), float)


async def sessions(db: Engine) -> None:
    async with db.session() as session:
        assert_type(session, Session)
        assert_type(await session.fetch_all("select 1", into=User), list[User])
        assert_type(await session.fetch_one("select 1"), Row | None)
        assert_type(await session.execute("delete from t"), ExecuteResult)
        async for user in session.iterate("select 1", into=User):
            assert_type(user, User)
        session.on_commit(lambda: asyncio.sleep(0))
        session.on_rollback(lambda: None)
        session.set_rollback_only()
        await session.commit()
        await session.rollback()
        assert_type(session.is_closed, bool)
        async with session.transaction() as tx:
            assert_type(tx, Transaction)
    async with db.session(read_only=True, isolation="serializable", child_tasks="share"):
        pass


async def retries(db: Engine) -> None:
    def told(event: RetryEvent) -> None:
        assert_type(event.error, Exception)
        assert_type(event.wait, float)

    policy = RetryPolicy(max_retries=5, backoff=0.1, on=OSError, before_retry=told)

    @aiodbkit.retry
    async def bare(number: int) -> str:
        return str(number)

    @aiodbkit.retry(max_retries=3, backoff=0.1, max_backoff=5.0, max_elapsed=None, jitter=True)
    async def with_figures(number: int, *, text: str = "") -> list[int]:
        return [number, len(text)]

    @aiodbkit.retry(policy)
    async def with_policy() -> User:
        return User(1, "x")

    @db.retry
    async def of_engine(number: int) -> int:
        return number

    @db.retry(on=(OSError, ValueError), before_retry=told)
    async def of_engine_with_figures(number: int) -> int:
        return number

    @db.transaction(isolation="serializable", retry=policy)
    async def transfer(source: int, target: int) -> float:
        return float(source + target)

    class Service:
        @aiodbkit.retry(max_retries=1)
        async def do(self, number: int) -> bytes:
            return bytes(number)

        @db.transaction(retry=policy)
        async def save(self, text: str) -> int:
            return len(text)

    assert_type(await bare(1), str)
    assert_type(await with_figures(1, text="x"), list[int])
    assert_type(await with_policy(), User)
    assert_type(await of_engine(1), int)
    assert_type(await of_engine_with_figures(1), int)
    assert_type(await transfer(1, 2), float)
    assert_type(await Service().do(1), bytes)
    assert_type(await Service().save("x"), int)
    assert_type(await db.run_in_transaction(bare, 1, retry=policy), str)
    async for attempt in aiodbkit.retrying(max_retries=3):
        async with attempt:
            assert_type(attempt.number, int)
    async for attempt in aiodbkit.retrying(policy):
        async with attempt:
            pass
    await bare("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await of_engine("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await transfer(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def wrong_calls(db: Engine) -> None:
    db.transaction(isolation="snapshot")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    db.transaction(child_tasks="inherit")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await db.fetch_all(1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def pools(db: Engine) -> None:
    conn = await db.pool.acquire()
    assert_type(conn, Connection)
    await db.pool.release(conn)
    async with db.pool.acquire(timeout=2) as lent:
        assert_type(lent, Connection)
    assert_type(db.pool.stats().in_use, int)
    await db.pool.resize(min_size=1, max_size=2)
    await db.pool.expire()
    await db.pool.check()


class Resource:
    """Any async resource can be pooled."""


async def pool_of_anything() -> None:
    async def connect() -> Resource:
        return Resource()

    async def close(resource: Resource) -> None: ...

    async with Pool(connect, close=close, max_size=2) as pool:
        async with pool.acquire() as lease:
            assert_type(lease.resource, Resource)
        lease = await pool.acquire(timeout=1)
        await pool.release(lease)


def errors(error: aiodbkit.Error) -> None:
    assert_type(error.sqlstate, str | None)
    assert_type(error.constraint, str | None)
    assert_type(error.table, str | None)
    assert_type(error.column, str | None)
    assert_type(error.query, str | None)
    assert_type(error.is_transient, bool)
    base: TimeoutError = aiodbkit.QueryTimeoutError("late")
    del base
