"""Task-local state: which task is using which connection of which engine.

A scope is found through a context variable, which a child task inherits, and belongs to the task
that opened it, which a child task is not. So a child is never handed its parent's connection by
accident, and we know that it is a child: if its parent is in a transaction, it is told so.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from aiodbkit.errors import TransactionScopeError
from aiodbkit.options import ChildTasks

if TYPE_CHECKING:
    from aiodbkit.connection import Connection
    from aiodbkit.driver import DriverConnection
    from aiodbkit.verbs import Turn

__all__ = ["Place", "Scope", "current_place", "find_scope", "own_place"]


class Place(Protocol):
    """Where the statements of a task run: on a connection, or in a session that may take one."""

    is_shared: ClassVar[bool]  # by other tasks too: no transaction can be open on it

    @property
    def _held(self) -> Connection | None:
        """The connection that it has now."""

    @property
    def _open_to_children(self) -> ChildTasks | None:
        """What its transaction, or a session's next one, is to a child task; None without one."""

    def _use(self) -> AbstractContextManager[DriverConnection] | None: ...
    async def _wait(self, limit: float | None) -> Turn: ...
    async def _take_hold(self, limit: float | None = None) -> Connection:
        """Return the connection; a session takes one and begins."""
        ...


# Engine -> its innermost scope. The mapping is replaced, never changed: contexts share it.
_scopes: ContextVar[dict[Any, Scope]] = ContextVar("aiodbkit_scopes", default={})  # noqa: B039


class Scope:
    """One task's hold on one place, from `enter` to `leave`."""

    __slots__ = (
        "_engine",
        "_mapping",
        "_outer",
        "_previous",
        "deputy",
        "ended",
        "owner",
        "place",
    )

    def __init__(self, engine: Any, place: Place) -> None:
        self._engine = engine
        self.place = place
        self.owner = asyncio.current_task()
        self.deputy: asyncio.Task[Any] | None = None  # acts for the owner, which waits for it
        self.ended = False

    def enter(self) -> None:
        """Make this the current scope of its engine, in this context."""
        self._outer = find_scope(self._engine)
        scope = self._outer
        while scope is not None:  # tasks that each start the next one would make an endless chain
            scope._outer = _first_alive(scope._outer)
            scope = scope._outer
        # Scopes whose ends were not seen in this context are left out: they would pile up.
        self._previous = {
            engine: scope for engine, scope in _scopes.get().items() if engine is not self._engine
        }
        if self._outer is not None:
            self._previous[self._engine] = self._outer
        self._mapping = {**self._previous, self._engine: self}
        _scopes.set(self._mapping)

    def leave(self) -> None:
        """End the scope, for this task and for every child that inherited it."""
        self.ended = True
        # A generator may be finalised in another context, whose scopes are not ours to change.
        if _scopes.get() is self._mapping:
            _scopes.set(self._previous)
        self._mapping = self._previous = {}

    def step_out(self) -> None:
        """Leave the scope in this context alone: what runs in it is not part of the block."""
        scopes = dict(_scopes.get())
        if scopes.get(self._engine) is not self:
            return
        del scopes[self._engine]
        if self._outer is not None:
            scopes[self._engine] = self._outer
        _scopes.set(scopes)

    @property
    def is_own(self) -> bool:
        """Whether it belongs to the running task."""
        task = asyncio.current_task()
        return task is self.owner or (task is not None and task is self.deputy)

    @property
    def outer(self) -> Scope | None:
        """The scope of the same engine around this one."""
        return self._outer


def find_scope(engine: Any) -> Scope | None:
    """Return the innermost scope of ``engine`` that has not ended, the task's own or inherited."""
    return _first_alive(_scopes.get().get(engine))


def _first_alive(scope: Scope | None) -> Scope | None:
    while scope is not None and scope.ended:
        scope = scope._outer
    return scope


def current_place(engine: Any) -> Place | None:
    """Return where this task's statements belong, or None to take a connection for each.

    Raises:
        TransactionScopeError: this is a child task, and its parent's transaction is open.
    """
    scopes = _scopes.get()
    if not scopes or engine not in scopes:
        return None
    scope = find_scope(engine)
    if scope is None:
        return None
    if scope.is_own:
        return scope.place
    return _for_child(scope)


def own_place(engine: Any) -> Place | None:
    """Return where this task can have a transaction, or None to take a connection for it.

    Raises:
        TransactionScopeError: as `current_place`.
    """
    place = current_place(engine)
    return None if place is None or place.is_shared else place


def _for_child(scope: Scope | None) -> Place | None:
    """Decide for a task that inherited the scope: refuse, share, or None for its own."""
    while scope is not None:
        mode = None if scope.ended else scope.place._open_to_children
        if mode == "share":
            return scope.place
        # A session that holds nothing has no transaction yet that a child could be taken to be in.
        if mode == "error" and scope.place._held is not None:
            raise _refusal(scope)
        scope = scope.outer
    return None


def _refusal(scope: Scope) -> TransactionScopeError:
    child = asyncio.current_task()
    name = child.get_name() if child is not None else "this code"
    owner = scope.owner.get_name() if scope.owner is not None else "its parent"
    return TransactionScopeError(
        f"task {name!r} was started inside an open transaction of task {owner!r}, so it is not "
        'clear whether its statements belong to it. Say which: child_tasks="own" on '
        "transaction() or the engine (a connection of its own, outside the transaction), "
        'child_tasks="share" (the same connection, in turns), or hand the connection over and '
        "call its methods. (asyncio.wait_for starts a task on Python 3.11: use "
        "asyncio.timeout() or timeout= instead.)"
    )
