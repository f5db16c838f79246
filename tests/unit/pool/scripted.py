"""A scripted resource: every call can be held, failed and counted, to force what timing hides."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from aiodbkit import Pool


class Resource:
    """One pooled thing."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.dirty = False
        self.dead = False  # what is_closed says for free
        self.answers = True  # what a ping says
        self.closed = False

    def __repr__(self) -> str:
        return f"<Resource {self.number}>"


class Script:
    """Makes resources and plays its part: ``hold`` stops a call, ``fail`` makes it raise.

    Args:
        times: how long calls take, in (virtual) seconds: ``connect=0.05, ping=0.001``.

    Attributes:
        instants: when each call was entered, by the loop's clock.
        broken: what a call raises each time, until it is taken out again.
    """

    def __init__(self, **times: float) -> None:
        self.times = times
        self.made: list[Resource] = []
        self.calls: dict[str, int] = defaultdict(int)
        self.errors: dict[str, list[BaseException]] = defaultdict(list)
        self.gates: dict[str, asyncio.Event] = {}
        self.entered: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(0))
        self.most_alive = 0
        self.instants: dict[str, list[float]] = defaultdict(list)
        self.broken: dict[str, BaseException] = {}

    def hold(self, call: str) -> None:
        """Stop every ``call`` until `let`."""
        self.gates[call] = asyncio.Event()

    def let(self, call: str) -> None:
        """Let those who are held go on, and later ones pass."""
        self.gates.pop(call).set()

    def fail(self, call: str, *errors: BaseException) -> None:
        """Make the next calls raise."""
        self.errors[call] += errors

    async def reached(self, call: str) -> None:
        """Wait until ``call`` has been entered once more."""
        await self.entered[call].acquire()

    async def _play(self, call: str) -> None:
        self.calls[call] += 1
        self.instants[call].append(now())
        self.entered[call].release()
        if call in self.gates:
            await self.gates[call].wait()
        if call in self.times:
            await asyncio.sleep(self.times[call])
        if self.errors[call]:
            raise self.errors[call].pop(0)
        if call in self.broken:
            raise self.broken[call]

    async def connect(self) -> Resource:
        await self._play("connect")
        resource = Resource(len(self.made) + 1)
        self.made.append(resource)
        self.most_alive = max(self.most_alive, len(self.alive))
        return resource

    async def close(self, resource: Resource) -> None:
        try:
            await self._play("close")
        finally:
            resource.closed = True

    async def ping(self, resource: Resource) -> bool:
        await self._play("ping")
        return resource.answers

    async def clean(self, resource: Resource) -> None:
        await self._play("clean")
        resource.dirty = False

    def kill(self, *, unnoticed: bool = False) -> None:
        """End all connections: known to the driver, or half-open, so that only a ping tells."""
        for resource in self.made:
            resource.dead = not unnoticed
            resource.answers = False

    @property
    def alive(self) -> list[Resource]:
        return [resource for resource in self.made if not resource.closed]

    def pool(self, **options) -> Pool:
        return Pool(
            self.connect,
            close=self.close,
            ping=self.ping,
            clean=self.clean,
            is_dirty=lambda resource: resource.dirty,
            is_closed=lambda resource: resource.dead or resource.closed,
            **{"name": "test pool", **options},
        )


def now() -> float:
    """Return the loop's time, which `virtual_time` makes exact."""
    return asyncio.get_running_loop().time()


def about(seconds: float):
    """Equal but for rounding: the clock is a float."""
    return pytest.approx(seconds, abs=1e-6)


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def start(awaitable) -> asyncio.Task:
    """Await something in a task of its own."""

    async def run():
        return await awaitable

    task = asyncio.create_task(run())
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # may be left unseen
    return task


async def fill(pool: Pool, number: int) -> None:
    """Have ``number`` connections lent at the same time, then idle."""
    leases = [await pool.acquire() for _ in range(number)]
    for lease in leases:
        pool.release(lease)


async def waiting(pool: Pool, number: int) -> None:
    """Let tasks run until ``number`` callers stand in line."""
    while pool.stats().waiting != number:
        await asyncio.sleep(0)


async def assert_whole(pool: Pool, script: Script) -> None:
    """Every slot can be taken at once, each a live clean resource in one hand, and given back."""
    leases = await asyncio.gather(*(pool.acquire(timeout=5) for _ in range(pool.max_size)))
    resources = [lease.resource for lease in leases]
    assert len({resource.number for resource in resources}) == pool.max_size
    assert not any(resource.closed or resource.dirty for resource in resources)
    assert pool.stats().in_use == pool.max_size
    for lease in leases:
        pool.release(lease)
    await settle()
    stats = pool.stats()
    assert (stats.in_use, stats.waiting) == (0, 0)
    assert stats.size <= pool.max_size
