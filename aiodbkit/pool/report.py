"""What the pool says about itself in messages: names, numbers, who holds what, the cure."""

from __future__ import annotations

import asyncio
import copy
import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiodbkit.errors import PoolOverloadedError, PoolTimeoutError

if TYPE_CHECKING:
    from aiodbkit.pool.core import PoolCore
    from aiodbkit.pool.slot import Slot
    from aiodbkit.pool.waiters import Waiter

__all__ = [
    "copy_of",
    "deadlocked",
    "holders",
    "hopeless",
    "leaked",
    "origin",
    "overloaded",
    "shed",
    "sizes",
    "timed_out",
    "undrained",
]

_MOST_NAMED = 5
_PACKAGE = str(Path(__file__).parent.parent)


def sizes(pool: PoolCore[Any]) -> str:
    """Return how many connections are where."""
    # Not stats(): a refusal under overload must not sort windows of times.
    idle, waiting = len(pool._idle), len(pool._queue)
    busy = pool._keeper.busy
    worked_on = f"{busy} being opened, checked, cleaned or closed, " if busy else ""
    return f"{pool.in_use} of {pool.max_size} in use, {idle} idle, {worked_on}{waiting} waiting"


def holders(pool: PoolCore[Any]) -> str:
    """Return which tasks hold connections, and for how long."""
    now = monotonic()
    lent = pool.lent()
    if not lent:
        return "none is in use"
    named = [f"{_name(slot.holder)} for {now - slot.since:.1f} s" for slot in lent[:_MOST_NAMED]]
    more = len(lent) - len(named)
    return "held by " + ", ".join(named) + (f" and {more} more" if more else "")


def _name(task: asyncio.Task[Any] | None) -> str:
    return f"task {task.get_name()!r}" if task is not None else "code outside any task"


def overloaded(pool: PoolCore[Any], limit: int) -> PoolOverloadedError:
    """Return the error of a caller that finds the line full."""
    return PoolOverloadedError(
        f"{pool.name} is overloaded: max_waiting={limit} callers wait already; {sizes(pool)}; "
        f"{holders(pool)}. Try again later, or raise max_size or max_waiting"
    )


def timed_out(
    pool: PoolCore[Any], waiter: Waiter[Any], failure: BaseException | None
) -> PoolTimeoutError:
    """Return the error of a caller that waited in vain."""
    waited = monotonic() - waiter.since
    text = f"{pool.name}: no connection within {waited:.2f} s: {sizes(pool)}; {holders(pool)}. "
    if waiter.task is not None and any(slot.holder is waiter.task for slot in pool.lent()):
        text += "This task waits for a second connection while it holds one itself. "
    if failure is not None:
        text += f"The latest attempt to connect failed: {str(failure) or repr(failure)}"
    else:
        text += "Hold connections for less time, or raise max_size or acquire_timeout"
    error = PoolTimeoutError(text)
    error.__cause__ = failure
    return error


def deadlocked(pool: PoolCore[Any]) -> PoolTimeoutError:
    """Return the error of the task whose waiting would let all wait for each other for ever."""
    return PoolTimeoutError(
        f"{pool.name}: deadlock: each of the {pool.max_size} connections is held by a task that "
        f"waits for another one; {holders(pool)}. Take the second connection after giving the "
        "first back, use the one that the task has, or raise max_size"
    )


def undrained(pool: PoolCore[Any], old: set[Slot[Any]], timeout: float | None) -> str:
    """Return the text for a drain that borrowers did not let end."""
    left = sum(slot in old for slot in pool.lent())
    if not left:
        still = sum(slot in old for slot in pool._keeper.slots)
        return (
            f"{pool.name}: {still} of the old connections are still being checked, cleaned or "
            f"closed after {timeout} s: give drain() more, or lower close_timeout"
        )
    return (
        f"{pool.name}: {left} of the old connections are not back after {timeout} s; "
        f"{holders(pool)}. They are closed when they come back: hold connections for less time, "
        "or give drain() more"
    )


def shed(pool: PoolCore[Any], waited: float) -> PoolOverloadedError:
    """Return the error of a caller that waited too long while the queue does not get shorter."""
    return PoolOverloadedError(
        f"{pool.name} is overloaded: refused after {waited:.2f} s in line, as waits stay above "
        f"shed_after={pool.options.shed_after:g} s; {sizes(pool)}; {holders(pool)}. Try again "
        "later, hold connections for less time, or raise max_size or shed_after"
    )


def hopeless(pool: PoolCore[Any], limit: float, expected: float) -> PoolOverloadedError:
    """Return the error of a caller whose deadline the line before it would outlast."""
    return PoolOverloadedError(
        f"{pool.name} is overloaded: refused at once, as those who wait already will take about "
        f"{expected:.2f} s, and this caller gives up after {limit:.2f} s; {sizes(pool)}; "
        f"{holders(pool)}. Try again later, hold connections for less time, or raise max_size or "
        "the timeout"
    )


def origin() -> str:
    """Return the place outside of this package that is taking a connection now."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        return "an unknown place"
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"


def leaked(pool: PoolCore[Any], slot: Slot[Any]) -> str:
    """Return the line that is logged for a connection held for too long."""
    return (
        f"{pool.name}: a connection is held for {monotonic() - slot.since:.1f} s by "
        f"{_name(slot.holder)}, longer than leak_after={pool.options.leak_after:g} s; it was "
        f"taken at {slot.origin}"
    )


def copy_of(error: BaseException) -> BaseException:
    """Each waiter raises an error of its own: a traceback must not grow from several tasks."""
    try:
        twin = copy.copy(error)
    except Exception:  # noqa: BLE001 - any class may refuse to be copied
        return error
    twin.__cause__ = error.__cause__
    return twin
