"""Rows of a statement, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aiodbkit.backends.postgres.sqlstates import Sent
from aiodbkit.driver import DriverCursor, Fetched
from aiodbkit.errors import ConnectionLostError

if TYPE_CHECKING:
    from aiodbkit.backends.postgres.psycopg.connection import PsycopgConnection

__all__ = ["FetchedCursor", "ServerCursor"]


class ServerCursor(DriverCursor):
    """A cursor that was declared in the open transaction."""

    def __init__(
        self,
        connection: PsycopgConnection,
        name: str,
        sent: Sent,
        batch_size: int,
        left: float | None,
    ) -> None:
        self._connection, self._name, self._sent = connection, name, sent
        self._fetch = f"FETCH FORWARD {batch_size} FROM {name}".encode()
        self._left = left  # of the time of the first batch, which begins with opening the cursor
        self._open = True

    async def fetch(self) -> Fetched:
        left, self._left = self._left, self._sent.timeout
        return await self._connection._fetch_more(self._fetch, self._sent, left)

    async def close(self) -> None:
        """Close the cursor; it ends with its transaction in any case."""
        connection = self._connection
        if not self._open or connection.suspect or not connection.has_sound_transaction:
            return
        self._open = False
        try:
            await connection._send(f"CLOSE {self._name}", self._sent.timeout)
        except ConnectionLostError:
            pass


class FetchedCursor(DriverCursor):
    """For what no cursor can be declared for, such as INSERT ... RETURNING: all is here."""

    def __init__(self, names: Sequence[str], rows: Sequence[Any], batch_size: int) -> None:
        self._names, self._rows, self._batch_size = names, rows, batch_size
        self._at = 0

    async def fetch(self) -> Fetched:
        begin, self._at = self._at, self._at + self._batch_size
        return self._names, self._rows[begin : self._at]

    async def close(self) -> None:
        self._rows = ()
