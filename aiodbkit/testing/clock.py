"""A clock for tests: hours pass in milliseconds, and two runs are the same.

    @virtual_time
    async def test_an_idle_connection_is_closed_after_an_hour(): ...

The loop never sleeps: when no callback is ready, its clock jumps to the next timer. aiodbkit's
own clock is the loop's meanwhile. Where neither a callback nor a timer is left,
nothing can ever happen again: the test fails with `NothingLeft` instead of hanging.

For what needs no network and no thread: a `ScriptedEngine`, or resources of a `Pool` of your own.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

__all__ = [
    "NothingLeft",
    "VirtualTimeLoop",
    "run_in_virtual_time",
    "virtual_time",
    "virtual_time_loop",
]


class NothingLeft(BaseException):
    """Every task waits for something that cannot happen: a lost wake-up, a deadlock."""


class _NumberedTask(asyncio.Task[Any]):
    """A set of tasks has the same order in each run: by itself a task's hash is its address."""

    def __init__(self, number: int, *args: Any, **options: Any) -> None:
        self._number = number  # first: the other __init__ puts the task into a set
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._number


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock moves only when there is nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 1_000.0
        self.turns = 0  # how often it has run what was ready
        self._select = self._selector.select  # type: ignore[attr-defined]
        self._selector.select = self._jump  # type: ignore[attr-defined]

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._now

    def turn(self) -> None:
        """Run what is ready now, once; the clock stands still. For who drives the loop himself."""
        self.call_soon(self.stop)
        self.run_forever()

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to run before the clock moves."""
        timers = self._scheduled  # type: ignore[attr-defined]
        return not self._ready and not (timers and timers[0].when() <= self._now)  # type: ignore[attr-defined]

    def pass_time(self, seconds: float) -> None:
        """Run whatever happens within ``seconds``. For who drives the loop himself."""
        self.call_later(seconds, self.stop)
        self.run_forever()

    def _jump(self, timeout: float | None) -> Any:
        self.turns += 1
        events = self._select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            waiting = "; ".join(map(_where, asyncio.all_tasks(self)))
            raise NothingLeft(f"nothing is left to happen, but these wait: {waiting}")
        self._now += timeout
        return events


def _where(task: asyncio.Task[Any]) -> str:
    """Return which coroutines a task stands in, from the outermost to the innermost."""
    names: list[str] = []
    coroutine: Any = task.get_coro()
    while coroutine is not None:
        names.append(getattr(coroutine, "__qualname__", type(coroutine).__name__))
        coroutine = getattr(coroutine, "cr_await", None)
    return f"{task.get_name()} in {' > '.join(names)}"


@contextmanager
def _clock(loop: VirtualTimeLoop) -> Iterator[None]:
    """Let aiodbkit tell the time by ``loop``."""
    users = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("aiodbkit") and getattr(module, "monotonic", None) is time.monotonic
    ]
    for module in users:
        module.monotonic = loop.time  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in users:
            module.monotonic = time.monotonic  # type: ignore[attr-defined]


@contextmanager
def virtual_time_loop() -> Iterator[VirtualTimeLoop]:
    """Give a loop that the test drives itself, turn by turn; aiodbkit's clock is its meanwhile."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        numbers = itertools.count()
        loop.set_task_factory(
            lambda loop, work, **more: _NumberedTask(next(numbers), work, loop=loop, **more)
        )
        with _clock(loop):
            yield loop


def run_in_virtual_time(main: Callable[[], Awaitable[T]]) -> T:
    """Run an async function to its end in a loop of its own, and return its result.

    Raises:
        NothingLeft: nothing can happen any more, and the function has not ended.
        TypeError: ``main`` is a coroutine, not the function.
    """
    if not callable(main):
        raise TypeError(
            "run_in_virtual_time() takes an async function itself, without a call of it, not "
            f"{main!r}"
        )

    async def run() -> T:
        return await main()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        with _clock(loop):
            return runner.run(run())


def virtual_time(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Make a test of an async function, run in virtual time.

    Raises:
        TypeError: it is no async function.
    """
    if not inspect.iscoroutinefunction(test):
        raise TypeError(
            f"@virtual_time takes an async function, not {getattr(test, '__qualname__', test)}"
        )

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        run_in_virtual_time(lambda: test(*args, **kwargs))

    return wrapper
