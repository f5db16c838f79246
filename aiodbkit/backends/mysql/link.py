"""What aiodbkit asks of a driver of MySQL, and what aiomysql and its fork asyncmy do alike.

Both read one answer after the other from a socket: `query` sends a statement, `_result` is what
came. aiodbkit goes below their cursors, which ask for warnings after each statement that has some.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from ssl import SSLContext
from typing import Any, ClassVar

from aiodbkit.backends.mysql.protocol import Command

__all__ = ["Answer", "ForeignFileError", "Link", "PlaintextError"]

_CHUNK = 32_768  # bytes of a file in one packet: less than any server's max_allowed_packet


class PlaintextError(Exception):
    """TLS was asked for, and the server has none."""

    def __str__(self) -> str:
        return "ssl was asked for, but the server offers no TLS: nothing was sent in plaintext"


class ForeignFileError(Exception):
    """The server asked for a file that the statement does not name."""

    def __str__(self) -> str:
        return "the server asked for a file that the statement does not name: nothing was sent"


class Link(ABC):
    """One connection of a driver.

    Attributes:
        raw: the driver's own connection.
        transport: its socket's; drivers forget it when they close, which is when it is needed.
        short_end: a packet that begins like the end of a result is one if it is shorter.
    """

    __slots__ = ("raw", "short_end", "transport")

    driver: ClassVar[str]
    raw_class: ClassVar[type]
    result_class: ClassVar[type[Any]]
    # What this driver alone takes, with the type that a URL's text is converted to.
    own_options: ClassVar[Mapping[str, type]] = {}

    def __init__(self, raw: Any, transport: asyncio.Transport) -> None:
        self.raw = raw
        self.transport = transport
        self.short_end = 9

    @classmethod
    @abstractmethod
    async def open(cls, arguments: Mapping[str, Any], context: SSLContext | None) -> Any:
        """Return a raw connection, over TLS if there is a context.

        Cancelled or failed, it leaves no socket behind.

        Raises:
            PlaintextError: before anything secret is sent.
        """

    @classmethod
    @abstractmethod
    def of(cls, raw: Any) -> Link:
        """Return the link of a raw connection that is open."""

    @classmethod
    @abstractmethod
    def drop(cls, raw: Any) -> None:
        """Close a raw connection, open or half open, without waiting for anything."""

    # What is known without asking. `is_dead` is read before each statement.

    @property
    @abstractmethod
    def is_closed(self) -> bool:
        """Whether the driver has closed it."""

    @property
    @abstractmethod
    def is_dead(self) -> bool:
        """Whether the event loop knows that it can no longer be used."""

    @property
    @abstractmethod
    def was_cut(self) -> bool:
        """Whether the other side has ended it."""

    @property
    @abstractmethod
    def is_encrypted(self) -> bool:
        """Whether it is TLS."""

    # Set-up

    @abstractmethod
    async def adopt(self, decoders: Mapping[int, Callable[[Any], Any]]) -> bool:
        """Have it speak utf8mb4 and decode our way; return whether it takes several statements."""

    # Talking

    @abstractmethod
    async def read_packet(self) -> Any:
        """Read one packet; an error packet is raised."""

    @abstractmethod
    async def read_some(self) -> bytes:
        """Read what there is, at least one byte; nothing, or an error, at the end."""

    @abstractmethod
    async def said_goodbye(self) -> None:
        """Wait until the socket is closed."""

    async def read_rows(self, result: Any, most: int) -> Sequence[Sequence[Any]]:
        """Read rows of an unbuffered result, fewer than ``most`` only at its end."""
        rows: list[Any] = []
        while len(rows) < most:
            row = await result._read_rowdata_packet_unbuffered()
            if row is None:
                break
            rows.append(row)
        return rows

    @abstractmethod
    async def flush(self) -> None:
        """Wait while too much is written that the server has not read."""

    async def load(self, text: bytes, path: bytes, file: FileIO) -> None:
        """Send a LOAD DATA LOCAL, and its file when the server asks for it; keep the result.

        Drivers send whatever file the server asks for.
        """
        raw = self.raw
        await raw._execute_command(Command.QUERY, text)
        packet = await self.read_packet()
        if packet.is_load_local_packet():
            if packet.get_all_data()[1:] != path:
                raise ForeignFileError
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                raw.write_packet(chunk)
                await self.flush()
            raw.write_packet(b"")
            packet = await self.read_packet()
        raw._result = self.result_class(raw)
        raw._result._read_ok_packet(packet)
        raw._result.connection = None  # as drivers do, to make no cycle

    async def set_option(self, option: bytes) -> None:
        """Have the server take several statements in one text, or no longer."""
        await self.raw._execute_command(Command.SET_OPTION, option)
        await self.read_packet()

    async def reset_session(self) -> None:
        """Undo all that was done in a session, but for the choice of a database."""
        await self.raw._execute_command(Command.RESET_CONNECTION, b"")
        await self.raw._read_ok_packet()

    async def select_database(self, name: str) -> None:
        """Make a database the current one."""
        await self.raw.select_db(name)

    async def ping(self) -> None:
        """One round trip."""
        await self.raw.ping(reconnect=False)

    async def close(self) -> None:
        """Say goodbye to the server."""
        await self.raw.ensure_closed()

    def abort(self) -> None:
        """Drop the socket: a close would wait until all is written, and under TLS for an answer."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self.raw.close()
            self.transport.abort()


class Answer:
    """Sends statements and holds the last answer.

    Attributes:
        description: of the columns, None where there are none.
        rows: of the result.
        rowcount: rows changed or returned.
        lastrowid: the key that was generated, or 0 or None.
        warning_count: how many warnings the server keeps of the statement.
    """

    __slots__ = ("_link", "_raw", "description", "lastrowid", "rowcount", "rows", "warning_count")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._raw = link.raw
        self.description: Sequence[Sequence[Any]] | None = None
        self.rows: Sequence[Sequence[Any]] = ()
        self.rowcount = 0
        self.lastrowid: int | None = None
        self.warning_count = 0

    async def execute(self, text: bytes) -> None:
        """Send a statement, and read its first result."""
        await self._raw.query(text)
        self._take(self._raw._result)

    async def load(self, text: bytes, path: bytes, file: FileIO) -> None:
        """Send a LOAD DATA LOCAL with its file."""
        await self._link.load(text, path, file)
        self._take(self._raw._result)

    def _take(self, result: Any) -> None:
        self.description = result.description
        self.rows = result.rows or ()
        self.rowcount = result.affected_rows
        self.lastrowid = result.insert_id
        self.warning_count = result.warning_count & 0xFFFF  # aiomysql reads it with a sign
        if result.description is None:
            # asyncmy takes a status of 0 (no autocommit, no transaction) for none at all.
            self._raw.server_status = result.server_status

    async def drain(self) -> None:
        """Read the results to the last one; keep the first that has rows."""
        description, rows, raw = self.description, self.rows, self._raw
        while raw._result.has_next:
            await raw.next_result()
            self._take(raw._result)
            if description is None:
                description, rows = self.description, self.rows
        self.description, self.rows = description, rows
