"""MySQL by asyncmy, a fork of aiomysql in Cython: https://github.com/long2ice/asyncmy.

What it does differently, and where it matters:

- ``connected`` stays true when the other side has gone: `AsyncmyLink.is_dead` asks the socket.
- Its receive buffer is its protocol's; rows are parsed in advance: `AsyncmyLink.read_rows`.
- Where the server can, results end without an EOF packet: ``short_end``.
- ``LOAD DATA LOCAL`` fails in it and leaves the connection out of step: `Link.load` does it.
- Its binary protocol (``stmt_cache_size``) is not used: values are literals, as with aiomysql.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ssl import SSLContext
from typing import Any, ClassVar

from asyncmy import connection as asyncmy_connection

from aiodbkit.backends.mysql.driver import MySQLDriver
from aiodbkit.backends.mysql.link import Link, PlaintextError
from aiodbkit.backends.mysql.protocol import Client

__all__ = ["AsyncmyDriver", "AsyncmyLink"]

# Its types leave out what is used here.
Connection: Any = asyncmy_connection.Connection

_FULL_PACKET = 0xFFFFFF
_NO_TIMEOUT = 31_536_000  # the longest that asyncmy takes: deadlines are the caller's


class _Connection(Connection):  # type: ignore[misc]
    """asyncmy's connection, without what cannot be switched off by its options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # With it a value that broke out of its literal could begin a statement of its own.
        self._client_flag &= ~Client.MULTI_STATEMENTS

    def close(self) -> None:
        """Drop the socket: a close would wait for a peer that may not read any more."""
        transport = self._transport
        super().close()
        if transport is not None:
            transport.abort()

    async def _request_authentication(self) -> Any:
        if self._ssl_context is not None and not self.server_capabilities & Client.SSL:
            raise PlaintextError
        return await super()._request_authentication()


class AsyncmyLink(Link):
    """A connection of asyncmy."""

    __slots__ = ("_protocol",)

    driver: ClassVar[str] = "asyncmy"
    raw_class: ClassVar[type] = Connection
    result_class: ClassVar[type] = asyncmy_connection.MySQLResult

    def __init__(self, raw: Any) -> None:
        super().__init__(raw, raw._transport)
        self._protocol: Any = raw._proto
        if raw._deprecate_eof:
            self.short_end = _FULL_PACKET

    @classmethod
    async def open(cls, arguments: Mapping[str, Any], context: SSLContext | None) -> Any:
        """Return a connection of asyncmy."""
        given = {**arguments, "ssl": context, "connect_timeout": _NO_TIMEOUT}
        raw: Any = _Connection(database=given.pop("db"), **given)
        try:
            await raw.connect()
            # What was put right is needed for the handshake alone: users of `raw` get asyncmy's.
            raw.__class__ = Connection
        except BaseException:
            cls.drop(raw)
            raise
        return raw

    @classmethod
    def of(cls, raw: Any) -> AsyncmyLink:
        """Return its link."""
        return cls(raw)

    @classmethod
    def drop(cls, raw: Any) -> None:
        """Close it without waiting for anything."""
        transport = raw._transport
        raw.close()
        if transport is not None:
            transport.abort()

    @property
    def is_closed(self) -> bool:
        """Whether asyncmy has closed it."""
        return self.raw._transport is None

    @property
    def is_dead(self) -> bool:
        """Whether the event loop knows that it can no longer be used."""
        return bool(self.raw._stream_broken)

    @property
    def was_cut(self) -> bool:
        """Whether the other side has ended it."""
        return bool(self._protocol.eof) or self._protocol.exc is not None

    @property
    def is_encrypted(self) -> bool:
        """Whether it is TLS."""
        return self.transport.get_extra_info("ssl_object") is not None

    async def adopt(self, decoders: Mapping[int, Callable[[Any], Any]]) -> bool:
        """Put right what a connection of somebody else's making may have."""
        raw = self.raw
        raw._decoders = decoders
        raw._local_infile = False  # its way to send files is broken: `load` does it
        if raw._charset != "utf8mb4":  # its set_charset() is broken
            await raw.query(b"SET NAMES utf8mb4")
            raw._charset, raw._encoding = "utf8mb4", "utf8"
        return bool(raw._client_flag & Client.MULTI_STATEMENTS)

    async def read_packet(self) -> Any:
        """Read one packet."""
        return await self.raw.read_packet()

    async def read_some(self) -> bytes:
        """Take what has come, waiting for at least one byte; an error at the end."""
        raw, protocol = self.raw, self._protocol
        await raw._fill_buffer(1)
        data = bytes(protocol.buffer[protocol.pos : protocol.length])
        protocol.pos = protocol.length
        return data

    async def read_rows(self, result: Any, most: int) -> list[Any]:
        """Read rows; asyncmy parses all that have come at once."""
        rows: list[Any] = []
        while len(rows) < most:
            row = await result._read_rowdata_packet_unbuffered()
            if row is None:
                break
            rows.append(row)
            rows += result._take_pending_rows(most - len(rows))
        return rows

    async def flush(self) -> None:
        """Wait while too much is written."""
        await self._protocol.drain()

    async def said_goodbye(self) -> None:
        """Wait until the socket is closed."""
        await self._protocol.wait_closed()


class AsyncmyDriver(MySQLDriver):
    """Opens connections of asyncmy."""

    link: ClassVar[type[Link]] = AsyncmyLink
