"""A fair lock that can be taken without awaiting, and is handed from one to the next in line."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Turns"]


class Turns:
    """One at a time, in the order of asking.

    Whoever has the turn passes it on; it is never free while somebody waits, so nobody overtakes.
    A task cancelled in line leaves it; cancelled in the moment of its turn, it passes the turn on.
    """

    __slots__ = ("_line", "taken")

    def __init__(self) -> None:
        self.taken = False
        self._line: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for the turn and take it."""
        if not self.taken:
            self.taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.pass_on()
            raise

    def pass_on(self) -> None:
        """End the turn: it is the next one's at once, or free."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.taken = False
