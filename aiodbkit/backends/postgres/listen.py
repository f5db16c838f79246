"""Notifications: a connection of their own that is opened again when it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from aiodbkit.backends.postgres.abilities import PostgresDriverConnection
from aiodbkit.engine_pool import EnginePool
from aiodbkit.errors import (
    CannotConnectError,
    ConfigurationError,
    Error,
    InterfaceError,
    PoolClosedError,
)
from aiodbkit.options import count, seconds

if TYPE_CHECKING:
    from aiodbkit.backends.postgres.engine import PostgresEngine

__all__ = ["Gap", "Notification", "Notifications"]

logger = logging.getLogger("aiodbkit.listen")

_BACKOFF = 0.1
_MAX_BACKOFF = 5.0
_LONGEST_NAME = 63  # bytes; the server would cut a longer one in LISTEN, and refuse it in NOTIFY


@dataclass(frozen=True, slots=True)
class Notification:
    """What a NOTIFY has sent.

    Attributes:
        channel: where it was sent to.
        payload: its text, ``""`` if it has none.
        pid: the server's process that sent it.
    """

    channel: str
    payload: str
    pid: int

    @property
    def is_gap(self) -> bool:
        """Whether this is a `Gap`: no notification, but the place where some may be missing."""
        return False


@dataclass(frozen=True, slots=True)
class Gap(Notification):
    """Stands where notifications may be missing. Read again whatever they tell changes of.

    After the gap none is missing: what is committed from then on comes.

    Attributes:
        reason: ``"reconnected"``: the connection was lost, and there is another one now;
            ``"overflow"``: more came than ``buffer_size`` while nobody read them.
        channel, payload, pid: ``""``, ``""`` and 0.
    """

    channel: str = ""
    payload: str = ""
    pid: int = 0
    reason: Literal["reconnected", "overflow"] = "reconnected"

    @property
    def is_gap(self) -> bool:
        """True."""
        return True


class Notifications:
    """``async with db.listen("channel") as notifications:`` an async iterator of `Notification`.

    It ends with an error only: the engine was closed, or the server refuses the connection for a
    reason that will not pass, such as a password.
    """

    def __init__(
        self,
        engine: PostgresEngine,
        channels: Sequence[str],
        *,
        buffer_size: int,
        heartbeat: float | None,
    ) -> None:
        for channel in channels:
            _refuse_no_name(channel)
        if not channels:
            raise ConfigurationError('listen() needs a channel: db.listen("orders")')
        count("buffer_size", buffer_size, least=1)
        seconds("heartbeat", heartbeat, optional=True)
        if heartbeat == 0:
            raise ConfigurationError("heartbeat=0 would ask all the time: None turns it off")
        self._engine = engine
        self._channels = tuple(dict.fromkeys(channels))
        self._buffer_size = buffer_size
        self._heartbeat = heartbeat
        self._buffer: deque[Notification] = deque()
        self._arrived = asyncio.Event()
        self._line: _Line | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._failure: Error | None = None

    def __repr__(self) -> str:
        return f"<Notifications on {', '.join(self._channels)}>"

    async def __aenter__(self) -> Self:
        if self._keeping is not None:
            raise InterfaceError("this listen() block has been entered before: call listen() again")
        await self._engine._open_for_listening()
        self._line = await self._connect()
        self._line.pass_on()
        keeping = asyncio.get_running_loop().create_task(
            self._keep(), name="aiodbkit-listen", context=Context()
        )
        keeping.add_done_callback(self._kept)
        self._keeping = keeping
        self._engine._listening.add(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end(InterfaceError("the listen() block has ended: call listen() again"))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notification:
        if self._keeping is None:
            raise InterfaceError(
                'listen() is a block: `async with db.listen("channel") as notifications:`'
            )
        while not self._buffer:
            if self._failure is not None:
                raise self._failure
            self._arrived.clear()
            await self._arrived.wait()
        return self._buffer.popleft()

    # Its connection

    async def _connect(self) -> _Line:
        """Open a connection that listens; cancelled or failed, it leaves none."""
        limit = self._engine.pool_options.connect_timeout
        line = _Line(self._put)
        try:
            async with asyncio.timeout(limit):
                await line.open(self._engine, self._channels)
        except TimeoutError as error:
            line.abort()
            if isinstance(error, Error):
                raise
            raise CannotConnectError(
                f"listen(): the server did not answer within connect_timeout={limit:g} s"
            ) from error
        except BaseException:
            line.abort()
            raise
        return line

    async def _keep(self) -> None:
        """Watch over the connection, and replace it when it is lost."""
        try:
            while True:
                assert self._line is not None
                await self._line.wait_for_end(
                    self._heartbeat, self._engine.pool_options.check_timeout
                )
                self._line.abort()
                logger.warning("%r: the connection was lost, opening another one", self)
                self._line = await self._reconnect()
                self._put(Gap())
                self._line.pass_on()
        except Error as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a hook of the user's: whoever reads is told
            failure = InterfaceError(f"listen() cannot go on: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._fail(failure)

    def _kept(self, _keeping: asyncio.Task[None]) -> None:
        """Close what there is: a task that was cancelled before its first line did not."""
        if self._line is not None:
            self._line.close_soon(self._engine)

    async def _reconnect(self) -> _Line:
        pause = _BACKOFF
        while True:
            try:
                return await self._connect()
            except Error as error:
                if not error.is_transient:
                    raise
                logger.info("%r: not yet: %s", self, error)
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _MAX_BACKOFF)

    async def _end(self, reason: Error) -> None:
        """Stop listening; the connection is closed when this returns, unless it is cancelled."""
        self._fail(reason)
        self._engine._listening.discard(self)
        keeping = self._keeping
        if keeping is None:
            return
        keeping.cancel()
        await asyncio.wait((keeping,))
        await asyncio.sleep(0)  # its callback comes first, if it was done already
        if self._line is not None and self._line.closing is not None:
            await asyncio.wait((self._line.closing,))

    # What came

    def _put(self, item: Notification) -> None:
        """Keep it for whoever reads; where there is no room, a gap says that some are missing."""
        buffer = self._buffer
        if len(buffer) >= self._buffer_size and not item.is_gap:
            item = Gap(reason="overflow")
        if item.is_gap and buffer and buffer[-1].is_gap:
            return
        buffer.append(item)
        self._arrived.set()

    def _fail(self, error: Error) -> None:
        self._failure = self._failure or error
        self._arrived.set()


class _Line:
    """One connection that listens. What comes is held back until the gap before it is marked."""

    def __init__(self, put: Callable[[Notification], None]) -> None:
        self._put = put
        self._early: list[Notification] | None = []
        self._ended = asyncio.Event()
        self._driver: PostgresDriverConnection | None = None
        self.closing: asyncio.Task[None] | None = None

    async def open(self, engine: PostgresEngine, channels: Sequence[str]) -> None:
        pool = engine.pool
        # Not the pool's own: a sandbox in its place would lend a part of its transaction.
        opened = await EnginePool._open_connection(pool)
        self._driver = opened  # type: ignore[assignment]
        await engine._ability(opened, "listen")(channels, self._receive, self._ended.set)

    def pass_on(self) -> None:
        early, self._early = self._early or (), None
        for notification in early:
            self._put(notification)

    def _receive(self, channel: str, payload: str, pid: int) -> None:
        notification = Notification(channel, payload, pid)
        if self._early is None:
            self._put(notification)
        else:
            self._early.append(notification)

    async def wait_for_end(self, heartbeat: float | None, patience: float) -> None:
        """Return when the connection is lost: the driver says so, or no ping comes back."""
        assert self._driver is not None
        while not self._ended.is_set():
            try:
                async with asyncio.timeout(heartbeat):
                    await self._ended.wait()
            except TimeoutError:
                if not await _answers(self._driver, patience):
                    return

    def abort(self) -> None:
        if self._driver is not None:
            self._driver.abort()

    def close_soon(self, engine: PostgresEngine) -> None:
        """Close it in a task of the pool: whoever waits for that may be cancelled."""
        driver = self._driver
        if driver is None or driver.is_closed:
            self.abort()
            return
        limit = engine.pool_options.close_timeout
        self.closing = engine.pool.spawn(_close(driver, limit), "close")


async def _answers(driver: PostgresDriverConnection, patience: float) -> bool:
    try:
        async with asyncio.timeout(patience):
            await driver.ping()
    except (Error, TimeoutError):
        return False
    return True


async def _close(driver: PostgresDriverConnection, limit: float) -> None:
    async with asyncio.timeout(limit):
        await driver.close()


def _refuse_no_name(channel: object) -> None:
    try:
        size = len(channel.encode()) if isinstance(channel, str) and "\0" not in channel else 0
    except UnicodeEncodeError:  # a lone surrogate is no character
        size = 0
    if not size:
        raise ConfigurationError(f"a channel is named by a text, not by {channel!r}")
    if size > _LONGEST_NAME:
        raise ConfigurationError(
            f"the channel {channel!r} has a name of more than {_LONGEST_NAME} bytes, which "
            "PostgreSQL would cut"
        )


def closed() -> PoolClosedError:
    """Return what those who read are told when the engine is closed."""
    return PoolClosedError("listen(): the engine was closed")
