"""FastAPI: a session or a connection for an endpoint, committed before the response is sent.

``Tx = Annotated[Session, session(db)]``; then ``async def endpoint(tx: Tx)``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import Any, get_args

import fastapi
from fastapi import params

from aiodbkit.connection import Connection
from aiodbkit.engine import Engine
from aiodbkit.errors import ConfigurationError, InterfaceError, TransactionScopeError
from aiodbkit.ext._request import refuse_unless_engine
from aiodbkit.options import ChildTasks, Isolation, LockMode, TransactionOptions, choice
from aiodbkit.scope import find_scope
from aiodbkit.session import Session

__all__ = ["connection", "session"]


def session(
    db: Engine,
    *,
    read_only: bool = False,
    isolation: Isolation | None = None,
    deferrable: bool = False,
    mode: LockMode | None = None,
    child_tasks: ChildTasks | None = None,
) -> params.Depends:
    """Return a dependency: a `Session` around the endpoint, which is committed before the response.

    An exception in the endpoint rolls it back, an ``HTTPException`` too. A commit that fails is
    the request's error: no response has been sent by then. Within a request, equal dependencies
    are one session; one that writes cannot be asked for inside one that only reads.

    ``session(db).dependency`` is the key for ``app.dependency_overrides``.

    Args:
        db: the engine.
        read_only, isolation, deferrable, mode, child_tasks: as of `Engine.session`.

    Raises:
        ConfigurationError: this version of FastAPI would commit after the response; or an
            option cannot be.
    """
    refuse_unless_engine(db, "session()")
    choice("child_tasks", child_tasks, (None, *get_args(ChildTasks)))
    options = TransactionOptions(
        isolation=isolation, read_only=read_only, deferrable=deferrable, mode=mode
    )
    return _around_the_endpoint(_SessionOf(db, options, child_tasks))


def connection(db: Engine) -> params.Depends:
    """Return a dependency: the request's `Connection`, held until its endpoint has returned.

    Each statement commits by itself, unless the endpoint begins a transaction. Where the request
    has a session already, it is the session's connection. ``connection(db).dependency`` is the
    key for ``app.dependency_overrides``.

    Raises:
        ConfigurationError: this version of FastAPI would hold it until after the response.
    """
    refuse_unless_engine(db, "connection()", "connection")
    return _around_the_endpoint(_ConnectionOf(db))


# FastAPI keeps a dependency's value for the request under the dependency: equal ones share it.


@dataclass(frozen=True)
class _SessionOf:
    db: Engine
    options: TransactionOptions
    child_tasks: ChildTasks | None

    async def __call__(self) -> AsyncIterator[Session]:
        self._refuse_inside_a_reader()
        async with self.db.session(**asdict(self.options), child_tasks=self.child_tasks) as session:
            yield session
            _set_free_what_runs_on(session)
            return
        raise InterfaceError(
            "Rollback was raised in an endpoint, and now there is no response to send: call "
            "session.set_rollback_only() and return one, or raise an HTTPException"
        )

    def _refuse_inside_a_reader(self) -> None:
        """It would be a savepoint in there, and its writes refused one by one."""
        scope = find_scope(self.db)
        if self.options.read_only or scope is None or not scope.is_own:
            return
        around = scope.place
        if isinstance(around, Session) and around._options.read_only:
            raise TransactionScopeError(
                "a session that writes was asked for inside a read-only one of the same request: "
                "name it first among the endpoint's parameters, and the reader will run inside it"
            )


def _set_free_what_runs_on(session: Session) -> None:
    """Let tasks that the endpoint has left behind use the engine while the session ends.

    FastAPI starts the task of an ``EventSourceResponse`` before it ends the dependencies.
    """
    assert session._scope is not None
    session._scope.leave()


@dataclass(frozen=True)
class _ConnectionOf:
    db: Engine

    async def __call__(self) -> AsyncIterator[Connection]:
        async with self.db.connection() as connection:
            yield connection


def _around_the_endpoint(dependency: Callable[..., Any]) -> params.Depends:
    """Wire a dependency so that it ends when the endpoint has, and before the response is sent."""
    if "scope" in inspect.signature(params.Depends).parameters:
        return params.Depends(dependency, scope="function")
    if (0, 106) <= _version() < (0, 118):  # dependencies always ended then
        return params.Depends(dependency)
    raise ConfigurationError(
        f"FastAPI {fastapi.__version__} ends dependencies after the response has been sent, so a "
        "failed commit would be lost behind a success: use FastAPI 0.121 or newer "
        "(or one of 0.108 to 0.117)"
    )


def _version() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", fastapi.__version__)[:2]))
