"""A pool in a loop that the test drives by turns, and what must be true of it at every turn.

`World` is the pool, its resources and its callers. It knows the pool by its public interface only,
and keeps books of its own: who asked when, who holds what, what is known to be dead.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from aiodbkit import (
    CannotConnectError,
    InterfaceError,
    Lease,
    Pool,
    PoolClosedError,
    PoolOverloadedError,
    PoolTimeoutError,
)
from aiodbkit.pool.core import PoolState
from tests.unit.pool.scripted import Resource, assert_whole
from tests.unit.pool.stage import Caller, Stage
from tests.virtual_time import VirtualTimeLoop

LIMITS = {"connect_timeout": 3.0, "check_timeout": 2.0, "reset_timeout": 2.0, "close_timeout": 1.0}
EPSILON = 1e-6
MOST_TURNS = 4000  # after which something is left to do at one moment of the clock
LONGEST = 300  # seconds; nobody waits for longer
QUIET = 60.0  # seconds after which a pool that was left alone has done all that it can


class World:
    """A pool, its resources and its callers; broken promises are noted and raised by `look`."""

    def __init__(self, loop: VirtualTimeLoop, times: dict[str, float], options: dict[str, Any]):
        self.loop = loop
        self.stage = Stage(**times)
        self.has_abort = options.pop("has_abort", False)
        abort = {"abort": self.stage.abort} if self.has_abort else {}
        self.pool: Pool[Resource] = self.stage.pool(**LIMITS, **options, **abort)
        self.options = self.pool.options
        self.stage.lifetime = self.options.max_lifetime or self.stage.lifetime
        self.callers: list[Caller] = []
        self.number = 0
        self.holds: dict[Resource, Caller] = {}
        self.released: list[Lease[Resource]] = []
        self.unfit: dict[Resource, int] = {}  # the turn after which it must not be lent
        self.loans: Counter[Resource] = Counter()
        self.was_resized = False
        self.era = 0  # how often the pool was closed, or may have been
        self.ceiling = self.pool.max_size
        self.controls: list[asyncio.Task[Any]] = []
        self.openings: list[asyncio.Task[Any]] = []
        self.closed_by: float | None = None
        self.failed_before = False
        self.quiet_since = self.now
        self.counts: Counter[str] = Counter()  # since the pool was opened
        self.broken: list[BaseException] = []
        loop.set_exception_handler(self._note)
        self.stage.observe = self.observe
        self.reopen()
        self.era = 0
        self.settle()
        self.loop.pass_time(5)
        self.control_results()
        assert not self.is_shut

    # Time

    @property
    def now(self) -> float:
        return self.loop.time()

    @property
    def is_shut(self) -> bool:
        """Whether it is not open: closed, or an open() failed."""
        return self.pool._state is not PoolState.OPEN

    def turn(self, number: int = 1) -> None:
        """Run ``number`` turns of the loop."""
        for _ in range(number):
            self.loop.turn()
            self.observe()

    def settle(self) -> None:
        """Run until nothing is left to do at this moment."""
        for _ in range(MOST_TURNS):
            self.turn()
            if self.loop.is_settled:
                return
        self.broken.append(AssertionError("the pool is busy without end, and no time passes"))

    def pass_time(self, seconds: float) -> None:
        """Move the clock, and let what is due then happen."""
        self.loop.pass_time(seconds)
        self.settle()

    def act(self, *actions) -> None:
        """Call plain functions within one turn of the loop, after what was ready before."""
        for action in actions:
            self.loop.call_soon(action)
        self.disturb()
        self.turn()

    def disturb(self) -> None:
        """Something came from outside: the pool may need time again."""
        self.quiet_since = self.now

    def _note(self, _loop, context: dict[str, Any]) -> None:
        self.broken.append(context.get("exception") or AssertionError(context["message"]))

    # What callers do

    def acquire(self, timeout: float | None, *, block: bool) -> None:
        """Let a new caller ask, at the next turn."""
        limit = self.options.acquire_timeout if timeout is None else timeout
        caller = Caller(limit, block=block)
        caller.task = self.loop.create_task(self._borrow(caller, timeout))
        self.callers.append(caller)
        self.disturb()

    def acquire_another(self, outer: Caller, timeout: float) -> None:
        """Let a holder ask for a second one."""
        outer.inner = Caller(timeout, block=True, outer=outer)
        outer.inner.task = outer.task
        self.callers.append(outer.inner)
        outer.done.set()
        self.disturb()

    async def _borrow(self, caller: Caller, timeout: float | None) -> None:
        self._join(caller)
        asked = self.pool.acquire(timeout=timeout)
        try:
            if not caller.block:
                self._got(caller, await asked)
                return
            async with asked as lease:
                self._got(caller, lease)
                try:
                    await caller.done.wait()
                    if caller.inner is not None:
                        caller.done.clear()
                        await self._borrow(caller.inner, caller.inner.timeout)
                        await caller.done.wait()
                finally:
                    self._gives(caller)
        except Exception as error:
            self._refused(caller, error)
        finally:
            if caller.state != "holding":
                caller.state = "ended"

    def _join(self, caller: Caller) -> None:
        in_line = sum(each.state == "waiting" for each in self.callers if each.cancelled)
        caller.must_wait = self.pool.stats().waiting > in_line
        caller.state = "waiting"
        caller.due = self.now + caller.timeout
        self.number += 1
        caller.number = self.number
        # Run before whatever serves it, unless it is served in this very step.
        self.loop.call_soon(setattr, caller, "waited", True)

    def _got(self, caller: Caller, lease: Lease[Resource]) -> None:
        resource = lease.resource
        caller.state, caller.lease, caller.resource = "holding", lease, resource
        self.counts["loans"] += 1
        try:
            assert resource not in self.holds, f"{resource} is held by {self.holds[resource]}"
            assert not resource.closed, f"{resource} was lent and is closed"
            assert not resource.dirty, f"{resource} was lent and is dirty"
            assert resource not in self.stage.lost, f"{resource} was lent after it failed"
            # It may have died in the moment between the hand-off and the caller's turn.
            turn = self.loop.turns - caller.waited
            assert self.unfit.get(resource, turn) >= turn, f"{resource} was lent, dead or replaced"
            assert self.now <= self.stage.ends[resource] + EPSILON, f"{resource} is too old"
            self.loans[resource] += 1
            assert self.loans[resource] <= (self.options.max_uses or self.loans[resource])
            self._check_order(caller)
        except AssertionError as error:
            self.broken.append(error)
        self.holds[resource] = caller

    def _check_order(self, caller: Caller) -> None:
        if not caller.waited:
            assert not caller.must_wait, f"{caller} was served at once while others waited"
            return
        for other in self.callers:
            if other.state == "waiting" and not other.cancelled:
                assert other.number > caller.number, f"{caller} was served before {other}"

    def _gives(self, caller: Caller) -> None:
        caller.state = "ended"
        assert caller.lease is not None
        assert caller.resource is not None
        self.released = [*self.released[-3:], caller.lease]
        if self.holds.get(caller.resource) is caller:
            del self.holds[caller.resource]

    def _refused(self, caller: Caller, error: Exception) -> None:
        self.counts[type(error).__name__] += 1
        limited = self.options.max_waiting or self.options.shed_after is not None
        expected = (
            (isinstance(error, PoolTimeoutError) and self.now >= caller.due - EPSILON)
            or (isinstance(error, PoolTimeoutError) and caller.outer and self._is_deadlocked())
            or (isinstance(error, PoolOverloadedError) and limited)
            or (isinstance(error, PoolClosedError) and self.is_shut)
            or (
                isinstance(error, OSError | CannotConnectError)
                and self.stage.connect_failed_at == self.now
            )
        )
        caller.state = "ended"
        if not expected:
            self.broken.append(error)

    def _is_deadlocked(self) -> bool:
        """Whether all who could give back stand in line themselves."""
        waiting = {caller.task for caller in self.of("waiting")}
        holding = [caller for caller in self.callers if caller.has_resource]
        is_full = len(holding) == self.pool.stats().size >= self.pool.max_size
        return is_full and all(each.block and each.task in waiting for each in holding)

    # What the test does to callers

    def of(self, state: str) -> list[Caller]:
        """Return the callers in a state, in the order in which they came."""
        return [caller for caller in self.callers if caller.state == state]

    def may_ask_again(self) -> list[Caller]:
        """Return the holders whose task holds no more than this one."""
        holding = self.of("holding")
        return [each for each in holding if each.block and not (each.inner or each.outer)]

    def give_back(self, caller: Caller) -> None:
        """Let a holder release, within a turn (see `act`)."""
        if caller.block:
            caller.done.set()
        elif caller.state == "holding":
            self._gives(caller)
            self.pool.release(caller.lease)

    def release_all(self) -> None:
        """Let all holders release, one after the other."""
        for caller in self.of("holding"):
            self.act(lambda caller=caller: self.give_back(caller))

    def borrow_all(self) -> None:
        """Let new callers take all that can be had."""
        for _ in range(self.pool.max_size - self.pool.stats().in_use):
            self.acquire(200.0, block=True)
        self.pass_time(0.4)

    def cancel(self, caller: Caller) -> None:
        """Cancel a caller, wherever it is."""
        for each in self.callers:
            each.cancelled = each.cancelled or each.task is caller.task
        self.counts["cancelled"] += 1
        caller.task.cancel()
        self.disturb()

    def refuse_second_release(self) -> None:
        """A lease that was released is good for nothing."""
        lease = self.released[-1]
        with pytest.raises(InterfaceError):
            self.pool.release(lease)
        with pytest.raises(InterfaceError):
            _ = lease.resource

    # What the test does to resources and to the pool

    def unused(self) -> list[Resource]:
        """Return those that nobody holds."""
        return [resource for resource in self.stage.alive if resource not in self.holds]

    def kill(self, resource: Resource, *, is_seen: bool) -> None:
        """It is dead: that can be seen without asking, or only a ping tells."""
        resource.answers = False
        if is_seen:
            resource.dead = True
            self.unfit.setdefault(resource, self.loop.turns)
        self.disturb()

    def control(self, work) -> None:
        """Run something on the pool in a task of its own, from the next turn."""
        self.controls.append(self.loop.create_task(work))
        self.disturb()

    def close(self, timeout: float) -> None:
        self.era += 1
        bound = timeout + LIMITS["reset_timeout"] + 2 * LIMITS["close_timeout"] + 1
        self.control(self.pool.close(timeout))
        # An open() that has not returned yet may be the last word.
        if all(opening.done() for opening in self.openings):
            self.closed_by = self.now + bound + EPSILON

    def reopen(self) -> None:
        self.closed_by = None
        self.era += 1
        self.control(self.pool.open())
        self.openings.append(self.controls[-1])

    def resize(self, smallest: int, largest: int) -> None:
        async def run() -> None:
            await self.pool.resize(min_size=smallest, max_size=largest)
            self.was_resized = True
            self.observe()  # the next one may come in the same turn

        self.control(run())

    def expire(self, over: float) -> None:
        async def run() -> None:
            if not self.is_shut:
                self._replace_all(over)
            await self.pool.expire(over=over)

        self.control(run())

    def drain(self, timeout: float | None) -> None:
        async def run() -> None:
            old = set(self.stage.made)
            if not self.is_shut:
                self._replace_all(0)
            try:
                await self.pool.drain(timeout)
            except PoolTimeoutError:
                assert timeout is not None
                return
            left = [each for each in self.callers if each.has_resource and each.resource in old]
            assert not left, f"drain() ended and {left} hold old ones"

        self.control(run())

    def _replace_all(self, over: float) -> None:
        ends = self.stage.ends
        for resource in self.stage.alive:
            ends[resource] = min(ends[resource], self.now + over)
            if not over:
                self.unfit.setdefault(resource, self.loop.turns)

    def cancel_control(self) -> None:
        """Cancel who called open, close, resize, ... last."""
        self.era += 1  # an open that is cancelled closes the pool
        self.closed_by = None  # one that has not begun closes nothing
        self.controls[-1].cancel()
        self.disturb()

    def spoil(self, call: str, how: str, number: int) -> None:
        """Make the next calls fail, or hang until their deadline."""
        self.failed_before = self.failed_before or call == "connect"
        if how == "hang":
            self.stage.hanging[call] += number
        else:
            self.stage.fail(call, *(OSError(f"{call} failed") for _ in range(number)))
        self.disturb()

    # What must be true

    def observe(self) -> None:
        """At every turn: the pool grows to max_size, and shrinks to it, and never beyond."""
        stats = self.pool.stats()
        self.ceiling = max(stats.max_size, min(self.ceiling, stats.size))
        try:
            assert stats.size <= self.ceiling, f"{stats.size} slots, {self.ceiling} are allowed"
            assert 0 <= stats.idle <= stats.size - stats.in_use <= stats.size
            alive = [
                each
                for each in self.stage.alive
                if self.has_abort or not (each.dead or each in self.stage.lost)
            ]
            # What close() cuts is closed politely, beyond all counting, where there is no abort.
            if self.is_shut:
                self.stage.failures = 0
            else:
                assert len(alive) <= self.ceiling, f"{alive} are alive"
        except AssertionError as error:
            self.broken.append(error)

    def control_results(self) -> None:
        for task in [task for task in self.controls if task.done()]:
            self.controls.remove(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                is_known = (self.failed_before and isinstance(error, OSError)) or (
                    # It was closed again before it was open.
                    (self.failed_before or self.era) and isinstance(error, CannotConnectError)
                )
                self.era += 1  # an open that failed: the pool is closed
                if not (is_known and task in self.openings):
                    self.broken.append(error)

    def look(self) -> None:
        """After every step: raise what was broken, and compare the books."""
        self.observe()
        self.control_results()
        assert not self.stage.spins, "the pool opens or closes without end, and no time passes"
        if self.broken:
            raise self.broken[0]
        self.callers = [
            caller
            for caller in self.callers
            if caller.state == "holding" or not (caller.state == "ended" or caller.task.done())
        ]
        stats = self.pool.stats()
        waiting = self.of("waiting")
        late = [caller for caller in waiting if self.now > caller.due + EPSILON]
        assert not late, f"{late} wait for longer than they wanted"
        assert stats.waiting <= len(waiting)
        if self.closed_by is not None and self.now > self.closed_by:
            assert stats.size == 0, "close() takes longer than it may"

    def look_settled(self) -> None:
        """Whenever nothing is left to do at this moment: the books agree exactly."""
        self.look()
        stats, running = self.pool.stats(), self.stage.running
        assert stats.waiting == len(self.of("waiting"))
        assert stats.in_use == sum(caller.has_resource for caller in self.callers)
        busy = stats.size - stats.idle - stats.in_use
        preparing = running["connect"] + running["ping"] + running["clean"]
        assert preparing <= busy <= preparing + running["close"]
        assert stats.opened - stats.closed == stats.size - running["connect"]
        assert not stats.idle or stats.waiting <= busy, "someone waits beside an idle resource"
        is_surplus = stats.idle > stats.max_size and not stats.in_use
        assert not is_surplus, f"{stats.idle} were kept, {stats.max_size} are allowed"
        if stats.waiting and self.stage.failures and not (busy or self.is_shut):
            is_late = self.now > self.stage.connect_again_by + EPSILON
            assert stats.size >= stats.max_size or not is_late, "nobody tries to connect again"
        is_stuck = stats.waiting and not self.was_resized and self._is_deadlocked()
        assert not is_stuck, "all wait for each other, and nobody was told"
        if not self.era:
            assert {caller.resource for caller in self.of("holding")} == set(self.holds)
            # One who was cancelled in the moment of the hand-off was served, and never knew.
            unseen = stats.acquired - self.counts["loans"]
            assert 0 <= unseen <= self.counts["cancelled"]
            assert stats.timeouts == self.counts["PoolTimeoutError"]
            assert stats.overloads == self.counts["PoolOverloadedError"]
        if self.now - max(self.quiet_since, self.stage.troubled_at) > QUIET:
            self._look_quiet()

    def _look_quiet(self) -> None:
        """Nothing has happened for a while: the pool has done all that it should by itself."""
        stats, options = self.pool.stats(), self.options
        if self.is_shut:
            return
        if stats.waiting:
            assert stats.in_use >= stats.max_size, "someone waits while a slot could be had"
        assert stats.size >= stats.min_size, "fewer than min_size are kept"
        if options.idle_timeout is not None and options.idle_timeout < QUIET and not stats.in_use:
            assert stats.idle <= stats.min_size, "idle ones above min_size are kept"
        dead = [
            each
            for each in self.unused()
            if each.dead or not (each.answers or options.check == "never")
        ]
        assert not dead, f"{dead} are dead, and nobody has found out"

    def end(self) -> None:
        """Make everything healthy: the pool is whole, and leaves nothing when it is closed."""
        self.settle()
        self.stage.heal()
        for _ in range(LONGEST):  # those who wait are served, and give back too
            self.release_all()
            self.pass_time(1)
            self.look()
            if not self.callers:
                break
        assert not self.callers, "someone hangs in a healthy pool"
        self.pass_time(QUIET + 1)
        for _ in range(25):  # for as long as the shortest life
            self.look_settled()
            self.pass_time(0.1)
        self.stage.times.clear()
        self.pass_time(1)
        assert not self.controls, "something hangs in a healthy pool"
        if self.is_shut:
            assert self.pool.stats().size == 0
            self.closed_by = None
            self.loop.run_until_complete(self.pool.open())
        self.loop.run_until_complete(assert_whole(self.pool, self.stage))
        self.look()
        began = self.now
        self.loop.run_until_complete(self.pool.close(timeout=1))
        assert self.now - began <= EPSILON, "nothing was there to wait for"
        self.settle()
        assert self.stage.alive == []
        assert not asyncio.all_tasks(self.loop)
        self.look()

    def leave(self) -> None:
        """Let go of everything, also after a failure."""
        self.release_all()
        for caller in self.callers:
            caller.task.cancel()
        self.settle()
        self.release_all()
