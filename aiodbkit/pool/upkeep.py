"""The housekeeping of a pool: what a timer does to its connections, and what is asked for.

A connection that is getting old is replaced before it expires, where there is room for one more;
one that nobody has used for a while is pinged, so that a dead one is found and replaced before a
caller would meet it (what DBUtils lists as its future monitor); what is not needed is closed.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Generic, TypeVar

from aiodbkit.errors import InterfaceError, PoolTimeoutError
from aiodbkit.options import PoolOptions, seconds
from aiodbkit.pool import report
from aiodbkit.pool.core import NEVER, REPORTED, PoolCore, PoolState
from aiodbkit.pool.slot import Slot, SlotState

__all__ = ["Upkeep"]

logger = logging.getLogger("aiodbkit.pool")

R = TypeVar("R")

_LONGEST_PAUSE = 30.0
_SHORTEST_PAUSE = 0.05
_SHORTEST_CHECK_AFTER = 1.0  # of background checks: check_after=0 must not ping all the time


class Upkeep(PoolCore[R], Generic[R]):
    """Renews, checks and closes connections; keeps the bounds."""

    def _keep_up(self) -> None:
        """Do what is due now, and come back when something is due again."""
        now = monotonic()
        self._report_leaks(now)
        self.shed(now)
        spare = self._spare()
        idle, self._idle = self._idle, []
        for slot in idle:  # the least recently used first
            if not self._tend(slot, now, spare):
                self._idle.append(slot)
            elif slot.state is not SlotState.CHECKING:
                spare -= 1
        for slot in self.lent():
            self._renew_in_time(slot, now)
        self._dispatch()
        self._schedule_upkeep(now)

    def _spare(self) -> int:
        """How many connections may be closed without falling below the minimum."""
        slots = self._keeper.slots
        successors = sum(slot.predecessor is not None for slot in slots)
        return len(slots) - self._keeper.counts[SlotState.CLOSING] - successors - self.min_size

    def _tend(self, slot: Slot[R], now: float, spare: int) -> bool:
        """Close or check an idle slot, if that is due: then it is idle no more."""
        if self._calls.has_closed(slot.resource):
            self._keeper.lose(slot)
        elif now >= self._end_due(slot, spare):
            self._keeper.retire(slot)
        elif now >= self._check_due(slot):
            self._keeper.check(slot)
        else:
            self._renew_in_time(slot, now)
            return False
        return True

    def _end_due(self, slot: Slot[R], spare: int) -> float:
        """When an idle slot is to be closed: too old, or idle for too long and not needed."""
        limit = self.options.idle_timeout
        if limit is None or spare <= 0:
            return slot.expires_at
        return min(slot.expires_at, slot.since + limit * slot.jitter)

    def _check_due(self, slot: Slot[R]) -> float:
        """When an idle slot is to be pinged in the background."""
        if self.options.check == "never" or self._calls.ping is None:
            return NEVER
        return slot.known_good_at + max(self.options.check_after, _SHORTEST_CHECK_AFTER)

    def _renewal_due(self, slot: Slot[R]) -> float:
        """When to open the successor of a slot: so that it is there when the slot expires."""
        if slot.is_renewed or not self.has_room:
            return NEVER
        return slot.expires_at - 2 * self._pace.connect_time

    def _renew_in_time(self, slot: Slot[R], now: float) -> None:
        if now >= self._renewal_due(slot):
            slot.is_renewed = True
            self._keeper.open(predecessor=slot)

    def _schedule_upkeep(self, now: float) -> None:
        options = self.options
        pause = _LONGEST_PAUSE
        for limit in (options.idle_timeout, options.check_after, options.max_lifetime):
            pause = min(pause, pause if limit is None else limit / 2)
        for limit in (options.leak_after, options.shed_after):
            pause = min(pause, pause if limit is None else limit / 4)
        spare = self._spare()
        at = min([now + pause, *(self._next_due(slot, spare) for slot in self._keeper.slots)])
        if self._upkeep_timer is not None:
            self._upkeep_timer.cancel()
        loop = asyncio.get_running_loop()
        self._upkeep_timer = loop.call_later(max(at - now, _SHORTEST_PAUSE), self._keep_up)

    def _next_due(self, slot: Slot[R], spare: int) -> float:
        """When something has to be done about a slot."""
        if slot.state in (SlotState.CONNECTING, SlotState.CLOSING):
            return NEVER
        if slot.state is not SlotState.IDLE:  # it may be idle in a moment
            return self._renewal_due(slot)
        return min(self._end_due(slot, spare), self._check_due(slot), self._renewal_due(slot))

    def _report_leaks(self, now: float) -> None:
        """Log each connection that is held for longer than ``leak_after``, once."""
        limit = self.options.leak_after
        for slot in self.lent():
            if limit is not None and slot.origin and now - slot.since > limit:
                logger.warning(report.leaked(self, slot))
                slot.origin = REPORTED

    # What is asked for

    async def resize(self, *, min_size: int | None = None, max_size: int | None = None) -> None:
        """Change the bounds. Surplus idle connections are closed, borrowed ones on return.

        Raises:
            ConfigurationError: a bound that cannot be, or a minimum above the maximum.
        """
        smallest = self.min_size if min_size is None else min_size
        largest = self.max_size if max_size is None else max_size
        PoolOptions(min_size=smallest, max_size=largest)  # refuses bad values by name
        self._refuse_other_loop()
        self.min_size, self.max_size = smallest, largest
        if self._state is not PoolState.OPEN:
            return
        surplus = len(self._keeper.slots) - self._keeper.counts[SlotState.CLOSING] - largest
        while surplus > 0 and self._idle:
            self._keeper.retire(self._idle.pop(0))
            surplus -= 1
        for slot in self.lent()[: max(surplus, 0)]:
            slot.expires_at = 0.0
        self._dispatch()

    async def expire(self, *, over: float = 0.0) -> None:
        """Replace all connections: idle ones now, borrowed ones as they come back.

        Args:
            over: seconds to spread it over, so that the server does not meet all the new
                connections at once; until its turn comes a connection is lent as before.
        """
        seconds("over", over)
        self._refuse_other_loop()
        if self._state is not PoolState.OPEN:
            return
        now = monotonic()
        slots = sorted(self._keeper.slots, key=lambda slot: slot.expires_at)
        for turn, slot in enumerate(slots, start=1):
            slot.expires_at = min(slot.expires_at, now + over * turn / len(slots))
            slot.fresh_until = min(slot.fresh_until, slot.expires_at)
        self._keep_up()

    async def drain(self, timeout: float | None = None) -> None:
        """Replace all connections, and return when none of the old ones is left.

        Callers are served by new ones meanwhile. For what must not meet an old session any more:
        a migration, a rotated password, a server that is about to go.

        Args:
            timeout: seconds to wait for borrowers; None waits until the last has given back.

        Raises:
            PoolTimeoutError: says who holds an old connection still; it is closed on return.
        """
        seconds("timeout", timeout, optional=True)
        self._refuse_other_loop()
        old = set(self._keeper.slots)
        if timeout is None and any(slot.holder is asyncio.current_task() for slot in self.lent()):
            raise InterfaceError(
                f"{self.name}: drain() would wait for a connection that this task holds itself: "
                "give it back before, or call expire()"
            )
        await self.expire()
        await self._keeper.wait_until_gone(old, timeout)
        if not self._keeper.slots.keys().isdisjoint(old):
            raise PoolTimeoutError(report.undrained(self, old, timeout))

    async def check(self) -> None:
        """Check all idle connections now, side by side; dead ones are closed."""
        self._refuse_other_loop()
        idle, self._idle = self._idle, []
        checks = []
        for slot in idle:
            if self._calls.has_closed(slot.resource):
                self._keeper.lose(slot)
            else:
                checks.append(self._keeper.check(slot))
        self._dispatch()
        if checks:
            await asyncio.wait(checks)
