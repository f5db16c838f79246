"""What the kernel tells about a socket, on real sockets of the loopback device."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator

import pytest

from aiodbkit.wire import IdleSocket, idle_socket_is_readable, tune_socket

Pair = tuple[socket.socket, socket.socket]

linux = pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has these options"
)
polls = pytest.mark.skipif(not hasattr(select, "poll"), reason="there is no poll() to tell an end")


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A TCP connection: our end and the peer's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        with ours, theirs:
            yield ours, theirs


def reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def wait_for_news(end: socket.socket) -> None:
    assert select.select([end], [], [], 10)[0]


def test_a_quiet_socket_is_neither_readable_nor_dead(pair: Pair) -> None:
    idle = IdleSocket(pair[0].fileno())
    assert not idle.is_readable()
    assert not idle.is_dead()


def test_waiting_data_is_readable_and_no_death(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(b"notice")
    wait_for_news(ours)
    idle = IdleSocket(ours.fileno())
    assert idle.is_readable()
    assert not idle.is_dead()
    assert ours.recv(100) == b"notice", "looking must not read"


@polls
def test_an_unread_end_is_a_death(pair: Pair) -> None:
    ours, theirs = pair
    idle = IdleSocket(ours.fileno())
    theirs.close()
    wait_for_news(ours)
    assert idle.is_readable()
    assert idle.is_dead()


@polls
def test_an_end_behind_unread_data_is_a_death(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(b"terminating connection")
    theirs.shutdown(socket.SHUT_WR)
    while select.select([ours], [], [], 10)[0] and not IdleSocket(ours.fileno()).is_dead():
        pass
    assert ours.recv(100) == b"terminating connection"


@polls
def test_a_reset_is_a_death(pair: Pair) -> None:
    ours, theirs = pair
    reset(theirs)
    wait_for_news(ours)
    assert IdleSocket(ours.fileno()).is_dead()


@polls
def test_a_closed_descriptor_is_dead(pair: Pair) -> None:
    idle = IdleSocket(pair[0].fileno())
    pair[0].close()
    assert idle.is_dead()


def test_one_look_tells_what_waits(pair: Pair) -> None:
    ours, theirs = pair
    assert not idle_socket_is_readable(ours.fileno())
    theirs.close()
    wait_for_news(ours)
    assert idle_socket_is_readable(ours.fileno())


def test_a_tuned_socket_asks_whether_the_peer_is_there(pair: Pair) -> None:
    ours, theirs = pair
    tune_socket(ours)
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert not theirs.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@linux
def test_times_are_given_in_seconds(pair: Pair) -> None:
    ours = pair[0]
    tune_socket(ours, idle=7, interval=3, probes=4, user_timeout=2.5)

    def option(name: str) -> int:
        return ours.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))

    assert (option("TCP_KEEPIDLE"), option("TCP_KEEPINTVL"), option("TCP_KEEPCNT")) == (7, 3, 4)
    assert option("TCP_USER_TIMEOUT") == 2500


def test_the_socket_stays_open_after_it_was_tuned(pair: Pair) -> None:
    ours, theirs = pair
    tune_socket(ours)
    ours.send(b"x")
    assert theirs.recv(1) == b"x"


def test_a_unix_socket_is_left_alone() -> None:
    left, right = socket.socketpair()
    with left, right:
        tune_socket(left)
        assert not left.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
