"""SQLite, over apsw: what `aiodbkit.backends.sqlite.driver` says, with another SQLite underneath.

apsw is synchronous and knows no event loop, so each connection has a thread of our own here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import apsw

from aiodbkit.backends.sqlite.apsw.connection import APSWHandle, open_handle
from aiodbkit.backends.sqlite.apsw.worker import Worker
from aiodbkit.backends.sqlite.driver import SQLiteDriver, end_of
from aiodbkit.backends.sqlite.functions import Functions
from aiodbkit.backends.sqlite.thread import WorkerThread
from aiodbkit.errors import ConfigurationError

__all__ = ["APSWDriver"]


class APSWDriver(SQLiteDriver):
    """Opens the connections of a ``SQLiteEngine(driver="apsw")``."""

    library: ClassVar[str] = "apsw"

    def __init__(self, target: Mapping[str, Any], options: Mapping[str, Any], **more: Any) -> None:
        types = options.get("detect_types", sqlite3.PARSE_DECLTYPES)
        if types not in (0, sqlite3.PARSE_DECLTYPES):
            raise ConfigurationError(
                f"detect_types={types!r}: over apsw it is 0 or sqlite3.PARSE_DECLTYPES; types in "
                "the names of columns are sqlite3's"
            )
        self._decodes = bool(types)
        self._statements = options.get("cached_statements", 128)
        super().__init__(target, options, **more)

    async def _open(self) -> tuple[apsw.Connection, WorkerThread]:
        path, is_uri = self._target()
        return await self._on_a_thread(lambda: self._connect(path, is_uri=is_uri))

    async def _adopt(
        self, factory: Callable[[], Awaitable[Any]]
    ) -> tuple[apsw.Connection, WorkerThread]:
        raw = await factory()
        if not isinstance(raw, apsw.Connection):
            raise ConfigurationError(
                f"connection_factory must return an apsw.Connection, not {type(raw).__name__}"
            )
        if getattr(raw, "is_async", False):
            raise ConfigurationError(
                "connection_factory must return a plain apsw.Connection, not an async one: it gets "
                "a thread here"
            )
        return await self._on_a_thread(lambda: APSWHandle(raw, decodes=self._decodes))

    async def _on_a_thread(
        self, connect: Callable[[], APSWHandle]
    ) -> tuple[apsw.Connection, WorkerThread]:
        worker = Worker(connect)
        try:
            await worker.open()
        except BaseException as error:
            await end_of(worker._thread)
            if isinstance(error, sqlite3.Error):
                raise self._cannot_connect(error) from error.__cause__
            raise
        raw = worker.handle.raw
        return raw, WorkerThread(worker, worker.send, Functions(self.definitions))

    def _connect(self, path: str, *, is_uri: bool) -> APSWHandle:
        return open_handle(path, is_uri=is_uri, statements=self._statements, decodes=self._decodes)

    def _connect_plainly(self, path: str, *, is_uri: bool) -> sqlite3.Connection:
        return open_handle(path, is_uri=is_uri).as_sqlite3
