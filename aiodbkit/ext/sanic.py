"""Sanic: the engine opened and closed with each worker, a session for each request."""

from __future__ import annotations

import inspect
from typing import Any

from sanic import HTTPResponse, Sanic

from aiodbkit.engine import Engine
from aiodbkit.ext._request import begin, end, refuse_unless_engine

__all__ = ["setup"]

_FIRST = -1000  # of the middleware for responses, the lowest goes first


def setup(app: Sanic[Any, Any], db: Engine, *, name: str = "db") -> None:
    """Give each request of ``app`` a session, ``request.ctx.db``, and open ``db`` while it serves.

    The session takes no connection until its first statement. It is committed before a response
    with a status below 400 is sent, also one that is streamed; else it is rolled back. After a
    commit that failed, Sanic's handler of errors makes the response, a 500. Response middleware of
    the app's runs after that. A request without a route has no session, and a WebSocket neither:
    it opens ``async with db.session()``.

    Args:
        app: the app.
        db: the engine.
        name: the session's name in ``request.ctx``; one for each engine.

    Raises:
        ConfigurationError: ``db`` is no engine.
    """
    refuse_unless_engine(db, "setup(app, db)")

    async def open_engine(_app: Sanic[Any, Any]) -> None:
        await db.connect()

    async def close_engine(_app: Sanic[Any, Any]) -> None:
        await db.close()

    async def open_session(request: Any) -> None:
        # Sanic's task serves one request after the other, so a session must not be left open in
        # it. After a WebSocket no middleware runs; without a route, in another order.
        if request.route is not None and not getattr(request.route.extra, "websocket", False):
            setattr(request.ctx, name, await begin(db))

    async def end_session(request: Any, response: Any) -> HTTPResponse | None:
        try:
            await end(getattr(request.ctx, name, None), commit=response.status < 400)
        except Exception as error:  # noqa: BLE001 - Sanic would log it and send the response
            handler: Any = request.app.error_handler
            answer = handler.response(request, error)
            failure: HTTPResponse = await answer if inspect.isawaitable(answer) else answer
            return failure
        return None

    app.register_listener(open_engine, "before_server_start")
    app.register_listener(close_engine, "after_server_stop")
    app.register_middleware(open_session, "request")
    # One that goes before it and fails, or answers, would have Sanic send a response without it.
    app.register_middleware(end_session, "response", priority=_FIRST)
