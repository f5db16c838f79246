"""The asynchronous halves of the pytest plugin's fixtures, one set for each loop of a test.

pytest-asyncio runs a fixture in the loop that the fixture's own definition names, so there is one
for each scope of loops; anyio's plugin takes plain ones and runs them where it runs the test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from types import ModuleType
from typing import Any

from aiodbkit.engine import Engine
from aiodbkit.factory import create_engine
from aiodbkit.testing.sandbox import sandbox

__all__ = ["KINDS", "LOOP_SCOPES", "MakeEngine", "for_loop_scopes", "hidden_name", "opened"]

LOOP_SCOPES = ("function", "class", "module", "package", "session")
KINDS = ("make_engine", "engine", "sandbox")

MakeEngine = Callable[..., Awaitable[Engine]]


def hidden_name(kind: str, runner: str) -> str:
    """Return the name of the fixture behind a public one."""
    return f"_aiodbkit_{kind}_by_{runner}"


def opened(kind: str) -> Callable[..., AsyncIterator[Any]]:
    """Return a new async generator function, to be made a fixture."""

    async def make_engine(aiodbkit_url: str) -> AsyncIterator[MakeEngine]:
        async with AsyncExitStack() as stack:

            async def make(url: str | None = None, /, **options: Any) -> Engine:
                engine = create_engine(url or aiodbkit_url, **options)
                stack.push_async_callback(engine.close, timeout=2.0)
                await engine.connect()
                return engine

            yield make

    async def engine(
        aiodbkit_url: str, aiodbkit_engine_options: Mapping[str, Any]
    ) -> AsyncIterator[Engine]:
        made = create_engine(aiodbkit_url, **aiodbkit_engine_options)
        try:
            await made.connect()
            yield made
        finally:
            await made.close(timeout=2.0)

    async def sandboxed(aiodbkit_engine: Engine) -> AsyncIterator[Engine]:
        async with sandbox(aiodbkit_engine):
            yield aiodbkit_engine

    kinds: dict[str, Callable[..., AsyncIterator[Any]]] = {
        "make_engine": make_engine,
        "engine": engine,
        "sandbox": sandboxed,
    }
    return kinds[kind]


def for_loop_scopes(fixture: Callable[..., Any]) -> ModuleType:
    """Return a plugin with the fixtures of every kind for every scope of pytest-asyncio's loops.

    Args:
        fixture: ``pytest_asyncio.fixture``.
    """
    plugin = ModuleType("aiodbkit_fixtures_by_loop")
    for name, kind, scope in _all():
        setattr(plugin, name, fixture(loop_scope=scope, name=name)(opened(kind)))
    return plugin


def _all() -> Iterator[tuple[str, str, str]]:
    for kind in KINDS:
        for scope in LOOP_SCOPES:
            yield hidden_name(kind, scope), kind, scope
