"""Trying again, by itself: when, how often, how long after, and by whose leave."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import aiodbkit
from aiodbkit import (
    CommitUnknownError,
    ConnectionLostError,
    DeadlockError,
    LockTimeoutError,
    OperationalError,
    RetryBudget,
    RetryEvent,
    RetryPolicy,
    SerializationError,
    UniqueViolationError,
    retry,
    retrying,
)
from tests.unit.scripted_driver import ScriptedEngine, Server
from tests.virtual_time import virtual_time


class Work:
    """Fails with the errors it was given, one at each call, then succeeds; knows when it ran."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.instants: list[float] = []

    async def __call__(self) -> str:
        self.instants.append(asyncio.get_running_loop().time())
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    @property
    def calls(self) -> int:
        return len(self.instants)

    @property
    def waits(self) -> list[float]:
        pairs = zip(self.instants, self.instants[1:], strict=False)
        return [pytest.approx(later - sooner) for sooner, later in pairs]


def under(work: Work, **figures: Any) -> Callable[[], Any]:
    """The work, decorated."""

    @retry(**{"jitter": False, **figures})
    async def job() -> str:
        return await work()

    return job


def deadlocks(count: int) -> list[BaseException]:
    return [DeadlockError(f"number {n}") for n in range(1, count + 1)]


# How long, how often


@virtual_time
async def test_each_wait_is_twice_the_one_before_up_to_the_longest() -> None:
    work = Work(*deadlocks(5))
    job = under(work, max_retries=5, backoff=0.5, max_backoff=3, max_elapsed=None)
    assert await job() == "done"
    assert work.waits == [0.5, 1, 2, 3, 3]


@virtual_time
async def test_by_default_it_waits_a_tenth_of_a_second_and_tries_four_times() -> None:
    work = Work(*deadlocks(9))
    with pytest.raises(DeadlockError, match="number 4"):
        await under(work)()
    assert work.waits == [0.1, 0.2, 0.4]


@virtual_time
async def test_jitter_waits_a_random_part_of_each_pause() -> None:
    firsts = []
    for _ in range(50):
        work = Work(*deadlocks(2))
        await under(work, jitter=True, backoff=1.0)()
        first, second = (wait.expected for wait in work.waits)
        assert 0 <= first <= 1
        assert 0 <= second <= 2
        firsts.append(first)
    assert len(set(firsts)) > 40
    assert min(firsts) < 0.4, "it is the whole pause that is random"
    assert max(firsts) > 0.6


@virtual_time
async def test_without_retries_it_is_called_once() -> None:
    work = Work(*deadlocks(1))
    with pytest.raises(DeadlockError) as caught:
        await under(work, max_retries=0)()
    assert work.calls == 1
    assert not hasattr(caught.value, "__notes__"), "one attempt is no news"


@virtual_time
async def test_no_try_begins_after_max_elapsed_and_nobody_waits_for_it_in_vain() -> None:
    work = Work(*deadlocks(9))
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(DeadlockError, match="number 3") as caught:
        await under(work, max_retries=9, backoff=1.0, max_elapsed=5)()
    assert work.waits == [1, 2]
    assert loop.time() - began == pytest.approx(3), "it did not wait for the fourth second"
    assert caught.value.__notes__ == [
        "aiodbkit gave up after 3 attempts: the next one would come after max_elapsed=5 s"
    ]


@virtual_time
async def test_the_time_that_the_work_takes_counts_too() -> None:
    calls = []

    @retry(jitter=False, backoff=1.0, max_elapsed=5)
    async def slow() -> None:
        calls.append(1)
        await asyncio.sleep(10)
        raise DeadlockError("late")

    with pytest.raises(DeadlockError):
        await slow()
    assert len(calls) == 1


# Which errors


@pytest.mark.parametrize(
    "error",
    [
        SerializationError("x"),
        LockTimeoutError("x"),
        ConnectionLostError("x", is_transient=True),
        OperationalError("x", is_transient=True),
    ],
)
@virtual_time
async def test_by_default_transient_errors_are_worth_another_try(error: Exception) -> None:
    work = Work(error)
    assert await under(work)() == "done"
    assert work.calls == 2


@pytest.mark.parametrize(
    "error",
    [
        ConnectionLostError("in flight"),
        CommitUnknownError("x"),
        UniqueViolationError("x"),
        DeadlockError("x", is_transient=False),
        OSError("x"),
        ValueError("x"),
    ],
)
@virtual_time
async def test_by_default_no_other_error_is_and_it_is_raised_as_it_is(error: Exception) -> None:
    work = Work(error)
    with pytest.raises(type(error)) as caught:
        await under(work)()
    assert caught.value is error
    assert work.calls == 1


@pytest.mark.parametrize(
    "on",
    [
        OSError,
        (ValueError, OSError),
        lambda error: "please" in str(error),
    ],
    ids=["class", "tuple", "function"],
)
@virtual_time
async def test_on_says_which_errors_and_no_others(on: Any) -> None:
    work = Work(ConnectionError("please"), DeadlockError("transient, but not named"))
    with pytest.raises(DeadlockError):
        await under(work, on=on)()
    assert work.calls == 2


@pytest.mark.parametrize("on", [Exception, OperationalError, (aiodbkit.Error, ValueError)])
@virtual_time
async def test_an_unknown_commit_is_not_repeated_by_the_name_of_a_base_class(on: Any) -> None:
    work = Work(CommitUnknownError("perhaps"))
    with pytest.raises(CommitUnknownError):
        await under(work, on=on)()
    assert work.calls == 1


@virtual_time
async def test_an_unknown_commit_is_repeated_by_its_own_name() -> None:
    work = Work(CommitUnknownError("perhaps"), CommitUnknownError("perhaps"))
    assert await under(work, on=(CommitUnknownError, DeadlockError))() == "done"
    assert work.calls == 3


def group(*errors: Exception) -> Exception:
    return ExceptionGroup("of a task group", errors)


@pytest.mark.parametrize(
    ("error", "figures", "calls"),
    [
        (group(DeadlockError("a"), group(LockTimeoutError("b"))), {}, 2),
        (group(DeadlockError("a"), ValueError("b")), {}, 1),
        (group(OSError("a")), {"on": OSError}, 2),
        (group(CommitUnknownError("a")), {"on": Exception}, 1),
        (group(ValueError("a")), {"on": ExceptionGroup}, 2),
        (group(ValueError("a")), {"on": lambda error: isinstance(error, ExceptionGroup)}, 2),
    ],
)
@virtual_time
async def test_a_group_of_errors_is_worth_another_try_if_each_of_them_is(
    error: Exception, figures: Any, calls: int
) -> None:
    work = Work(error)
    with suppress(ExceptionGroup):
        await under(work, **figures)()
    assert work.calls == calls


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit()])
@virtual_time
async def test_what_is_no_exception_goes_through_at_once(error: BaseException) -> None:
    work = Work(error)
    retrying_all = retrying(on=lambda _: True)
    with pytest.raises(type(error)):
        async for attempt in retrying_all:
            async with attempt:
                with suppress(RuntimeError):
                    await work()
    assert work.calls == 1


@virtual_time
async def test_the_last_error_is_raised_as_it_is_with_the_attempts_in_its_notes() -> None:
    errors = deadlocks(3)
    last = errors[-1]
    with pytest.raises(DeadlockError) as caught:
        await under(Work(*errors), max_retries=2)()
    assert caught.value is last
    assert caught.value.__cause__ is None
    assert caught.value.__notes__ == ["aiodbkit gave up after 3 attempts"]


@virtual_time
async def test_an_error_that_is_not_worth_it_tells_the_attempts_before_it() -> None:
    with pytest.raises(ValueError, match="odd") as caught:
        await under(Work(*deadlocks(1), ValueError("odd")))()
    assert caught.value.__notes__ == ["aiodbkit gave up after 2 attempts"]


# The budget


@virtual_time
async def test_a_budget_is_shared_and_ends_retries_when_it_is_used_up() -> None:
    budget = RetryBudget(reserve=3)
    works = [Work(*deadlocks(9)) for _ in range(4)]
    for work in works:
        with pytest.raises(DeadlockError) as caught:
            await under(work, max_retries=2, budget=budget)()
        notes = caught.value.__notes__
    assert [work.calls for work in works] == [3, 2, 1, 1]
    assert notes == ["aiodbkit gave up after 1 attempt: the retry budget is used up"]
    assert budget.left == 0


@virtual_time
async def test_a_budget_earns_by_first_tries_and_keeps_no_more_than_its_reserve() -> None:
    budget = RetryBudget(ratio=0.5, reserve=2)
    await under(Work(), budget=budget)()
    assert budget.left == 2
    await under(Work(*deadlocks(2)), budget=budget)()
    assert budget.left == 0, "a success after retries earns nothing"
    await under(Work(), budget=budget)()
    assert budget.left == 0.5
    work = Work(*deadlocks(1))
    with pytest.raises(DeadlockError):
        await under(work, budget=budget)()
    assert work.calls == 1


@virtual_time
async def test_an_engines_budget_is_there_for_all_its_retries_but_not_for_others() -> None:
    db = ScriptedEngine(Server(), retry_budget=RetryBudget(reserve=1))

    def failing(decorate: Any) -> tuple[Work, Any]:
        work = Work(*deadlocks(2))

        async def job() -> str:
            return await work()

        return work, decorate(job)

    by_retry, job = failing(db.retry(jitter=False))
    with pytest.raises(DeadlockError):
        await job()
    by_transaction, job = failing(db.transaction(retry=RetryPolicy(jitter=False)))
    with pytest.raises(DeadlockError):
        await job()
    alone, job = failing(retry(jitter=False))
    assert await job() == "done"
    own, job = failing(db.retry(jitter=False, budget=RetryBudget()))
    assert await job() == "done"
    assert [work.calls for work in (by_retry, by_transaction, alone, own)] == [2, 1, 3, 3]
    await db.close()


# Being told


@pytest.mark.parametrize("is_async", [False, True])
@virtual_time
async def test_before_retry_is_told_before_each_pause(is_async: bool) -> None:
    told: list[tuple[RetryEvent, float]] = []
    loop = asyncio.get_running_loop()

    def plain(event: RetryEvent) -> None:
        told.append((event, loop.time()))

    async def slow(event: RetryEvent) -> None:
        await asyncio.sleep(7)
        plain(event)

    work = Work(*deadlocks(2))
    errors = list(work.errors)
    await under(work, before_retry=slow if is_async else plain, max_elapsed=None)()
    events = [event for event, _ in told]
    assert [(event.attempt, event.wait) for event in events] == [(1, 0.1), (2, 0.2)]
    assert [event.error for event in events] == errors
    assert all(event.name.endswith("job") for event in events)
    extra = 7 if is_async else 0
    assert work.waits == [extra + 0.1, extra + 0.2]


@virtual_time
async def test_an_error_of_before_retry_ends_the_tries_and_shows_what_led_to_it() -> None:
    def refuse(_event: RetryEvent) -> None:
        raise RuntimeError("not now")

    work = Work(*deadlocks(1))
    with pytest.raises(RuntimeError, match="not now") as caught:
        await under(work, before_retry=refuse)()
    assert work.calls == 1
    assert str(caught.value.__context__) == "number 1"


@virtual_time
async def test_a_slow_before_retry_does_not_make_a_try_begin_after_max_elapsed() -> None:
    async def slow(_event: RetryEvent) -> None:
        await asyncio.sleep(7)

    work = Work(*deadlocks(2))
    with pytest.raises(DeadlockError, match="number 1") as caught:
        await under(work, before_retry=slow, max_elapsed=5)()
    assert work.calls == 1
    assert caught.value.__notes__ == [
        "aiodbkit gave up after 1 attempt: the next one would come after max_elapsed=5 s"
    ]


@virtual_time
async def test_each_retry_is_logged_with_the_attempt_the_wait_and_the_error() -> None:
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lines.append  # type: ignore[method-assign]
    logger = logging.getLogger("aiodbkit.retry")
    logger.addHandler(handler)
    try:
        await under(Work(*deadlocks(1)))()
    finally:
        logger.removeHandler(handler)
    [line] = lines
    assert line.levelno == logging.WARNING
    text = line.getMessage()
    assert "job: try 1 of 4 failed, the next one comes in 0.100 s" in text
    assert "DeadlockError: number 1" in text


def test_where_logging_is_not_set_up_retries_say_nothing_on_stderr() -> None:
    code = """
import asyncio, aiodbkit
tries = []
@aiodbkit.retry(backoff=0)
async def job():
    tries.append(1)
    if len(tries) < 3:
        raise aiodbkit.DeadlockError("again")
asyncio.run(job())
print(len(tries))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("3\n", "")


# Cancellation


@virtual_time
async def test_cancelled_during_the_pause_it_ends_at_once() -> None:
    work = Work(*deadlocks(9))
    task = asyncio.create_task(under(work, backoff=60.0, max_backoff=60.0, max_elapsed=None)())
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.calls == 1
    assert loop.time() - began == pytest.approx(1)


@virtual_time
async def test_a_timeout_around_it_covers_all_tries_and_pauses() -> None:
    work = Work(*deadlocks(9))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(4):
            await under(work, max_retries=9, backoff=1.0)()
    assert work.waits == [1, 2]
