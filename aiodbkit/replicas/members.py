"""The replicas of an engine: which can be asked, who is next, and what becomes of the dead."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, get_args

from aiodbkit.driver import DriverConnection
from aiodbkit.engine import Engine
from aiodbkit.engine_pool import EnginePool
from aiodbkit.errors import (
    CannotConnectError,
    ConnectionLostError,
    Error,
    PoolOverloadedError,
    PoolTimeoutError,
    QueryTimeoutError,
    SerializationError,
)
from aiodbkit.options import choice, seconds
from aiodbkit.pool import Slot
from aiodbkit.pool.report import copy_of

__all__ = ["Observations", "Policy", "Replica", "ReplicaState", "Replicas"]

Policy = Literal["round_robin", "random", "least_busy"]

logger = logging.getLogger("aiodbkit.replicas")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaState:
    """What `ReplicatedEngine.replica_states` tells of one replica.

    Attributes:
        name: of its pool: its URL without the password.
        is_available: whether it is asked.
        ejections: how often it was left out.
        in_use: its connections that are lent now.
        error: why it is left out, None if it is not.
        out_for: seconds since it was left out, 0 if it is not.
    """

    name: str
    is_available: bool
    ejections: int
    in_use: int
    error: str | None
    out_for: float


class Replica:
    """One replica, and what is known of it without asking."""

    def __init__(
        self, engine: Engine, on_failure: Callable[[Replica, BaseException], None]
    ) -> None:
        self.engine = engine
        self._on_failure = on_failure
        self._pool: EnginePool | None = None  # whose failures are told
        self.position = 0  # of the log: it has come at least so far
        self.error: BaseException | None = None  # why it is left out
        self.out_since = 0.0
        self.ejections = 0
        self.watcher: asyncio.Task[None] | None = None
        # A server that was started again may be behind where it was.
        engine._opened_hooks.append(self._forget_position)
        self.attend()

    def attend(self) -> None:
        """Be told when its pool cannot open a connection: by itself the pool lets callers wait."""
        pool = self.engine._pool
        if pool is None or pool is self._pool:
            return
        self._pool = pool
        told = pool.connect_failed

        def connect_failed(slot: Slot[DriverConnection], error: BaseException) -> None:
            told(slot, error)
            self._on_failure(self, error)

        pool.connect_failed = connect_failed  # type: ignore[method-assign]

    def refuse_waiters(self, error: BaseException) -> None:
        """Let those who wait for its connections ask elsewhere."""
        pool = self.engine._pool
        if pool is None:
            return
        if not _is_down(error):
            why = str(error) or type(error).__name__
            reason = CannotConnectError(f"{self.name} does not answer: {why}")
            reason.__cause__ = error
            error = reason
        pool._queue.refuse_all(lambda: copy_of(error))

    def _forget_position(self, _opened: DriverConnection) -> None:
        self.position = 0

    @property
    def name(self) -> str:
        """For messages."""
        pool = self.engine._pool
        return repr(self.engine) if pool is None else pool.name

    @property
    def was_closed(self) -> bool:
        """Whether somebody has closed its engine."""
        pool = self.engine._pool
        return pool is not None and pool.was_closed

    @property
    def is_available(self) -> bool:
        """Whether it can be asked."""
        return self.error is None and not self.was_closed

    @property
    def load(self) -> int:
        """How many tasks use its connections, or wait for one."""
        pool = self.engine._pool
        return 0 if pool is None else pool.in_use + len(pool._queue)

    @property
    def is_full(self) -> bool:
        """Whether one more task would have to wait for a connection."""
        pool = self.engine._pool
        return pool is not None and pool.in_use >= pool.max_size

    def state(self) -> ReplicaState:
        """Return a snapshot."""
        pool, error = self.engine._pool, self.error
        return ReplicaState(
            name=self.name,
            is_available=self.is_available,
            ejections=self.ejections,
            in_use=0 if pool is None else pool.in_use,
            error=None if error is None else f"{type(error).__name__}: {error}",
            out_for=0.0 if error is None else monotonic() - self.out_since,
        )

    async def check(self) -> None:
        """One round trip on a connection of its pool, opened if need be.

        Raises:
            Error, TimeoutError: there was no answer.
        """
        engine = self.engine
        options = engine.pool.options
        async with asyncio.timeout(options.connect_timeout + options.check_timeout):
            await engine.connect()
            async with engine.pool.acquire() as connection:
                if (turn := connection._use()) is None:
                    turn, _ = await connection._wait(None)
                with turn as driver:
                    await driver.ping()


class Replicas:
    """All of them. Those that are down are looked at by tasks, which `stop` ends."""

    def __init__(
        self, engines: Sequence[Engine], policy: Policy, backoff: float, max_backoff: float
    ) -> None:
        choice("policy", policy, get_args(Policy))
        seconds("probe_backoff", backoff)
        seconds("probe_max_backoff", max_backoff)
        self.all = tuple(Replica(engine, self.eject) for engine in engines)
        self._policy = policy
        self._backoff = backoff
        self._max_backoff = max_backoff
        self._turn = -1
        self._is_stopped = False

    def candidates(self) -> list[Replica]:
        """Return those that can be asked, the one whose turn it is first."""
        ready = []
        for replica in self.all:
            replica.attend()  # a deferred engine may have its pool by now
            if replica.is_available:
                ready.append(replica)
            elif replica.error is not None:
                self._watch(replica)  # its watcher may have ended, with an event loop
        if len(ready) < 2:
            return ready
        self._turn += 1
        start = random.randrange(len(ready)) if self._policy == "random" else self._turn
        start %= len(ready)
        ready = ready[start:] + ready[:start]
        # Of equals the one whose turn it is.
        is_by_load = self._policy == "least_busy"
        ready.sort(key=lambda replica: replica.load if is_by_load else replica.is_full)
        return ready

    # Failures

    def excuses(self, replica: Replica, error: Error, readers: Sequence[Replica] = ()) -> bool:
        """Whether a failed read is worth another server; one that is down is left out.

        Args:
            readers: that may be asked, in this order. One that has too many waiters already is
                excused if there is another: no such load is put upon the primary.
        """
        if isinstance(error, PoolOverloadedError):
            return bool(readers) and readers[-1] is not replica
        if _is_down(error):
            self.eject(replica, error)
            return True
        if isinstance(error, QueryTimeoutError):
            self._watch(replica)  # slow, or frozen? No time is left for another one anyway.
        # A standby cancels queries that are in the way of what it replays.
        return isinstance(error, SerializationError)

    def eject(self, replica: Replica, error: BaseException) -> None:
        """Leave it out until it answers."""
        if self._is_stopped:
            return
        if replica.error is None:
            replica.ejections += 1
            replica.out_since = monotonic()
            logger.warning(
                "%s is left out until it answers: %s: %s",
                replica.name,
                type(error).__name__,
                error,
            )
        replica.error = error
        replica.refuse_waiters(error)
        self._watch(replica)

    def _watch(self, replica: Replica) -> None:
        watcher = replica.watcher
        is_watched = watcher is not None and not watcher.done()
        is_watched = is_watched and watcher is not None and not watcher.get_loop().is_closed()
        if is_watched or self._is_stopped:
            return
        loop = asyncio.get_running_loop()
        # An empty context: whoever saw the failure may be in a block.
        replica.watcher = loop.create_task(
            self._look_after(replica), name=f"watch {replica.name}", context=Context()
        )

    async def _look_after(self, replica: Replica) -> None:
        """Look at once, and then with growing pauses, until it answers."""
        pause = self._backoff
        while not replica.was_closed:
            try:
                await replica.check()
            except (Error, TimeoutError) as error:
                if _is_busy(error) and replica.error is None:
                    return
                if replica.was_closed:
                    return
                self.eject(replica, error)
            else:
                self._take_back(replica)
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, self._max_backoff)

    def _take_back(self, replica: Replica) -> None:
        if replica.error is None:
            return
        replica.error, replica.position = None, 0
        logger.info("%s answers again, after %.1f s", replica.name, monotonic() - replica.out_since)

    # Life

    def begin(self) -> None:
        """Watch again, after `stop`."""
        self._is_stopped = False

    def stop(self) -> list[asyncio.Task[None]]:
        """End the watching; return the tasks that are being cancelled, of this event loop."""
        self._is_stopped = True
        loop = asyncio.get_running_loop()
        watchers = [replica.watcher for replica in self.all if replica.watcher is not None]
        ending = [each for each in watchers if not each.done() and each.get_loop() is loop]
        for replica in self.all:
            replica.watcher = replica.error = None  # a new life begins with new looks
        for watcher in ending:
            watcher.cancel()
        return ending


def _is_down(error: BaseException) -> bool:
    """Whether the server is to blame, or the way to it."""
    if isinstance(error, PoolTimeoutError):
        return error.__cause__ is not None  # none could be opened
    return isinstance(error, CannotConnectError | ConnectionLostError)


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, PoolTimeoutError) and not _is_down(error)


class Observations:
    """The observation of the primary, and of all members what is counted."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._all = [engine._observation for engine in engines]

    def count(self, counter: Callable[[str], None]) -> None:
        """Count the statements of each; see `Observation.count`."""
        for each in self._all:
            each.count(counter)

    def stop_counting(self, counter: Callable[[str], None]) -> None:
        """Undo `count`."""
        for each in self._all:
            each.stop_counting(counter)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._all[0], name)
