"""Opening connections: options, TLS, session set-up."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, timedelta, timezone
from typing import Any

from aiodbkit.backends.mysql.errors import cannot_connect
from aiodbkit.backends.mysql.link import Answer, Link, PlaintextError
from aiodbkit.backends.mysql.literals import Literals
from aiodbkit.backends.mysql.protocol import MULTI_STATEMENTS_OFF, Client
from aiodbkit.backends.mysql.stop import Victim
from aiodbkit.backends.mysql.values import make_decoders
from aiodbkit.backends.mysql.wire import Session
from aiodbkit.errors import ConfigurationError, Error
from aiodbkit.wire import tune_socket

__all__ = ["OPTION_TYPES", "Opener", "SideConnection"]

# What the driver takes besides the target, with the type that a URL's text is converted to.
OPTION_TYPES: Mapping[str, type] = {
    "charset": str,
    "client_flag": int,
    "conv": object,
    "init_command": str,
    "local_infile": bool,
    "log_warnings": bool,
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
    *("local_infile", "program_name", "read_default_file", "read_default_group"),
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

_VERIFY = {"true", "1", "yes", "on", "verify-full", "verify-identity"}
_VERIFY_CA = {"verify-ca"}
_ENCRYPT = {"require", "required"}
_NO_TLS = {"false", "0", "no", "off", "disable", "disabled"}


class SideConnection:
    """A connection that only sends KILL."""

    def __init__(self, link: Link, answer: Answer, victim: Victim) -> None:
        self.victim = victim
        self._link = link
        self._answer = answer

    async def command(self, text: str) -> None:
        """Send one statement; errors are the driver's own."""
        await self._answer.execute(text.encode())

    def abort(self) -> None:
        """Drop it."""
        self._link.abort()


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
        link: type[Link],
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
        self._link = link
        self._ssl = options.get("ssl")
        self._ssl_ca: str | None = options.get("ssl_ca")
        self._context: ssl.SSLContext | None = None
        _tls_mode(self._ssl, self._ssl_ca)
        passed_on = (*_PASSED_ON, *link.own_options)
        self._arguments = {
            "host": target.get("host") or "localhost",
            "port": target.get("port") or 3306,
            "user": target.get("user"),
            # Drivers encode it as latin-1: so it sends the UTF-8 that servers expect.
            "password": (target.get("password") or "").encode().decode("latin-1"),
            "db": self.database,
            "charset": "utf8mb4",
            "autocommit": None,  # set_up sets it
            # UPDATE counts the rows that it found, as on the other backends, not those it changed.
            "client_flag": options.get("client_flag", 0) | int(Client.FOUND_ROWS),
            "conv": self._decoders,
            **{name: options[name] for name in passed_on if options.get(name) is not None},
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

    async def open(self) -> tuple[Link, Answer, Session]:
        """Open and set up one connection.

        Raises:
            CannotConnectError: with the driver's error as the cause.
        """
        link = await self._open()
        try:
            answer = Answer(link)
            for statement in self.set_up:
                await answer.execute(statement)
            return link, answer, await _who(answer)
        except Exception as error:
            link.abort()
            raise self._refused(error) from error
        except BaseException:
            link.abort()
            raise

    async def open_side(self) -> SideConnection:
        """Open a connection for KILL; errors are aiodbkit's or the driver's."""
        link = await self._open()
        try:
            answer = Answer(link)
            return SideConnection(link, answer, (await _who(answer)).victim)
        except BaseException:
            link.abort()
            raise

    async def _open(self) -> Link:
        try:
            raw = await self._connected()
        except Exception as error:
            raise self._refused(error) from error
        try:
            link = self._link.of(raw)
            self._refuse_plaintext(link)
            tune_socket(link.transport.get_extra_info("socket"))
            if await link.adopt(self._decoders):
                await link.set_option(MULTI_STATEMENTS_OFF)
            return link
        except Exception as error:
            self._link.drop(raw)
            raise self._refused(error) from error
        except BaseException:
            self._link.drop(raw)
            raise

    def _refuse_plaintext(self, link: Link) -> None:
        if self._context is not None and self._factory is None and not link.is_encrypted:
            raise PlaintextError

    async def _connected(self) -> Any:
        if self._factory is None:
            return await self._link.open(self._arguments, self._tls())
        raw = await self._factory()
        if not isinstance(raw, self._link.raw_class):
            driver = self._link.driver
            raise ConfigurationError(
                f"connection_factory must return an {driver}.Connection, not {type(raw).__name__}"
            )
        return raw

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


async def _who(answer: Answer) -> Session:
    await answer.execute(_WHO)
    ((server, number, max_packet),) = answer.rows
    return Session(Victim(str(server), int(number)), int(max_packet))


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
