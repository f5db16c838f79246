"""`retrying()`, and `db.retry` where a transaction or a session of the engine is open."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiodbkit import (
    DeadlockError,
    InterfaceError,
    RetryBudget,
    RetryPolicy,
    TransactionScopeError,
    retry,
    retrying,
)
from tests.unit.scripted_driver import ScriptedEngine, Server
from tests.virtual_time import virtual_time


@virtual_time
async def test_the_first_success_is_the_last_try() -> None:
    numbers = []
    async for attempt in retrying(max_retries=5):
        async with attempt:
            numbers.append(attempt.number)
            if attempt.number < 3:
                raise DeadlockError("again")
    assert numbers == [1, 2, 3]


@virtual_time
async def test_the_pauses_are_those_of_the_policy() -> None:
    loop = asyncio.get_running_loop()
    instants = []
    async for attempt in retrying(RetryPolicy(jitter=False, backoff=1.0)):
        async with attempt:
            instants.append(loop.time())
            if attempt.number < 4:
                raise DeadlockError("again")
    assert [round(instant - instants[0], 6) for instant in instants] == [0, 1, 3, 7]


@virtual_time
async def test_the_last_error_leaves_the_loop_with_its_attempts() -> None:
    tries = 0
    with pytest.raises(DeadlockError) as caught:
        async for attempt in retrying(max_retries=2):
            async with attempt:
                tries += 1
                raise DeadlockError("again")
    assert tries == 3
    assert caught.value.__notes__ == ["aiodbkit gave up after 3 attempts"]


@virtual_time
async def test_an_error_that_is_not_worth_it_leaves_the_loop_at_once() -> None:
    tries = 0
    with pytest.raises(ValueError, match="odd"):
        async for attempt in retrying():
            async with attempt:
                tries += 1
                raise ValueError("odd")
    assert tries == 1


@virtual_time
async def test_break_and_continue_in_the_work_are_successes() -> None:
    tries = []
    async for attempt in retrying():
        async with attempt:
            tries.append("break")
            break
    async for attempt in retrying():
        async with attempt:
            tries.append("continue")
            continue
    assert tries == ["break", "continue"]


@virtual_time
async def test_break_beside_the_work_ends_the_tries() -> None:
    tries = 0
    async for attempt in retrying(max_retries=9):
        if attempt.number == 3:
            break
        async with attempt:
            tries += 1
            raise DeadlockError("again")
    assert tries == 2


@virtual_time
async def test_going_on_without_a_try_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(InterfaceError, match="async with attempt:"):
        async for _ in retrying():
            continue


@virtual_time
async def test_an_error_beside_the_work_is_not_retried() -> None:
    tries = 0
    with pytest.raises(DeadlockError):
        async for _ in retrying():
            tries += 1
            raise DeadlockError("outside of the attempt")
    assert tries == 1


@virtual_time
async def test_cancelled_in_the_pause_the_loop_ends() -> None:
    tries = 0

    async def loop() -> None:
        nonlocal tries
        async for attempt in retrying(
            backoff=60.0, max_backoff=60.0, max_elapsed=None, jitter=False
        ):
            async with attempt:
                tries += 1
                raise DeadlockError("again")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await loop()
    assert tries == 1


@virtual_time
async def test_used_a_second_time_it_is_refused_instead_of_leaving_the_work_out() -> None:
    tries = retrying(max_retries=2)
    async for attempt in tries:
        async with attempt:
            pass
    with pytest.raises(InterfaceError, match=r"call retrying\(\) for each"):
        async for _ in tries:
            pytest.fail("these tries are used up")


@virtual_time
async def test_an_attempt_entered_twice_is_refused_as_a_part_of_the_work_is_no_try() -> None:
    done = []
    with pytest.raises(InterfaceError, match="put all of the work into one"):
        async for attempt in retrying(backoff=0):
            async with attempt:
                done.append("first half")
                raise DeadlockError("again")
            async with attempt:
                done.append("second half")
    assert done == ["first half"]


@virtual_time
async def test_max_elapsed_counts_from_the_first_try_not_from_the_making() -> None:
    tries = retrying(max_elapsed=5, max_retries=1)
    await asyncio.sleep(60)
    numbers = []
    async for attempt in tries:
        async with attempt:
            numbers.append(attempt.number)
            if attempt.number == 1:
                raise DeadlockError("again")
    assert numbers == [1, 2]


# db.retry


class Failing:
    """Work on an engine that deadlocks each time."""

    def __init__(self, db: ScriptedEngine) -> None:
        self.calls = 0

        @db.retry(max_retries=2)
        async def job() -> None:
            self.calls += 1
            raise DeadlockError("again")

        self.job = job

    async def run(self) -> int:
        before = self.calls
        with pytest.raises(DeadlockError):
            await self.job()
        return self.calls - before


@virtual_time
async def test_in_an_open_transaction_or_session_of_the_engine_it_runs_once() -> None:
    db = ScriptedEngine(Server())
    work = Failing(db)
    assert await work.run() == 3
    async with db.transaction(force_rollback=True):
        assert await work.run() == 1
    async with db.session():
        assert await work.run() == 1
    async with db.execution_context():
        assert await work.run() == 1
    async with db.connection() as conn:
        assert await work.run() == 3, "a mere connection is no transaction"
        await conn.begin()
        assert await work.run() == 1
        await conn.rollback()
        assert await work.run() == 3
    assert await work.run() == 3
    await db.close()


@virtual_time
async def test_in_a_transaction_of_another_engine_it_is_retried() -> None:
    db, other = ScriptedEngine(Server()), ScriptedEngine(Server())
    work = Failing(db)
    async with other.transaction():
        assert await work.run() == 3
    await other.close()


@virtual_time
async def test_in_a_child_task_it_runs_once_where_it_may_be_part_of_the_transaction() -> None:
    db = ScriptedEngine(Server())
    work = Failing(db)
    for child_tasks, tries in {"error": 1, "share": 1, "own": 3}.items():
        modes: Any = child_tasks
        async with db.transaction(child_tasks=modes):
            assert await asyncio.create_task(work.run()) == tries, child_tasks
    await db.close()


@virtual_time
async def test_only_the_outermost_of_decorated_transactions_is_repeated() -> None:
    db = ScriptedEngine(Server())
    calls = []
    policy = RetryPolicy(max_retries=2)

    @db.transaction(retry=policy)
    async def inner() -> None:
        calls.append("inner")
        await db.execute("inner")
        if len(calls) < 5:
            raise DeadlockError("again")

    @db.transaction(retry=policy)
    async def outer() -> None:
        calls.append("outer")
        await db.execute("outer")
        await inner()

    await outer()
    assert calls == ["outer", "inner"] * 3
    said = [text for text in db.server.committed if "SAVEPOINT" not in text]
    assert said == ["outer", "inner"], "what the failed tries did is gone"
    await db.close()


@virtual_time
async def test_hooks_of_a_failed_try_are_dropped() -> None:
    db = ScriptedEngine(Server())
    heard = []

    async def work(name: str) -> str:
        tries.append(1)
        attempt = len(tries)
        async with db.transaction() as tx:
            tx.on_commit(lambda: heard.append(f"committed {attempt}"))
            tx.on_rollback(lambda: heard.append(f"undone {attempt}"))
        if attempt < 3:
            raise DeadlockError("again")
        return name

    tries: list[int] = []
    assert await db.run_in_transaction(work, "x", retry=RetryPolicy()) == "x"
    assert heard == ["undone 1", "undone 2", "committed 3"]
    assert db.server.calls["begin"] == 3
    await db.close()


def transfer_with_hook(db: ScriptedEngine, error: Exception) -> Any:
    async def transfer() -> None:
        await db.execute("transfer")

        def hook() -> None:
            raise error

        async with db.transaction() as nested:
            nested.on_commit(hook)

    return transfer


@pytest.mark.parametrize(
    ("error", "on"),
    [(DeadlockError("of the hook"), None), (OSError("of the hook"), (DeadlockError, OSError))],
    ids=["transient", "named"],
)
@pytest.mark.parametrize(
    "form", ["transaction", "run_in_transaction", "db.retry", "retry", "session"]
)
@virtual_time
async def test_a_hook_that_fails_after_the_commit_does_not_repeat_the_transaction(
    form: str, error: Exception, on: Any
) -> None:
    db = ScriptedEngine(Server())
    policy, work = RetryPolicy(on=on), transfer_with_hook(db, error)

    async def in_session() -> None:
        async with db.session() as session:
            session.on_commit(lambda: None)
            await work()

    calls: dict[str, Any] = {
        "session": db.retry(policy)(in_session),
        "transaction": db.transaction(retry=policy)(work),
        "run_in_transaction": lambda: db.run_in_transaction(work, retry=policy),
        "db.retry": db.retry(policy)(db.transaction()(work)),
        "retry": retry(policy)(db.transaction()(work)),
    }
    error.__notes__ = []
    with pytest.raises(type(error)) as caught:
        await calls[form]()
    said = [text for text in db.server.committed if "SAVEPOINT" not in text]
    assert said == ["transfer"], "it was committed by the first try"
    assert "the transaction was committed" in caught.value.__notes__[-1]
    await db.close()


@virtual_time
async def test_retry_on_a_block_is_refused_with_the_reason_and_the_forms_that_work() -> None:
    db = ScriptedEngine(Server())
    with pytest.raises(TypeError, match=r"cannot.*@db.transaction\(retry=.*run_in_transaction"):
        async with db.transaction(retry=RetryPolicy()):
            pass


@virtual_time
async def test_a_child_task_is_told_that_it_is_one_by_a_retried_transaction() -> None:
    db = ScriptedEngine(Server())
    calls = []

    @db.transaction(retry=RetryPolicy())
    async def job() -> None:
        calls.append(1)

    async with db.transaction():
        with pytest.raises(TransactionScopeError):
            await asyncio.create_task(job())
    assert not calls
    await db.close()


@virtual_time
async def test_the_engines_loop_has_its_budget_and_runs_once_in_a_transaction() -> None:
    async def tries() -> int:
        count = 0
        with pytest.raises(DeadlockError):
            async for attempt in db.retrying(max_retries=5, backoff=0):
                async with attempt:
                    count += 1
                    raise DeadlockError("again")
        return count

    async with ScriptedEngine(Server(), retry_budget=RetryBudget(reserve=2, ratio=0.0)) as db:
        async with db.transaction():
            assert await tries() == 1
        assert await tries() == 3
        assert await tries() == 1
