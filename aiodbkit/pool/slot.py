"""One place in the pool, and the resource that fills it."""

from __future__ import annotations

import asyncio
import random
from enum import IntEnum, auto
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Slot", "SlotState"]

R = TypeVar("R")


class SlotState(IntEnum):
    """Where a slot is. `Keeper.move` sets it, and two lines of the warm path.

    A number, so that counting by state costs no more than a list's index.
    """

    CONNECTING = auto()  # a task of the pool is opening it
    IDLE = auto()  # on the stack, ready
    CHECKING = auto()  # a task of the pool is pinging or preparing it for a waiter
    LENT = auto()  # in a caller's hands
    CLEANING = auto()  # a task of the pool is undoing what the last caller did
    CLOSING = auto()  # a task of the pool is closing it
    GONE = auto()  # no longer in the pool


class _Owner(Protocol):
    def note_failure(self, slot: Slot[Any], error: BaseException) -> None: ...
    def give_back(self, slot: Slot[Any]) -> None: ...


class Slot(Generic[R]):
    """A place that counts against ``max_size`` from the start of connecting to the end of closing.

    As a context manager it is one use of the resource: the warm path makes no lease.

    Attributes:
        resource: what `connect` returned; None while CONNECTING.
        since: monotonic time at which the slot was lent, or given back, or opened.
        seen_at: monotonic time of the latest ping that was answered.
        fresh_until: monotonic time until which an idle slot may be lent without a look at it:
            the earlier of the next check and the end of its life.
        expires_at: monotonic time after which it is not lent again; 0.0 is at once.
        jitter: share of its limits that it lives for, so that what was opened together does not
            end together.
        predecessor: the slot that this one is opened to replace, until it has.
        is_renewed: its successor is on its way.
        holder: the task that took it, for messages.
        is_handed_out: taken without a block, so that any task may give it back.
        uses_left: how often it may be lent; below zero is no bound.
        origin: where it was taken, if ``leak_after`` is set; empty once it was reported.
    """

    __slots__ = (
        "_owner",
        "expires_at",
        "fresh_until",
        "holder",
        "is_handed_out",
        "is_renewed",
        "jitter",
        "origin",
        "predecessor",
        "resource",
        "seen_at",
        "since",
        "state",
        "uses_left",
    )

    resource: R

    def __init__(self, owner: _Owner) -> None:
        self._owner = owner
        self.state = SlotState.CONNECTING
        self.since = 0.0
        self.seen_at = 0.0
        self.fresh_until = 0.0
        self.expires_at = float("inf")
        self.jitter = random.uniform(0.9, 1.0)
        self.predecessor: Slot[R] | None = None
        self.is_renewed = False
        self.holder: asyncio.Task[Any] | None = None
        self.uses_left = -1
        self.is_handed_out = False
        self.origin: str | None = None

    @property
    def known_good_at(self) -> float:
        """Monotonic time at which an idle slot was last used, opened or pinged."""
        return max(self.since, self.seen_at)

    def __enter__(self) -> R:
        return self.resource

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            self._owner.note_failure(self, exc)
        self._owner.give_back(self)

    def __repr__(self) -> str:
        return f"<Slot {self.state.name.lower()}>"
