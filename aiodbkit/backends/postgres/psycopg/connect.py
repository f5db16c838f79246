"""Opening psycopg connections."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import ceil
from typing import Any, cast

import psycopg
from psycopg.pq import Conninfo

from aiodbkit.backends.postgres.psycopg.errors import cannot_connect
from aiodbkit.backends.postgres.psycopg.exchange import Cuts
from aiodbkit.errors import CannotConnectError, ConfigurationError, Error

__all__ = ["Opener", "option_types"]

_OPTION_TYPES: Mapping[str, Any] = {
    "keepalive": float,
    "prepare_threshold": int,
    "prepared_statements": bool,
    "server_settings": object,
    "tcp_user_timeout": float,
}
# Those of libpq that the engine sees to, or that ours stand for.
_SET_BY_THE_ENGINE = (
    *("host", "hostaddr", "port", "user", "password", "dbname", "connect_timeout"),
    *("client_encoding", "keepalives", "keepalives_idle", "keepalives_interval"),
    *("keepalives_count", "replication", "tcp_user_timeout"),
)
# Seconds between keepalive probes, and how many of them stay unanswered.
_PROBE_INTERVAL, _PROBES = 10, 3


def option_types() -> dict[str, Any]:
    """The options of libpq's connection strings that are the user's to set, and ours."""
    theirs = [option.keyword.decode() for option in Conninfo.get_defaults()]
    return {
        **{name: str for name in theirs if name not in _SET_BY_THE_ENGINE},
        **_OPTION_TYPES,
    }


class Opener:
    """Opens connections to the first of its hosts that takes one.

    Args:
        target: those given of ``host``, ``port``, ``hosts``, ``user``, ``password``, ``database``.
        options: of libpq, and ours.
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
        self._password = target.get("password")
        names = {"user": "user", "database": "dbname"}
        self._login = {libpq: target[ours] for ours, libpq in names.items() if target.get(ours)}
        self._options = _for_libpq(dict(options))
        self._connect_timeout = connect_timeout
        self._factory = factory

    async def open(self) -> psycopg.AsyncConnection[Any]:
        """Open one; cancelled, none is left behind."""
        if self._factory is not None:
            return await self._from_factory(self._factory)
        return await self._from_hosts()

    async def _from_factory(
        self, factory: Callable[[], Awaitable[Any]]
    ) -> psycopg.AsyncConnection[Any]:
        try:
            raw = await factory()
            if isinstance(raw, psycopg.AsyncConnection):
                await raw.set_autocommit(True)
                return raw
        except Exception as error:
            raise cannot_connect(error, "PostgreSQL by connection_factory") from error
        raise ConfigurationError(
            f"connection_factory must return a psycopg.AsyncConnection, not {type(raw).__name__}"
        )

    async def _from_hosts(self) -> psycopg.AsyncConnection[Any]:
        # libpq's own list of hosts has at least two seconds for each, whatever the deadline.
        attempts = self._attempts()
        clock = asyncio.get_running_loop().time
        # Shorter than the caller's deadline, so that the error can say which host was silent.
        end = clock() + self._connect_timeout * 0.9
        password = await self._current_password(attempts[0])
        failures: list[CannotConnectError] = []
        for number, (host, port, options) in enumerate(attempts):
            share = max((end - clock()) / (len(attempts) - number), 0.01)
            place = {"host": host, "port": port, "password": password}
            given = {name: value for name, value in place.items() if value is not None}
            try:
                return await self._from_host({**self._login, **options, **given}, share)
            except CannotConnectError as error:
                failures.append(error)
        raise _none_of(failures)

    async def _current_password(self, attempt: tuple[Any, Any, Any]) -> str | None:
        try:
            password = self._password() if callable(self._password) else self._password
            if inspect.isawaitable(password):
                password = await password
        except Exception as error:
            raise cannot_connect(error, _describe({"host": attempt[0], **self._login})) from error
        return cast("str | None", password)

    def _attempts(self) -> Sequence[tuple[str | None, int | None, dict[str, Any]]]:
        ways = [self._options]
        if len(self._hosts) > 1 and self._options.get("target_session_attrs") == "prefer-standby":
            ways = [{**self._options, "target_session_attrs": wish} for wish in ("standby", "any")]
        return [(host, port, way) for way in ways for host, port in self._hosts]

    async def _from_host(
        self, given: dict[str, Any], timeout: float
    ) -> psycopg.AsyncConnection[Any]:
        connect = psycopg.AsyncConnection.connect(
            **given, autocommit=True, connect_timeout=ceil(timeout)
        )
        connecting: asyncio.Future[psycopg.AsyncConnection[Any]] = asyncio.ensure_future(connect)
        try:
            await asyncio.wait((connecting,), timeout=timeout)
        except BaseException:
            self._cuts.give_up(connecting)
            raise
        try:
            if not connecting.done():
                self._cuts.give_up(connecting)
                raise TimeoutError  # noqa: TRY301 - one way to tell of all failures
            return connecting.result()
        except Exception as error:
            raise cannot_connect(error, _describe(given), given.get("password")) from error


def _describe(given: Mapping[str, Any]) -> str:
    """Name the target, with what libpq assumes where nothing was given."""
    assumed = {
        option.keyword.decode(): (option.val or option.compiled or b"").decode()
        for option in Conninfo.get_defaults()
    }
    place = {name: given.get(name) or assumed.get(name) for name in ("host", "port", "user")}
    database = given.get("dbname") or assumed.get("dbname") or place["user"]
    return (
        f"PostgreSQL at {place['host'] or 'the local socket'}:{place['port']} "
        f"(database {database!r}, user {place['user']!r})"
    )


def _for_libpq(options: dict[str, Any]) -> dict[str, Any]:
    """Turn our options into those of libpq."""
    for ours in ("prepare_threshold", "prepared_statements"):
        options.pop(ours, None)
    settings = options.pop("server_settings", None) or {}
    if settings:
        if not isinstance(settings, Mapping):
            raise ConfigurationError("server_settings must be a mapping of names to texts")
        chosen = [f"-c {name}={_escaped(str(value))}" for name, value in settings.items()]
        options["options"] = " ".join([*filter(None, [options.get("options")]), *chosen])
    keepalive = options.pop("keepalive", 30.0)
    return {
        **options,
        "keepalives_idle": max(1, round(keepalive)),
        "keepalives_interval": _PROBE_INTERVAL,
        "keepalives_count": _PROBES,
        "tcp_user_timeout": round(options.pop("tcp_user_timeout", 30.0) * 1000),
        # Without it libpq speaks what the database is stored in, or PGCLIENTENCODING.
        "client_encoding": "utf8",
    }


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


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
