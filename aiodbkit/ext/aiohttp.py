"""aiohttp's server: the engine opened and closed with the app, a session for each request."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from aiodbkit.engine import Engine
from aiodbkit.errors import ConfigurationError, InterfaceError
from aiodbkit.ext._request import NO_RESPONSE, refuse_unless_engine
from aiodbkit.session import Session

__all__ = ["DB", "SESSION", "setup"]

DB: web.AppKey[Engine] = web.AppKey("aiodbkit", Engine)
"""Where the app has its engine: ``request.app[DB]``; several engines have keys of their own."""

SESSION: web.RequestKey[Session] = web.RequestKey("aiodbkit_session", Session)
"""Where a request has its session: ``request[SESSION]``; one key for each engine."""


def setup(
    app: web.Application,
    db: Engine,
    *,
    key: web.AppKey[Engine] = DB,
    session_key: web.RequestKey[Session] = SESSION,
) -> None:
    """Give each request of ``app`` a session, ``request[SESSION]``, and open ``db`` while it runs.

    The session takes no connection until its first statement. It is committed before a response
    with a status below 400 is sent, a failed commit being a 500; else it is rolled back. A handler
    that prepares a response by itself, to stream it, has what it did until then committed at that
    moment, before the headers leave; the session goes on to the handler's end. So it does in a
    WebSocket, whose handler commits after each message if it lives long.

    Args:
        app: the app.
        db: the engine.
        key: the engine's key in the app.
        session_key: the session's key in the request.

    Raises:
        ConfigurationError: ``db`` is no engine, or the app has one with this key.
    """
    refuse_unless_engine(db, "setup(app, db)")
    if key in app:
        raise ConfigurationError(
            f"setup(): this app has an engine as {key!r}: give a second one a key= and a "
            "session_key= of its own"
        )

    async def opened(_app: web.Application) -> AsyncIterator[None]:
        async with db:
            yield

    async def commit_before_the_headers(request: web.Request, response: web.StreamResponse) -> None:
        session: Session | None = request.get(session_key)
        if session is None or session.is_closed or session.is_rollback_only:
            return
        if response.status < 400:
            await session.commit()

    app[key] = db
    app.cleanup_ctx.append(opened)
    app.on_response_prepare.append(commit_before_the_headers)
    app.middlewares.append(_middleware(db, session_key))


def _middleware(db: Engine, key: web.RequestKey[Session]) -> Middleware:
    @web.middleware
    async def with_session(request: web.Request, handler: Handler) -> web.StreamResponse:
        raised: web.HTTPException | None = None
        response: web.StreamResponse | None = None
        async with db.session() as session:
            request[key] = session
            try:
                response = await handler(request)
            except web.HTTPException as answer:  # aiohttp's way to redirect, and to refuse
                response = raised = answer
            if response.status >= 400:
                session.set_rollback_only()
        if raised is not None:
            raise raised
        if response is None:
            raise InterfaceError(NO_RESPONSE)
        return response

    return with_session
