"""Litestar: a plugin that opens the engine with the app and gives handlers a session, ``db``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from litestar import Litestar
from litestar.config.app import AppConfig
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from litestar.plugins import InitPlugin
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from litestar.utils.scope.state import ScopeState

from aiodbkit.engine import Engine
from aiodbkit.errors import ConfigurationError
from aiodbkit.ext._request import refuse_unless_engine
from aiodbkit.ext.starlette import SessionMiddleware
from aiodbkit.session import Session

__all__ = ["SessionPlugin"]


class SessionPlugin(InitPlugin):
    """``Litestar(..., plugins=[SessionPlugin(db)])``, then ``async def handler(db: Session)``.

    The engine is open while the app runs. The session takes no connection until its first
    statement. It is committed before a response with a status below 400 is sent, a failed commit
    being a 500; else it is rolled back. A WebSocket's is committed when its handler returns, or
    closes with the code 1000; it is rolled back when that raises, as it does when the client
    leaves.

    Args:
        db: the engine.
        name: of the dependency, and in ``request.state``; one for each engine.

    Raises:
        ConfigurationError: ``db`` is no engine, or the app has a dependency of that name.
    """

    def __init__(self, db: Engine, *, name: str = "db") -> None:
        refuse_unless_engine(db, "SessionPlugin(db)")
        self._db = db
        self._name = name

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add the lifespan, the middleware and the dependency."""
        if self._name in app_config.dependencies:
            raise ConfigurationError(
                f"this app has a dependency {self._name!r}: give SessionPlugin a name= of its own"
            )
        app_config.lifespan.append(self._lifespan)
        app_config.middleware.insert(
            0, DefineMiddleware(_Middleware, db=self._db, attribute=self._name)
        )
        app_config.dependencies[self._name] = Provide(self._provide, sync_to_thread=False)
        app_config.signature_types.append(Session)
        return app_config

    @asynccontextmanager
    async def _lifespan(self, _app: Litestar) -> AsyncIterator[None]:
        async with self._db:
            yield

    def _provide(self, scope: Scope) -> Session:  # of a request or of a WebSocket
        session = scope["state"][self._name]
        assert isinstance(session, Session)
        return session


class _Middleware:
    """Opens the session in the request's task: dependencies may be resolved in tasks of theirs."""

    def __init__(self, app: ASGIApp, db: Engine, attribute: str) -> None:
        self._app = app
        self._attribute = attribute
        # The two name the types of ASGI differently.
        self._in_session: Any = SessionMiddleware(cast("Any", self._call), db, attribute=attribute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._in_session(scope, receive, send)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_left = False

        async def receive_and_see() -> Any:
            nonlocal has_left
            message = await receive()
            has_left = message["type"] == "websocket.disconnect"
            return message

        async def send_or_fail(message: Message) -> None:
            if has_left and message["type"] == "websocket.close":
                # What the handler raised then; Litestar repeats the client's code, also 1000.
                _roll_back(scope["state"][self._attribute])
            try:
                await send(message)
            except Exception:
                # The commit failed, nothing was sent: Litestar may still make this a 500.
                if message["type"] == "http.response.start":
                    ScopeState.from_scope(scope).response_started = False
                raise

        await self._app(scope, receive_and_see, send_or_fail)


def _roll_back(session: Session) -> None:
    if not session.is_closed:
        session.set_rollback_only()
