"""PostgreSQL over asyncpg.

`connection` has what a connection does, and what asyncpg leaves to its callers: over `bulk`, many
rows at once, and `wire`, what is sent. `connect` opens and cuts connections, `errors` translates,
`sql` looks at statements, `copy` feeds COPY, `codecs` teaches asyncpg types.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, get_args

from aiodbkit.backends.postgres.abilities import Codec
from aiodbkit.backends.postgres.connect import Cuts, Opener, option_types
from aiodbkit.backends.postgres.connection import PostgresConnection
from aiodbkit.backends.postgres.sessions import warn_once
from aiodbkit.driver import Capabilities, Driver
from aiodbkit.errors import ProgrammingError
from aiodbkit.options import Isolation
from aiodbkit.sql import Dialect, compile_sql

__all__ = ["PostgresConnection", "PostgresDriver"]


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
        # Behind a transaction-pooling proxy a session is not one's own.
        shares = (options or {}).get("prepared_statements") is False
        self._warn = warn_once() if shares else None
        self.codecs: Sequence[Codec] = ()  # of the types that the engine registers

    @classmethod
    def options(cls) -> Mapping[str, type]:
        """The options of asyncpg.connect() but those that the engine sees to, and ours."""
        return option_types()

    async def connect(self) -> PostgresConnection:
        opened = PostgresConnection(await self._opener.open(), self._cuts, self._reset, self._warn)
        codecs: Sequence[Codec] = ()
        try:
            while codecs is not self.codecs:  # one more may be registered meanwhile
                codecs = self.codecs
                await opened.set_codecs(codecs)
        except BaseException:
            opened.abort()
            raise
        return opened

    async def stop(self) -> None:
        await self._cuts.wait()

    def quote(self, identifier: str) -> str:
        if "\0" in identifier:
            raise ProgrammingError("an identifier cannot hold a NUL character")
        return '"' + identifier.replace('"', '""') + '"'

    def only_reads(self, sql: str) -> bool:
        return compile_sql(sql, Dialect.POSTGRES).is_read
