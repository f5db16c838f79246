"""Opening connections: options, TLS, session set-up."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, timedelta, timezone
from typing import Any

import aiomysql
from pymysql.constants import CLIENT

from aiodbkit.backends.mysql.cursors import QuietCursor
from aiodbkit.backends.mysql.errors import cannot_connect
from aiodbkit.backends.mysql.literals import Literals
from aiodbkit.backends.mysql.stop import Victim
from aiodbkit.backends.mysql.values import make_decoders
from aiodbkit.backends.mysql.wire import Session
from aiodbkit.errors import ConfigurationError, Error
from aiodbkit.wire import tune_socket

__all__ = [
    "MULTI_STATEMENTS_OFF",
    "MULTI_STATEMENTS_ON",
    "OPTION_TYPES",
    "Opener",
    "SideConnection",
    "reset_session",
    "set_option",
]

# What the driver takes besides the target, with the type that a URL's text is converted to.
OPTION_TYPES: Mapping[str, type] = {
    "auth_plugin": str,
    "charset": str,
    "client_flag": int,
    "conv": object,
    "init_command": str,
    "local_infile": bool,
    "program_name": str,
    "read_default_file": str,
    "read_default_group": str,
    "server_public_key": str,
    "sql_mode": str,
    "ssl": object,
    "ssl_ca": str,
    "time_zone": str,
    "unix_socket": str,
}
_PASSED_ON = (
    *("auth_plugin", "local_infile", "program_name", "read_default_file", "read_default_group"),
    *("server_public_key", "unix_socket"),
)

_STRICT = (
    "IF(@@sql_mode REGEXP 'STRICT_(TRANS|ALL)_TABLES', @@sql_mode, "
    "CONCAT_WS(',', NULLIF(@@sql_mode, ''), 'STRICT_TRANS_TABLES'))"
)
_WHO = (
    b"SELECT CONCAT_WS(':', @@hostname, @@port, @@server_id), CONNECTION_ID(), @@max_allowed_packet"
)
_OFFSET = re.compile(r"([+-])(\d{1,2}):(\d\d)")
_COM_SET_OPTION = 0x1B
_COM_RESET_CONNECTION = 0x1F
MULTI_STATEMENTS_ON = b"\x00\x00"
MULTI_STATEMENTS_OFF = b"\x01\x00"

_VERIFY = {"true", "1", "yes", "on", "verify-full", "verify-identity"}
_VERIFY_CA = {"verify-ca"}
_ENCRYPT = {"require", "required"}
_NO_TLS = {"false", "0", "no", "off", "disable", "disabled"}


class _Connection(aiomysql.Connection):  # type: ignore[misc]
    """aiomysql's connection, without what cannot be switched off by its options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # With it a value that broke out of its literal could begin a statement of its own.
        self.client_flag &= ~CLIENT.MULTI_STATEMENTS

    def close(self) -> None:
        """Drop the socket: under TLS a close would wait for the peer's answer."""
        writer = self._writer
        super().close()
        if writer is not None:
            writer.transport.abort()

    async def _request_authentication(self) -> None:
        # aiomysql goes on in plaintext. Asked here, before the password's hash is sent.
        if self._ssl_context is not None and not self.server_capabilities & CLIENT.SSL:
            raise _PlaintextError
        await super()._request_authentication()


class _PlaintextError(Exception):
    def __str__(self) -> str:
        return "ssl was asked for, but the server offers no TLS: nothing was sent in plaintext"


class SideConnection:
    """A connection that only sends KILL."""

    def __init__(self, raw: aiomysql.Connection, cursor: QuietCursor, victim: Victim) -> None:
        self.victim = victim
        self._raw = raw
        self._cursor = cursor

    async def command(self, text: str) -> None:
        """Send one statement; errors are the driver's own."""
        await self._cursor.execute(text.encode())

    def abort(self) -> None:
        """Drop it."""
        drop(self._raw)


class Opener:
    """Opens connections of one target, in one way.

    Attributes:
        where: the target, for messages: never a password.
        zone: the session's time zone where it is a fixed offset, else None.
        set_up: the statements that a session begins with.
    """

    def __init__(
        self,
        target: Mapping[str, Any],
        options: Mapping[str, Any],
        factory: Callable[[], Awaitable[Any]] | None,
    ) -> None:
        if "hosts" in target:
            raise ConfigurationError("MySQL takes one host, not several: make an engine for each")
        charset = options.get("charset", "utf8mb4")
        if str(charset).lower() != "utf8mb4":
            raise ConfigurationError(
                f"charset must be 'utf8mb4', the whole of Unicode, not {charset!r}"
            )
        self.database: str | None = target.get("database")
        self.where = _where(target, options) if factory is None else "MySQL by connection_factory"
        self.zone = _zone(options.get("time_zone", "+00:00"))
        self.literals = Literals(self.zone)
        self.set_up = self._set_up(options)
        self._decoders = {**make_decoders(self.zone), **(options.get("conv") or {})}
        self._factory = factory
        self._ssl = options.get("ssl")
        self._ssl_ca: str | None = options.get("ssl_ca")
        self._context: ssl.SSLContext | None = None
        _tls_mode(self._ssl, self._ssl_ca)
        self._arguments = {
            "host": target.get("host") or "localhost",
            "port": target.get("port") or 3306,
            "user": target.get("user"),
            # aiomysql encodes it as latin-1: so it sends the UTF-8 that servers expect.
            "password": (target.get("password") or "").encode().decode("latin-1"),
            "db": self.database,
            "charset": "utf8mb4",
            "autocommit": None,  # set_up sets it
            # UPDATE counts the rows that it found, as on the other backends, not those it changed.
            "client_flag": options.get("client_flag", 0) | CLIENT.FOUND_ROWS,
            "conv": self._decoders,
            **{name: options[name] for name in _PASSED_ON if options.get(name) is not None},
        }

    def _set_up(self, options: Mapping[str, Any]) -> tuple[bytes, ...]:
        write = self.literals.write
        sql_mode = options.get("sql_mode")
        settings = [
            "NAMES utf8mb4",
            "autocommit = 1",
            f"sql_mode = {_STRICT if sql_mode is None else write(str(sql_mode))}",
        ]
        time_zone = options.get("time_zone", "+00:00")
        if time_zone:
            # Servers know the name UTC only where somebody has loaded the names of time zones.
            offset = "+00:00" if self.zone is UTC else str(time_zone)
            settings.append(f"time_zone = {write(offset)}")
        statements = ["SET " + ", ".join(settings)]
        if options.get("init_command"):
            statements.append(options["init_command"])
        return tuple(statement.encode() for statement in statements)

    async def open(self) -> tuple[aiomysql.Connection, QuietCursor, Session]:
        """Open and set up one connection.

        Raises:
            CannotConnectError: with the driver's error as the cause.
        """
        raw = await self._open()
        try:
            cursor = await self._prepare(raw)
            for statement in self.set_up:
                await cursor.execute(statement)
            return raw, cursor, await _who(cursor)
        except Exception as error:
            drop(raw)
            raise self._refused(error) from error
        except BaseException:
            drop(raw)
            raise

    async def open_side(self) -> SideConnection:
        """Open a connection for KILL; errors are aiodbkit's or the driver's."""
        raw = await self._open()
        try:
            cursor = QuietCursor(raw)
            return SideConnection(raw, cursor, (await _who(cursor)).victim)
        except BaseException:
            drop(raw)
            raise

    async def _open(self) -> aiomysql.Connection:
        if self._factory is not None:
            return await self._from_factory(self._factory)
        raw: Any = None
        try:
            raw = _Connection(**self._arguments, ssl=self._tls())
            await raw._connect()
            self._refuse_plaintext(raw)
            # What was put right is needed for the handshake alone: users of `raw` get aiomysql's.
            raw.__class__ = aiomysql.Connection
            return raw
        except Exception as error:
            drop(raw)
            raise self._refused(error) from error
        except BaseException:
            drop(raw)
            raise

    def _refuse_plaintext(self, raw: Any) -> None:
        if self._context is not None and raw._writer.get_extra_info("ssl_object") is None:
            raise _PlaintextError

    async def _from_factory(self, factory: Callable[[], Awaitable[Any]]) -> aiomysql.Connection:
        try:
            raw = await factory()
        except Exception as error:
            raise self._refused(error) from error
        if not isinstance(raw, aiomysql.Connection):
            raise ConfigurationError(
                f"connection_factory must return an aiomysql.Connection, not {type(raw).__name__}"
            )
        raw.decoders = self._decoders
        return raw

    async def _prepare(self, raw: Any) -> QuietCursor:
        """Put right what a connection of somebody else's making may have."""
        tune_socket(raw._writer.get_extra_info("socket"))
        if raw.charset != "utf8mb4":
            await raw.set_charset("utf8mb4")
        if raw.client_flag & CLIENT.MULTI_STATEMENTS:
            await set_option(raw, MULTI_STATEMENTS_OFF)
        return QuietCursor(raw)

    def _refused(self, error: Exception) -> Error:
        if isinstance(error, Error):
            return error
        return cannot_connect(self.where, error)

    def _tls(self) -> ssl.SSLContext | None:
        if self._context is None:
            try:
                self._context = _context(self._ssl, self._ssl_ca)
            except OSError as error:
                raise ConfigurationError(f"ssl_ca={self._ssl_ca!r}: {error}") from error
        return self._context


async def _who(cursor: QuietCursor) -> Session:
    await cursor.execute(_WHO)
    ((server, number, max_packet),) = cursor.rows
    return Session(Victim(str(server), int(number)), int(max_packet))


async def set_option(raw: aiomysql.Connection, option: bytes) -> None:
    """Have the server take several statements in one text, or no longer."""
    await raw._execute_command(_COM_SET_OPTION, option)
    await raw._read_packet()


async def reset_session(raw: aiomysql.Connection) -> None:
    """Undo all that was done in a session, but for the choice of a database."""
    await raw._execute_command(_COM_RESET_CONNECTION, b"")
    await raw._read_ok_packet()


def drop(raw: aiomysql.Connection | None) -> None:
    """Close a connection without waiting for anything."""
    if raw is None:
        return
    writer = raw._writer
    raw.close()
    if writer is not None:
        writer.transport.abort()


def _where(target: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    socket = options.get("unix_socket")
    place = socket or f"{target.get('host') or 'localhost'}:{target.get('port') or 3306}"
    user = f" as user {target['user']!r}" if target.get("user") else ""
    database = f", database {target['database']!r}" if target.get("database") else ""
    return f"MySQL at {place}{user}{database}"


def _zone(name: str | None) -> timezone | None:
    if name is None or not isinstance(name, str):
        return None
    if name.upper() == "UTC":
        return UTC
    found = _OFFSET.fullmatch(name)
    if found is None:
        return None
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return timezone(-offset if found[1] == "-" else offset)


def _tls_mode(given: Any, ca: str | None) -> str | None:
    """Return how the server's certificate is looked at, None for no TLS."""
    if isinstance(given, ssl.SSLContext):
        if ca is not None:
            raise ConfigurationError("ssl_ca goes with a mode of ssl, not with an SSLContext")
        return "context"
    text = str(given).lower().replace("_", "-")
    if given is None:
        return "full" if ca is not None else None
    for mode, names in (("full", _VERIFY), ("ca", _VERIFY_CA), ("encrypt", _ENCRYPT)):
        if text in names:
            return mode
    if text in _NO_TLS:
        return None
    raise ConfigurationError(
        f"ssl must be an ssl.SSLContext, true or 'verify-full' (certificate and host name are "
        f"verified), 'verify-ca', 'require' (encrypted only) or false, not {given!r}"
    )


def _context(given: Any, ca: str | None) -> ssl.SSLContext | None:
    mode = _tls_mode(given, ca)
    if mode is None or mode == "context":
        return given if mode else None
    context = ssl.create_default_context(cafile=ca)
    if mode != "full":
        context.check_hostname = False
    if mode == "encrypt":
        context.verify_mode = ssl.CERT_NONE
    return context
