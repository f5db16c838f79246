"""Database URLs: parsed strictly, shown without their secrets.

``scheme://user:password@host:port/database?option=value``; several hosts are separated by commas.
Every part but scheme and port is percent-decoded; ``+`` is a plus sign. An ``@`` or a ``#`` that
means itself must be percent-encoded: that is what makes a password that was not encoded an error
instead of a wrong host in a log line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin
from urllib.parse import quote, unquote

from aiodbkit.errors import ConfigurationError

__all__ = ["URL", "convert_option", "parse_url"]

Host = tuple[str, int | None]

_FORM = "scheme://user:password@host:port/database?option=value"
_FORMS = f"Its form is {_FORM}, or sqlite:///file.db"
_ENCODE = 'percent-encode user and password, e.g. urllib.parse.quote(password, safe="")'

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_IPV6 = r"\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[^\]]+)?)\]"
_HOST = re.compile(rf"(?:{_IPV6}|(?P<name>[^:\[\]]*))(?::(?P<port>[^:\[\]]*))?")
_PORT = re.compile(r"[0-9]{1,5}")
_HAS_PASSWORD = re.compile(r"[^:]+://[^:@/]*:[^@/]*@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# What stands after a ":" and is no port; brackets are skipped.
_AFTER_HOST = re.compile(r"(?P<ipv6>\[[0-9A-Fa-f:.]+\])|:(?![0-9]{1,5}(?:[,/?]|$)).*", re.DOTALL)
_SECRET = re.compile(r"pass|pwd|secret|token|api_?key|credential", re.IGNORECASE)

_BOOLS: dict[str, bool] = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_WANTED = {bool: "true or false", int: "a whole number", float: "a number", NoneType: "none"}


@dataclass(frozen=True, repr=False, slots=True)
class URL:
    """A parsed database URL; ``str`` and ``repr`` show ``***`` for what is secret.

    Attributes:
        scheme: in lower case, with the driver where one was named (``postgresql+asyncpg``).
        user, password: None when missing.
        host, port: of the first host; None when missing.
        hosts: every host with its port; empty when there is none.
        database: name or path, ``":memory:"`` for SQLite in memory; None when missing.
        query: the options after ``?``, as text.
    """

    scheme: str
    user: str | None = None
    password: str | None = None
    host: str | None = None
    port: int | None = None
    hosts: tuple[Host, ...] = ()
    database: str | None = None
    query: dict[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        safe = ":" if self.hosts else "/:"
        path = "" if self.database is None else f"/{quote(self.database, safe=safe)}"
        return f"{self.scheme}://{self._authority()}{path}{self._options()}"

    def __repr__(self) -> str:
        return f"URL({str(self)!r})"

    def _authority(self) -> str:
        hosts = self.hosts or (((self.host or ""), self.port),)
        places = ",".join(map(_show_host, hosts))
        if self.user is None and self.password is None:
            return places
        hidden = "" if self.password is None else ":***"
        return f"{quote(self.user or '', safe='')}{hidden}@{places}"

    def _options(self) -> str:
        if not self.query:
            return ""
        shown = {
            name: "***" if _SECRET.search(name) else value for name, value in self.query.items()
        }
        return "?" + "&".join(f"{quote(n)}={quote(v, safe='/:,*')}" for n, v in shown.items())


def _show_host(place: Host) -> str:
    host, port = place
    shown = f"[{host}]" if ":" in host else quote(host, safe="")
    return shown if port is None else f"{shown}:{port}"


def parse_url(text: str) -> URL:
    """Return the parts of a database URL.

    Raises:
        ConfigurationError: names the part that is wrong; never shows the password.
    """
    scheme, rest = _split_scheme(text)
    before, _, options = rest.partition("?")
    authority, slash, path = before.partition("/")
    _require_encoded(text, authority, path, options)
    query = _parse_query(text, options)
    if scheme.partition("+")[0] == "sqlite":
        return URL(scheme, database=_sqlite_path(text, authority, slash, path), query=query)
    userinfo, _, places = authority.rpartition("@")
    encoded_user, colon, encoded = userinfo.partition(":")
    user = _decode(text, "user", encoded_user) or None
    password = _decode(text, "password", encoded) if colon else None
    host, port, hosts = _parse_hosts(text, places)
    return URL(
        scheme,
        user=user,
        password=password,
        host=host,
        port=port,
        hosts=hosts,
        database=_decode(text, "database", path) or None,
        query=query,
    )


def _split_scheme(text: Any) -> tuple[str, str]:
    if isinstance(text, PathLike):
        raise ConfigurationError('a database URL is text, not a path: f"sqlite:///{path}"')
    if not isinstance(text, str):
        hint = ": is the environment variable set?" if text is None else ""
        raise ConfigurationError(f"a database URL is text, not {type(text).__name__}{hint}")
    if not text.strip():
        raise ConfigurationError(
            f"the database URL is empty: is the environment variable set? {_FORMS}"
        )
    if text != text.strip():
        raise ConfigurationError("the database URL begins or ends with white space")
    scheme, found, rest = text.partition("://")
    if not found or not _SCHEME.fullmatch(scheme):
        # Without a scheme nothing says which part is the password: nothing is shown.
        raise ConfigurationError(f"the database URL does not begin with a scheme and ://. {_FORMS}")
    return scheme.lower(), rest


def _require_encoded(text: str, authority: str, path: str, options: str) -> None:
    """Refuse characters that would make the parts ambiguous."""
    if _CONTROL.search(text):
        _refuse(text, "the URL has a control character (a line break, a tab)")
    if "#" in text:
        _refuse(text, f"the URL has a '#' that is not written %23: {_ENCODE}")
    if authority and (authority.count("@") > 1 or "@" in path + options):
        _refuse(text, f"an '@' that does not stand before the host is written %40: {_ENCODE}")
    if " " in authority:
        _refuse(text, f"there is a space in the host or before it: {_ENCODE}")
    if " " in options or (authority and " " in path):
        _refuse(text, "there is a space after the host: write %20 where it belongs there")
    if authority and "/" in path:
        _refuse(text, "there is a '/' in the database name: write %2F where it belongs there")


def _sqlite_path(text: str, authority: str, slash: str, path: str) -> str:
    if authority:
        _refuse(
            text,
            "SQLite has no host, the path begins after a third slash: sqlite:///file.db is "
            "relative, sqlite:////folder/file.db absolute, sqlite:// in memory",
        )
    if slash and not path:
        _refuse(text, "there is no file name after sqlite:///; sqlite:// is in memory")
    return _decode(text, "path", path) or ":memory:"


def _parse_hosts(text: str, places: str) -> tuple[str | None, int | None, tuple[Host, ...]]:
    parsed = [_parse_host(text, place) for place in places.split(",")]
    host, port = parsed[0]
    if not host and len(parsed) == 1:
        return None, port, ()
    if not all(host for host, _ in parsed):
        _refuse(text, f"one of the {len(parsed)} hosts is empty")
    return host, port, tuple(parsed)


def _parse_host(text: str, place: str) -> Host:
    parts = _HOST.fullmatch(place)
    if parts is None:
        if "[" in place or "]" in place:
            _refuse(text, "the host's brackets do not hold an IPv6 address, like [::1]:5432")
        _refuse(text, "the host has more than one ':'; an IPv6 address is written [::1]:5432")
    host = _decode(text, "host", parts["ipv6"] or parts["name"] or "")
    return host, _parse_port(text, parts["port"])


def _parse_port(text: str, port: str | None) -> int | None:
    if port is None:
        return None
    if not _PORT.fullmatch(port):
        # Without a password before the host, it may be one whose host was forgotten.
        shown = f" {port}" if _HAS_PASSWORD.match(text) and port.isascii() else ""
        _refuse(text, f"the port{shown} is not a number of one to five digits")
    if not 1 <= int(port) <= 65535:
        _refuse(text, f"port {port} is not between 1 and 65535")
    return int(port)


def _parse_query(text: str, options: str) -> dict[str, str]:
    query: dict[str, str] = {}
    for number, option in enumerate(filter(None, options.split("&")), 1):
        encoded_name, _, encoded = option.partition("=")
        if not encoded_name or len(encoded_name) == len(option):
            _refuse(text, f"option {number} after the '?' is not written name=value")
        name = _decode(text, "name of an option", encoded_name)
        if name in query:
            _refuse(text, f"the option {name!r} is given twice")
        query[name] = _decode(text, f"option {name!r}", encoded)
    return query


def _decode(text: str, part: str, value: str) -> str:
    if _LONE_PERCENT.search(value):
        _refuse(text, f"the {part} has a '%' without two hexadecimal digits: write %25")
    try:
        decoded = unquote(value, errors="strict")
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded:
        _refuse(text, f"the {part} is percent-encoded as something else than UTF-8 text")
    return decoded


def _refuse(text: str, what: str) -> NoReturn:
    form = "sqlite:///file.db" if text.lower().startswith("sqlite") else _FORM
    raise ConfigurationError(f"{what}. The URL was {_redacted(text)}, its form is {form}")


def _redacted(text: str) -> str:
    """Show what cannot be a part of the password, however the URL was mistyped."""
    scheme, _, rest = text.partition("://")
    hidden, at, shown = rest.rpartition("@")
    if "?" in hidden or "#" in hidden:  # the "@" may stand inside of ?password=...
        return f"{scheme}://***"
    place = _AFTER_HOST.sub(lambda found: found["ipv6"] or ":***", shown)
    return f"{scheme}://{'***@' if at else ''}{re.sub('[?#].*', '?***', place, flags=re.DOTALL)}"


def convert_option(name: str, text: str, wanted: Any) -> Any:
    """Return an option's text from a URL as the type wanted.

    ``wanted`` is bool, int, float, str, a ``Literal`` of texts, a union of these, with None for
    ``""`` and ``none``; `object` leaves the text as it is.

    Raises:
        ConfigurationError: names the option, the text and the type; shows no secret.
    """
    choices = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
    if NoneType in choices and text.lower() in ("", "none"):
        return None
    for choice in choices:
        try:
            return _convert(text, choice)
        except (KeyError, ValueError):
            continue
    shown = "***" if _SECRET.search(name) else repr(text)
    raise ConfigurationError(f"option {name!r} in the URL is {shown}: {_describe(choices)}")


def _convert(text: str, wanted: Any) -> Any:
    if wanted in (str, object, Any):
        return text
    if wanted is bool:
        return _BOOLS[text.lower()]
    if wanted in (int, float):
        return wanted(text)
    return {choice: choice for choice in get_args(wanted)}[text]


def _describe(choices: tuple[Any, ...]) -> str:
    known = [_describe_one(choice) for choice in choices]
    wanted = " or ".join(filter(None, known))
    if not wanted:
        return "a URL cannot hold its type, pass it as a keyword argument"
    return f"wanted is {wanted}"


def _describe_one(wanted: Any) -> str:
    if get_origin(wanted) is Literal:
        return "one of " + ", ".join(map(str, get_args(wanted)))
    return _WANTED.get(wanted, "")
