"""What the kernel can do for a connection: notice a dead peer, and tell so without reading.

A peer that vanished (power, firewall, a cable) sends no FIN. Without help a TCP connection to it
looks healthy for hours, and a statement sent into it is retried by the kernel for about fifteen
minutes. Keepalive ends the first, TCP_USER_TIMEOUT the second: it bounds how long sent data may
stay without an acknowledgement, which keepalive does not look at.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable
from typing import Protocol

__all__ = ["IdleSocket", "idle_socket_is_readable", "tune_socket"]

_INTERNET = (socket.AF_INET, socket.AF_INET6)


class SocketLike(Protocol):
    """What a transport's ``get_extra_info("socket")`` gives, under any event loop."""

    @property
    def family(self) -> int: ...

    @property
    def type(self) -> int: ...

    def fileno(self) -> int: ...


def tune_socket(
    sock: SocketLike,
    *,
    idle: float = 30.0,
    interval: float = 10.0,
    probes: int = 3,
    user_timeout: float = 30.0,
) -> None:
    """Let the kernel find out that the peer is gone; do nothing for other than TCP sockets.

    Args:
        sock: a connected socket, or a transport's view of one.
        idle: seconds of silence before the first keepalive probe.
        interval: seconds between two probes.
        probes: unanswered probes after which the connection is dead.
        user_timeout: seconds that sent data may stay unacknowledged; 0 leaves the kernel's default.
    """
    if sock.family not in _INTERNET:
        return
    settings = (
        ("TCP_KEEPIDLE", max(1, round(idle))),
        ("TCP_KEEPALIVE", max(1, round(idle))),  # macOS's name for TCP_KEEPIDLE
        ("TCP_KEEPINTVL", max(1, round(interval))),
        ("TCP_KEEPCNT", probes),
        ("TCP_USER_TIMEOUT", round(user_timeout * 1000)),
    )
    # A duplicate of the descriptor: uvloop's sockets refuse setsockopt, and the options belong
    # to the connection, not to the descriptor.
    with socket.fromfd(sock.fileno(), sock.family, sock.type) as twin:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in settings:
            option = getattr(socket, name, None)
            if option is not None:
                with contextlib.suppress(OSError):  # known to Python, not to this kernel
                    twin.setsockopt(socket.IPPROTO_TCP, option, value)


class IdleSocket:
    """Looks at a socket on which nothing is expected, without reading: one cheap system call.

    The event loop learns of a FIN only when it runs next; until then a driver believes that the
    connection lives. Ask only while the connection is known to have its descriptor still open:
    the number may belong to something else afterwards.
    """

    __slots__ = ("_poll",)

    def __init__(self, fd: int) -> None:
        self._poll = _poller(fd)

    def is_readable(self) -> bool:
        """Whether anything waits to be read: data, or the end of the connection."""
        return self._poll() != 0

    def is_dead(self) -> bool:
        """Whether the peer has closed or reset the connection.

        Where the system cannot tell the end from data (Windows), False: `is_readable` still says
        that something is there.
        """
        return self._poll() & _GONE != 0


def idle_socket_is_readable(fd: int) -> bool:
    """Whether anything waits on ``fd``; for one look. Keep an `IdleSocket` to look often."""
    return IdleSocket(fd).is_readable()


if hasattr(select, "poll"):
    # The peer closed its half or reset the connection. POLLRDHUP is Linux; elsewhere a FIN
    # shows as POLLHUP.
    _CLOSED = getattr(select, "POLLRDHUP", 0)
    _GONE = _CLOSED | select.POLLHUP | select.POLLERR | select.POLLNVAL

    def _poller(fd: int) -> Callable[[], int]:
        poll = select.poll()
        poll.register(fd, select.POLLIN | _CLOSED)
        ask = poll.poll

        def look() -> int:
            events = ask(0)
            return events[0][1] if events else 0

        return look

else:  # pragma: no cover - Windows
    _GONE = 2

    def _poller(fd: int) -> Callable[[], int]:
        return lambda: int(bool(select.select([fd], [], [], 0)[0]))
