"""Who may write: SQLite has one writer at a time, so the writers of a file stand in one line."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any
from weakref import WeakValueDictionary

from aiodbkit.errors import LockTimeoutError

__all__ = ["WriteTurn", "write_turn"]


# A task of the pool begins to clean what was given back within two passes of the event loop.
_PASSES = 5


class _Ticket:
    """A place in the line. ``turn`` ends with the turn, or with the reason for having none."""

    __slots__ = ("deadline", "holder", "patience", "task", "timer", "turn")

    def __init__(self, holder: object, patience: float, deadline: float | None) -> None:
        self.holder = holder
        self.task = asyncio.current_task()
        self.patience = patience
        self.deadline = deadline
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None


class WriteTurn:
    """The turn to write to one database, given to one connection at a time, in order of asking.

    All of it happens in one event loop. A turn is handed from one to the next, so nobody
    overtakes; a task cancelled in line leaves it, and one cancelled in the moment of its turn
    hands it on.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._holder: object | None = None
        self._task: asyncio.Task[Any] | None = None  # without which the turn will not end
        self._since = 0.0
        self._line: deque[_Ticket] = deque()

    def try_take(self, holder: object) -> bool:
        """Take the turn if it is free."""
        if self._holder is None:
            self._give_to(holder, asyncio.current_task())
        elif self._holder is holder and self._task is None:
            self._task = asyncio.current_task()
        return self._holder is holder

    def forget_task(self, holder: object) -> None:
        """Told that the turn of ``holder`` will end whatever the task does that took it."""
        if self._holder is holder:
            self._task = None

    def is_held_by(self, holder: object) -> bool:
        """Whether ``holder`` has the turn."""
        return self._holder is holder

    async def take(self, holder: object, patience: float, deadline: float | None) -> None:
        """Wait for the turn and take it.

        Args:
            patience: seconds that one holder may keep the others waiting.
            deadline: when this caller gives up, on the loop's clock.

        Raises:
            LockTimeoutError: the present holder has had the turn for ``patience``, or the calling
                task would wait for itself.
            TimeoutError: ``deadline`` has passed.
        """
        if self.try_take(holder):
            return
        ticket = _Ticket(holder, patience, deadline)
        self._line.append(ticket)
        self._watch(ticket)
        self._refuse_own(ticket, _PASSES)
        try:
            await ticket.turn
        except BaseException:
            if not ticket.turn.cancelled() and ticket.turn.done() and not ticket.turn.exception():
                self.give_back(holder)
            raise
        finally:
            if ticket.timer is not None:
                ticket.timer.cancel()

    def give_back(self, holder: object) -> None:
        """End the turn, if ``holder`` has it: it is the next one's at once, or free."""
        if self._holder is not holder:
            return
        self._holder = self._task = None
        if self._loop.is_closed():
            return  # nobody waits any more
        while self._line:
            ticket = self._line.popleft()
            if not ticket.turn.done():
                self._give_to(ticket.holder, ticket.task)
                ticket.turn.set_result(None)
                return

    def _give_to(self, holder: object, task: asyncio.Task[Any] | None) -> None:
        self._holder, self._task = holder, task
        self._since = self._loop.time()

    def _watch(self, ticket: _Ticket) -> None:
        """Let the ticket lapse when it is due; a line that moves on puts that off."""
        if ticket.turn.done():
            return
        now = self._loop.time()
        held_up = self._since + ticket.patience
        if ticket.deadline is not None and now >= ticket.deadline:
            ticket.turn.set_exception(TimeoutError())
        elif now >= held_up:
            ticket.turn.set_exception(self._held_up(now - self._since, ticket.patience))
        else:
            due = held_up if ticket.deadline is None else min(held_up, ticket.deadline)
            ticket.timer = self._loop.call_at(due, self._watch, ticket)

    def _refuse_own(self, ticket: _Ticket, passes: int) -> None:
        """Refuse a task that waits for itself, unless its connection turns out to be given back."""
        if ticket.turn.done() or ticket.task is None or ticket.task is not self._task:
            return
        if passes:
            self._loop.call_soon(self._refuse_own, ticket, passes - 1)
        else:
            ticket.turn.set_exception(self._held_by_itself())

    def _held_by_itself(self) -> LockTimeoutError:
        return LockTimeoutError(
            f"this task holds the write turn of {self._database} itself, through another "
            "connection, and would wait for itself: SQLite has one writer at a time (in memory, "
            "also no reader beside it). Use the connection that has the turn, or end its "
            "transaction first: on_commit() runs what has to follow it",
            is_transient=False,
        )

    def _held_up(self, held: float, patience: float) -> LockTimeoutError:
        return LockTimeoutError(
            f"another connection of this process has held the write turn of {self._database} for "
            f"{held:.3g} s (lock_timeout={patience:g} s), and SQLite has one writer at a time: "
            "keep write transactions short, and let none wait for a task that writes too"
        )


_turns: WeakValueDictionary[tuple[int, str], WriteTurn] = WeakValueDictionary()


def write_turn(identity: str, shown_as: str) -> WriteTurn:
    """Return the turn of a database in the running loop; the same one while anybody has it.

    Args:
        identity: the database's real path, or a name that is no path for one in memory.
        shown_as: its name in messages.
    """
    key = (id(asyncio.get_running_loop()), identity)  # the turn keeps its loop alive
    turn = _turns.get(key)
    if turn is None:
        turn = _turns[key] = WriteTurn(shown_as)
    return turn
