"""What a user gave as creator: a module or a function, and the arguments of its connect()."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from aiodbkit._text import near
from aiodbkit.backends.dbapi.module import DBAPIModule, module_of
from aiodbkit.errors import ConfigurationError
from aiodbkit.options import ENGINE_OPTION_NAMES, POOL_OPTION_NAMES

__all__ = ["Creator"]

# sqlite3.connect() does not tell its parameters to `inspect`.
_SQLITE3 = (
    *("database", "timeout", "detect_types", "isolation_level", "check_same_thread", "factory"),
    *("cached_statements", "uri", "autocommit"),
)
# Neither is shown, nor what a driver says of it.
_SHOWN = ("host", "port", "user", "dbname", "database", "db", "unix_socket")


@dataclass(frozen=True, slots=True)
class Creator:
    """Opens connections.

    Attributes:
        connect: the function to call.
        args, options: what it is called with.
        module: of its connections, None while that is not known.
    """

    connect: Callable[..., Any]
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    module: DBAPIModule | None

    @classmethod
    def of(
        cls, creator: Any, args: tuple[Any, ...], options: Mapping[str, Any], dbapi: Any
    ) -> Creator:
        """Look at what was given.

        Raises:
            ConfigurationError: it is neither a DB-API 2.0 module nor a function.
        """
        module = None if dbapi is None else DBAPIModule.of(dbapi)
        if isinstance(creator, ModuleType) or hasattr(creator, "paramstyle"):
            module = module or DBAPIModule.of(creator)
            connect = getattr(creator, "connect", None)
            if not callable(connect):
                raise ConfigurationError(f"{module.name} has no function connect()")
        else:
            connect = _function(creator)
            module = module or _module_of_function(connect)
        made = cls(connect, args, {**_defaults(module, creator), **options}, module)
        made._refuse_unknown(options)
        return made

    @property
    def called(self) -> str:
        """What is called, for messages."""
        if self.module and self.connect is getattr(self.module.module, "connect", None):
            return f"{self.module.name}.connect()"
        return _name(self.connect)

    @property
    def where(self) -> str:
        """What it connects to, for messages: never a password."""
        name = self.module.name if self.module else _name(self.connect)
        shown = [f"{key}={self.options[key]}" for key in _SHOWN if key in self.options]
        return f"{name} ({', '.join(shown)})" if shown else name

    def within(self, seconds: float) -> Mapping[str, Any]:
        """Return the options, with a time limit for modules whose thread would wait for ever."""
        if self.module is None or self.module.database not in ("postgres", "mysql"):
            return self.options
        if self.connect is not getattr(self.module.module, "connect", None):
            return self.options  # a function of the user's has arguments of its own
        if self.module.name.startswith(("pg8000", "mysql", "mariadb")):
            return self.options
        return {"connect_timeout": max(2, math.ceil(seconds)), **self.options}

    def open(self, seconds: float) -> Any:
        """Open a connection, on its thread; `check` tells whether it is one."""
        return self.connect(*self.args, **self.within(seconds))

    def check(self, raw: Any) -> DBAPIModule:
        """Return the module of a connection; ConfigurationError for what is none."""
        name = self.called
        if inspect.iscoroutine(raw):
            raw.close()
        if inspect.isawaitable(raw):
            raise ConfigurationError(
                f"{name} returned an awaitable: DBAPIEngine is for synchronous modules; an async "
                "function that returns a DB-API connection goes into connection_factory="
            )
        if not all(callable(getattr(raw, each, None)) for each in ("cursor", "commit", "close")):
            raise ConfigurationError(
                f"{name} returned {_a(raw)}, which is no DB-API 2.0 connection: it has to have "
                "cursor(), commit(), rollback() and close()"
            )
        return self.module or module_of(raw)

    def refused_option(self, error: BaseException) -> str | None:
        """Return the name of the option that a driver complains of."""
        if self.module is not None and isinstance(error, self.module.error("OperationalError")):
            return None
        said = str(error)
        return next((name for name in self.options if f"'{name}'" in said.replace('"', "'")), None)

    def _refuse_unknown(self, given: Mapping[str, Any]) -> None:
        known, is_complete = self._known_options()
        for name in given:
            if name not in known and (is_complete or not self._is_of_libpq(name)):
                raise self.unknown(name)

    def unknown(self, name: str) -> ConfigurationError:
        """Return the error for an option that nobody knows."""
        known = [*self._known_options()[0], *POOL_OPTION_NAMES, *ENGINE_OPTION_NAMES]
        return ConfigurationError(
            f"unknown option {name!r}{near(name, known)}: neither DBAPIEngine nor "
            f"{self.called} knows it"
        )

    def _known_options(self) -> tuple[list[str], bool]:
        """Return the names of the function's parameters, and whether those are all."""
        if self.connect is getattr(sys.modules.get("sqlite3"), "connect", None):
            return [*_SQLITE3], True
        try:
            parameters = inspect.signature(self.connect).parameters.values()
        except (TypeError, ValueError):
            return [*self.options], True
        names = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
        return names, all(each.kind is not each.VAR_KEYWORD for each in parameters)

    def _is_of_libpq(self, name: str) -> bool:
        """Whether it may be an option of libpq, for psycopg2 and psycopg, which can tell."""
        module: Any = self.module.module if self.module else None
        make = getattr(getattr(module, "extensions", None), "make_dsn", None)
        if self.connect is not getattr(module, "connect", None) or make is None:
            return True
        try:
            make(**{name: "x"})
        except module.ProgrammingError:
            return False
        return True


def _function(creator: Any) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(creator):
        raise ConfigurationError(
            f"{_name(creator)} is an async function: DBAPIEngine calls its creator on a worker "
            "thread; an async function that returns a DB-API connection goes into "
            "connection_factory="
        )
    if isinstance(creator, str):
        raise ConfigurationError(
            "DBAPIEngine takes a DB-API 2.0 module or a function that returns its connections; "
            "create_engine() takes URLs"
        )
    if not callable(creator):
        raise ConfigurationError(
            "DBAPIEngine takes a DB-API 2.0 module or a function that returns its connections, "
            f"not {_a(creator)}"
        )
    return creator  # type: ignore[no-any-return]


def _module_of_function(connect: Callable[..., Any]) -> DBAPIModule | None:
    """Return the module whose own connect() was given as a function."""
    for name in (getattr(connect, "__module__", None) or "",):
        module = sys.modules.get(name)
        if getattr(module, "connect", None) is connect and hasattr(module, "paramstyle"):
            return DBAPIModule.of(module)
    return None


def _defaults(module: DBAPIModule | None, creator: Any) -> Mapping[str, Any]:
    """Connections of sqlite3 are used on one thread at a time: that is seen to here."""
    is_sqlite3 = module is not None and module.module is creator and module.name == "sqlite3"
    return {"check_same_thread": False} if is_sqlite3 else {}


def _name(function: Any) -> str:
    name = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    if name is None:
        return type(function).__name__
    return f"{module}.{name}()" if module else f"{name}()"


def _a(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
