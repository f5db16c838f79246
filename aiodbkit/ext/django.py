"""Django's async views: a session for each request, as ``request.db``.

Django has no hook for the start and the end of a server: the engine opens itself with the first
statement, and `with_lifespan` closes it where the ASGI server tells of its end.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

from aiodbkit.engine import Engine
from aiodbkit.errors import InterfaceError
from aiodbkit.ext._request import NO_RESPONSE, refuse_unless_engine

__all__ = ["SessionMiddleware", "with_lifespan", "with_session"]

View = TypeVar("View", bound=Callable[..., Awaitable[HttpResponseBase]])
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]


class SessionMiddleware:
    """``MIDDLEWARE = ["aiodbkit.ext.django.SessionMiddleware", ...]``, ``request.db`` is a session.

    The setting ``AIODBKIT_ENGINE`` says where the engine is: ``"mysite.db.engine"``, or the
    engine itself. The session takes no connection until its first statement. It is committed
    before a response with a status below 400 is sent, a failed commit being a 500; else it is
    rolled back.

    Raises:
        ImproperlyConfigured: there is no engine.
    """

    async_capable = True
    sync_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> None:
        found = getattr(settings, "AIODBKIT_ENGINE", None)
        engine = import_string(found) if isinstance(found, str) else found
        if not isinstance(engine, Engine):
            raise ImproperlyConfigured(
                f"AIODBKIT_ENGINE has to be an engine, or the dotted path of one; it is {engine!r}"
            )
        self._answer = with_session(engine)(get_response)
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request in a session."""
        return await self._answer(request)


def with_session(db: Engine, *, name: str = "db") -> Callable[[View], View]:
    """Decorate an async view: it runs in a session of its own, ``request.db``.

    Committed when the view returns a response with a status below 400, else rolled back.

    Args:
        db: the engine.
        name: the session's name in the request; one for each engine.

    Raises:
        ConfigurationError: ``db`` is no engine.
        TypeError: the view is not async.
    """
    refuse_unless_engine(db, "with_session(db)")

    def decorate(view: View) -> View:
        if not iscoroutinefunction(view):
            raise TypeError(
                f"with_session() wraps async views; {view!r} is not one: for sync views there is "
                "`db.portal()`"
            )

        @functools.wraps(view)
        async def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            response: HttpResponseBase | None = None
            async with db.session() as session:
                setattr(request, name, session)
                response = await view(request, *args, **kwargs)
                if response.status_code >= 400:
                    session.set_rollback_only()
            if response is None:
                raise InterfaceError(NO_RESPONSE)
            return response

        return wrapper  # type: ignore[return-value]

    return decorate


def with_lifespan(application: ASGIApp, *engines: Engine) -> ASGIApp:
    """Open and close engines with the server: ``with_lifespan(get_asgi_application(), db)``.

    Django itself refuses ASGI's lifespan messages; these are answered here. A server that sends
    none leaves the engines to open themselves, and to end with the process.

    Raises:
        ConfigurationError: one of them is no engine.
    """
    for engine in engines:
        refuse_unless_engine(engine, "with_lifespan(application, db)")

    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await application(scope, receive, send)
            return
        await receive()
        try:
            for engine in engines:
                await engine.connect()
        except Exception as error:
            await _close(engines)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await _close(engines)
        await send({"type": "lifespan.shutdown.complete"})

    return wrapper


async def _close(engines: tuple[Engine, ...]) -> None:
    for engine in reversed(engines):
        await engine.close()
