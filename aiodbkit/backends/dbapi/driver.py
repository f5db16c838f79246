"""Any DB-API 2.0 module, each connection on a worker thread of its own.

The rooms: `creator` (what opens connections), `module` and `family` (what is known of the module
and of its database), `thread` (jobs), `worker` (a connection seen from its thread), `connection`
(seen from the event loop), `paramstyle`, `statements`, `errors`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aiodbkit.backends.dbapi.connection import DBAPIConnection
from aiodbkit.backends.dbapi.creator import Creator
from aiodbkit.backends.dbapi.errors import cannot_connect
from aiodbkit.backends.dbapi.family import Family, family_of
from aiodbkit.backends.dbapi.module import DBAPIModule
from aiodbkit.backends.dbapi.thread import Job, WorkerThread
from aiodbkit.backends.dbapi.worker import Worker
from aiodbkit.driver import Capabilities, Driver
from aiodbkit.sql import compile_sql

__all__ = ["DBAPIConnection", "DBAPIDriver"]


class DBAPIDriver(Driver):
    """Opens connections, each on its thread.

    Args:
        creator: what to call.
        connect_timeout: seconds, passed on to modules that take them.
        reset: as in `PoolOptions`.
        connection_factory: opens the raw connections instead, if given.
    """

    def __init__(
        self,
        creator: Creator,
        *,
        connect_timeout: float,
        reset: str,
        connection_factory: Callable[[], Awaitable[Any]] | None,
    ) -> None:
        self._creator = creator
        self._connect_timeout = connect_timeout
        self._reset = reset
        self._factory = connection_factory
        self._module = creator.module

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """What the database can do; of a function's, not much is known before it was called."""
        return self._family.capabilities

    @property
    def _family(self) -> Family:
        return family_of(self._module.database if self._module else "")

    async def connect(self) -> DBAPIConnection:
        opening = _Opening(self._creator, self._connect_timeout)
        if self._factory is not None:
            opening.raw = await self._factory()
        thread = WorkerThread(f"aiodbkit-{self._creator.where}")
        try:
            worker: Worker = await thread.run(opening)
        except Exception as error:
            thread.abandon(opening.undo)
            option = self._creator.refused_option(error)
            if option is not None:
                raise self._creator.unknown(option) from error
            module = opening.module or self._creator.module
            raise cannot_connect(error, self._creator.where, module) from error
        except asyncio.CancelledError:
            thread.abandon(opening.undo)
            raise
        self._module = worker.module
        thread.cancel = self._stopper(worker)
        return DBAPIConnection(thread, worker, self._reset)

    def _stopper(self, worker: Worker) -> Callable[[], Any] | None:
        if not worker.module.name.startswith("psycopg2"):
            return worker.family.stopper(worker.raw)
        # psycopg2's cancel() holds the interpreter's lock while it waits for the server: one that
        # does not answer would freeze the whole process.
        return partial(_cancel_beside, self._creator, self._connect_timeout, worker.pid)

    def quote(self, identifier: str) -> str:
        return self._family.quote(identifier)

    def only_reads(self, sql: str) -> bool:
        return compile_sql(sql, self._family.dialect).is_read


def _cancel_beside(creator: Creator, seconds: float, pid: int) -> None:
    """Stop the statement of a PostgreSQL server process, through a connection made for that."""
    raw = creator.open(seconds)
    try:
        raw.cursor().execute("select pg_cancel_backend(%s)", (pid,))
    finally:
        raw.close()


class _Opening:
    """The first job of a thread, and what undoes it wherever it was given up."""

    def __init__(self, creator: Creator, seconds: float) -> None:
        self._creator = creator
        self._seconds = seconds
        self.raw: Any = None
        self.module: DBAPIModule | None = None

    def __call__(self, _job: Job) -> Worker:
        if self.raw is None:
            self.raw = self._creator.open(self._seconds)
        self.module = self._creator.check(self.raw)
        family = family_of(self.module.database)
        family.set_up(self.raw)
        return Worker(self.raw, self.module, family)

    def undo(self, _job: Job) -> None:
        """Close what was opened."""
        with contextlib.suppress(Exception):
            self.raw.close()
