"""Quart: the engine opened and closed with the app, a session for each request as ``g.db``."""

from __future__ import annotations

from quart import Quart, Response, g

from aiodbkit.engine import Engine
from aiodbkit.ext._request import begin, end

__all__ = ["init_app"]


def init_app(app: Quart, db: Engine, *, name: str = "db") -> None:
    """Give each request of ``app`` a session, ``g.db``, and open ``db`` while the app serves.

    The session takes no connection until its first statement. It is committed before a response
    with a status below 400 is sent, a failed commit being a 500; else it is rolled back.

    Args:
        app: the app.
        db: the engine.
        name: the session's name in ``g``; one for each engine.
    """

    async def open_session() -> None:
        setattr(g, name, await begin(db))

    async def end_session(response: Response) -> Response:
        await end(g.get(name), commit=response.status_code < 400)
        return response

    async def roll_back(_error: BaseException | None) -> None:
        await end(g.get(name), commit=False)

    app.before_serving(db.connect)
    app.after_serving(db.close)
    app.before_request(open_session)
    app.after_request(end_session)
    app.teardown_request(roll_back)
