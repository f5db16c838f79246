"""Tornado: a session for each request of a handler, as ``self.db``.

Tornado has no hook that a response waits for, and `finish`, `redirect` and `render` send it from
inside the method. So the mixin runs the method in the session, and holds back what finishes the
response until the session has ended.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tornado.web import Application, RequestHandler

from aiodbkit.engine import Engine
from aiodbkit.errors import InterfaceError
from aiodbkit.ext._request import refuse_unless_engine
from aiodbkit.session import Session

__all__ = ["SessionMixin", "setup"]

Method = Callable[..., Awaitable[None]]

_VERBS = ("get", "head", "post", "put", "patch", "delete", "options")
_SETTING = "aiodbkit"

if TYPE_CHECKING:  # the mixin calls the methods of the base that follows it
    _Base = RequestHandler
else:
    _Base = object


def setup(app: Application, db: Engine) -> None:
    """Say which engine the handlers of ``app`` use.

    Who runs the app opens the engine: ``async with db:`` around its waiting for the end.

    Raises:
        ConfigurationError: ``db`` is no engine.
    """
    refuse_unless_engine(db, "setup(app, db)")
    app.settings[_SETTING] = db


class SessionMixin(_Base):
    """``class Users(SessionMixin, RequestHandler):`` async methods have a session, ``self.db``.

    The session takes no connection until its first statement. It is committed when the method has
    returned and the status is below 400, else rolled back; then the response is sent. A failed
    commit is a 500. `flush` is refused while the session has something to commit: ``await
    self.db.commit()`` first.
    """

    db: Session
    _held: list[Any] | None = None  # what finish() was given, while the session is open
    _is_held_back = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in _VERBS:
            method = cls.__dict__.get(name)
            if inspect.iscoroutinefunction(method):
                setattr(cls, name, _in_session(method))

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> asyncio.Future[None]:
        """Send the response; inside the session, when that has ended."""
        if not self._is_held_back:
            sent: asyncio.Future[None] = super().finish(chunk)
            return sent
        if self._held is None:
            self._held = [chunk]
        elif chunk is not None:  # send_error() calls it again, with nothing
            raise RuntimeError("finish() called twice")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def flush(self, include_footers: bool = False) -> asyncio.Future[None]:  # noqa: FBT001, FBT002
        """Send what was written so far."""
        if self._is_held_back and self.db.in_transaction:
            raise InterfaceError(
                "flush(): the response would leave before what it tells of is committed: "
                "`await self.db.commit()` first"
            )
        flushed: asyncio.Future[None] = super().flush(include_footers)
        return flushed


def _in_session(method: Method) -> Method:
    @functools.wraps(method)
    async def wrapper(self: SessionMixin, *args: Any, **kwargs: Any) -> None:
        if self._is_held_back:  # called by a method of a subclass
            await method(self, *args, **kwargs)
            return
        engine = self.settings.get(_SETTING)
        if engine is None:
            raise InterfaceError("this app has no engine: setup(app, db) gives it one")
        try:
            async with engine.session() as session:
                self.db = session
                self._is_held_back = True
                await method(self, *args, **kwargs)
                if self.get_status() >= 400:
                    session.set_rollback_only()
        except BaseException:
            self._held = None  # the error makes the response
            raise
        finally:
            self._is_held_back = False
        if self._held is not None:
            self.finish(*self._held)

    return wrapper
