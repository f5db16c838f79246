"""What is sent over an asyncpg connection, and what its failures tell: in step, suspect or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from aiodbkit.backends.postgres import errors
from aiodbkit.backends.postgres.abilities import Codec, PostgresDriverConnection
from aiodbkit.backends.postgres.codecs import set_codecs
from aiodbkit.backends.postgres.connect import Cuts, socket_of
from aiodbkit.backends.postgres.errors import Sent
from aiodbkit.errors import (
    ConnectionLostError,
    DatabaseError,
    DataError,
    Error,
    InternalError,
    QueryTimeoutError,
    ReadOnlyError,
)
from aiodbkit.wire import IdleSocket

__all__ = ["IN_STEP", "PostgresWire"]

IN_STEP = "SELECT 1"
_CALLBACK: Any = vars(asyncpg.connection)["_Callback"]  # what asyncpg keeps a listener as


class PostgresWire(PostgresDriverConnection):
    """One asyncpg connection: statements of ours, its state, its errors."""

    __slots__ = ("_began", "_cuts", "_draining", "_read_only", "_resync", "_socket")

    raw: asyncpg.Connection[Any]

    def __init__(self, raw: asyncpg.Connection[Any], cuts: Cuts) -> None:
        super().__init__(raw)
        sock = socket_of(raw)
        self._cuts = cuts
        self._socket = None if sock is None else IdleSocket(sock.fileno())
        self._began = self._read_only = False  # asyncpg forgets them together with the connection
        self._resync = IN_STEP  # what `recover` sends
        self._draining: list[asyncio.Future[Any]] = []  # what has to end before that

    @property
    def is_closed(self) -> bool:
        # What waits on an idle socket may be a notice. Only its end means that nobody is there.
        return self.raw.is_closed() or (self._socket is not None and self._socket.is_dead())

    @property
    def in_transaction(self) -> bool:
        return not self.raw.is_closed() and self.raw.is_in_transaction()

    async def _send(self, sql: str, timeout: float | None = None, left: float | None = None) -> str:
        """Send a statement of ours, for what earlier ones have ``left`` of ``timeout``, if any."""
        if self._draining:
            await asyncio.wait(self._draining)
            self._draining = []
        try:
            return await self.raw.execute(sql, timeout=timeout if left is None else left)
        except Exception as error:
            raise self._failed(error, Sent(sql, timeout)) from error

    async def send(self, sql: str, timeout: float | None) -> None:
        await self._send(sql, timeout)

    async def set_codecs(self, codecs: Sequence[Codec]) -> None:
        await set_codecs(self.raw, codecs)

    async def listen(
        self,
        channels: Sequence[str],
        receive: Callable[[str, str, int], None],
        lost: Callable[[], None],
    ) -> None:
        raw: Any = self.raw

        def take(_raw: Any, pid: int, channel: str, payload: str) -> None:
            receive(channel, payload, pid)

        # add_listener() takes notice of a channel after the server's answer to LISTEN: what came
        # together with that answer would be dropped.
        for channel in channels:
            raw._listeners[channel] = {_CALLBACK.from_callable(take)}
        raw.add_termination_listener(lambda _raw: lost())
        names = ['"' + channel.replace('"', '""') + '"' for channel in channels]
        await self._send("; ".join(f"LISTEN {name}" for name in names))

    async def ping(self) -> None:
        await self._send(IN_STEP)

    async def recover(self) -> None:
        # asyncpg sends nothing before it has seen the end of what it cancelled. An aborted
        # transaction refuses even this, which is an answer all the same.
        try:
            await self._send(self._resync)
        except ConnectionLostError:
            raise
        except DatabaseError:
            pass
        self.suspect = False
        self._resync = IN_STEP
        if self._began and not self.in_transaction:
            self._began = False
            self.transaction_lost = InternalError("the interrupted statement had ended it")

    def abort(self) -> None:
        self._cuts.cut(self.raw)

    def _failed(self, error: Exception, sent: Sent, text: str = "") -> Error:
        """Translate, and note what the error tells about the connection."""
        answer = self._translated(error, sent, text)
        if not self.suspect:
            self._resync = IN_STEP
        return answer

    def _translated(self, error: Exception, sent: Sent, text: str) -> Error:
        if isinstance(error, TimeoutError) and not error.errno:
            self.suspect = True
            return QueryTimeoutError(
                f"the statement did not finish within timeout={sent.timeout} s and was cancelled",
                query=sent.sql,
            )
        if self.raw.is_closed() or errors.means_broken(error):
            return self._lost(error, sent.sql)
        if errors.is_refused_argument(error):
            self.suspect = True
            expected = [kind.name for kind in self._expected_types(text) or ()]
            return errors.refused_argument(error, sent, expected)
        if isinstance(error, asyncpg.PostgresError):
            answer = errors.answered(error, sent)
            if isinstance(answer, ReadOnlyError) and self._read_only:
                answer.is_transient = False  # it was asked for: no other server would take it
            return answer
        self.suspect = True
        if isinstance(error, DataError):  # of a codec of ours
            return error
        reason = f"asyncpg could not read the answer: {type(error).__name__}"
        return DataError(reason, query=sent.sql)

    def _lost(self, error: Exception, sql: str | None) -> ConnectionLostError:
        lost = errors.connection_lost(error, sql)
        if self._began:
            self.transaction_lost = lost
        self.abort()
        return lost

    async def _is_outdated(self, error: Exception, sent: Sent, text: str) -> bool:
        """Whether asyncpg refused a value for the types of before an ALTER TABLE.

        Then its cached statements are dropped: the same call, of which nothing was sent, may fit
        the types of now.
        """
        if not isinstance(error, asyncpg.DataError) or not errors.is_refused_argument(error):
            return False
        expected = self._expected_types(text)
        if expected is None or self.raw.is_closed():
            return False
        try:
            # Without a name it is gone by itself.
            anew = await self.raw.prepare(text, name="", timeout=sent.timeout)
        except Exception as failure:
            raise self._failed(failure, sent) from failure
        if anew.get_parameters() == expected:
            return False
        raw: Any = self.raw
        raw._drop_local_statement_cache()
        return True

    def _expected_types(self, text: str) -> Sequence[asyncpg.Type] | None:
        """What the server said of the parameters as it prepared the statement, if still cached."""
        try:
            raw: Any = self.raw
            key = text, raw._protocol.get_record_class(), False
            types: Sequence[asyncpg.Type] = raw._stmt_cache.get(key)._get_parameters()
        except (AttributeError, TypeError):  # private to asyncpg
            return None
        return types
