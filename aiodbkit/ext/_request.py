"""What the integrations share: what they refuse, and a request's session.

The session is for frameworks that call one function before a request and one after it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiodbkit.engine import Engine
from aiodbkit.errors import ConfigurationError, Error
from aiodbkit.session import Session

__all__ = ["NO_RESPONSE", "begin", "end", "refuse_unless_engine"]

NO_RESPONSE = (
    "a handler that raises Rollback has no response to send: return one, after set_rollback_only() "
    "on its session"
)


def refuse_unless_engine(db: object, who: str, method: str = "session") -> None:
    """Raise for what has not the method that will be called in each request.

    Raises:
        ConfigurationError: an engine's class is no engine either.
    """
    if isinstance(db, type) or not callable(getattr(db, method, None)):
        raise ConfigurationError(f"{who} takes an engine, and {db!r} is none")


_ending: set[asyncio.Task[Any]] = set()


async def begin(db: Engine) -> Session:
    """Return an open session of the running task, which `end` ends.

    A task that is cancelled or fails before it comes to that, as when the client hangs up, leaves
    the session to be rolled back behind it.
    """
    session = db.session()
    await session.__aenter__()
    task = asyncio.current_task()
    assert task is not None

    def see(_task: asyncio.Task[Any]) -> None:
        if not session.is_closed:
            rest = asyncio.get_running_loop().create_task(_roll_back(session))
            _ending.add(rest)  # a loop knows its tasks only weakly
            rest.add_done_callback(_ending.discard)

    task.add_done_callback(see)
    return session


async def end(session: Session | None, *, commit: bool) -> None:
    """Commit or roll back, once.

    Raises:
        Error: the commit failed.
    """
    if session is None or session.is_closed:
        return
    if not commit:
        session.set_rollback_only()
    await session.__aexit__(None, None, None)


async def _roll_back(session: Session) -> None:
    try:
        await end(session, commit=False)
    except Error:  # the pool discards the connection, and says why
        pass
