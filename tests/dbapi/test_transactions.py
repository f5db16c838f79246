"""Transactions, savepoints and errors on DB-API modules."""

from __future__ import annotations

import asyncio

import pytest

import aiodbkit

NAME = "select name from people where id = 1"


async def rename(db, name):
    await db.execute("update people set name = :n where id = 1", {"n": name})


async def test_a_transaction_commits_or_rolls_back_with_its_savepoints(db, people, make_dbapi):
    other = await make_dbapi()
    async with db.transaction():
        await rename(db, "outer")
        with pytest.raises(ZeroDivisionError):
            async with db.transaction():
                await rename(db, "inner")
                raise ZeroDivisionError
        assert await db.fetch_val(NAME) == "outer"
        assert await other.fetch_val(NAME) == "Ann"
    assert await other.fetch_val(NAME) == "outer"
    with pytest.raises(ZeroDivisionError):
        async with db.transaction():
            await rename(db, "lost")
            raise ZeroDivisionError
    assert await other.fetch_val(NAME) == "outer"


async def test_hooks_run_after_the_commit_alone(db, people):
    ran = []
    async with db.transaction() as tx:
        tx.on_commit(lambda: ran.append("commit"))
        await rename(db, "x")
        assert not ran
    async with db.transaction(force_rollback=True) as tx:
        tx.on_commit(lambda: ran.append("never"))
        tx.on_rollback(lambda: ran.append("rollback"))
    assert ran == ["commit", "rollback"]


async def test_a_transaction_of_sql_is_refused_in_an_open_one_and_undone_at_the_end(db, people):
    async with db.connection() as conn:
        async with db.transaction():
            with pytest.raises(aiodbkit.TransactionScopeError, match="COMMIT"):
                await conn.execute("commit")
        await conn.execute("begin")
        await rename(conn, "forgotten")
    assert await db.fetch_val(NAME) == "Ann"


async def test_isolation_levels_are_had_or_refused_before_anything_is_sent(db, people, sql):
    for level in ("read uncommitted", "read committed", "repeatable read", "serializable"):
        if level in db.capabilities.isolation_levels:
            async with db.transaction(isolation=level):
                assert await db.fetch_val(NAME) == "Ann"
        else:
            with pytest.raises(aiodbkit.NotSupportedError, match=level):
                await db.transaction(isolation=level).__aenter__()
    if sql.name == "postgres":
        async with db.transaction(isolation="serializable", deferrable=True, read_only=True):
            assert await db.fetch_val("show transaction_isolation") == "serializable"


async def test_a_read_only_transaction_refuses_writes_and_the_next_one_does_not(db, people):
    with pytest.raises(aiodbkit.ReadOnlyError) as caught:
        async with db.transaction(read_only=True):
            await rename(db, "x")
    assert not caught.value.is_transient
    await rename(db, "y")
    assert await db.fetch_val(NAME) == "y"


async def test_an_error_swallowed_in_a_transaction_is_no_silent_commit(db, people):
    can = db.capabilities
    try:
        async with db.transaction():
            await rename(db, "x")
            with pytest.raises(aiodbkit.UniqueViolationError):
                await db.execute("insert into people values (2, 'again')")
    except aiodbkit.InternalError:
        assert can.error_aborts_transaction
    assert await db.fetch_val(NAME) == ("Ann" if can.error_aborts_transaction else "x")


async def test_what_would_commit_the_open_transaction_is_refused_or_undone(db, people):
    transaction = db.transaction(force_rollback=True)
    if db.capabilities.ddl_is_transactional:
        async with transaction:
            await db.execute("create table more (id int)")
        with pytest.raises(aiodbkit.ProgrammingError):
            await db.fetch_all("select * from more")
        return
    async with transaction:
        await rename(db, "x")
        with pytest.raises(aiodbkit.NotSupportedError, match="CREATE TABLE"):
            await db.execute("create table more (id int)")
    assert await db.fetch_val(NAME) == "Ann"


async def test_a_changed_session_is_not_handed_on(make_dbapi, sql):
    _, shown, changed = sql.session_sql
    one = await make_dbapi(max_size=1)
    async with one.connection() as conn:
        await conn.execute(sql.session_sql[0])
        assert str(await conn.fetch_val(shown)) == str(changed)
    assert str(await one.fetch_val(shown)) != str(changed)


async def test_session_sql_and_on_connect_set_connections_up(make_dbapi, sql):
    async def prepare(conn):
        await conn.execute(sql.session_sql[0])

    for options in ({"session_sql": [sql.session_sql[0]]}, {"on_connect": prepare}):
        db = await make_dbapi(max_size=1, **options)
        for _ in range(2):
            assert str(await db.fetch_val(sql.session_sql[1])) == str(sql.session_sql[2])
        assert db.pool.stats().opened == 1


CONSTRAINTS = {
    aiodbkit.UniqueViolationError: "insert into child values (1, 1, 'secret')",
    aiodbkit.NotNullViolationError: "insert into child values (2, 1, null)",
    aiodbkit.ForeignKeyViolationError: "insert into child values (2, 99, 'secret')",
    aiodbkit.CheckViolationError: "insert into child values (-1, 1, 'secret')",
}


@pytest.mark.parametrize("kind", CONSTRAINTS, ids=lambda kind: kind.__name__)
async def test_a_violated_constraint_has_its_class(make_dbapi, sql, people, module, kind):
    options = {"session_sql": ["pragma foreign_keys = on"]} if sql.name == "sqlite" else {}
    db = await make_dbapi(**options)
    await db.execute(
        "create table child (id integer primary key check (id > 0), parent integer not null, "
        "name varchar(20) not null, foreign key (parent) references people (id))"
    )
    await db.execute("insert into child values (1, 1, 'first')")
    with pytest.raises(kind) as caught:
        await db.execute(CONSTRAINTS[kind])
    assert isinstance(caught.value.__cause__, module.Error)
    assert caught.value.query == CONSTRAINTS[kind]
    assert "secret" not in str(caught.value)


async def test_wrong_sql_is_a_programming_error_that_names_what_is_wrong(db):
    with pytest.raises(aiodbkit.ProgrammingError, match="nowhere"):
        await db.fetch_all("select * from nowhere")
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.fetch_all("selec 1")
    with pytest.raises(aiodbkit.ProgrammingError, match="2 statements"):
        await db.fetch_all("select 1; select 2")


async def test_twenty_tasks_share_four_connections_and_lose_nothing(make_dbapi, people):
    db = await make_dbapi(max_size=4)

    async def work(number):
        for turn in range(5):
            async with db.transaction():
                await db.execute(
                    "insert into people values (:i, :n)", {"i": 100 + number * 5 + turn, "n": "x"}
                )

    await asyncio.gather(*(work(number) for number in range(20)))
    assert await db.fetch_val("select count(*) from people where id >= 100") == 100
    stats = db.pool.stats()
    assert stats.opened <= 4
    assert stats.in_use == 0


async def test_a_deadlock_names_its_loser_which_can_be_repeated(make_dbapi, people, sql):
    if sql.name == "sqlite":
        pytest.skip("SQLite has one writer at a time: they cannot wait for each other")
    db = await make_dbapi()
    both = asyncio.Barrier(2)
    met = []

    async def work(first, second):
        try:
            async with db.transaction():
                await db.execute("update people set name = 'x' where id = :i", {"i": first})
                await both.wait()
                await db.execute("update people set name = 'x' where id = :i", {"i": second})
        except aiodbkit.DeadlockError as error:
            met.append(error)

    await asyncio.gather(work(1, 2), work(2, 1))
    assert [error.is_transient for error in met] == [True]
    assert await db.fetch_val("select count(*) from people where name = 'x'") == 2
