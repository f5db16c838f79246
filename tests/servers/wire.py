"""A TCP proxy before a server, which cuts, swallows, delays or refuses on demand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from tests.servers.process import HOST, free_port

__all__ = ["WireProxy"]

Way = Literal["up", "down", "both"]
SSL_REQUEST = struct.pack("!ii", 8, 80_877_103)
PORTS = {"postgresql": 5432, "postgres": 5432, "mysql": 3306, "mariadb": 3306}


class WireProxy:
    """Forwards connections to a server until told otherwise.

    ``up`` is from the client to the server, ``down`` the way back. All calls act at once, on
    the connections there are and, but for `cut`, on those to come. A PostgreSQL client that
    would like TLS is told that there is none, unless ``tls``: `seen` could not read along.

    Attributes:
        url: the server's URL, by way of this proxy.
        accepted: connections accepted so far.
    """

    def __init__(self, url: str, *, tls: bool = False) -> None:
        self._tls = tls
        parts = urlsplit(url)
        default = PORTS[parts.scheme.partition("+")[0]]
        self._target = parts.hostname or "localhost", parts.port or default
        self._address = HOST, free_port()
        login = parts.netloc.rpartition("@")[0]
        place = f"{HOST}:{self._address[1]}"
        self.url = urlunsplit(parts._replace(netloc=f"{login}@{place}" if login else place))
        self.accepted = 0
        self._delay = 0.0
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._wires: set[_Wire] = set()
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched: dict[bytes, asyncio.Event] = {}

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._wires)

    def cut(self) -> None:
        """Reset (RST) all connections there are, towards both ends."""
        for wire in tuple(self._wires):
            wire.reset()

    def hole(self, way: Way = "both") -> None:
        """Accept everything and pass nothing on; what came meanwhile is delivered by `heal`."""
        for name in ("up", "down") if way == "both" else (way,):
            self._open[name].clear()

    def delay(self, seconds: float) -> None:
        """Hold each chunk for so long, each way."""
        self._delay = seconds

    def refuse(self) -> None:
        """Refuse new connections; those there are live on."""
        if self._server is not None:
            self._server.close()
        if self._listener is not None:
            self._listener.close()
        self._server = self._listener = None

    def heal(self) -> None:
        """Work as if nothing had happened."""
        self._delay = 0.0
        for gate in self._open.values():
            gate.set()
        if self._listener is None:
            self._listener = _listening(self._address)
            self._spawn(self._listen())

    async def seen(self, text: bytes = b"") -> None:
        """Return as soon as a client has sent ``text`` from now on, in one piece.

        It is on its way then, no more: whether the server gets it is up to `hole` and `delay`.
        """
        await self._watched.setdefault(text, asyncio.Event()).wait()

    async def start(self) -> None:
        """Listen."""
        self._listener = _listening(self._address)
        await self._listen()
        self.heal()

    async def close(self) -> None:
        """Refuse, cut, and wait for all tasks."""
        self.refuse()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports' last callbacks, before the loop is closed

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._listener)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        wire = _Wire(writer)
        self._wires.add(wire)
        wire.task = self._spawn(self._serve(wire, reader, writer))

    async def _serve(
        self, wire: _Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._open["up"].wait()
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            wire.add(server_writer)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(wire, "up", reader, server_writer))
                pumps.create_task(self._pump(wire, "down", server_reader, writer))
        except (OSError, ExceptionGroup):
            wire.reset()  # the client learns as roughly as it would without a proxy
        finally:
            self._wires.discard(wire)
            wire.close()

    async def _pump(
        self, wire: _Wire, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65_536):
            if way == "up" and self._answered(data, wire):
                continue
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._open[way].wait()
            writer.write(data)
            await writer.drain()
        await self._open[way].wait()
        with contextlib.suppress(OSError):
            writer.write_eof()

    def _answered(self, data: bytes, wire: _Wire) -> bool:
        """Look at what a client sends; True if the proxy has answered it itself."""
        if data == SSL_REQUEST and not self._tls:
            wire.client.write(b"N")
            return True
        for text in [text for text in self._watched if text in data]:
            self._watched.pop(text).set()
        return False


class _Wire:
    """The two sockets of one connection, and the task between them."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.task: asyncio.Task[None] | None = None
        self.client = client
        self._ends = [client]

    def add(self, server: asyncio.StreamWriter) -> None:
        self._ends.append(server)

    def reset(self) -> None:
        for end in self._ends:
            raw = end.transport.get_extra_info("socket")
            if raw is not None and raw.fileno() != -1:
                # An abort sends RST instead of FIN only for a socket that may not linger.
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()
        if self.task is not None:
            self.task.cancel()

    def close(self) -> None:
        for end in self._ends:
            end.close()


def _listening(address: tuple[str, int]) -> socket.socket:
    """Listen at once, in plain code: from here on the kernel accepts."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(128)
    listener.setblocking(False)
    return listener
