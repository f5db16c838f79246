"""An engine that is chosen at run time: by the program once, by a task for a block."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from aiodbkit.connection import Connection
from aiodbkit.driver import DriverConnection, Params
from aiodbkit.engine import Engine
from aiodbkit.errors import InterfaceError
from aiodbkit.options import ChildTasks, Isolation, LockMode, RetryBudget
from aiodbkit.scope import Place
from aiodbkit.session import Session
from aiodbkit.stream import Stream
from aiodbkit.verbs import Turn

if TYPE_CHECKING:
    from typing import Self

    from aiodbkit.portal import Portal

__all__ = ["EngineProxy", "Using"]

P = ParamSpec("P")
T = TypeVar("T")


class EngineProxy(Engine):
    """Stands in for an engine that is chosen later: ``db = EngineProxy()`` at module level.

    `initialize` says which engine it is; then every call on the proxy is one on that engine, those
    that its backend alone has included. Decorators, dependencies and lifespans take the proxy
    before that; what runs before it raises `InterfaceError`. The idea is Peewee's ``Proxy``.
    """

    def __init__(self) -> None:
        # Engine's own set-up is left out: what it would set is the target's, see __getattr__.
        self._engine: Engine | None = None
        self._callbacks: list[Callable[[Engine], object]] = []
        self._entered: list[Engine] = []
        # Replaced, never changed: a child task goes on with what it was started with.
        self._chosen: ContextVar[Using | None] = ContextVar("aiodbkit_using", default=None)

    # Which engine it is

    def initialize(self, engine: Engine) -> None:
        """Say which engine this is, or that it is another one from now on. Callbacks are called.

        Raises:
            InterfaceError: ``engine`` is no engine, or leads back to this proxy.
        """
        self._refuse_unless_engine("initialize", engine)
        self._engine = engine
        for callback in self._callbacks:
            callback(engine)

    def init(self, url: str | None = None, **options: Any) -> None:
        self._target.init(url, **options)

    def attach_callback(self, callback: Callable[[Engine], T]) -> Callable[[Engine], T]:
        """Call ``callback`` with the engine when it is known: at once, or at `initialize`.

        Returns the callback, so that it decorates.
        """
        if not callable(callback):
            raise TypeError(f"attach_callback() takes a function of the engine, not {callback!r}")
        self._callbacks.append(callback)
        if self._engine is not None:
            callback(self._engine)
        return callback

    def using(self, engine: Engine) -> Using:
        """Send this task's calls to ``engine`` for a ``with`` block, or each call of a function.

        Tasks that are started inside the block go there, too, for as long as they live. Blocks and
        sessions that are open already stay where they are.

        Raises:
            InterfaceError: ``engine`` is no engine, or leads back to this proxy.
        """
        self._refuse_unless_engine("using", engine)
        return Using(self, engine)

    @property
    def is_initialized(self) -> bool:
        """Whether there is an engine to send calls to, for this task."""
        engine = self._next
        return engine is not None and (not isinstance(engine, EngineProxy) or engine.is_initialized)

    @property
    def is_connected(self) -> bool:
        return self.is_initialized and self._target.is_connected

    @property
    def _next(self) -> Engine | None:
        """What it stands for in this task: maybe another proxy."""
        using = self._chosen.get()
        return self._engine if using is None else using.engine

    @property
    def _target(self) -> Engine:
        engine = self._next
        if engine is None:
            raise InterfaceError(
                "this EngineProxy has no engine yet: call initialize(engine) first, when the "
                "program starts"
            )
        return engine._target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy, pickle and the like ask on their own account
            raise AttributeError(name)
        try:
            target = self._target
        except InterfaceError as error:
            raise _NoEngineYetError(str(error)) from None
        return getattr(target, name)

    def __repr__(self) -> str:
        known = repr(self._target) if self.is_initialized else "not initialized"
        return f"<EngineProxy of {known}>"

    def _refuse_unless_engine(self, call: str, engine: object) -> None:
        if not isinstance(engine, Engine):
            raise InterfaceError(f"{call}() takes an engine, and {engine!r} is none")
        passed: list[Engine] = [self]
        while isinstance(engine, EngineProxy):
            if engine in passed:
                raise InterfaceError(f"{call}(): this proxy cannot stand in for itself")
            passed.append(engine)
            engine = engine._next

    # Life

    async def connect(self) -> None:
        await self._target.connect()

    async def close(self, timeout: float = 10.0) -> None:
        if self.is_initialized:
            await self._target.close(timeout)

    async def __aenter__(self) -> Self:
        engine = self._target
        await engine.connect()
        self._entered.append(engine)  # the block closes what it opened, whatever is chosen then
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entered = self._entered
        # Other tasks may have entered it since, with other engines; and a fixture's end may run in
        # another task than its beginning, where nothing is chosen.
        chosen = self._target if self.is_initialized else None
        engine = chosen if chosen is not None and chosen in entered else entered[-1]
        entered.remove(engine)
        await engine.close()

    # What goes by the engine's identity; the rest of `Engine` reads the target's attributes.

    def current_connection(self) -> Connection | None:
        return self._target.current_connection()

    def session(
        self,
        *,
        read_only: bool = False,
        isolation: Isolation | None = None,
        deferrable: bool = False,
        mode: LockMode | None = None,
        child_tasks: ChildTasks | None = None,
    ) -> Session:
        return self._target.session(
            read_only=read_only,
            isolation=isolation,
            deferrable=deferrable,
            mode=mode,
            child_tasks=child_tasks,
        )

    def portal(self) -> Portal:
        return self._target.portal()

    def _retry_budget(self) -> RetryBudget | None:
        return self._target._retry_budget() if self.is_initialized else None

    def _is_in_transaction(self, place: Place | None = None) -> bool:
        return self.is_initialized and self._target._is_in_transaction(place)

    def _use(self) -> AbstractContextManager[DriverConnection] | None:
        return self._target._use()

    async def _wait(self, limit: float | None) -> Turn:
        return await self._target._wait(limit)

    def _may_read_again(self, sql: str) -> bool:
        return self._target._may_read_again(sql)

    def _stream(
        self, sql: str, params: Params, into: Any, batch_size: int, timeout: float | None
    ) -> Stream[Any]:
        return self._target._stream(sql, params, into, batch_size, timeout)


def _forwarded(name: str) -> Any:
    """Return a verb that is the target's: one that has replicas chooses by the statement."""

    async def verb(self: EngineProxy, *args: Any, **options: Any) -> Any:
        return await getattr(self._target, name)(*args, **options)

    return functools.wraps(getattr(Engine, name))(verb)


for _name in (
    *("execute", "execute_many", "execute_script", "insert_many"),
    *("fetch_all", "fetch_one", "fetch_val", "fetch_column"),
):
    setattr(EngineProxy, _name, _forwarded(_name))


class _NoEngineYetError(InterfaceError, AttributeError):
    """So that whoever asks an object what it has, as frameworks do, is told that it has not."""


class Using:
    """What `EngineProxy.using` returns: for ``with``, once, or as a decorator."""

    def __init__(self, proxy: EngineProxy, engine: Engine) -> None:
        self._proxy = proxy
        self.engine = engine
        self._previous: Using | None = None
        self._is_entered = False

    def __enter__(self) -> Engine:
        if self._is_entered:
            raise InterfaceError("this using() block has been entered before: call using() again")
        self._proxy._refuse_unless_engine("using", self.engine)  # which may be one since
        self._is_entered = True
        chosen = self._proxy._chosen
        self._previous = chosen.get()
        chosen.set(self)
        return self.engine

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A generator may be finalised in another context, whose choice is not ours to change.
        chosen = self._proxy._chosen
        inner = using = chosen.get()
        if using is self:
            chosen.set(self._previous)
        while using is not None and using is not self:
            inner, using = using, using._previous
        if inner is not None and using is self and inner is not self:
            inner._previous = self._previous  # two generators of a task end in any order

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Send each call of an async function to the engine.

        Raises:
            TypeError: ``function`` is no async function.
        """
        if not inspect.iscoroutinefunction(function):
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(
                f"@using() wraps async functions; {name} is not one: `with proxy.using(engine):` "
                "inside it serves others"
            )

        @functools.wraps(function)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            with Using(self._proxy, self.engine):
                result: T = await function(*args, **kwargs)
            return result

        return wrapper
