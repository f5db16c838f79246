"""A server-side cursor, read batch by batch, and the deadline of a call of several statements."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from aiodbkit.backends.postgres.errors import Sent
from aiodbkit.driver import DriverCursor, Fetched
from aiodbkit.errors import ConnectionLostError

if TYPE_CHECKING:
    from aiodbkit.backends.postgres.connection import PostgresConnection

__all__ = ["Deadline", "PostgresCursor"]


class Deadline:
    """What a call has left of its time.

    Attributes:
        timeout: seconds that it had at its start, for errors; None is no limit.
    """

    __slots__ = ("_at", "timeout")

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self._at = None if timeout is None else monotonic() + timeout

    @property
    def left(self) -> float | None:
        """Seconds; below 0 when it has passed, which asyncpg answers with a TimeoutError."""
        return None if self._at is None else self._at - monotonic()


class PostgresCursor(DriverCursor):
    """A portal of the open transaction."""

    def __init__(
        self,
        connection: PostgresConnection,
        cursor: Any,
        sent: Sent,
        batch_size: int,
        left: float | None,
    ) -> None:
        self._connection, self._cursor = connection, cursor
        self._sent, self._batch_size = sent, batch_size
        self._left = left  # of the time of the first batch, which begins with opening the cursor
        self._open = True

    async def fetch(self) -> Fetched:
        timeout, self._left = self._left, self._sent.timeout
        try:
            rows = await self._cursor.fetch(self._batch_size, timeout=timeout)
        except Exception as error:
            raise self._connection._failed(error, self._sent) from error
        return (tuple(rows[0].keys()) if rows else ()), rows

    async def close(self) -> None:
        """Close the portal; it ends with its transaction in any case."""
        connection = self._connection
        if not self._open or connection.suspect or not connection.in_transaction:
            return
        self._open = False
        try:
            await self._cursor._close_portal(self._sent.timeout)
        except Exception as error:
            failure = connection._failed(error, self._sent)
            if not isinstance(failure, ConnectionLostError):
                raise failure from error
