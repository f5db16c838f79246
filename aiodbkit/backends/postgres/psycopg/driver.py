"""The driver over psycopg."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, get_args

from aiodbkit.backends.postgres.abilities import Codec
from aiodbkit.backends.postgres.psycopg.connect import Opener, option_types
from aiodbkit.backends.postgres.psycopg.connection import PsycopgConnection
from aiodbkit.backends.postgres.psycopg.exchange import Cuts
from aiodbkit.backends.postgres.sessions import warn_once
from aiodbkit.driver import Capabilities, Driver
from aiodbkit.errors import ConfigurationError, ProgrammingError
from aiodbkit.options import Isolation
from aiodbkit.sql import Dialect, compile_sql

__all__ = ["PsycopgDriver"]

# As psycopg's own default.
_PREPARE_THRESHOLD = 5


class PsycopgDriver(Driver):
    """Opens psycopg connections; see `Opener` for the arguments, `PoolOptions` for ``reset``."""

    capabilities = Capabilities(
        isolation_levels=frozenset(get_args(Isolation)),
        deferrable=True,
        cursor_needs_transaction=True,
        error_aborts_transaction=True,
        ddl_is_transactional=True,
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
        given = options or {}
        self._cuts = Cuts()
        self._opener = Opener(target, given, connect_timeout, connection_factory, self._cuts)
        self._threshold = _threshold(given)
        self._reset = reset
        # Behind a transaction-pooling proxy a session is not one's own.
        self._warn = warn_once() if given.get("prepared_statements") is False else None
        self.codecs: Sequence[Codec] = ()  # of the types that the engine registers

    @classmethod
    def options(cls) -> Mapping[str, Any]:
        """The options of libpq but those that the engine sees to, and ours."""
        return option_types()

    async def connect(self) -> PsycopgConnection:
        raw = await self._opener.open()
        opened = PsycopgConnection(raw, self._cuts, self._reset, self._threshold, self._warn)
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


def _threshold(options: Mapping[str, Any]) -> int | None:
    """Return how often a statement runs before it is prepared; None is never."""
    given = options.get("prepare_threshold", _PREPARE_THRESHOLD)
    if given is not None and (not isinstance(given, int) or given < 0):
        raise ConfigurationError(
            f"prepare_threshold={given!r} must be a number of executions, 0 or more, or None"
        )
    return given if options.get("prepared_statements", True) else None
