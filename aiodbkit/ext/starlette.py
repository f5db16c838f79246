"""Starlette: a session for each request, as ``request.state.db``, and streams that are closed."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict
from typing import Any, get_args

from starlette import responses

from aiodbkit.engine import Engine
from aiodbkit.errors import CommitUnknownError, ConfigurationError, InterfaceError, Rollback
from aiodbkit.ext._request import NO_RESPONSE, refuse_unless_engine
from aiodbkit.options import ChildTasks, Isolation, LockMode, TransactionOptions, choice
from aiodbkit.session import Session

__all__ = ["SessionMiddleware", "StreamingResponse"]

# Those of the ASGI specification.
Message = MutableMapping[str, Any]
ASGIScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[ASGIScope, Receive, Send], Awaitable[None]]


def is_success(status: int) -> bool:
    """Whether an HTTP status, a redirection included, says that the request did what it asked."""
    return status < 400


class SessionMiddleware:
    """Gives each request and each WebSocket a session, and ends it before the answer is sent.

    ``Starlette(..., middleware=[Middleware(SessionMiddleware, db=db)])``. The session takes no
    connection until its first statement. When the app starts its response, that is held back:
    the session is committed for a status that ``commit_on`` accepts, else rolled back, and only
    then the response goes on. A commit that fails is raised in the app instead, so that the
    client gets an error; an exception out of the app rolls back.

    A WebSocket's session ends before the app's ``close``, or when the app returns: committed with
    the code 1000, else rolled back.

    Args:
        app: the ASGI app.
        db: the engine.
        attribute: the session's name in ``request.state``; one for each engine.
        commit_on: given the status of the response.
        read_only, isolation, deferrable, mode, child_tasks: as of `Engine.session`.

    Raises:
        ConfigurationError: an option cannot be.
    """

    def __init__(
        self,
        app: ASGIApp,
        db: Engine,
        *,
        attribute: str = "db",
        commit_on: Callable[[int], bool] = is_success,
        read_only: bool = False,
        isolation: Isolation | None = None,
        deferrable: bool = False,
        mode: LockMode | None = None,
        child_tasks: ChildTasks | None = None,
    ) -> None:
        refuse_unless_engine(db, "SessionMiddleware")
        _refuse_unless_name(attribute)
        _refuse_unless_plain_function(commit_on)
        choice("child_tasks", child_tasks, (None, *get_args(ChildTasks)))
        self._app = app
        self._db = db
        self._attribute = attribute
        self._commit_on = commit_on
        self._child_tasks: ChildTasks | None = child_tasks
        self._options = asdict(
            TransactionOptions(
                isolation=isolation, read_only=read_only, deferrable=deferrable, mode=mode
            )
        )

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        session = self._db.session(**self._options, child_tasks=self._child_tasks)
        state = scope.setdefault("state", {})
        self._refuse_to_replace(state.get(self._attribute), session)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(session)
            # It stays there after its end: what comes later is told so.
            state[self._attribute] = session
            exchange = _Exchange(session, stack, send, self._commit_on)
            try:
                await self._app(scope, receive, exchange.send)
            except Rollback as error:
                if scope["type"] == "http" and not session.is_closed:
                    raise InterfaceError(NO_RESPONSE) from error
                raise
            exchange.refuse_if_unanswered()
            if scope["type"] == "http":
                exchange.roll_back_unless_ended()  # nothing was answered

    def _refuse_to_replace(self, around: object, session: Session) -> None:
        """One engine's statements would go to another one."""
        if not isinstance(around, Session) or around.is_closed:
            return
        if around._engine is not session._engine:
            raise ConfigurationError(
                f"request.state.{self._attribute} is a session of {around._engine!r} already, "
                f"from a SessionMiddleware further out: give that of {session._engine!r} "
                "a name of its own, attribute=..."
            )


def _refuse_unless_name(attribute: object) -> None:
    if not isinstance(attribute, str) or not attribute.isidentifier():
        raise ConfigurationError(
            f"attribute={attribute!r} cannot be a name in request.state: give an identifier"
        )
    if keyword.iskeyword(attribute):
        raise ConfigurationError(
            f"attribute={attribute!r} is a keyword, so request.state.{attribute} is no Python: "
            "give another name"
        )


def _refuse_unless_plain_function(commit_on: object) -> None:
    # What a coroutine function returns is always true.
    if not callable(commit_on) or inspect.iscoroutinefunction(commit_on):
        raise ConfigurationError(
            "commit_on= takes a plain function that is given the status and returns whether to "
            f"commit, such as `lambda status: status < 300`, not {commit_on!r}"
        )


class _Exchange:
    """One request or WebSocket: lets the app's messages pass, the decisive one after the commit."""

    def __init__(
        self,
        session: Session,
        stack: AsyncExitStack,
        send: Send,
        commit_on: Callable[[int], bool],
    ) -> None:
        self._session = session
        self._stack = stack
        self._send = send
        self._commit_on = commit_on
        self._is_accepted = False
        self._failure: Exception | None = None  # of the commit; the client has not been told yet

    async def send(self, message: Message) -> None:
        commit = self._verdict(message)
        if self._failure is not None:
            await self._send_after_failure(message, commit=commit)
            return
        if commit is not None and not self._session.is_closed:
            await self._end(commit=commit)
        await self._send(message)

    def _verdict(self, message: Message) -> bool | None:
        """Say whether what the app sends means a commit, a rollback, or that it goes on."""
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                return self._commit_on(message["status"])
            case "websocket.accept":
                self._is_accepted = True
            case "websocket.close":
                return self._is_accepted and message.get("code", 1000) == 1000
        return None

    async def _end(self, *, commit: bool) -> None:
        if not commit:
            self._session.set_rollback_only()
        try:
            await self._stack.aclose()
        except Exception as error:
            self._failure = error
            raise
        except BaseException:  # cancelled; should the app go on, it must not tell of a success
            self._failure = _cut_off(commit=commit)
            raise

    async def _send_after_failure(self, message: Message, *, commit: bool | None) -> None:
        """Let an answer pass that tells of the failure, and no other."""
        assert self._failure is not None
        if commit is not False:
            raise self._failure
        self._failure = None
        await self._send(message)

    def refuse_if_unanswered(self) -> None:
        """Raise the failure that the app has swallowed."""
        if self._failure is not None:
            raise self._failure

    def roll_back_unless_ended(self) -> None:
        if not self._session.is_closed:
            self._session.set_rollback_only()


def _cut_off(*, commit: bool) -> Exception:
    if not commit:
        return InterfaceError(
            "the app was cancelled while its session was rolled back: now only an error can be sent"
        )
    return CommitUnknownError(
        "the app was cancelled while its session was committed: whether that took effect is "
        "unknown, and only an error can be sent",
        query="COMMIT",
    )


class StreamingResponse(responses.StreamingResponse):
    """Starlette's, but an async generator is closed when its client hangs up.

    Starlette drops it where it stands, and a session or a stream of rows that is open in it would
    keep its connection until the garbage collector comes by.
    """

    async def stream_response(self, send: Send) -> None:
        body = self.body_iterator
        if not isinstance(body, AsyncGenerator):
            await super().stream_response(send)
            return
        async with aclosing(body):
            await super().stream_response(send)
