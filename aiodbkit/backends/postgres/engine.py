"""PostgreSQL over asyncpg.

`connection` has what a connection does, and what asyncpg leaves to its callers;
`connect` opens and cuts connections, `errors` translates, `sql`
looks at statements and `copy` feeds COPY.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, get_args

from aiodbkit.backends.postgres.connect import Cuts, Opener, option_types
from aiodbkit.backends.postgres.connection import PostgresConnection
from aiodbkit.driver import Capabilities, Driver
from aiodbkit.engine import Engine
from aiodbkit.errors import ProgrammingError
from aiodbkit.options import Isolation
from aiodbkit.sql import Dialect, compile_sql

__all__ = ["PostgresConnection", "PostgresDriver", "PostgresEngine"]


class PostgresDriver(Driver):
    """Opens asyncpg connections; see `Opener` for the arguments, `PoolOptions` for ``reset``."""

    capabilities = Capabilities(
        isolation_levels=frozenset(get_args(Isolation)),
        deferrable=True,
        cursor_needs_transaction=True,
        error_aborts_transaction=True,
        ddl_is_transactional=True,
        rows_affected_of_many=False,
        last_insert_id=False,
    )

    def __init__(
        self,
        target: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        *,
        connect_timeout: float = 10.0,
        reset: str = "auto",
        connection_factory: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        self._cuts = Cuts()
        self._opener = Opener(
            target, options or {}, connect_timeout, connection_factory, self._cuts
        )
        self._reset = reset

    async def connect(self) -> PostgresConnection:
        return PostgresConnection(await self._opener.open(), self._cuts, self._reset)

    async def stop(self) -> None:
        await self._cuts.wait()

    def quote(self, identifier: str) -> str:
        if "\0" in identifier:
            raise ProgrammingError("an identifier cannot hold a NUL character")
        return '"' + identifier.replace('"', '""') + '"'

    def only_reads(self, sql: str) -> bool:
        return compile_sql(sql, Dialect.POSTGRES).is_read


class PostgresEngine(Engine):
    """PostgreSQL over asyncpg.

    Besides the options of `Engine` it takes those of ``asyncpg.connect()``, and:

    - ``prepared_statements``: False behind a pooler that hands out its server connections per
      transaction, such as PgBouncer.
    - ``application_name``; and ``sslmode``, ``sslrootcert``, ``sslcert``, ``sslkey``, ``sslcrl``,
      ``sslpassword`` as in libpq, besides ``ssl`` (an `ssl.SSLContext` or a mode).
    - ``keepalive`` (30 s): silence after which the kernel asks whether the server is there.
    - ``tcp_user_timeout`` (30 s): how long sent data may stay unacknowledged.

    Several hosts are tried in order, each for its share of ``connect_timeout``.
    """

    schemes: ClassVar[tuple[str, ...]] = ("postgresql", "postgres", "postgresql+asyncpg")

    @classmethod
    def driver_options(cls) -> Mapping[str, type]:
        """The options of asyncpg.connect() but those that the engine sees to, and ours."""
        return option_types()

    def _create_driver(self, target: Mapping[str, Any], options: Mapping[str, Any]) -> Driver:
        return PostgresDriver(
            target,
            options,
            connect_timeout=self.pool_options.connect_timeout,
            reset=self.pool_options.reset,
            connection_factory=self.options.connection_factory,
        )
