"""From a URL to an engine. A backend's file is imported when needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple, cast

from aiodbkit._text import listed, near
from aiodbkit.engine import Engine
from aiodbkit.errors import ConfigurationError
from aiodbkit.url import parse_url

__all__ = ["create_engine", "load_backend", "register_backend"]

ENTRY_POINTS = "aiodbkit.backends"


class _BuiltIn(NamedTuple):
    module: str
    name: str


_SQLITE = _BuiltIn("aiodbkit.backends.sqlite", "SQLiteEngine")
_POSTGRES = _BuiltIn("aiodbkit.backends.postgres", "PostgresEngine")
_MYSQL = _BuiltIn("aiodbkit.backends.mysql", "MySQLEngine")
_DBAPI = _BuiltIn("aiodbkit.backends.dbapi", "DBAPIEngine")  # has no scheme: it takes a module

_BUILT_IN = {
    "sqlite": _SQLITE,
    "sqlite+aiosqlite": _SQLITE,
    "sqlite+apsw": _SQLITE,
    "postgresql": _POSTGRES,
    "postgres": _POSTGRES,
    "postgresql+asyncpg": _POSTGRES,
    "postgresql+psycopg": _POSTGRES,
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
    "mysql+aiomysql": _MYSQL,
    "mysql+asyncmy": _MYSQL,
    "mariadb+aiomysql": _MYSQL,
    "mariadb+asyncmy": _MYSQL,
}

_registered: dict[str, type[Engine]] = {}


def create_engine(url: str, **options: Any) -> Engine:
    """Return the engine for a URL. No I/O, no running loop: it may stand at module level.

    Args:
        url: ``sqlite:///app.db``, ``postgresql://app:pw@db/app``, ``mysql://app:pw@db/app``.
            Its query parameters are options too, converted to the option's type.
        options: see `Engine`.

    Raises:
        ConfigurationError: the scheme is unknown, its driver is not installed, or an option is
            wrong.
    """
    return _engine_class(parse_url(url).scheme)(url, **options)


def register_backend(scheme: str, engine: type[Engine]) -> None:
    """Make ``create_engine`` use ``engine`` for URLs that begin with ``scheme``.

    A package can do the same without being imported, by an entry point of its distribution in
    the group ``aiodbkit.backends``, named as the scheme.
    """
    given: Any = engine
    if not (isinstance(given, type) and issubclass(given, Engine)):
        raise ConfigurationError(f"register_backend(): {engine!r} is not a class of engines")
    _registered[scheme.lower()] = engine


def load_backend(name: str) -> type[Engine]:
    """Return a built-in engine class by its name, importing its file."""
    for built_in in (*_BUILT_IN.values(), _DBAPI):
        if built_in.name == name:
            return _load(built_in)
    raise AttributeError(f"there is no engine class {name!r}")


def _engine_class(scheme: str) -> type[Engine]:
    if scheme in _registered:
        return _registered[scheme]
    if scheme in _BUILT_IN:
        return _load(_BUILT_IN[scheme])
    return _installed(scheme)


def _installed(scheme: str) -> type[Engine]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - 12 ms that few programs need

    for entry_point in entry_points(group=ENTRY_POINTS):
        if entry_point.name == scheme:
            return cast("type[Engine]", entry_point.load())
    known = [*_BUILT_IN, *_registered, *(point.name for point in entry_points(group=ENTRY_POINTS))]
    raise ConfigurationError(
        f"unknown scheme {scheme!r}{near(scheme, known)}; known are {listed(known)}"
    )


def _load(built_in: _BuiltIn) -> type[Engine]:
    return cast("type[Engine]", getattr(import_module(built_in.module), built_in.name))
