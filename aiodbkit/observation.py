"""Watching an engine: who does, and what its connections and its pool are made to be meanwhile.

For as long as somebody watches, they are of a class that tells, see `aiodbkit.watched`; nothing
is there to be asked when nobody does. Only the level of the query log, which may change at any
time, is looked at before each statement.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from aiodbkit.driver import DriverConnection
from aiodbkit.errors import InterfaceError
from aiodbkit.events import (
    AnyListener,
    Listener,
    PoolEvent,
    PoolEventKind,
    QueryEvent,
    TransactionEvent,
)
from aiodbkit.pool.core import PoolCore
from aiodbkit.querylog import is_query_logged, log_query, log_transaction
from aiodbkit.watched import watched_connection, watched_pool

if TYPE_CHECKING:
    from aiodbkit.engine import Engine
    from aiodbkit.engine_pool import EnginePool

__all__ = ["Observation", "Observed"]

E = TypeVar("E")

logger = logging.getLogger("aiodbkit")

_HOOKS = ("on_query", "on_transaction", "on_pool")


class Observation:
    """The listeners of an engine, its query log, its slow statements, its counts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listeners: tuple[AnyListener, ...] = ()
        self._hooks: dict[str, tuple[Callable[[Any], Any], ...]] = dict.fromkeys(_HOOKS, ())
        self._counters: tuple[Callable[[str], None], ...] = ()
        self._slow: float | None = None
        self._logs = False
        self._watched: dict[type[Any], type[Any]] = {}  # by the plain class
        self._plain: dict[type[Any], type[Any]] = {}  # by the class that tells
        self._inside: dict[int, int] = {}  # connections in the middle of calls: of how many
        # What the next statement of a connection has waited, and who: he may send none.
        self._waits: dict[int, tuple[asyncio.Task[Any] | None, float]] = {}
        self.is_on = False  # whether connections tell
        self.log_params = False

    # Who watches

    def add(self, listener: AnyListener) -> None:
        """See `Engine.add_listener`."""
        if any(known is listener for known in self._listeners):
            raise InterfaceError(
                f"add_listener(): this {type(listener).__name__} listens to this engine already, "
                "and would be told everything twice"
            )
        self._set_listeners((*self._listeners, listener))

    def remove(self, listener: AnyListener) -> None:
        """See `Engine.remove_listener`."""
        left = tuple(known for known in self._listeners if known is not listener)
        if len(left) == len(self._listeners):
            raise InterfaceError(
                f"remove_listener(): this {type(listener).__name__} does not listen to this engine"
            )
        self._set_listeners(left)

    def _set_listeners(self, listeners: tuple[AnyListener, ...]) -> None:
        found = [_hooks_of(listener) for listener in listeners]
        self._hooks = {
            name: tuple(hooks[name] for hooks in found if name in hooks) for name in _HOOKS
        }
        self._listeners = listeners
        self.update()

    def count(self, counter: Callable[[str], None]) -> None:
        """Call ``counter`` with the SQL of each statement when it is sent."""
        self._counters = (*self._counters, counter)
        self.update()

    def stop_counting(self, counter: Callable[[str], None]) -> None:
        """Undo `count`."""
        self._counters = tuple(known for known in self._counters if known is not counter)
        self.update()

    def configure(self) -> None:
        """Take what the engine's options say."""
        options = self._engine.options
        self._slow, self.log_params = options.slow_query, options.log_params
        self.update()

    # Switching on and off

    def update(self) -> None:
        """Watch what somebody wants to know, and nothing else."""
        self._logs = self._engine._logs_queries = is_query_logged(logging.DEBUG)
        hooks, has_limit = self._hooks, self._slow is not None
        asked = self._counters or hooks["on_query"] or hooks["on_transaction"]
        is_wanted = bool(asked or self._logs or has_limit)
        if is_wanted is not self.is_on:
            self._switch(on=is_wanted)
        for pool in self._pools():
            self.watch_pool(pool)

    def _switch(self, *, on: bool) -> None:
        self.is_on = on
        if on:
            self._engine._opened_hooks.append(self._watch)
        else:
            self._engine._opened_hooks.remove(self._watch)
            self._waits.clear()
        for pool in self._pools():
            for slot in pool._keeper.slots:
                driver = getattr(slot, "resource", None)  # none yet, while it is being opened
                if isinstance(driver, DriverConnection):
                    (self._watch if on else self._unwatch)(driver)

    def _pools(self) -> Iterator[EnginePool]:
        """Yield the engine's pool, and in a sandbox those that it stands in for."""
        pool = self._engine._pool
        while pool is not None:
            yield pool
            pool = getattr(pool, "outer", None)

    def _watch(self, driver: DriverConnection) -> None:
        self._change(driver, lambda plain: watched_connection(plain, self))

    def watch_pool(self, pool: EnginePool) -> None:
        """Let a pool tell, or no more, as the listeners ask for it."""
        if bool(self._hooks["on_pool"]) is (type(pool) in self._plain):
            return
        if self._hooks["on_pool"]:
            self._change(pool, lambda plain: watched_pool(plain, self))
            pool.watcher = self.tell_pool
        else:
            self._unwatch(pool)
            pool.watcher = None
        if self._engine._pool is pool:
            self._engine._lend_from(pool)

    def _change(self, what: Any, make: Callable[[type[Any]], type[Any]]) -> None:
        plain = type(what)
        if plain in self._plain:
            return
        if plain not in self._watched:
            self._watched[plain] = make(plain)
            self._plain[self._watched[plain]] = plain
        what.__class__ = self._watched[plain]

    def _unwatch(self, what: Any) -> None:
        what.__class__ = self._plain.get(type(what), type(what))

    # What is watched: told by the classes

    def is_inside(self, driver: DriverConnection) -> bool:
        """Whether a connection is in the middle of a call: what it calls now is a part of it."""
        return id(driver) in self._inside

    def enter(self, driver: DriverConnection) -> bool:
        """Note the beginning of a call; False if it is a part of another one.

        A call of a sandbox's connection has those of the real one beneath it as its parts.
        """
        inside = self._inside
        part: Any = driver
        if id(part) in inside:
            return False
        while part is not None:
            inside[id(part)] = inside.get(id(part), 0) + 1
            part = _beneath(part)
        return True

    def leave(self, driver: DriverConnection) -> None:
        """Note the end of a call that was entered."""
        inside = self._inside
        part: Any = driver
        while part is not None:
            left = inside.pop(id(part), 1) - 1
            if left:
                inside[id(part)] = left
            part = _beneath(part)

    def note_wait(self, driver: DriverConnection, since: float) -> None:
        """Remember what the next statement of a connection has waited since then."""
        if self.is_on:
            self._waits[id(driver)] = asyncio.current_task(), monotonic() - since

    def wait_of(self, driver: DriverConnection) -> float:
        """Return, once, what was remembered of the running task."""
        waits = self._waits
        if id(driver) not in waits:
            return 0.0
        task, wait = waits.pop(id(driver))
        return wait if task is asyncio.current_task() else 0.0

    # Telling

    def tell_sent(self, sql: str) -> None:
        """Tell of a statement that is about to be sent."""
        for counter in self._counters:
            counter(sql)

    def wants_query(self, duration: float) -> bool:
        """Whether anybody wants to know of a statement that took so many seconds."""
        is_slow = self._slow is not None and duration > self._slow
        return is_slow or self._logs or bool(self._hooks["on_query"])

    def tell_query(self, **told: Any) -> None:
        """Tell of a statement that has ended."""
        event = QueryEvent(engine=self._engine, **told)
        log_query(event, self._slow)
        _tell(self._hooks["on_query"], event)

    def tell_transaction(self, **told: Any) -> None:
        """Tell of a step of a transaction that has ended."""
        event = TransactionEvent(engine=self._engine, **told)
        if self._logs or self._slow is not None:
            log_transaction(event, self._slow)
        _tell(self._hooks["on_transaction"], event)

    def tell_pool(
        self,
        pool: PoolCore[Any],
        kind: PoolEventKind,
        duration: float = 0.0,
        error: BaseException | None = None,
    ) -> None:
        """Tell of something in the pool."""
        event = PoolEvent(
            engine=self._engine,
            kind=kind,
            pool=pool.name,
            duration=duration,
            size=len(pool._keeper.slots),
            idle=len(pool._idle),
            in_use=pool.in_use,
            waiting=len(pool._queue),
            error=error,
        )
        _tell(self._hooks["on_pool"], event)


class Observed:
    """What can be watched: an engine."""

    _observation: Observation
    _logs_queries: bool  # whether the query log was on when it was last looked at

    def _begin_observation(self) -> None:
        engine: Any = self
        self._logs_queries = False
        self._observation = Observation(engine)

    def add_listener(self, listener: AnyListener) -> None:
        """Tell a listener of statements, transactions and the pool, from now on.

        Args:
            listener: any object with some of ``on_query``, ``on_transaction`` and ``on_pool``,
                plain methods of one event each; see `Listener`. What they raise is logged.

        Raises:
            InterfaceError: it has none of them, one is async, or it listens already.
        """
        self._observation.add(listener)

    def remove_listener(self, listener: AnyListener) -> None:
        """Tell a listener no more; statements on their way are not told either.

        Raises:
            InterfaceError: it does not listen.
        """
        self._observation.remove(listener)


def _tell(hooks: Iterable[Callable[[E], Any]], event: E) -> None:
    """Call all hooks; what one raises is nobody's error but its own."""
    for hook in hooks:
        try:
            hook(event)
        except (Exception, asyncio.CancelledError):
            name = getattr(hook, "__qualname__", repr(hook))
            logger.exception("the listener %s failed, and is told of the next event as well", name)


def _beneath(driver: Any) -> Any:
    """Return the real connection that one of a sandbox is a part of; None of a real one."""
    return driver.real if hasattr(type(driver), "real") else None


def _hooks_of(listener: object) -> dict[str, Callable[[Any], Any]]:
    """Return what a listener has of the hooks, by name.

    Raises:
        InterfaceError: it has none, is a class, or has one that cannot be called, or not at once.
    """
    kind = type(listener).__name__
    if inspect.isclass(listener):
        raise InterfaceError(
            f"add_listener() takes an object, not a class: {listener.__name__}() makes one"
        )
    hooks = {name: hook for name in _HOOKS if _is_there(listener, hook := _get(listener, name))}
    for name, hook in hooks.items():
        if not callable(hook):
            raise InterfaceError(f"add_listener(): {name} of {kind} must be a method, not {hook!r}")
        if _is_async(hook):
            raise InterfaceError(
                f"add_listener(): {name} of {kind} is async, but is called between two steps of "
                "a statement, which cannot wait for it: make it a plain method; one that has to "
                "wait puts the event into an asyncio.Queue for a task of its own"
            )
    if not hooks:
        raise InterfaceError(
            f"add_listener() takes an object with at least one of the methods {', '.join(_HOOKS)}; "
            f"{kind} has none of its own"
        )
    return hooks


def _get(listener: object, name: str) -> Any:
    return getattr(listener, name, None)


def _is_there(listener: object, hook: Any) -> bool:
    """Whether it is one of the listener's own, not what `Listener` has in its place."""
    function = getattr(hook, "__func__", None)
    is_inherited = function is not None and function is getattr(
        Listener, getattr(function, "__name__", ""), None
    )
    return hook is not None and not (is_inherited and isinstance(listener, Listener))


def _is_async(hook: Any) -> bool:
    call = getattr(hook, "__call__", None)  # noqa: B004 - of an object that is called
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
        for each in (hook, call)
    )
