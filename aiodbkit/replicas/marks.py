"""Who has written, and for how long that task reads from the primary.

A mark is found through a context variable, so that it belongs to the task that wrote, and a task
that is started afterwards goes on with it. It is set whether the write succeeded or not: one that
was cancelled may have taken effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from time import monotonic
from types import TracebackType
from typing import Literal, get_args

from aiodbkit.connection import Connection
from aiodbkit.driver import DriverConnection
from aiodbkit.engine import Engine
from aiodbkit.options import choice, seconds
from aiodbkit.pool import Slot

__all__ = ["Mark", "Marks", "ReadYourWrites", "WritingConnection", "WritingTurn"]

ReadYourWrites = Literal["time", "position"]


class Mark:
    """What is known of a task's latest write.

    Attributes:
        position: of the primary's log, at or after the write; None if it was not asked for yet.
        writes: how many there were, to tell a position that was asked for before the latest.
    """

    __slots__ = ("_open", "_until", "position", "writes")

    def __init__(self) -> None:
        self._open = 0
        self._until = 0.0
        self.position: int | None = None
        self.writes = 0

    def begin(self) -> None:
        """A write begins."""
        self._open += 1
        self.writes += 1

    def end(self, until: float) -> None:
        """A write has ended; reads belong to the primary until then."""
        self._open -= 1
        self._until = max(self._until, until)
        self.position = None

    @property
    def is_open(self) -> bool:
        """Whether writes are going on."""
        return self._open > 0

    @property
    def holds(self) -> bool:
        """Whether reads belong to the primary, whatever the replicas say."""
        return self._open > 0 or monotonic() < self._until


class Marks:
    """The marks of one engine's tasks, by one rule."""

    def __init__(self, rule: ReadYourWrites | None, sticky_for: float) -> None:
        choice("read_your_writes", rule, (None, *get_args(ReadYourWrites)))
        seconds("sticky_for", sticky_for)
        self.by_position = rule == "position"
        self._is_off = rule is None
        self._sticky_for = sticky_for
        self._current: ContextVar[Mark | None] = ContextVar("aiodbkit_written", default=None)

    @property
    def current(self) -> Mark | None:
        """The mark of the running task, None if it has not written."""
        return self._current.get()

    def begin(self) -> Mark:
        """Note the beginning of what may write; `end` has to follow, whatever happens."""
        mark = self._current.get()
        # An ended one is left to those who have inherited it: they did not write this.
        if mark is None or not mark.is_open:
            mark = Mark()
        mark.begin()
        self._set(mark)
        return mark

    def end(self, mark: Mark, *, is_known: bool) -> None:
        """Note the end; ``is_known`` if the outcome is, and nothing is still on its way.

        A position that is asked for now may be before what is still on its way: then time decides.
        """
        mark.end(0.0 if self.by_position and is_known else monotonic() + self._sticky_for)
        self._set(mark)

    def _set(self, mark: Mark) -> None:
        if not self._is_off:
            self._current.set(mark)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A write, in a ``with`` block."""
        mark, is_known = self.begin(), False
        try:
            yield
            is_known = True
        finally:
            self.end(mark, is_known=is_known)


class WritingConnection(Connection):
    """A connection to the primary, of a block in which anything may be written."""

    __slots__ = ("_mark", "_marks")

    def __init__(self, engine: Engine, slot: Slot[DriverConnection], marks: Marks) -> None:
        super().__init__(engine, slot)
        self._marks = marks
        self._mark: Mark | None = marks.begin()

    def _end(self) -> Slot[DriverConnection]:
        # A COMMIT or a statement that its caller has left behind is still on its way.
        is_left = self._pending > 0 or self._turns.taken
        is_known = not (is_left or self._driver.suspect or self._driver.is_closed)
        mark, self._mark = self._mark, None
        if mark is not None:
            self._marks.end(mark, is_known=is_known)
        return super()._end()


class WritingTurn:
    """A turn of a statement that is not known, and may write."""

    __slots__ = ("_mark", "_marks", "_turn")

    def __init__(self, turn: AbstractContextManager[DriverConnection], marks: Marks) -> None:
        self._turn = turn
        self._marks = marks

    def __enter__(self) -> DriverConnection:
        driver = self._turn.__enter__()
        self._mark = self._marks.begin()
        return driver

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._marks.end(self._mark, is_known=exc is None)
        self._turn.__exit__(exc_type, exc, traceback)
