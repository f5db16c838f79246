"""The engines of an ASGI app, opened before its first request and closed after its last."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from aiodbkit.errors import ConfigurationError

__all__ = ["Lifespan", "lifespan"]

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]
"""What an ASGI framework takes as ``lifespan=``: called with the app, entered once."""


def lifespan(*engines: AbstractAsyncContextManager[Any], inner: Lifespan | None = None) -> Lifespan:
    """Return a lifespan that opens several engines, and the app's own one inside them.

    ``FastAPI(lifespan=aiodbkit.lifespan(db, archive, inner=mine))``. The engines are opened in
    order and closed in reverse; if one cannot be opened, those before it are closed again.

    Args:
        engines: what ``async with`` opens and closes; engines above all.
        inner: a lifespan, as the framework would take it. The state that it yields is yielded.

    Raises:
        ConfigurationError: an engine or ``inner`` is something else.
    """
    for engine in engines:
        if not hasattr(type(engine), "__aenter__"):
            raise ConfigurationError(
                f"lifespan() takes engines, and the app's own lifespan as inner=; {engine!r} is "
                "no engine"
            )
    if inner is not None:
        _refuse_unless_lifespan(inner)

    @asynccontextmanager
    async def opened(app: Any) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            for engine in engines:
                await stack.enter_async_context(engine)
            yield None if inner is None else await stack.enter_async_context(inner(app))

    return opened


def _refuse_unless_lifespan(inner: object) -> None:
    """Raise for the mistakes that can be seen before it is called."""
    if isinstance(inner, AbstractAsyncContextManager):  # some of them can be called, too
        raise ConfigurationError(
            f"lifespan(inner=...) takes a function, and calls it with the app; {inner!r} is what "
            "such a function returns, or an engine: give the function itself, or give the engine "
            "before inner="
        )
    is_undecorated = (
        inspect.isasyncgenfunction(inner)
        or inspect.isgeneratorfunction(inner)
        or inspect.iscoroutinefunction(inner)
    )
    if not callable(inner) or is_undecorated:
        raise ConfigurationError(
            "lifespan(inner=...) takes a function that is given the app and returns an async "
            "context manager: decorate an async generator with "
            "@contextlib.asynccontextmanager"
        )
