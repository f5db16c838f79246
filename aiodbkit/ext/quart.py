"""Quart: the engine opened and closed with the app, a session for each request as ``g.db``.

A WebSocket has one too.
"""

from __future__ import annotations

from typing import Any

from quart import Quart, Response, g

from aiodbkit.engine import Engine
from aiodbkit.ext._request import begin, end, refuse_unless_engine

__all__ = ["init_app"]


def init_app(app: Quart, db: Engine, *, name: str = "db") -> None:
    """Give each request of ``app`` a session, ``g.db``, and open ``db`` while the app serves.

    The session takes no connection until its first statement. It is committed before a response
    with a status below 400 is sent, a failed commit being a 500; else it is rolled back.

    A WebSocket's session is committed when its handler returns, and rolled back when that raises
    or the client leaves first: a handler that lives long commits after each message.

    Args:
        app: the app.
        db: the engine.
        name: the session's name in ``g``; one for each engine.

    Raises:
        ConfigurationError: ``db`` is no engine.
    """
    refuse_unless_engine(db, "init_app(app, db)")

    async def open_session() -> None:
        setattr(g, name, await begin(db))

    async def end_session(response: Response) -> Response:
        await end(g.get(name), commit=response.status_code < 400)
        return response

    async def end_websocket(response: Any) -> Any:  # None where nothing was answered
        await end(g.get(name), commit=response is None or response.status_code < 400)
        return response

    async def roll_back(_error: BaseException | None) -> None:
        await end(g.get(name), commit=False)

    app.before_serving(db.connect)
    app.after_serving(db.close)
    app.before_request(open_session)
    app.after_request(end_session)
    app.teardown_request(roll_back)
    app.before_websocket(open_session)
    app.after_websocket(end_websocket)
    app.teardown_websocket(roll_back)
