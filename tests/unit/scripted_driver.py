"""A scripted backend: an engine whose server does what a test says, to force rare timings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiodbkit import ConnectionLostError, Engine, ExecuteResult, OperationalError
from aiodbkit.driver import Capabilities, Driver, DriverConnection, DriverCursor
from tests.unit.pool.scripted import Script


class Server(Script):
    """Plays the database: knows what was committed, and by which connection what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.committed: list[str] = []
        self.connections: list[ScriptedConnection] = []

    async def play(self, call: str) -> None:
        await self._play(call)


class ScriptedDriver(Driver):
    capabilities = Capabilities(isolation_levels=frozenset(), cursor_needs_transaction=True)

    def __init__(self, server: Server) -> None:
        self.server = server

    async def connect(self) -> ScriptedConnection:
        await self.server.play("connect")
        connection = ScriptedConnection(self.server)
        self.server.connections.append(connection)
        return connection

    def quote(self, identifier: str) -> str:
        return identifier


class ScriptedConnection(DriverConnection):
    """Executes ``say x``: remembered, and committed with the transaction."""

    __slots__ = ("lost", "number", "pending", "server", "shut")

    def __init__(self, server: Server) -> None:
        super().__init__(self)
        self.server = server
        self.number = len(server.connections) + 1
        self.pending: list[str] | None = None  # a list while in a transaction
        self.shut = False
        self.lost = False

    @property
    def is_closed(self) -> bool:
        return self.shut or self.lost

    @property
    def in_transaction(self) -> bool:
        return self.pending is not None

    @property
    def is_dirty(self) -> bool:
        return self.suspect or self.in_transaction

    async def _statement(self, call: str) -> None:
        if self.is_closed:
            error = ConnectionLostError("the connection is closed", is_transient=True)
            if self.in_transaction:
                self.transaction_lost = error
            raise error
        if self.suspect:
            raise AssertionError("a statement was sent on a connection that is out of step")
        await self.server.play(call)
        if self.lost:
            self.transaction_lost = ConnectionLostError("the connection was lost")
            raise self.transaction_lost

    async def execute(self, sql: str, params: Any, timeout: float | None) -> ExecuteResult:
        await self._statement("execute")
        if sql.startswith("fail"):
            raise OperationalError("as you wish")
        (self.server.committed if self.pending is None else self.pending).append(sql)
        return ExecuteResult(1)

    async def execute_many(self, sql: str, rows: Any, timeout: float | None) -> ExecuteResult:
        raise NotImplementedError

    async def execute_script(self, sql: str, timeout: float | None) -> None:
        await self._statement("script")

    async def fetch(self, sql: str, params: Any, timeout: float | None, limit: int = 0) -> Any:
        await self._statement("fetch")
        return ("number",), [(self.number,)]

    async def open_cursor(self, sql: str, params: Any, timeout: Any, batch_size: int) -> Any:
        await self._statement("open cursor")
        return ScriptedCursor(self, batch_size)

    async def insert_many(self, table: str, columns: Any, rows: Any, timeout: Any) -> int:
        await self._statement("insert")
        return len([row async for row in rows])

    async def begin(self, options: Any) -> None:
        await self._statement("begin")
        self.pending = []
        self.transaction_lost = None

    async def commit(self) -> None:
        await self._statement("commit")
        self.server.committed += self.pending or []
        self.pending = None

    async def rollback(self) -> None:
        await self._statement("rollback")
        self.pending = None

    async def ping(self) -> None:
        await self._statement("ping")

    async def recover(self) -> None:
        await self.server.play("recover")
        self.suspect = False

    async def clean(self) -> None:
        if self.suspect:
            await self.recover()
        if self.in_transaction:
            await self.rollback()
        self.transaction_lost = None

    async def close(self) -> None:
        try:
            await self.server.play("close")
        finally:
            self.shut = True

    def abort(self) -> None:
        self.shut = True


class ScriptedCursor(DriverCursor):
    def __init__(self, connection: ScriptedConnection, batch_size: int) -> None:
        self.connection = connection
        self.batch_size = batch_size
        self.next = 0
        self.is_closed = False

    async def fetch(self) -> Any:
        await self.connection._statement("fetch")
        numbers = range(self.next, min(self.next + self.batch_size, 10))
        self.next += self.batch_size
        return ("number",), [(number,) for number in numbers]

    async def close(self) -> None:
        if not self.is_closed:
            await self.connection._statement("close cursor")
            self.is_closed = True


class ScriptedEngine(Engine):
    schemes = ("scripted",)

    def __init__(self, server: Server, **options: Any) -> None:
        self.server = server
        super().__init__("scripted://test", **options)

    @classmethod
    def driver_options(cls) -> Mapping[str, type]:
        return {}

    def _create_driver(self, target: Any, options: Any) -> Driver:
        return ScriptedDriver(self.server)
