"""Opening asyncpg connections, and cutting them."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import inspect
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
from asyncpg import connect_utils

from aiodbkit.backends.postgres.errors import cannot_connect
from aiodbkit.errors import CannotConnectError, ConfigurationError, Error
from aiodbkit.options import choice
from aiodbkit.wire import tune_socket

__all__ = ["Cuts", "Opener", "option_types", "socket_of"]

# asyncpg reads these from a DSN only.
_TLS_OPTIONS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword")
_OPTION_TYPES: Mapping[str, type] = {
    **dict.fromkeys(_TLS_OPTIONS, str),
    "application_name": str,
    "direct_tls": bool,
    "keepalive": float,
    "max_cacheable_statement_size": int,
    "max_cached_statement_lifetime": int,
    "prepared_statements": bool,
    "statement_cache_size": int,
    "tcp_user_timeout": float,
}
_SERVER_KINDS = tuple(each.value for each in connect_utils.SessionAttribute)
_TARGET = ("dsn", "host", "port", "user", "password", "database")
_SET_BY_THE_ENGINE = (*_TARGET, "loop", "timeout", "command_timeout")

# Seconds that the CancelRequest for a connection that was cut may take.
_CANCEL_TIMEOUT = 3.0


def option_types() -> dict[str, type]:
    """The options of asyncpg.connect() that are the user's to set, and ours."""
    theirs = inspect.signature(asyncpg.connect).parameters
    names = [name for name in theirs if name not in _SET_BY_THE_ENGINE]
    return {**dict.fromkeys(names, object), **_OPTION_TYPES}


class Opener:
    """Opens connections to the first of its hosts that takes one.

    Args:
        target: those given of ``host``, ``port``, ``hosts``, ``user``, ``password``, ``database``.
        options: of asyncpg.connect(), and ours.
        connect_timeout: seconds after which the caller will cancel.
        factory: opens them instead, if given.
    """

    def __init__(
        self,
        target: Mapping[str, Any],
        options: Mapping[str, Any],
        connect_timeout: float,
        factory: Callable[[], Awaitable[Any]] | None,
        cuts: Cuts,
    ) -> None:
        self._cuts = cuts
        self._hosts = target.get("hosts") or [(target.get("host"), target.get("port"))]
        self._login = {k: target[k] for k in ("user", "password", "database") if k in target}
        own = dict(options)
        self._tuning = {
            "idle": own.pop("keepalive", 30.0),
            "user_timeout": own.pop("tcp_user_timeout", 30.0),
        }
        wish = own.get("target_session_attrs")
        if wish is not None:
            choice("target_session_attrs", wish, _SERVER_KINDS)
        self._options = _for_asyncpg(own)
        self._connect_timeout = connect_timeout
        self._factory = factory

    async def open(self) -> asyncpg.Connection[Any]:
        """Open one and set it up; no await follows the connecting, so a cancelled one is gone."""
        factory = self._factory
        raw = await (self._from_hosts() if factory is None else self._from_factory(factory))
        settings = raw.get_settings()
        for oid, name, encode, decode in _CODECS:
            settings.add_python_codec(
                oid, name, "pg_catalog", [], "scalar", encode, decode, "binary"
            )
        sock = socket_of(raw)
        if sock is not None:
            tune_socket(sock, **self._tuning)
        return raw

    async def _from_factory(self, factory: Callable[[], Awaitable[Any]]) -> asyncpg.Connection[Any]:
        try:
            raw = await factory()
        except Exception as error:
            raise cannot_connect(error, "PostgreSQL by connection_factory") from error
        if isinstance(raw, asyncpg.Connection):
            return raw
        raise ConfigurationError(
            f"connection_factory must return an asyncpg.Connection, not {type(raw).__name__}"
        )

    async def _from_hosts(self) -> asyncpg.Connection[Any]:
        # asyncpg's own list of hosts has one timeout for all: one frozen host would eat it up.
        attempts = self._attempts()
        clock = asyncio.get_running_loop().time
        # Shorter than the caller's deadline, so that the error can say which host was silent.
        end = clock() + self._connect_timeout * 0.9
        failures: list[CannotConnectError] = []
        for number, (host, port, options) in enumerate(attempts):
            share = max((end - clock()) / (len(attempts) - number), 0.01)
            try:
                return await self._from_host(host, port, share, options)
            except CannotConnectError as error:
                failures.append(error)
                if (error.sqlstate or "")[:2] in ("28", "3D"):  # true of all the others too
                    break
        raise _none_of(failures)

    def _attempts(self) -> Sequence[tuple[str | None, int | None, dict[str, Any]]]:
        ways = [self._options]
        if len(self._hosts) > 1 and self._options.get("target_session_attrs") == "prefer-standby":
            ways = [{**self._options, "target_session_attrs": wish} for wish in ("standby", "any")]
        return [(host, port, way) for way in ways for host, port in self._hosts]

    async def _from_host(
        self, host: str | None, port: int | None, timeout: float, options: dict[str, Any]
    ) -> asyncpg.Connection[Any]:
        # In a task of its own: asyncpg, cancelled in the middle of TLS, can leave its socket open.
        connecting: asyncio.Future[asyncpg.Connection[Any]] = asyncio.ensure_future(
            asyncpg.connect(host=host, port=port, **self._login, **options, timeout=timeout)
        )
        try:
            await asyncio.wait((connecting,))
        except BaseException:
            self._cuts.give_up(connecting)
            raise
        try:
            return connecting.result()
        except Exception as error:
            raise cannot_connect(error, self._describe(host, port)) from error

    def _describe(self, host: str | None, port: int | None) -> str:
        """Name the target, with what asyncpg assumes where nothing was given."""
        user = self._login.get("user") or os.environ.get("PGUSER") or _login_name()
        database = self._login.get("database") or os.environ.get("PGDATABASE") or user
        place = host or os.environ.get("PGHOST") or "localhost"
        number = port or os.environ.get("PGPORT") or 5432
        return f"PostgreSQL at {place}:{number} (database {database!r}, user {user!r})"


def _for_asyncpg(options: dict[str, Any]) -> dict[str, Any]:
    """Turn our options into those of asyncpg.connect()."""
    if not options.pop("prepared_statements", True):
        options["statement_cache_size"] = 0
    name = options.pop("application_name", None)
    if name is not None:
        settings = options.get("server_settings") or {}
        options["server_settings"] = {**settings, "application_name": name}
    tls = {key: options.pop(key) for key in _TLS_OPTIONS if key in options}
    if tls:
        options["dsn"] = f"postgresql://?{urlencode(tls)}"
    return options


def _none_of(failures: Sequence[CannotConnectError]) -> Error:
    if len(failures) == 1:
        return failures[0]
    told = "; ".join(map(str, failures))
    error = CannotConnectError(
        f"none of {len(failures)} attempts succeeded: {told}",
        sqlstate=failures[-1].sqlstate,
        is_transient=any(failure.is_transient for failure in failures),
    )
    error.__cause__ = failures[-1].__cause__
    return error


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "?"


def socket_of(raw: asyncpg.Connection[Any]) -> Any:
    """Return the transport's socket, which asyncpg does not show, or None."""
    transport = getattr(raw, "_transport", None)
    return None if transport is None else transport.get_extra_info("socket")


def _encode_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _decode_json(data: bytes) -> Any:
    return json.loads(data.decode())


def _encode_jsonb(value: Any) -> bytes:
    return b"\x01" + _encode_json(value)


def _decode_jsonb(data: bytes) -> Any:
    return _decode_json(data[1:])


def _encode_uuid(value: Any) -> bytes:
    return value.bytes if isinstance(value, UUID) else UUID(value).bytes


def _decode_uuid(data: bytes) -> UUID:
    return UUID(bytes=data)


# By the types' fixed numbers: set_type_codec() would ask the server for them, in two round trips
# each. In binary, for jsonb the text after a version number, because COPY takes nothing else.
# asyncpg's own UUID is a subclass, which encoders of other packages (orjson, msgspec) refuse.
_CODECS: Sequence[tuple[int, str, Callable[[Any], bytes], Callable[[bytes], Any]]] = (
    (114, "json", _encode_json, _decode_json),
    (3802, "jsonb", _encode_jsonb, _decode_jsonb),
    (2950, "uuid", _encode_uuid, _decode_uuid),
)


class Cuts:
    """Cuts connections, and has the server stop what they were running.

    A backend whose client has gone works on to the end of its statement, and commits it.
    """

    def __init__(self) -> None:
        self._requests: set[asyncio.Future[Any]] = set()

    def cut(self, raw: asyncpg.Connection[Any]) -> None:
        """Drop a connection at once; the CancelRequest goes out on another one."""
        if not raw.is_closed():
            self.cancel(raw)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the socket with it
            raw.terminate()

    def give_up(self, connecting: asyncio.Future[asyncpg.Connection[Any]]) -> None:
        """Nobody waits for this connection any more: cut it when it is there."""
        self._requests.add(connecting)
        connecting.add_done_callback(self._given_up)

    def _given_up(self, connecting: asyncio.Future[asyncpg.Connection[Any]]) -> None:
        self._requests.discard(connecting)
        if not connecting.cancelled() and connecting.exception() is None:
            connecting.result().terminate()

    async def wait(self) -> None:
        """Let the requests go out and the connects that were given up end; not for long."""
        if self._requests:
            await asyncio.wait(self._requests, timeout=_CANCEL_TIMEOUT)
        for late in self._requests:
            late.cancel()

    def cancel(self, raw: asyncpg.Connection[Any]) -> list[asyncio.Future[Any]]:
        """Have the server stop what the connection runs; return what ends when it was told."""
        inside: Any = raw  # asyncpg has no public way to send one
        try:
            loop = asyncio.get_running_loop()
            key = inside._protocol.backend_pid, inside._protocol.backend_secret
        except (RuntimeError, AttributeError):
            return []
        task = loop.create_task(_send_cancel(loop, inside._addr, inside._params, *key))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        return [task]


async def _send_cancel(
    loop: asyncio.AbstractEventLoop, address: Any, parameters: Any, pid: int, secret: int
) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CANCEL_TIMEOUT):
            send: Any = vars(connect_utils)["_cancel"]
            await send(
                loop=loop, addr=address, params=parameters, backend_pid=pid, backend_secret=secret
            )
