"""Cancelling tasks at every single await: at the n-th, and again at the m-th after that.

An await is not a turn of the loop: most turns pass while a task waits. So tasks are stepped by
what they do themselves: a step is the making of a task, and each time that its coroutine suspends.
At a chosen step the task is cancelled, in one of two moments:

- as soon as it waits;
- when what it waits for has come, in the same turn, before it runs on: the race of a hand-off.

A `Stage` wraps every task that is made while it is `watching`, those of aiodbkit too, and plays a
list of `Cut`. `each_step` and `each_pair` play a scenario again and again, one step further each
time, until it ends before the step is reached: no number of awaits is written down anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import anyio

import aiodbkit
from aiodbkit import CannotConnectError
from tests.virtual_time import run_in_virtual_time

__all__ = [
    "ALL_MOMENTS",
    "EVERYONE",
    "MIXED_MOMENTS",
    "OWN",
    "Cut",
    "Stage",
    "each_pair",
    "each_step",
    "play",
    "two_awaits",
]

OWN = "aiodbkit's own tasks"  # connecting, checking, cleaning, closing: cancelled one by one
EVERYONE = "everyone"  # all tasks but the main one, at once: what asyncio.run does at its end

# Scripted calls take milliseconds. What takes as much as this was woken by a deadline, if at all:
# somebody forgot to wake it.
LONGEST = 1.0

MOST_STEPS = 5_000

_PACKAGE = str(Path(aiodbkit.__file__).parent)


class RunsInCirclesError(SystemExit):  # which ends a loop as nothing else does
    """Tasks are made or go on without end, while no time passes."""


class Cut(NamedTuple):
    """One cancellation.

    Attributes:
        victim: the name of a task, or `OWN`, or `EVERYONE`.
        at: which of its steps. The first cut counts from 0, the making of the task; a later one
            from the moment of the cut before it, which is its own 0. Where it is to be woken,
            only waits for something count.
        kind: "edge" is `task.cancel()`, "level" an anyio scope, which cancels again and again.
        woken: not as soon as the task waits, but when what it waits for has come.
    """

    victim: str
    at: int
    kind: str = "edge"
    woken: bool = False

    def __str__(self) -> str:
        moment = ", when it was woken" if self.woken else ""
        return f"{self.victim} at step {self.at} ({self.kind}{moment})"


class Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that tells a stage of each suspension."""

    def __init__(
        self,
        stage: Stage,
        coroutine: Coroutine[Any, Any, Any],
        name: str,
        scope: anyio.CancelScope | None = None,
    ) -> None:
        self._stage = stage
        self._coroutine = coroutine
        self.name = name
        self.scope = scope
        self.task: asyncio.Task[Any] | None = None
        self.was_cancelled = False  # by a cut, before its end
        self.was_thrown = False  # a CancelledError has arrived in it
        self.__qualname__ = getattr(coroutine, "__qualname__", name)

    @property
    def cr_await(self) -> Any:
        return getattr(self._coroutine, "cr_await", None)

    def send(self, value: Any) -> Any:
        waits_for = self._coroutine.send(value)
        self._stage.stepped(self, waits_for)
        return waits_for

    def throw(self, *error: Any) -> Any:
        self.was_thrown = self.was_thrown or isinstance(error[0], asyncio.CancelledError)
        waits_for = self._coroutine.throw(*error)
        self._stage.stepped(self, waits_for)
        return waits_for

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    @property
    def is_alive(self) -> bool:
        return self.task is not None and not self.task.done()

    def cancel(self, kind: str) -> None:
        assert self.task is not None
        if kind == "level":
            assert self.scope is not None
            self.scope.cancel()
        elif self.task.cancel():
            self.was_cancelled = True


class Stage:
    """Where tasks are stepped; subclasses say what must hold at every step (`complaint`).

    Attributes:
        told: what a user, himself not cancelled, may be told when one of aiodbkit's own tasks
            was cancelled that he waited for: these errors and no other, no CancelledError.
        reached: how many of the cuts have found their step.
    """

    told: tuple[type[BaseException], ...] = (CannotConnectError,)

    def __init__(self, cuts: Sequence[Cut] = ()) -> None:
        self._due = list(cuts)
        self._strikes_own = any(cut.victim == OWN for cut in cuts)
        self._count = 0
        self.steps = 0
        self.reached = 0
        self.cast: list[Stepped] = []
        self.complaints: list[str] = []

    def complaint(self) -> str | None:
        """Say what is wrong now; asked at every step of every task."""
        return None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Step all tasks that are made meanwhile."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(self._make)
        try:
            yield
        finally:
            loop.set_task_factory(None)

    def start(self, work: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """Run ``work`` in a task, within a scope of its own; the name makes it a victim."""
        scope = anyio.CancelScope()
        stepped = Stepped(self, _within(scope, work), name, scope)
        task = asyncio.get_running_loop().create_task(stepped)
        task.add_done_callback(lambda _: work.close())  # where it was never begun
        return task

    def _make(self, loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
        if not isinstance(work, Stepped):
            code = getattr(work, "cr_code", None)
            own = code is not None and code.co_filename.startswith(_PACKAGE)
            work = Stepped(self, work, OWN if own else "")
        self.cast.append(work)
        self.stepped(work, None)  # before the task: a cut comes before its first line is run
        work.task = asyncio.Task(work, loop=loop, **options)
        return work.task

    def stepped(self, stepped: Stepped, waits_for: Any) -> None:
        """A task was made, or has just suspended."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise RunsInCirclesError(f"after {self.steps} steps, in {stepped.__qualname__}")
        complaint = self.complaint()
        if complaint is not None:
            self.complaints.append(f"{complaint}, in a step of {stepped.__qualname__}")
        if not self._due or self._due[0].victim not in (stepped.name, EVERYONE):
            return
        cut = self._due[0]
        if cut.woken and not asyncio.isfuture(waits_for):
            return  # for a mere turn of the loop both moments are one
        step, self._count = self._count, self._count + 1
        if step != cut.at:
            return
        self.reached += 1
        if cut.woken:
            # The task adds its own callback after this one, and so runs after it.
            waits_for.add_done_callback(lambda _: self._fire(cut, [stepped]))
        else:
            asyncio.get_running_loop().call_soon(self._fire, cut, [stepped])

    def _fire(self, cut: Cut, victims: list[Stepped]) -> None:
        if cut not in self._due:
            return  # all has ended before that moment came
        self._due.remove(cut)
        self._count = 1  # this moment is step 0 of the next cut
        if cut.victim == EVERYONE:
            victims = self.cast
        for victim in list(victims):
            if victim.is_alive:
                victim.cancel(cut.kind)
        if self._due and self._due[0].at == 0:
            self.reached += 1
            self._fire(self._due[0], [e for e in self.cast if e.name == self._due[0].victim])

    async def ended(self) -> None:
        """Wait for the tasks that the test has started."""
        tasks = [each.task for each in self.cast if each.name != OWN]
        if tasks:
            await asyncio.wait(tasks)
        self._due.clear()  # what comes now is the test's own

    def judge(self) -> None:
        """Who was cancelled must know it; who was not must not, and must have done its work."""
        for each in self.cast:
            if each.name == OWN or each.task is None:
                continue
            is_caught = each.scope is not None and each.scope.cancelled_caught
            if each.was_cancelled and each.scope is not None and each.scope.cancel_called:
                assert each.task.cancelled() or is_caught, "neither of two cancellations arrived"
            elif each.was_cancelled:
                assert each.task.cancelled(), f"{each.name or 'a task'} swallowed its cancellation"
            else:
                assert not each.task.cancelled(), f"{each.name or 'a task'}: cancelled by nobody"
                if self._strikes_own and type(each.task.exception()) in self.told:
                    continue
                each.task.result()
                if each.was_thrown:
                    assert is_caught, f"{each.name} swallowed the cancellation of its scope"
        assert not self.complaints, self.complaints


async def _within(scope: anyio.CancelScope, work: Coroutine[Any, Any, Any]) -> None:
    with scope:
        await work


async def two_awaits() -> None:
    """Suspend twice, in both ways there are: for a turn of the loop, and on a future."""
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)  # time passes: who goes round in circles is seen to


# Playing a scenario at every step. A performance returns how many cuts were reached.

Performance = Callable[[Sequence[Cut]], Awaitable[int]]


def play(perform: Performance, cuts: Sequence[Cut]) -> int:
    """Play once, in virtual time; a failure names the cuts."""

    async def within_limit() -> int:
        async with asyncio.timeout(LONGEST):
            return await perform(cuts)

    try:
        return run_in_virtual_time(within_limit)
    except BaseException as error:
        error.add_note("cancelled: " + (", then ".join(map(str, cuts)) or "nobody"))
        raise


def each_step(perform: Performance, victim: str, kind: str = "edge") -> int:
    """Cancel ``victim`` at each of its steps; return how many performances that took."""
    played = 0
    for woken in (False, True):
        for at in count():
            if not play(perform, [Cut(victim, at, kind, woken)]):
                break
            played += 1
    return played


ALL_MOMENTS = [(False, False), (False, True), (True, False), (True, True)]
MIXED_MOMENTS = [(False, True), (True, False)]  # each of the two in each moment, in half the time


def each_pair(
    perform: Performance,
    first: str,
    second: str,
    kinds: tuple[str, str] = ("edge", "edge"),
    moments: Sequence[tuple[bool, bool]] = ALL_MOMENTS,
) -> int:
    """Cancel ``first`` at each of its steps, and then ``second`` at each of those that follow.

    Args:
        moments: for each of the two, whether it is `Cut.woken`.
    """
    played = 0
    for woken in moments:
        for at in count():
            for later in count():
                cuts = [
                    Cut(first, at, kinds[0], woken[0]),
                    Cut(second, later, kinds[1], woken[1]),
                ]
                reached = play(perform, cuts)
                if reached < 2:
                    break
                played += 1
            if not reached:
                break
    return played
