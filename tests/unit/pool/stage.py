"""The cast of the state machine: callers, and resources with calls that fail, hang or take time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiodbkit import InterfaceError, Lease
from aiodbkit.options import RetryPolicy
from tests.unit.pool.scripted import Resource, Script

CALLS = ("connect", "ping", "clean", "close")
MOST_AT_ONCE = 1000  # calls that begin at one moment of the clock


class Caller:
    """One who wants a resource; ``outer`` is what the same task holds already."""

    def __init__(self, timeout: float, *, block: bool, outer: Caller | None = None) -> None:
        self.number = 0  # in the order in which they came into the line
        self.timeout = timeout
        self.block = block
        self.outer = outer
        self.inner: Caller | None = None
        self.state = "new"  # then waiting, holding, ended
        self.due = 0.0
        self.must_wait = self.waited = False
        self.cancelled = False
        self.lease: Lease[Resource] | None = None
        self.resource: Resource | None = None
        self.done = asyncio.Event()
        self.task: asyncio.Task[None]

    def __repr__(self) -> str:
        return f"<Caller {self.number} {self.state}>"

    @property
    def has_resource(self) -> bool:
        """Whether it holds one that close() has not cut."""
        try:
            return self.state == "holding" and self.lease is not None and bool(self.lease.resource)
        except InterfaceError:
            return False


class Stage(Script):
    """A script whose calls can also hang until their deadline, and which knows who is on stage."""

    def __init__(self, **times: float) -> None:
        super().__init__(**times)
        self.hanging: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.moments: dict[float, int] = {}  # how many calls began at this moment of the clock
        self.spins = False
        self.lost: set[Resource] = set()  # its last call failed: nobody can use it any more
        self.ends: dict[Resource, float] = {}  # after that it must not be lent any more
        self.lifetime = float("inf")
        self.troubled_at = 0.0  # when a call failed or hung for the last time
        self.connect_failed_at = 0.0
        self.failures = 0  # of connect, in a row
        self.observe: Callable[[], None] = lambda: None
        self._living: list[Resource] = []

    async def _play(self, call: str) -> None:
        self.running[call] += 1
        time = asyncio.get_running_loop().time
        self.moments = {time(): self.moments.get(time(), 0) + 1}
        self.observe()
        try:
            if self.moments.get(time(), 0) > MOST_AT_ONCE:  # it would go on for ever
                self.spins = True
                await asyncio.Event().wait()
            if self.hanging[call] > 0:
                self.hanging[call] -= 1
                await asyncio.Event().wait()
            await super()._play(call)
        except BaseException:
            self.troubled_at = time()
            raise
        finally:
            self.running[call] -= 1

    @property
    def alive(self) -> list[Resource]:
        self._living = [resource for resource in self._living if not resource.closed]
        return self._living

    async def connect(self) -> Resource:
        time = asyncio.get_running_loop().time
        try:
            resource = await super().connect()
        except BaseException:
            self.connect_failed_at = time()
            self.failures += 1
            raise
        self.failures = 0
        self._living.append(resource)
        self.ends[resource] = time() + self.lifetime
        return resource

    @property
    def connect_again_by(self) -> float:
        """When the pool tries again at the latest, after failures; it is the default pace."""
        pace = RetryPolicy()
        pause = pace.backoff * 2 ** min(self.failures - 1, 30)
        return self.connect_failed_at + min(pause, pace.max_backoff)

    @contextmanager
    def _last_of(self, resource: Resource) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.lost.add(resource)
            raise

    async def ping(self, resource: Resource) -> bool:
        with self._last_of(resource):
            await super().ping(resource)
        if not resource.answers:
            self.lost.add(resource)
        return resource.answers

    async def clean(self, resource: Resource) -> None:
        with self._last_of(resource):
            await super().clean(resource)
            if not resource.answers:
                raise OSError("the server has gone")

    def abort(self, resource: Resource) -> None:
        resource.closed = True

    def heal(self) -> None:
        """From now on every call succeeds, and all that is alive answers."""
        self.hanging.clear()
        self.errors.clear()
        for resource in self.alive:
            resource.answers = not resource.dead
