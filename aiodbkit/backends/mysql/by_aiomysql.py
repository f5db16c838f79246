"""MySQL by aiomysql, the default driver: https://github.com/aio-libs/aiomysql."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ssl import SSLContext
from typing import Any, ClassVar

import aiomysql

from aiodbkit.backends.mysql.driver import MySQLDriver
from aiodbkit.backends.mysql.link import Link, PlaintextError
from aiodbkit.backends.mysql.protocol import Client

__all__ = ["AiomysqlDriver", "AiomysqlLink"]

_CHUNK = 1 << 18


class _Connection(aiomysql.Connection):  # type: ignore[misc]
    """aiomysql's connection, without what cannot be switched off by its options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # With it a value that broke out of its literal could begin a statement of its own.
        self.client_flag &= ~Client.MULTI_STATEMENTS

    def close(self) -> None:
        """Drop the socket: under TLS a close would wait for the peer's answer."""
        writer = self._writer
        super().close()
        if writer is not None:
            writer.transport.abort()

    async def _request_authentication(self) -> None:
        # aiomysql goes on in plaintext. Asked here, before the password's hash is sent.
        if self._ssl_context is not None and not self.server_capabilities & Client.SSL:
            raise PlaintextError
        await super()._request_authentication()


class AiomysqlLink(Link):
    """A connection of aiomysql."""

    __slots__ = ("_reader", "_writer")

    driver: ClassVar[str] = "aiomysql"
    raw_class: ClassVar[type] = aiomysql.Connection
    result_class: ClassVar[type] = aiomysql.connection.MySQLResult
    own_options: ClassVar[Mapping[str, type]] = {"auth_plugin": str}

    def __init__(self, raw: Any) -> None:
        self._reader: Any = raw._reader
        self._writer: Any = raw._writer
        super().__init__(raw, self._writer.transport)

    @classmethod
    async def open(cls, arguments: Mapping[str, Any], context: SSLContext | None) -> Any:
        """Return a connection of aiomysql."""
        raw: Any = None
        try:
            raw = _Connection(**arguments, ssl=context)
            await raw._connect()
            # What was put right is needed for the handshake alone: users of `raw` get aiomysql's.
            raw.__class__ = aiomysql.Connection
        except BaseException:
            cls.drop(raw)
            raise
        return raw

    @classmethod
    def of(cls, raw: Any) -> AiomysqlLink:
        """Return its link."""
        return cls(raw)

    @classmethod
    def drop(cls, raw: Any) -> None:
        """Close it without waiting for anything."""
        if raw is None:
            return
        writer = raw._writer
        raw.close()
        if writer is not None:
            writer.transport.abort()

    @property
    def is_closed(self) -> bool:
        """Whether aiomysql has closed it."""
        return bool(self.raw.closed)

    @property
    def is_dead(self) -> bool:
        """Whether the event loop knows that it can no longer be used."""
        return bool(
            self.raw.closed
            or self._reader.eof_received
            or self._reader.exception() is not None
            or self.transport.is_closing()
        )

    @property
    def was_cut(self) -> bool:
        """Whether the other side has ended it."""
        return bool(self._reader.eof_received) or self._reader.exception() is not None

    @property
    def is_encrypted(self) -> bool:
        """Whether it is TLS."""
        return self._writer.get_extra_info("ssl_object") is not None

    async def adopt(self, decoders: Mapping[int, Callable[[Any], Any]]) -> bool:
        """Put right what a connection of somebody else's making may have."""
        self.raw.decoders = decoders
        self.raw._local_infile = False  # files are sent by `load` alone
        if self.raw.charset != "utf8mb4":
            await self.raw.set_charset("utf8mb4")
        return bool(self.raw.client_flag & Client.MULTI_STATEMENTS)

    async def read_packet(self) -> Any:
        """Read one packet."""
        return await self.raw._read_packet()

    async def read_some(self) -> bytes:
        """Read what there is."""
        return bytes(await self.raw._reader.read(_CHUNK))

    async def flush(self) -> None:
        """Wait while too much is written."""
        await self._writer.drain()

    async def said_goodbye(self) -> None:
        """Wait until the socket is closed."""
        await self._writer.wait_closed()


class AiomysqlDriver(MySQLDriver):
    """Opens connections of aiomysql."""

    link: ClassVar[type[Link]] = AiomysqlLink
