"""Who may write: SQLite has one writer at a time, so the writers of a file stand in one line."""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakValueDictionary

from aiodbkit.errors import LockTimeoutError

__all__ = ["WriteTurn", "write_turn"]


class _Ticket:
    """A place in the line. ``turn`` ends with the turn, or with the reason for having none."""

    __slots__ = ("deadline", "holder", "patience", "timer", "turn")

    def __init__(self, holder: object, patience: float, deadline: float | None) -> None:
        self.holder = holder
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
        self._since = 0.0
        self._line: deque[_Ticket] = deque()

    def try_take(self, holder: object) -> bool:
        """Take the turn if it is free."""
        if self._holder is None:
            self._give_to(holder)
        return self._holder is holder

    def is_held_by(self, holder: object) -> bool:
        """Whether ``holder`` has the turn."""
        return self._holder is holder

    async def take(self, holder: object, patience: float, deadline: float | None) -> None:
        """Wait for the turn and take it.

        Args:
            patience: seconds that one holder may keep the others waiting.
            deadline: when this caller gives up, on the loop's clock.

        Raises:
            LockTimeoutError: the present holder has had the turn for ``patience``.
            TimeoutError: ``deadline`` has passed.
        """
        if self.try_take(holder):
            return
        ticket = _Ticket(holder, patience, deadline)
        self._line.append(ticket)
        self._watch(ticket)
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
        self._holder = None
        if self._loop.is_closed():
            return  # nobody waits any more
        while self._line:
            ticket = self._line.popleft()
            if not ticket.turn.done():
                self._give_to(ticket.holder)
                ticket.turn.set_result(None)
                return

    def _give_to(self, holder: object) -> None:
        self._holder = holder
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

    def _held_up(self, held: float, patience: float) -> LockTimeoutError:
        return LockTimeoutError(
            f"another connection of this process has held the write turn of {self._database} for "
            f"{held:.3g} s (lock_timeout={patience:g} s), and SQLite has one writer at a time: "
            "keep write transactions short. A task that writes through a second connection inside "
            "its own transaction waits for itself: use the connection of the transaction"
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
