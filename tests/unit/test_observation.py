"""Watching an engine: who may listen, what a listener cannot break, what a line of the log says."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging

import pytest

import aiodbkit
from aiodbkit import InterfaceError, Listener
from aiodbkit.testing import count_queries, sandbox

from .scripted_driver import ScriptedEngine, Server


class Ear(Listener):
    def __init__(self) -> None:
        self.events: list[aiodbkit.QueryEvent] = []

    def on_query(self, event: aiodbkit.QueryEvent) -> None:
        self.events.append(event)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def db(server):
    async with ScriptedEngine(server, max_size=2) as engine:
        yield engine


# Who may listen.


class Async:
    async def on_query(self, event: object) -> None: ...


class AsyncCall:
    async def __call__(self, event: object) -> None: ...


class Holder:
    def __init__(self, hook: object) -> None:
        self.on_pool = hook


async def note(event: object) -> None: ...


@pytest.mark.parametrize(
    ("listener", "said"),
    [
        (object(), "at least one of the methods on_query, on_transaction, on_pool; object has"),
        (Listener(), "at least one of the methods"),
        (Ear, "takes an object, not a class: Ear"),
        (Holder("x"), "on_pool of Holder must be a method, not 'x'"),
        (Async(), "on_query of Async is async, but"),
        (Holder(AsyncCall()), "on_pool of Holder is async, but"),
        (Holder(functools.partial(note)), "on_pool of Holder is async, but"),
    ],
)
async def test_what_cannot_be_told_is_refused_with_the_reason(db, listener, said):
    with pytest.raises(InterfaceError, match=f"add_listener.*{said}"):
        db.add_listener(listener)
    assert await db.fetch_val("select 1") == 1


async def test_a_listener_is_added_once_and_removed_once(db):
    ear = Ear()
    with pytest.raises(InterfaceError, match="Ear does not listen to this engine"):
        db.remove_listener(ear)
    db.add_listener(ear)
    with pytest.raises(InterfaceError, match="Ear listens to this engine already"):
        db.add_listener(ear)
    db.remove_listener(ear)
    with pytest.raises(InterfaceError, match="does not listen"):
        db.remove_listener(ear)
    db.add_listener(ear)
    await db.fetch_val("select 1")
    assert len(ear.events) == 1


async def test_a_deferred_engine_takes_listeners_before_its_url():
    db, ear = aiodbkit.SQLiteEngine(None), Ear()
    db.add_listener(ear)
    db.init("sqlite://")
    async with db:
        await db.fetch_val("select 1")
    async with db:
        await db.fetch_val("select 2")
    assert [event.sql for event in ear.events] == ["select 1", "select 2"]


async def test_an_engine_that_is_initialized_anew_keeps_its_listeners(tmp_path):
    db, ear = aiodbkit.SQLiteEngine("sqlite://"), Ear()
    pool_told = []
    db.add_listener(ear)
    db.add_listener(Holder(pool_told.append))
    await db.fetch_val("select 1")
    await db.close()
    db.init(f"sqlite:///{tmp_path / 'other.db'}")
    pool_told.clear()
    async with db:
        await db.fetch_val("select 2")
    assert [event.sql for event in ear.events] == ["select 1", "select 2"]
    assert [event.kind for event in pool_told] == ["opened", "acquired", "released", "closed"]


async def test_several_listeners_are_told_in_the_order_in_which_they_came(db):
    told = []

    class Named(Listener):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_query(self, event: aiodbkit.QueryEvent) -> None:
            told.append(self.name)

    for name in "abc":
        db.add_listener(Named(name))
    await db.fetch_val("select 1")
    assert told == ["a", "b", "c"]


async def test_a_listener_through_a_proxy_hears_the_engine_behind_it(db):
    proxy, ear = aiodbkit.EngineProxy(), Ear()
    proxy.initialize(db)
    proxy.add_listener(ear)
    await proxy.fetch_val("select 1")
    assert [event.engine for event in ear.events] == [db]
    proxy.remove_listener(ear)


# What a listener cannot break.


class Failing:
    def _fail(self, event: object) -> None:
        raise self.error

    on_query = on_transaction = on_pool = _fail

    def __init__(self, error: BaseException) -> None:
        self.error = error


@pytest.mark.parametrize("error", [ValueError("broken"), asyncio.CancelledError()], ids=repr)
async def test_a_failing_listener_is_logged_and_breaks_nothing(db, server, caplog, error):
    failing, ear = Failing(error), Ear()
    db.add_listener(failing)
    db.add_listener(ear)
    async with db.transaction():
        await db.execute("say hello")
        assert await db.fetch_val("select 1") == 1
    assert server.committed == ["say hello"]
    assert [event.sql for event in ear.events] == ["say hello", "select 1"]
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert {record.name for record in errors} == {"aiodbkit"}
    assert all("Failing._fail failed" in record.getMessage() for record in errors)
    stats = db.pool.stats()
    assert (stats.in_use, stats.idle, stats.waiting) == (0, 1, 0)


async def test_a_listener_may_remove_itself_when_it_is_told(db):
    class Once(Listener):
        told = 0

        def on_query(self, event: aiodbkit.QueryEvent) -> None:
            self.told += 1
            db.remove_listener(self)

        def on_pool(self, event: aiodbkit.PoolEvent) -> None:
            self.told += 1
            db.remove_listener(self)

    once = Once()
    for _ in range(2):
        db.add_listener(once)
        await db.fetch_val("select 1")
        await db.fetch_val("select 1")
    assert once.told == 2
    assert db.pool.stats().in_use == 0


async def test_a_statement_that_began_before_the_listener_came_is_not_half_told(db, server):
    server.hold("fetch")
    task = asyncio.create_task(db.fetch_val("select 1"))
    await server.reached("fetch")
    ear = Ear()
    db.add_listener(ear)
    server.let("fetch")
    assert await task == 1
    assert ear.events == []


async def test_a_statement_that_outlasts_its_listener_is_not_told(db, server):
    ear, later = Ear(), Ear()
    db.add_listener(ear)
    server.hold("fetch")
    task = asyncio.create_task(db.fetch_val("select 1"))
    await server.reached("fetch")
    db.remove_listener(ear)
    server.let("fetch")
    assert await task == 1
    db.add_listener(later)
    await db.fetch_val("select 2")
    assert ear.events == []
    assert [event.sql for event in later.events] == ["select 2"]


async def test_a_statement_whose_commit_is_cancelled_is_told_of_when_it_has_ended(db, server):
    steps = []
    listener = Listener()
    listener.on_transaction = steps.append
    db.add_listener(listener)

    async def work() -> None:
        async with db.transaction():
            await db.execute("say hello")

    server.hold("commit")
    task = asyncio.create_task(work())
    await server.reached("commit")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [step.kind for step in steps] == ["begin"]
    server.let("commit")
    await db.fetch_val("select 1")
    while db.pool.stats().in_use:
        await asyncio.sleep(0)
    assert [step.kind for step in steps] == ["begin", "commit"]


async def test_a_connection_that_cannot_be_opened_is_told(server):
    told = []
    server.fail("connect", aiodbkit.CannotConnectError("not today", is_transient=False))
    db = ScriptedEngine(server)
    db.add_listener(Holder(told.append))
    async with db:
        with pytest.raises(aiodbkit.CannotConnectError):
            await db.fetch_val("select 1")
    (failed,) = [event for event in told if event.kind == "failed"]
    assert "not today" in str(failed.error)


async def test_a_caller_that_finds_the_line_full_is_told(server):
    told = []
    async with ScriptedEngine(server, max_size=1, max_waiting=1) as db:
        db.add_listener(Holder(told.append))
        async with db.connection():
            waiting = asyncio.create_task(db.fetch_val("select 1"))
            while not db.pool.stats().waiting:
                await asyncio.sleep(0)
            with pytest.raises(aiodbkit.PoolOverloadedError):
                await asyncio.create_task(db.fetch_val("select 2"))
        await waiting
    kinds = [event.kind for event in told if event.kind != "closed"]
    assert kinds == [
        *("opened", "acquired", "overloaded"),
        *("released", "acquired", "released"),
    ]
    waited = [event.duration for event in told if event.kind == "acquired"]
    assert waited[1] > 0


async def test_an_iteration_lost_with_its_loan_is_told_all_the_same(db, server):
    ear = Ear()
    db.add_listener(ear)
    rows = db.iterate("select number", batch_size=3)
    await anext(rows)
    del rows
    gc.collect()
    while db.pool.stats().in_use or not ear.events:
        await asyncio.sleep(0)
    assert [(event.verb, event.rows) for event in ear.events] == [("iterate", 3)]


# The log.


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.DEBUG, logger="aiodbkit")

    def told(name: str) -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name == name]
        caplog.clear()
        return [line.split(" ms, ")[-1].split(" ms: ")[-1] for line in found]

    return told


async def test_a_line_is_one_line_whatever_the_statement(db, lines):
    await db.execute("say\n\thello,   100 % of\u2028it")
    assert lines("aiodbkit.query") == ["1 row: say hello, 100 % of it"]
    await db.execute("say " + "much " * 100_000)
    (line,) = lines("aiodbkit.query")
    assert len(line) < 1100
    assert line.endswith("… (500004 characters)")
    with pytest.raises(aiodbkit.OperationalError):
        await db.execute("fail")
    assert lines("aiodbkit.query") == ["failed with OperationalError: fail"]


async def test_the_steps_of_transactions_are_lines_of_their_own_logger(db, lines):
    async with db.transaction():
        await db.execute("say hello")
    assert lines("aiodbkit.transaction") == ["BEGIN", "COMMIT"]


async def test_parameters_are_shortened_in_the_log(server, lines):
    async with ScriptedEngine(server, log_params=True) as db:
        await db.execute("say :a, :b, :c", {"a": "x" * 5000, "b": b"y" * 5000, "c": 7})
    (line,) = lines("aiodbkit.query")
    assert line.startswith("1 row: say :a, :b, :c with {'a': 'xxx")
    assert "'c': 7" in line
    assert "… (5000 characters)" in line
    assert "… (5000 bytes)" in line
    assert len(line) < 400


async def test_the_log_can_be_switched_by_disabling_it_altogether(db, lines):
    await db.fetch_val("select 1")
    logging.disable(logging.DEBUG)
    try:
        await db.fetch_val("select 2")
    finally:
        logging.disable(logging.NOTSET)
    await db.fetch_val("select 3")
    assert lines("aiodbkit.query") == ["1 row: select 1", "1 row: select 3"]


async def test_the_log_that_was_on_before_the_engine_opened_has_its_first_statement(server, lines):
    async with ScriptedEngine(server) as db:
        await db.fetch_val("select 1")
    assert lines("aiodbkit.query") == ["1 row: select 1"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slow_query": -1}, "slow_query must be a number of seconds, 0 or more, or None, not -1"),
        ({"slow_query": True}, "slow_query must be"),
        ({"log_params": 1}, "log_params must be True or False, not 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(aiodbkit.ConfigurationError, match=said):
        ScriptedEngine(Server(), **options)


def test_the_options_can_stand_in_a_url():
    db = aiodbkit.create_engine("sqlite://?slow_query=0.5&log_params=true")
    assert (db.options.slow_query, db.options.log_params) == (0.5, True)
    assert aiodbkit.create_engine("sqlite://?slow_query=none").options.slow_query is None


async def test_a_slow_begin_is_a_warning_too(server, caplog):
    async with ScriptedEngine(server, slow_query=0) as db, db.transaction():
        await db.execute("say hello")
    told = [(record.name, record.getMessage()) for record in caplog.records]
    names = [name for name, _ in told]
    assert names == ["aiodbkit.transaction", "aiodbkit.query", "aiodbkit.transaction"]
    assert all(message.endswith("or raise slow_query]") for _, message in told)


async def test_the_pool_logs_bad_connections_and_exceeded_limits(server, caplog):
    caplog.set_level(logging.DEBUG, logger="aiodbkit.pool")
    server.fail("connect", aiodbkit.CannotConnectError("not today", is_transient=True))
    async with ScriptedEngine(server, max_size=1) as db:
        with pytest.raises(aiodbkit.CannotConnectError):
            await db.fetch_val("select 1")
        async with db.connection() as conn:
            with pytest.raises(aiodbkit.PoolTimeoutError):
                await asyncio.create_task(acquire(db))
            conn._driver.shut = True
        await db.fetch_val("select 1")
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    for level, said in [
        ("INFO", "no connection could be opened (not today)"),
        ("DEBUG", "a connection was opened"),
        ("INFO", "a caller has waited too long for a connection"),
        ("INFO", "a connection was lost"),
        ("DEBUG", "a connection was closed"),
    ]:
        assert any(level == how and said in line for how, line in told), said
    assert not any("acquired" in line for _, line in told)


async def acquire(db: aiodbkit.Engine) -> None:
    async with db.pool.acquire(timeout=0.01):
        pass


# Together.


async def test_sandboxes_within_sandboxes_tell_each_statement_once(sqlite_engine):
    db, ear = await sqlite_engine(), Ear()
    await db.execute("create table things (n integer)")
    db.add_listener(ear)
    async with sandbox(db), sandbox(db):
        with count_queries(db, exactly=2):
            await db.execute("insert into things values (1)")
            async with db.iterate("select n from things") as rows:
                assert [row.n async for row in rows] == [1]
    assert [(event.verb, event.rows) for event in ear.events] == [("execute", 1), ("iterate", 1)]
