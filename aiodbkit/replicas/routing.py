"""Where a statement belongs: the task's block, the primary, or one of the replicas."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from aiodbkit.engine import Engine
from aiodbkit.errors import Error, InterfaceError, QueryTimeoutError
from aiodbkit.options import Isolation
from aiodbkit.replicas.marks import Mark, Marks
from aiodbkit.replicas.members import Replica, Replicas
from aiodbkit.scope import current_place

__all__ = ["Primary", "Router"]

P = ParamSpec("P")
T = TypeVar("T")

# After the latest commit in the log, also one that was not waited for (synchronous_commit=off).
_WRITTEN = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
_REPLAYED = "select pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint"

_MOST_REMEMBERED = 1024


class Router:
    """Decides where the statements of the running task go."""

    def __init__(self, primary: Engine, replicas: Replicas, marks: Marks) -> None:
        self.primary = primary
        self.replicas = replicas
        self.marks = marks
        self._is_postgres = "postgresql" in primary.schemes
        self._forced: ContextVar[bool] = ContextVar("aiodbkit_primary", default=False)
        self._known_writes: dict[str, None] = {}  # texts that a replica has refused

    def force(self) -> Primary:
        """See `ReplicatedEngine.primary`."""
        return Primary(self._forced)

    @property
    def blocked(self) -> Engine | None:
        """The engine whose block, or parent's block, this task is in."""
        for engine in (self.primary, *(replica.engine for replica in self.replicas.all)):
            if current_place(engine) is not None:
                return engine
        return None

    @property
    def home(self) -> Engine:
        return self.blocked or self.primary

    def reads(self, sql: Any) -> bool:
        return isinstance(sql, str) and sql not in self._known_writes and _reads(self.primary, sql)

    def is_known_write(self, sql: str) -> bool:
        return sql in self._known_writes

    def note_write(self, sql: str) -> None:
        """Remember a text that looks like reading, and was refused by a replica."""
        if len(self._known_writes) >= _MOST_REMEMBERED:
            del self._known_writes[next(iter(self._known_writes))]
        self._known_writes[sql] = None

    async def readers(
        self, limit: float | None, isolation: Isolation | None = None
    ) -> list[Replica]:
        """Return the replicas that a read of this task may go to, the best first, or none."""
        if self.blocked is not None:
            return []
        return await self.free_readers(limit, isolation)

    async def free_readers(
        self, limit: float | None, isolation: Isolation | None = None
    ) -> list[Replica]:
        """Return the same, for what is in no block."""
        if self._forced.get() or self.primary.pool.is_sandbox:
            return []
        if isolation == "serializable" and self._is_postgres:  # which a hot standby refuses
            return []
        mark = self.marks.current
        if mark is None:
            return self.replicas.candidates()
        if mark.holds:
            return []
        ready = self.replicas.candidates()
        if ready and self.marks.by_position:
            return await self._caught_up(mark, ready, limit)
        return ready

    # Read your writes, by position

    async def _caught_up(
        self, mark: Mark, ready: list[Replica], limit: float | None
    ) -> list[Replica]:
        """Return those that have replayed the write; at most one of them is asked."""
        position = mark.position
        if position is None:
            position = await self._position_of(mark, limit)
        if position is None:
            return []
        known = [replica for replica in ready if replica.position >= position]
        if known:
            return known
        replica = ready[0]
        await self._ask(replica, limit)
        return [replica] if replica.position >= position else []

    async def _position_of(self, mark: Mark, limit: float | None) -> int | None:
        writes = mark.writes
        try:
            position: int | None = await self.primary.fetch_val(_WRITTEN, timeout=limit)
        except (InterfaceError, QueryTimeoutError):
            raise
        except Error:
            return None  # the statement itself will tell what is wrong with the primary
        if mark.writes == writes and not mark.is_open:
            mark.position = position
        return None if mark.is_open else position

    async def _ask(self, replica: Replica, limit: float | None) -> None:
        longest = replica.engine.pool.options.check_timeout
        limit = longest if limit is None else min(limit, longest)
        try:
            position = await replica.engine.fetch_val(_REPLAYED, timeout=limit)
        except Error as error:
            self.replicas.excuses(replica, error)
        else:
            replica.position = max(replica.position, position or 0)


class Primary:
    """What `ReplicatedEngine.primary` returns: for ``with``, once, or as a decorator."""

    def __init__(self, forced: ContextVar[bool]) -> None:
        self._forced = forced
        self._previous = False
        self._is_entered = False

    def __enter__(self) -> None:
        if self._is_entered:
            raise InterfaceError("this primary() block has been entered before: call it again")
        self._is_entered = True
        self._previous = self._forced.get()
        self._forced.set(True)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._forced.set(self._previous)

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Send each call of an async function to the primary.

        Raises:
            TypeError: ``function`` is no async function.
        """
        if not inspect.iscoroutinefunction(function):
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(
                f"@primary() wraps async functions; {name} is not one: `with db.primary():` "
                "inside it serves others"
            )

        @functools.wraps(function)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            with Primary(self._forced):
                result: T = await function(*args, **kwargs)
            return result

        return wrapper


def _reads(engine: Engine, sql: str) -> bool:
    """Whether a statement surely only reads."""
    driver = engine._driver
    if driver is None:
        _ = engine.pool  # refuses
        return False
    return driver.only_reads(sql)
