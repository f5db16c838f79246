"""Random acquires, releases, cancels, kills, resizes and clock steps keep the pool's promises.

What they are stands in `tests.unit.pool.model`. The default run is the same each time; more, and
each time others: ``AIODBKIT_TEST_EXAMPLES=5000 pytest tests/unit/pool/test_state_machine.py``.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.unit.pool.model import World
from tests.unit.pool.stage import CALLS
from tests.virtual_time import virtual_time_loop

MORE = os.environ.get("AIODBKIT_TEST_EXAMPLES")

some = st.integers(0, 30)  # which one of those that there are
sizes = st.tuples(st.integers(0, 4), st.integers(1, 4)).map(lambda both: (min(both), both[1]))
duration = st.sampled_from([0.0, 0.001, 0.02, 0.3])
times = st.fixed_dictionaries(
    {"connect": st.sampled_from([0.0, 0.02, 0.3])}, optional=dict.fromkeys(CALLS[1:], duration)
)
more_options = st.fixed_dictionaries(
    {
        "check": st.sampled_from(["idle", "always", "never"]),
        "max_lifetime": st.sampled_from([100.0, 2.0]),
        "idle_timeout": st.sampled_from([10.0, 0.5, None]),
    },
    optional={
        "max_waiting": st.integers(1, 4),
        "max_uses": st.integers(1, 3),
        "check_after": st.sampled_from([0.0, 1.0]),
        "shed_after": st.sampled_from([0.01, 0.5]),
        "acquire_timeout": st.sampled_from([1.0, 200.0]),
        "has_abort": st.just(True),
    },
)
timeouts = st.sampled_from([200.0, None, 1.0, 0.01, 0.0])
pauses = st.sampled_from([0.0, 0.02, 2.0, 20.0, None])
steps = st.sampled_from([0.001, 0.02, 0.3, 1.0, 5.0, 70.0])


def has(state: str):
    """Only where there is such a caller."""
    return precondition(lambda machine: machine.world.of(state))


is_open = precondition(lambda machine: not machine.world.is_shut)


class PoolMachine(RuleBasedStateMachine):
    """The steps; each is one event, and most are followed by no more than one turn of the loop."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self._holding = ExitStack()
        self.loop = self._holding.enter_context(virtual_time_loop())

    @initialize(times=times, bounds=sizes, options=more_options, may_close=st.booleans())
    def open(self, times, bounds, options, may_close):
        smallest, largest = bounds
        self.may_close = may_close  # once closed, the books are kept less exactly
        self.world = World(self.loop, times, {"min_size": smallest, "max_size": largest, **options})

    def teardown(self) -> None:
        with self._holding:
            if hasattr(self, "world"):
                try:
                    self.world.end()
                finally:
                    self.world.leave()

    def one(self, state: str, which: int):
        """Return one of the callers in a state."""
        callers = self.world.of(state)
        return callers[which % len(callers)]

    # Time

    @rule(number=st.integers(1, 4))
    def let_the_loop_turn(self, number):
        self.world.turn(number)

    @rule(seconds=steps)
    def let_time_pass(self, seconds):
        self.world.pass_time(seconds)
        self.world.look_settled()

    @rule()
    def let_all_settle(self):
        self.world.settle()
        self.world.look_settled()

    # Callers

    @rule(number=st.integers(1, 5), timeout=timeouts, block=st.booleans())
    def acquire(self, number, timeout, block):
        for _ in range(number):
            self.world.acquire(timeout, block=block)
        self.world.turn()

    @rule(number=st.integers(1, 5), block=st.booleans())
    def acquire_in_time(self, number, block):
        for _ in range(number):
            self.world.acquire(200.0, block=block)
        self.world.pass_time(0.4)

    @rule(timeout=timeouts, block=st.booleans())
    def ask_in_the_next_turn(self, timeout, block):
        self.world.acquire(timeout, block=block)

    @has("waiting")
    @rule()
    def let_a_waiter_be_served(self):
        self.world.settle()

    @has("holding")
    @rule(which=some)
    def release(self, which):
        holder = self.one("holding", which)
        self.world.act(lambda: self.world.give_back(holder))

    @has("holding")
    @rule()
    def release_all(self):
        self.world.release_all()

    @precondition(lambda self: self.world.released)
    @rule()
    def release_again(self):
        self.world.act(self.world.refuse_second_release)

    @has("holding")
    @rule(which=some)
    def cancel_a_holder(self, which):
        self.world.cancel(self.one("holding", which))

    @has("waiting")
    @rule(which=some)
    def cancel_a_waiter(self, which):
        self.world.cancel(self.one("waiting", which))

    @precondition(lambda machine: machine.world.may_ask_again())
    @rule(which=some, timeout=st.sampled_from([200.0, 1.0]))
    def acquire_another_one(self, which, timeout):
        holders = self.world.may_ask_again()
        self.world.acquire_another(holders[which % len(holders)], timeout)

    @precondition(lambda machine: machine.world.may_ask_again())
    @rule()
    def let_all_acquire_another_one(self):
        for holder in self.world.may_ask_again():
            self.world.acquire_another(holder, 200.0)

    @has("new")
    @rule(which=some)
    def cancel_one_who_has_not_begun(self, which):
        self.world.cancel(self.one("new", which))

    @has("waiting")
    @has("holding")
    @rule(which=some)
    def cancel_and_release_to_the_next_in_line_at_once(self, which):
        holder, waiter = self.one("holding", which), self.one("waiting", 0)
        self.world.act(lambda: self.world.cancel(waiter), lambda: self.world.give_back(holder))

    @has("waiting")
    @has("holding")
    @rule(which=some)
    def cancel_in_the_moment_of_the_hand_off(self, which):
        holder, waiter = self.one("holding", which), self.one("waiting", 0)
        steps = [lambda: self.world.give_back(holder), lambda: self.world.cancel(waiter)]
        if holder.block:  # it is told in this turn, and releases in the next one
            self.world.act(steps.pop(0))
        self.world.act(*steps)

    # Resources

    @precondition(lambda self: self.world.stage.alive)
    @rule(which=some, is_seen=st.booleans())
    def kill_one(self, which, is_seen):
        alive = self.world.stage.alive
        self.world.kill(alive[which % len(alive)], is_seen=is_seen)

    @precondition(lambda self: self.world.stage.alive)
    @rule(is_seen=st.booleans())
    def kill_all(self, is_seen):
        for resource in self.world.stage.alive:
            self.world.kill(resource, is_seen=is_seen)

    @has("holding")
    @rule(which=some)
    def dirty_one(self, which):
        self.one("holding", which).resource.dirty = True

    @rule(call=st.sampled_from(CALLS), how=st.sampled_from(["fail", "hang"]), n=st.integers(1, 4))
    def spoil_the_next_calls(self, call, how, n):
        self.world.spoil(call, how, n)

    # What needs several steps in a row, which chance alone seldom takes

    @is_open
    @rule()
    def shrink_while_all_are_lent(self):
        self.world.borrow_all()
        self.world.resize(0, 1)
        self.world.turn(2)
        self.world.release_all()
        self.let_all_settle()

    @is_open
    @rule()
    def let_idle_ones_die_unseen(self):
        for resource in self.world.unused():
            self.world.kill(resource, is_seen=False)
        self.world.pass_time(70.0)
        self.world.look_settled()

    @is_open
    @rule(number=st.integers(1, 2), seconds=st.sampled_from([0.5, 4.0]))
    def fail_to_connect_while_two_wait(self, number, seconds):
        for resource in self.world.unused():
            self.world.kill(resource, is_seen=True)
        self.world.spoil("connect", "fail", number)
        for _ in range(2):
            self.world.acquire(200.0, block=True)
        self.world.pass_time(seconds)
        self.world.look_settled()

    @is_open
    @rule()
    def let_all_hold_one_and_want_another(self):
        self.world.borrow_all()
        for holder in self.world.may_ask_again():
            self.world.acquire_another(holder, 200.0)
        self.let_all_settle()

    @is_open
    @rule()
    def let_all_grow_old(self):
        self.world.borrow_all()
        self.world.release_all()
        self.let_all_settle()
        before = self.world.pool.stats()
        for _ in range(24):  # for as long as the shortest life; a successor comes before its end
            self.world.pass_time(0.1)
            self.world.look_settled()
            stats = self.world.pool.stats()
            if not before.waiting and stats.idle == stats.size:
                most = max(before.size, stats.min_size)
                assert stats.size <= most, "one that was replaced is kept"

    # The pool

    @rule(bounds=sizes)
    def resize(self, bounds):
        self.world.resize(*bounds)

    @rule(over=st.sampled_from([0.0, 1.0, 50.0]))
    def expire(self, over):
        self.world.expire(over)

    @rule(timeout=st.sampled_from([None, 0.0, 5.0]))
    def drain(self, timeout):
        self.world.drain(timeout)

    @rule()
    def check(self):
        self.world.control(self.world.pool.check())

    @precondition(lambda self: self.may_close and self.world.era < 2)
    @rule(timeout=st.sampled_from([0.0, 0.1, 10.0]), reopens_after=pauses)
    def close(self, timeout, reopens_after):
        self.world.close(timeout)
        if reopens_after is not None:
            self.world.pass_time(reopens_after)
            self.world.reopen()

    @precondition(lambda self: self.world.is_shut)
    @rule()
    def reopen(self):
        self.world.reopen()

    @precondition(lambda self: self.world.controls)
    @rule()
    def cancel_what_was_asked_of_the_pool(self):
        self.world.cancel_control()

    @invariant()
    def promises_are_kept(self):
        if hasattr(self, "world"):
            self.world.look()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(
    max_examples=int(MORE or 220),
    stateful_step_count=40,
    deadline=None,
    derandomize=MORE is None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
