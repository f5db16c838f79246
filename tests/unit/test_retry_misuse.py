"""What can be retried and with which figures, and what is refused."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from aiodbkit import (
    ConfigurationError,
    DeadlockError,
    RetryBudget,
    RetryPolicy,
    retry,
    retrying,
)
from tests.unit.scripted_driver import ScriptedEngine, Server
from tests.unit.test_retry import Work, deadlocks
from tests.virtual_time import virtual_time

# What can be decorated


def test_a_sync_function_is_refused_with_the_reason() -> None:
    def work() -> None: ...

    with pytest.raises(TypeError, match=r"@retry.*work is not one.*stopping the event loop"):
        retry(work)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"stopping the event loop"):
        retry(max_retries=1)(work)  # type: ignore[arg-type]


def test_a_generator_is_refused_with_the_reason() -> None:
    def rows() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"rows is a generator"):
        retry(rows)  # type: ignore[arg-type]


def test_an_async_generator_is_refused_with_the_reason_and_the_cure() -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"cannot be taken back.*Retry what consumes it"):
        retry()(rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", [3, "x", None])
def test_what_is_no_function_at_all_is_refused(what: Any) -> None:
    with pytest.raises(TypeError, match="wraps async functions"):
        retry()(what)


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_a_decorator_under_a_staticmethod_or_classmethod_is_told_the_order(kind: Any) -> None:
    async def work() -> None: ...

    told = f"write @{kind.__name__} above @retry"
    for decorate in (retry, retry(), ScriptedEngine(Server()).retry):
        with pytest.raises(TypeError, match=told):
            decorate(kind(work))


def test_a_class_is_refused_for_what_it_is() -> None:
    decorate: Any = retry
    with pytest.raises(TypeError, match="RetryPolicy is a class"):
        decorate(RetryPolicy)


@virtual_time
async def test_an_object_that_is_called_like_an_async_function_is_retried() -> None:
    work = Work(*deadlocks(2))
    assert await retry(work)() == "done"
    assert work.calls == 3


@pytest.mark.parametrize("policy", [3, True, "twice"])
def test_a_transaction_takes_no_number_for_a_policy(policy: Any) -> None:
    async def work() -> None: ...

    with pytest.raises(ConfigurationError, match=f"takes a RetryPolicy.*not {policy!r}"):
        ScriptedEngine(Server()).transaction(retry=policy)(work)


@pytest.mark.parametrize("decorate", ["retry", "db.retry", "db.transaction"])
def test_the_engines_decorators_refuse_the_same(decorate: str) -> None:
    db = ScriptedEngine(Server())
    decorators: dict[str, Any] = {
        "retry": retry(),
        "db.retry": db.retry(),
        "db.transaction": db.transaction(retry=RetryPolicy()),
    }
    with pytest.raises(TypeError, match="async"):
        decorators[decorate](lambda: None)


@virtual_time
async def test_it_decorates_bare_with_arguments_and_with_a_policy() -> None:
    works = [Work(*deadlocks(1)) for _ in range(4)]

    @retry
    async def bare() -> str:
        """Its own docstring."""
        return await works[0]()

    @retry(max_retries=1)
    async def with_figures() -> str:
        return await works[1]()

    @retry(RetryPolicy(max_retries=1))
    async def with_policy() -> str:
        return await works[2]()

    async def called() -> str:
        return await works[3]()

    assert (bare.__name__, bare.__doc__) == ("bare", "Its own docstring.")
    for job in (bare, with_figures, with_policy, retry(called, max_retries=1)):
        assert await job() == "done"
    assert [work.calls for work in works] == [2] * 4


@virtual_time
async def test_figures_beside_a_function_count() -> None:
    work = Work(*deadlocks(9))

    async def job() -> str:
        return await work()

    for decorate in (retry, ScriptedEngine(Server()).retry):
        before = work.calls
        with pytest.raises(DeadlockError):
            await decorate(job, max_retries=1)()
        assert work.calls == before + 2


@virtual_time
async def test_a_method_a_classmethod_and_a_partial_keep_their_arguments() -> None:
    class Service:
        def __init__(self) -> None:
            self.work = Work(*deadlocks(2))

        @retry(max_retries=1)
        async def do(self, number: int, *, times: int = 2) -> int:
            await self.work()
            return number * times

        @classmethod
        @retry
        async def make(cls) -> str:
            return cls.__name__

    service = Service()
    with pytest.raises(DeadlockError):
        await service.do(3)
    assert await service.do(3, times=5) == 15
    assert await Service.make() == "Service"
    assert await retry(functools.partial(service.do, 4))() == 8


@virtual_time
async def test_calls_at_once_have_tries_of_their_own() -> None:
    calls: dict[int, int] = {}

    @retry(max_retries=2, jitter=False)
    async def job(number: int) -> int:
        calls[number] = calls.get(number, 0) + 1
        if calls[number] <= number:
            raise DeadlockError("again")
        return number

    assert await asyncio.gather(*(job(number) for number in range(3))) == [0, 1, 2]
    assert calls == {0: 1, 1: 2, 2: 3}


# Bad figures


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"backoff": "1"}, "backoff"),
        ({"max_backoff": float("inf")}, "max_backoff"),
        ({"max_elapsed": -1}, "max_elapsed"),
        ({"on": 3}, "on"),
        ({"on": (ValueError, "x")}, "on"),
        ({"on": asyncio.CancelledError}, "on"),
        ({"before_retry": 3}, "before_retry"),
        ({"budget": 10}, "RetryBudget"),
        ({"retries": 3}, "retries.*max_retries"),
    ],
)
@pytest.mark.parametrize("call", [retry, retrying], ids=["retry", "retrying"])
def test_a_figure_that_cannot_be_is_refused_by_its_name(
    call: Any, figures: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        call(**figures)


@pytest.mark.parametrize("call", [retry, retrying, ScriptedEngine(Server()).retry])
def test_an_async_judge_of_errors_is_refused_as_it_would_say_yes_to_all(call: Any) -> None:
    async def judge(_error: Exception) -> bool:
        return False

    with pytest.raises(ConfigurationError, match="on= takes a sync function"):
        call(on=judge)
    with pytest.raises(ConfigurationError, match="on= takes a sync function"):
        RetryPolicy(on=judge)


@pytest.mark.parametrize("call", [retry, retrying, ScriptedEngine(Server()).retry])
def test_a_policy_and_figures_together_or_something_else_are_refused(call: Any) -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        call(RetryPolicy(), max_retries=3)
    with pytest.raises(ConfigurationError, match="RetryPolicy"):
        call(3)


@pytest.mark.parametrize("figures", [{"ratio": -1}, {"reserve": 0}, {"reserve": 1.5}])
def test_a_budget_that_cannot_be_is_refused(figures: Any) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(figures))):
        RetryBudget(**figures)
