"""Who is refused at once instead of waiting in line: where waiting would be in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiodbkit.pool import notice, report

if TYPE_CHECKING:
    from aiodbkit.pool.core import PoolCore
    from aiodbkit.pool.waiters import Waiter

__all__ = ["closes_a_circle", "refuse_overload"]


def refuse_overload(pool: PoolCore[Any], limit: float) -> None:
    """Refuse a caller for whom the line is too long, by number or by its ``limit`` of seconds.

    Raises:
        PoolOverloadedError: more than ``max_waiting`` wait; or, with ``shed_after``, those who
            wait already will take longer than this caller has.
    """
    most, sheds = pool.options.max_waiting, pool.options.shed_after is not None
    if not (most or sheds):
        return
    # Those for whom a connection is still to be opened do not count as waiting.
    waiting = len(pool._queue) - (pool.max_size - pool.in_use)
    if most and waiting >= most:
        raise notice.refusal(pool, "overloaded", report.overloaded(pool, most))
    if not sheds or waiting <= 0:
        return
    expected = pool._pace.expected_wait(waiting, pool.in_use)
    if expected is not None and expected > limit:
        raise notice.refusal(pool, "overloaded", report.hopeless(pool, limit, expected))


def closes_a_circle(pool: PoolCore[Any], waiter: Waiter[Any]) -> bool:
    """Whether everyone who could give a connection back now waits for one.

    Only a holder that begins to wait can close the circle.
    """
    for slot in pool._keeper.slots:
        if slot.holder is waiter.task:
            break
    else:  # a loop of our own: it is run for each wait, and all() takes twice as long
        return False
    if pool._keeper.busy:  # a slot that the pool has in hand comes back by itself
        return False
    waiting = {other.task for other in pool._queue.waiters}
    return all(slot.holder in waiting and not slot.is_handed_out for slot in pool.lent())
