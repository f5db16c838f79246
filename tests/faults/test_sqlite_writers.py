"""SQLite has one writer at a time: who waits for whom, how long, and what a waiter is told."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import aiodbkit
from aiodbkit.backends.sqlite.turns import WriteTurn, write_turn
from tests.sqlite.library import MEMORY, SCHEME, on_raw, opened, path_of

ENDLESS = (
    "with recursive n(x) as (select 1 union all select x + 1 from n) select x from n where x < 0"
)
COUNT = "select count(*) from t"
ADD = "insert into t (who) values (:who)"

MakeEngine = Callable[..., Awaitable[aiodbkit.Engine]]


@pytest.fixture
async def make(sqlite_engine: MakeEngine) -> MakeEngine:
    """A factory of engines on one file, which has the empty table t."""
    db = await sqlite_engine()
    await db.execute("create table t (id integer primary key, who integer)")
    return sqlite_engine


@pytest.fixture(params=["file", "memory"])
async def db(request: pytest.FixtureRequest, make: MakeEngine) -> AsyncIterator[aiodbkit.Engine]:
    if request.param == "file":
        yield await make()
        return
    async with aiodbkit.create_engine(MEMORY) as engine:
        await engine.execute("create table t (id integer primary key, who integer)")
        yield engine


@pytest.fixture
def elsewhere(sqlite_url: str, make: MakeEngine) -> Iterator[sqlite3.Connection]:
    """A connection that takes no turns: to SQLite, the same as another process."""
    path = path_of(sqlite_url)
    other = opened(path)
    yield other
    other.close()


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def write(db: aiodbkit.Engine, who: int, times: int = 1) -> None:
    """Write, every third time in a transaction that reads first."""
    for number in range(times):
        if (who + number) % 3:
            await db.execute(ADD, {"who": who})
            continue
        async with db.transaction():
            await db.fetch_val(COUNT)
            await db.execute(ADD, {"who": who})


async def test_twenty_tasks_with_fifty_writes_each_never_see_a_locked_database(
    db: aiodbkit.Engine,
) -> None:
    await asyncio.gather(*(write(db, who, 50) for who in range(20)))
    counts = await db.fetch_column("select count(*) from t group by who")
    assert counts == [50] * 20


async def test_two_engines_on_one_file_take_turns_however_it_is_called(
    make: MakeEngine, sqlite_url: str, tmp_path: Any
) -> None:
    (tmp_path / "link.db").symlink_to(path_of(sqlite_url))
    """SQLite itself is told not to wait for a lock, so that only the turns can help."""
    only_turns = {"timeout": 0, "lock_timeout": 5}
    paths = ("test.db", "link.db", f"../{tmp_path.name}/test.db")
    engines = [await make(f"{SCHEME}:///{tmp_path}/{path}", **only_turns) for path in paths]
    await asyncio.gather(*(write(engines[who % 3], who, 20) for who in range(9)))
    assert await engines[0].fetch_val(COUNT) == 180


async def test_writers_are_served_in_the_order_in_which_they_asked(db: aiodbkit.Engine) -> None:
    tasks = []
    async with db.transaction():
        for who in range(8):
            tasks.append(asyncio.create_task(_outside(db, who)))
            await turns(3)
    await asyncio.gather(*tasks)
    assert await db.fetch_column("select who from t order by id") == [*range(8)]


async def _outside(db: aiodbkit.Engine, who: int) -> None:
    async with db.execution_context(transaction=bool(who % 2)) as conn:
        await conn.execute(ADD, {"who": who})


async def test_readers_of_a_file_run_beside_the_writer(make: MakeEngine) -> None:
    db = await make(child_tasks="own")
    async with db.execution_context() as writer:
        await writer.execute(ADD, {"who": 1})
        assert await asyncio.gather(*(db.fetch_val(COUNT) for _ in range(5))) == [0] * 5
        reading = db.execution_context(transaction=False)
        async with reading as reader, reader.transaction(read_only=True):
            assert await reader.fetch_val(COUNT) == 0
    assert await db.fetch_val(COUNT) == 1


async def test_in_memory_a_reader_waits_for_the_writer() -> None:
    async with aiodbkit.create_engine(MEMORY) as db:
        await db.execute("create table t (id integer primary key, who integer)")
        async with db.execution_context() as writer:
            await writer.execute(ADD, {"who": 1})
            reader = asyncio.create_task(_count(db))
            await turns()
            assert not reader.done()
        assert await reader == 1


async def _count(db: aiodbkit.Engine) -> Any:
    async with db.execution_context(transaction=False) as conn:
        return await conn.fetch_val(COUNT)


async def test_in_memory_rows_may_be_written_while_others_are_read() -> None:
    async with aiodbkit.create_engine(MEMORY) as db:
        await db.execute("create table t (id integer primary key, who integer)")
        await db.insert_many("t", [{"who": n} for n in range(500)])
        async for row in db.iterate("select id from t", batch_size=10):
            await db.execute("update t set who = -1 where id = :id", {"id": row.id})
        assert await db.fetch_val("select count(*) from t where who = -1") == 500


async def test_a_cancelled_waiter_leaves_the_line_and_keeps_no_turn(
    db: aiodbkit.Engine,
) -> None:
    async with db.execution_context():
        tasks = [asyncio.create_task(_outside(db, who)) for who in range(6)]
        await turns()
        for task in tasks[::2]:
            task.cancel()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, False] * 3
    assert await db.fetch_column("select who from t order by id") == [1, 3, 5]


async def test_a_waiter_cancelled_in_the_moment_of_its_turn_hands_it_on() -> None:
    turn = write_turn("moment", "it")
    assert turn.try_take("first")
    second = asyncio.create_task(turn.take("second", 5, None))
    third = asyncio.create_task(turn.take("third", 5, None))
    await turns(3)
    turn.give_back("first")
    assert turn.is_held_by("second")
    second.cancel()
    await asyncio.wait([second, third])
    assert second.cancelled()
    assert turn.is_held_by("third")


async def test_a_turn_is_given_back_by_its_holder_only() -> None:
    turn = write_turn("owner", "it")
    assert turn.try_take("first")
    turn.give_back("second")
    assert turn.is_held_by("first")
    assert not turn.try_take("second")
    assert turn.try_take("first")
    turn.give_back("first")
    assert turn.try_take("second")


async def test_a_line_that_moves_on_is_waited_in_for_longer_than_the_patience() -> None:
    turn = WriteTurn("it")
    clock = [0.0]
    loop = asyncio.get_running_loop()
    turn._loop = _Clock(loop, clock)  # type: ignore[assignment]
    assert turn.try_take("first")
    second = asyncio.create_task(turn.take("second", 1, None))
    third = asyncio.create_task(turn.take("third", 1, None))
    await turns(3)
    clock[0] = 0.9
    turn.give_back("first")
    clock[0] = 1.8
    await second
    turn._watch(turn._line[0])  # what the timer does
    assert not third.done()
    clock[0] = 2.0
    turn._watch(turn._line[0])
    with pytest.raises(aiodbkit.LockTimeoutError, match="held the write turn of it for 1.1 s"):
        await third


class _Clock:
    """The loop, but for its time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: list[float]) -> None:
        self.time = lambda: now[0]
        self.call_at = lambda _, *call: loop.call_later(60, *call)
        self.is_closed = loop.is_closed


async def test_who_waits_for_another_task_too_long_may_try_again(make: MakeEngine) -> None:
    db = await make(pragmas={"busy_timeout": 30}, child_tasks="own")
    async with db.transaction():
        await db.execute(ADD, {"who": 1})
        with pytest.raises(aiodbkit.LockTimeoutError) as caught:
            await asyncio.create_task(write(db, 2))
        for word in ("write turn", "test.db", "lock_timeout=0.03", "keep write transactions short"):
            assert word in str(caught.value)
        assert caught.value.query == ADD
        assert caught.value.is_transient


async def test_a_timeout_covers_the_wait_for_the_turn(db: aiodbkit.Engine) -> None:
    async with db.execution_context():
        late = asyncio.create_task(_outside_in_time(db))
        with pytest.raises(aiodbkit.QueryTimeoutError, match=r"timeout=0\.02 s.*nothing was done"):
            await late
    await db.execute(ADD, {"who": 3})
    assert await db.fetch_val(COUNT) == 1


async def _outside_in_time(db: aiodbkit.Engine) -> None:
    async with db.execution_context(transaction=False) as other:
        await other.execute(ADD, {"who": 2}, timeout=0.02)


async def test_another_process_is_waited_for(
    make: MakeEngine, elsewhere: sqlite3.Connection
) -> None:
    db = await make()
    elsewhere.execute("begin immediate")
    writers = [asyncio.create_task(write(db, who)) for who in range(5)]
    await turns()
    assert await db.fetch_val(COUNT) == 0
    elsewhere.execute("commit")
    await asyncio.gather(*writers)
    assert await db.fetch_val(COUNT) == 5


@pytest.mark.parametrize("how", ["execute", "transaction", "script", "insert_many"])
async def test_another_process_is_waited_for_no_longer_than_the_busy_timeout(
    how: str, make: MakeEngine, elsewhere: sqlite3.Connection
) -> None:
    db = await make(timeout=0.03)
    elsewhere.execute("begin immediate")
    with pytest.raises(aiodbkit.LockTimeoutError, match=r"locked.*another process") as caught:
        if how == "execute":
            await db.execute(ADD, {"who": 1})
        elif how == "transaction":
            async with db.transaction():
                pytest.fail("the body ran")
        elif how == "script":
            await db.execute_script("insert into t (who) values (1)")
        else:
            await db.insert_many("t", [{"who": 1}])
    assert (caught.value.code, caught.value.is_transient) == (5, True)
    elsewhere.execute("commit")
    await write(db, 1, 3)
    assert await db.fetch_val(COUNT) == 3


async def test_a_wait_for_another_process_can_be_ended_by_a_timeout(
    make: MakeEngine, elsewhere: sqlite3.Connection
) -> None:
    db = await make(timeout=600)
    elsewhere.execute("begin immediate")
    with pytest.raises(aiodbkit.QueryTimeoutError):
        await db.execute(ADD, {"who": 1}, timeout=0.02)
    elsewhere.execute("commit")
    assert await db.fetch_val(COUNT) == 0


async def test_a_deferred_transaction_that_has_read_cannot_write_after_others(
    make: MakeEngine,
) -> None:
    db = await make()
    with pytest.raises(aiodbkit.SerializationError, match="roll it back"):
        async with db.transaction(mode="deferred"):
            await db.fetch_val(COUNT)
            async with db.execution_context(transaction=False) as other:
                await other.execute(ADD, {"who": 1})
            await db.execute(ADD, {"who": 2})
    assert await db.fetch_column("select who from t") == [1]


async def test_a_deferred_transaction_takes_the_turn_with_its_first_write(
    make: MakeEngine,
) -> None:
    db = await make()
    async with db.transaction(mode="deferred"):
        async with db.execution_context(transaction=False) as other:
            await other.execute(ADD, {"who": 1})
        await db.execute(ADD, {"who": 2})
        later = asyncio.create_task(_outside(db, 3))
        await turns()
        assert not later.done()
    await later
    assert await db.fetch_column("select who from t order by id") == [1, 2, 3]


async def test_a_deferred_transaction_meets_the_writer_of_another_process(
    make: MakeEngine, elsewhere: sqlite3.Connection
) -> None:
    db = await make()
    elsewhere.execute("begin immediate")
    with pytest.raises(aiodbkit.SerializationError):
        async with db.transaction(mode="deferred"):
            await db.fetch_val(COUNT)
            await db.execute(ADD, {"who": 1})
    elsewhere.execute("commit")
    await write(db, 1)


@asynccontextmanager
async def _holding(db: aiodbkit.Engine, how: str) -> AsyncIterator[Any]:
    """A connection that holds the write turn in one of the ways there are."""
    async with db.execution_context(transaction=False) as conn:
        if how == "begin":
            await conn.begin()
        elif how == "sql":
            await conn.execute("begin immediate")
        else:
            await conn.execute("begin")
            await conn.execute(ADD, {"who": 0})
        yield conn


@pytest.mark.parametrize("how", ["begin", "sql", "deferred sql"])
@pytest.mark.parametrize("end", ["commit", "rollback", "release", "raw", "interrupt"])
async def test_the_turn_goes_on_however_its_holder_ends(
    how: str, end: str, make: MakeEngine
) -> None:
    db = await make(max_size=2)
    async with _holding(db, how) as conn:
        later = asyncio.create_task(_outside(db, 1))
        await turns()
        assert not later.done()
        if end in ("commit", "rollback"):
            await conn.execute(end) if how != "begin" else await getattr(conn, end)()
            await later
        elif end == "raw":
            await on_raw(conn.raw.close)
        elif end == "interrupt":
            with pytest.raises(aiodbkit.QueryTimeoutError):
                await conn.fetch_val(ENDLESS, timeout=0.01)
    await later
    await asyncio.gather(*(_outside(db, who) for who in range(2, 5)))
    kept = [0] if (how, end) == ("deferred sql", "commit") else []
    assert await db.fetch_column("select who from t order by id") == [*kept, 1, 2, 3, 4]


async def test_closing_the_engine_under_a_writer_frees_the_turn(make: MakeEngine) -> None:
    first, second = await make(), await make()
    inside = asyncio.Event()

    async def hold() -> None:
        async with first.transaction():
            await first.execute(ADD, {"who": 1})
            inside.set()
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    await inside.wait()
    await first.close(timeout=0)
    await second.execute(ADD, {"who": 2})
    holder.cancel()
    await asyncio.wait([holder])
    assert await second.fetch_column("select who from t") == [2]
