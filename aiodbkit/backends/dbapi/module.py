"""DB-API 2.0 modules: what they say of themselves, and how they are found.

https://peps.python.org/pep-0249/
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from aiodbkit.errors import ConfigurationError

__all__ = ["DBAPIModule", "module_of"]

_STYLES = ("qmark", "numeric", "named", "format", "pyformat")

# Of all that is called so, by the first part of its name.
_DATABASES = {
    "sqlite3": "sqlite",
    "pysqlite3": "sqlite",
    "sqlcipher3": "sqlite",
    "psycopg2": "postgres",
    "psycopg2cffi": "postgres",
    "psycopg": "postgres",
    "pg8000": "postgres",
    "pymysql": "mysql",
    "MySQLdb": "mysql",
    "mysql": "mysql",
    "mariadb": "mysql",
    "cymysql": "mysql",
}


@dataclass(frozen=True, slots=True)
class DBAPIModule:
    """A module that was looked at.

    Attributes:
        module: itself; any object with a module's names serves.
        paramstyle: how it wants its parameters.
        database: ``"sqlite"``, ``"postgres"``, ``"mysql"``, or ``""`` for one that is not known.
    """

    module: Any
    paramstyle: str
    database: str

    @classmethod
    def of(cls, module: Any) -> DBAPIModule:
        """Look at a module.

        Raises:
            ConfigurationError: it has no ``paramstyle`` or no ``Error``, or must not be used by
                several threads.
        """
        name = getattr(module, "__name__", type(module).__name__)
        style = getattr(module, "paramstyle", None)
        if style not in _STYLES:
            found = "it has no paramstyle" if style is None else f"its paramstyle is {style!r}"
            raise ConfigurationError(
                f"{name} is no DB-API 2.0 module: {found}, where one of "
                f"{', '.join(_STYLES)} is expected"
            )
        if not isinstance(getattr(module, "Error", None), type):
            raise ConfigurationError(f"{name} is no DB-API 2.0 module: it has no class Error")
        if getattr(module, "threadsafety", None) == 0:
            raise ConfigurationError(
                f"{name} is not for DBAPIEngine: its threadsafety is 0, which means that threads "
                "may not share the module, and each connection has a thread of its own here"
            )
        return cls(module, style, _DATABASES.get(name.partition(".")[0], ""))

    @property
    def name(self) -> str:
        """What it is called."""
        return str(getattr(self.module, "__name__", type(self.module).__name__))

    def error(self, name: str) -> type[BaseException]:
        """Return its exception class of that name, or one that nothing is an instance of."""
        found = getattr(self.module, name, None)
        return found if isinstance(found, type) else _NoSuchError


class _NoSuchError(BaseException):
    """Stands for a class that a module does not have."""


def module_of(raw: Any) -> DBAPIModule:
    """Return the module that a connection comes from.

    It is that of the connection's class or of one of its bases, or, for an object that stands in
    for a connection, that of its ``Error`` (an optional extension of PEP 249).

    Raises:
        ConfigurationError: it cannot be found.
    """
    classes = [*type(raw).__mro__]
    error = getattr(raw, "Error", None)
    if isinstance(error, type):
        classes += error.__mro__
    for cls in classes:
        found = _first_with_paramstyle(cls.__module__)
        if found is not None:
            return DBAPIModule.of(found)
    raise ConfigurationError(
        f"the creator returned a {type(raw).__module__}.{type(raw).__qualname__}, and no DB-API "
        "2.0 module can be found for it: say which one it is, DBAPIEngine(creator, dbapi=module)"
    )


def _first_with_paramstyle(name: str) -> ModuleType | None:
    while name:
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "paramstyle") and hasattr(module, "Error"):
            return module
        name = name.rpartition(".")[0]
    return None
