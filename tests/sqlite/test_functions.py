"""Functions, aggregates, window functions and collations of the user's, on every connection."""

from __future__ import annotations

import asyncio
import math
import threading
from datetime import date
from decimal import Decimal

import pytest

import aiodbkit
from aiodbkit.testing import sandbox
from tests.sqlite.library import MEMORY, path_of, raw_connection


@pytest.fixture(params=["file", "memory"])
async def db(request, sqlite_engine):
    return await sqlite_engine(*([MEMORY] if request.param == "memory" else []))


def shout(text, mark="!"):
    return text.upper() + mark


async def test_a_function_is_there_on_every_connection_open_or_new(db):
    async with db.pool.acquire() as held, db.pool.acquire() as idle:
        await held.fetch_val("select 1")
        await idle.fetch_val("select 1")
        await db.pool.release(idle)
        assert db.function(shout) is shout
        async with db.pool.acquire() as old, db.pool.acquire() as new:
            for conn in (held, old, new):
                assert await conn.fetch_val("select shout('hello')") == "HELLO!"


async def test_each_number_of_arguments_that_the_signature_allows_is_one_in_sql(db):
    db.function(shout)
    db.function("count_of")(lambda *values: len(values))
    assert await db.fetch_one("select shout('a'), shout('a', '?')") == ("A!", "A?")
    assert await db.fetch_one("select count_of(), count_of(1, 2, 3)") == (0, 3)
    with pytest.raises(aiodbkit.ProgrammingError, match="wrong number of arguments"):
        await db.fetch_val("select shout()")


async def test_a_builtin_without_a_signature_says_how_many_arguments_it_takes(db):
    with pytest.raises(TypeError, match="arguments="):
        db.function(math.hypot)
    db.function("hypot", arguments=2)(math.hypot)
    assert await db.fetch_val("select hypot(3, 4)") == 5.0


async def test_the_latest_function_of_a_name_counts(db):
    db.function("version")(lambda: 1)
    assert await db.fetch_val("select version()") == 1
    db.function("VERSION")(lambda: 2)
    assert await db.fetch_val("select version()") == 2


async def test_one_that_is_at_work_is_replaced_when_its_result_has_been_read(db):
    db.function("version")(lambda: 1)
    async with db.connection() as conn:
        many = "select version() from pragma_function_list, pragma_function_list"
        async with conn.iterate(many, batch_size=1) as rows:
            await anext(rows)
            db.function("version")(lambda: 2)
            assert await conn.fetch_val("select 1") == 1
        assert await conn.fetch_val("select version()") == 2


async def test_functions_stand_on_an_engine_that_has_no_database_yet(sqlite_url):
    db = aiodbkit.SQLiteEngine(None)
    db.function(shout)
    db.init(sqlite_url)
    async with db:
        assert await db.fetch_val("select shout('a')") == "A!"
    async with db:
        assert await db.fetch_val("select shout('b')") == "B!"


async def test_functions_are_defined_through_a_proxy_before_and_after_it_has_its_engine(db):
    proxy = aiodbkit.EngineProxy()
    proxy.attach_callback(lambda engine: engine.function(shout))
    proxy.initialize(db)
    proxy.function("twice")(lambda x: 2 * x)
    assert await proxy.fetch_one("select shout('a'), twice(4)") == ("A!", 8)


async def test_functions_are_there_in_session_sql_and_in_a_sandbox(sqlite_url):
    db = aiodbkit.create_engine(sqlite_url, session_sql=["select shout('a')"])
    db.function(shout)
    async with db, sandbox(db):
        db.function("twice")(lambda x: 2 * x)
        assert await db.fetch_one("select shout('a'), twice(4)") == ("A!", 8)


async def test_a_result_may_be_whatever_a_parameter_may_be(db):
    results = [None, 1, 1.5, "ä", b"\0", True, Decimal("1.50"), date(2024, 2, 29), {"a": 1}]
    db.function("result")(lambda number: results[number])
    found = [
        await db.fetch_val("select result(:n)", {"n": number}) for number in range(len(results))
    ]
    assert found == [None, 1, 1.5, "ä", b"\0", 1, "1.50", "2024-02-29", '{"a": 1}']


@pytest.mark.parametrize("result", [object(), 2**63, "\udc00"])
async def test_a_result_that_cannot_be_stored_fails_with_the_name_of_the_function(result, db):
    db.function("result")(lambda: result)
    with pytest.raises(aiodbkit.OperationalError, match=r"function result\(\)") as caught:
        await db.fetch_val("select result()")
    assert isinstance(caught.value.__cause__, aiodbkit.DataError)
    assert await db.fetch_val("select 1") == 1


@pytest.mark.parametrize("error", [ValueError, OverflowError, MemoryError, KeyboardInterrupt])
async def test_what_a_function_raises_is_the_cause_of_the_error_and_its_text_is_not_shown(
    error, db
):
    cause = error("a secret")
    await db.execute("create table t (v)")

    @db.function
    def fail(value):
        raise cause

    for sql in ("select fail(1)", "insert into t (v) values (1), (fail(2))"):
        with pytest.raises(aiodbkit.OperationalError) as caught:
            await db.execute(sql)
        assert caught.value.__cause__ is cause
        assert str(caught.value) == f"the function fail() raised {error.__name__}"
        assert caught.value.query == sql
    assert await db.fetch_val("select count(*) from t") == 0


async def test_an_error_that_sql_makes_afterwards_is_not_laid_at_the_functions_door(db):
    @db.function
    def fail():
        raise ValueError

    with pytest.raises(aiodbkit.OperationalError):
        await db.fetch_val("select fail()")
    with pytest.raises(aiodbkit.ProgrammingError, match="no such table"):
        await db.fetch_val("select * from missing")


async def test_a_transaction_goes_on_after_a_function_has_failed(db):
    await db.execute("create table t (v)")

    @db.function
    def fail():
        raise ValueError

    async with db.transaction():
        await db.execute("insert into t (v) values (1)")
        with pytest.raises(aiodbkit.OperationalError):
            await db.execute("insert into t (v) values (fail())")
    assert await db.fetch_column("select v from t") == [1]


async def test_a_function_runs_on_a_thread_beside_the_event_loop(db):
    go_on = threading.Event()
    db.function("meet")(lambda: go_on.wait(10))
    statement = asyncio.create_task(db.fetch_val("select meet()"))
    await asyncio.sleep(0)
    go_on.set()  # the loop runs while the function waits
    assert await statement == 1


async def test_a_statement_is_cancelled_while_a_function_of_its_runs(db):
    await db.execute("create table t (v)")
    entered, go_on = threading.Event(), threading.Event()

    @db.function
    def wait(value):
        entered.set()
        go_on.wait(10)
        return value

    task = asyncio.create_task(db.execute("insert into t (v) values (wait(1))"))
    await asyncio.to_thread(entered.wait, 10)
    task.cancel()
    await asyncio.wait([task])
    go_on.set()
    assert task.cancelled()
    assert await db.fetch_val("select count(*) from t") == 0


async def test_a_deterministic_function_serves_an_index(db):
    db.function("fold", deterministic=True)(str.casefold.__call__)
    db.function("plain")(lambda text: text)
    await db.execute("create table t (v)")
    await db.execute("create index i on t (fold(v))")
    with pytest.raises(aiodbkit.ProgrammingError, match="non-deterministic"):
        await db.execute("create index j on t (plain(v))")
    assert "USING INDEX i" in await db.explain("select * from t where fold(v) = 'a'")


async def _async(value):
    return value


async def _async_rows(value):
    yield value


class _AsyncCall:
    async def __call__(self, value):
        return value


@pytest.mark.parametrize("function", [_async, _async_rows, _AsyncCall()])
@pytest.mark.parametrize("decorator", ["function", "collation"])
async def test_async_functions_are_refused_with_the_reason(function, decorator, db):
    with pytest.raises(TypeError, match="no event loop runs"):
        getattr(db, decorator)("name")(function)


@pytest.mark.parametrize(
    ("misuse", "error", "message"),
    [
        (lambda db: db.function(7), TypeError, "can be called"),
        (lambda db: db.function(lambda: 1), ValueError, "lambda needs a name"),
        (lambda db: db.function("")(shout), ValueError, "1 to 255 bytes"),
        (lambda db: db.function("a\0b")(shout), ValueError, "1 to 255 bytes"),
        (lambda db: db.function("x" * 256)(shout), ValueError, "1 to 255 bytes"),
        (lambda db: db.function(arguments=128)(shout), ValueError, "0 to 127"),
        (lambda db: db.function(arguments=-2)(shout), ValueError, "0 to 127"),
        (
            lambda db: db.function("f")(lambda *, key: key),
            TypeError,
            "no name for its argument 'key'",
        ),
        (lambda db: db.aggregate(shout), TypeError, "is a class"),
        (lambda db: db.aggregate(_AsyncCall), TypeError, r"step\(\) is missing"),
        (lambda db: db.window_function(Longest), TypeError, r"inverse\(\) is missing"),
    ],
)
async def test_a_misuse_is_told_where_it_is_made(misuse, error, message, db):
    with pytest.raises(error, match=message):
        misuse(db)


class Longest:
    def __init__(self):
        self.found = None

    def step(self, text):
        self.found = max(self.found or "", text, key=len)
        return self  # nobody looks at it

    def finalize(self):
        return self.found


class Total:
    def __init__(self):
        self.sum = Decimal(0)

    def step(self, value):
        self.sum += Decimal(value)

    def inverse(self, value):
        self.sum -= Decimal(value)

    def value(self):
        return self.sum

    finalize = value


async def test_an_aggregate_has_one_object_for_each_group_and_null_for_no_rows(db):
    db.aggregate("longest")(Longest)
    texts = "(select 'a' as x, 1 as g union all select 'bb', 1 union all select 'c', 2)"
    assert await db.fetch_column(f"select longest(x) from {texts} group by g") == ["bb", "c"]
    assert await db.fetch_val(f"select longest(x) from {texts} where g > 2") is None


async def test_a_window_function_moves_with_its_window(db):
    db.window_function("exact_total")(Total)
    numbers = "(select '0.1' as x union all select '0.2' union all select '0.3')"
    window = f"select exact_total(x) over (order by x rows 1 preceding) from {numbers}"
    assert await db.fetch_column(window) == ["0.1", "0.3", "0.5"]
    assert await db.fetch_val(f"select exact_total(x) from {numbers}") == "0.6"


@pytest.mark.parametrize("method", ["__init__", "step", "inverse", "value", "finalize"])
async def test_what_a_method_of_a_class_raises_is_the_cause_of_the_error(method, db):
    cause = ValueError("a secret")

    def fail(*args):
        raise cause

    db.window_function("failing")(type("Failing", (Total,), {method: fail}))
    window = "select failing(x) over (order by x rows 1 preceding) from (values (1), (2), (3))"
    sql = window.replace("from", "from (select column1 as x from") + ")"
    with pytest.raises(aiodbkit.OperationalError, match="window function failing") as caught:
        await db.fetch_all(sql)
    assert caught.value.__cause__ is cause


async def test_a_collation_orders_texts(db):
    @db.collation
    def by_length(first, second):
        return len(first) - len(second)

    texts = "(select 'ccc' as x union all select 'a' union all select 'bb')"
    ordered = f"select x from {texts} order by x collate by_length"
    assert await db.fetch_column(ordered) == ["a", "bb", "ccc"]


@pytest.mark.parametrize("order", ["raise", "less"])
async def test_a_collation_that_fails_writes_no_index_in_wrong_order(order, db):
    fails = False

    @db.collation
    def brittle(first, second):
        if fails and order == "raise":
            raise ValueError("a secret")
        return "less" if fails else (first > second) - (first < second)

    await db.execute("create table t (v text collate brittle unique)")
    await db.execute("insert into t (v) values ('a'), ('b')")
    fails = True
    with pytest.raises(aiodbkit.OperationalError, match="collation brittle raised") as caught:
        await db.execute("insert into t (v) values ('c')")
    assert type(caught.value.__cause__) in (ValueError, TypeError)
    with pytest.raises(aiodbkit.Error):
        async with db.transaction():
            await db.execute("insert into t (v) values ('d')")
    fails = False
    assert await db.fetch_column("select v from t order by v") == ["a", "b"]
    assert await db.fetch_val("pragma integrity_check") == "ok"


async def test_a_function_is_there_after_a_reset_of_everything(sqlite_engine):
    db = await sqlite_engine(reset="always", max_size=1)
    db.function(shout)
    for _ in range(2):
        assert await db.fetch_val("select shout('a')") == "A!"


async def test_a_factory_of_the_users_gets_the_functions_too(sqlite_url, sqlite_engine):
    async def connect():
        return await raw_connection(path_of(sqlite_url))

    db = await sqlite_engine(MEMORY, connection_factory=connect)
    db.function(shout)
    assert await db.fetch_val("select shout('a')") == "A!"
