"""Falcon's ASGI apps: the engine opened and closed with the app, a session for each request."""

from __future__ import annotations

from typing import Any

from falcon.asgi import Request, Response

from aiodbkit.engine import Engine
from aiodbkit.ext._request import begin, end, refuse_unless_engine

__all__ = ["SessionMiddleware"]


class SessionMiddleware:
    """``falcon.asgi.App(middleware=[SessionMiddleware(db)])``: ``req.context.db`` is a session.

    The engine is open while the app runs. The session takes no connection until its first
    statement. It is committed before a response with a status below 400 is sent, a failed commit
    being a 500; else it is rolled back. A WebSocket has none: it opens ``async with db.session()``.

    Args:
        db: the engine.
        name: the session's name in ``req.context``; one for each engine.

    Raises:
        ConfigurationError: ``db`` is no engine.
    """

    def __init__(self, db: Engine, *, name: str = "db") -> None:
        refuse_unless_engine(db, "SessionMiddleware(db)")
        self._db = db
        self._name = name

    async def process_startup(self, _scope: dict[str, Any], _event: dict[str, Any]) -> None:
        """Open the engine."""
        await self._db.connect()

    async def process_shutdown(self, _scope: dict[str, Any], _event: dict[str, Any]) -> None:
        """Close the engine."""
        await self._db.close()

    async def process_request(self, req: Request, _resp: Response) -> None:
        """Open the request's session."""
        setattr(req.context, self._name, await begin(self._db))

    async def process_response(
        self,
        req: Request,
        resp: Response,
        _resource: object,
        req_succeeded: bool,  # noqa: FBT001 - Falcon's
    ) -> None:
        """Commit or roll back, before the response is sent."""
        session = getattr(req.context, self._name, None)
        await end(session, commit=req_succeeded and resp.status_code < 400)
