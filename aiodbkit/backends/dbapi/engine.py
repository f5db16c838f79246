"""Any database with a DB-API 2.0 module, as an engine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, get_type_hints

from aiodbkit._text import listed
from aiodbkit.backends.dbapi.creator import Creator
from aiodbkit.backends.dbapi.driver import DBAPIDriver
from aiodbkit.driver import Driver
from aiodbkit.engine import Engine
from aiodbkit.errors import ConfigurationError
from aiodbkit.options import (
    ENGINE_OPTION_NAMES,
    POOL_OPTION_NAMES,
    EngineOptions,
    PoolOptions,
)
from aiodbkit.url import convert_option, parse_url

__all__ = ["DBAPIEngine"]

_TARGET = ("host", "port", "user", "password", "database")
_HINTS: Mapping[str, Any] = {**get_type_hints(PoolOptions), **get_type_hints(EngineOptions)}
_OURS = POOL_OPTION_NAMES | ENGINE_OPTION_NAMES


class DBAPIEngine(Engine):
    """Any DB-API 2.0 module, on worker threads: ``DBAPIEngine(sqlite3, "app.db")``.

    Args:
        creator: the module, or a function that returns its connections; each is called, and used,
            on a thread of its own. None makes a deferred engine: `init` says later what it is.
        args: go to ``creator.connect()``, or to the function.
        dbapi: the module, where that cannot be found from the connections of a function.
        options: of the pool (`PoolOptions`) and of the engine (`EngineOptions`); all others go to
            ``creator.connect()``, or to the function. A ``connection_factory`` that is a class is
            psycopg2's.

    A class derived from it that names its `module` is an engine for one database, made from URLs:
    `connect_options` says what these mean.

    Raises:
        ConfigurationError: the creator is neither, or an option that nobody knows.
    """

    schemes: ClassVar[tuple[str, ...]] = ("dbapi",)
    # Of a derived class, which takes URLs: what to import, and the options of its connect() that a
    # URL may have, each with the type that the text is converted to.
    module: ClassVar[str] = ""
    url_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, creator: Any = "", *args: Any, dbapi: Any = None, **options: Any) -> None:
        self._creator: Creator | None = None
        self._args, self._dbapi = args, dbapi
        super().__init__(None, **options)
        if creator is not None:
            self.init(creator)

    def init(self, creator: Any = None, *args: Any, dbapi: Any = None, **options: Any) -> None:  # type: ignore[override]
        """Say which database this is: for engines made with ``None``, once, before use.

        Raises:
            InterfaceError: the engine is open.
            ConfigurationError: as the constructor.
        """
        given = {**self._deferred_options, **options}
        if self.module and isinstance(creator, str):
            creator, given = self._of_url(creator, given)
        ours = {name: value for name, value in given.items() if name in _OURS}
        if isinstance(ours.get("connection_factory"), type):
            given["connection_factory"] = ours.pop("connection_factory")
        theirs = {name: value for name, value in given.items() if name not in ours}
        made = Creator.of(creator, args or self._args, theirs, dbapi or self._dbapi)
        ours.setdefault("name", made.where)
        deferred, self._deferred_options = self._deferred_options, {}
        before, self._creator = self._creator, made
        try:
            super().init(None, **ours)
        except BaseException:
            self._creator = before
            raise
        finally:
            self._deferred_options = deferred

    def connect_options(self, target: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a derived class calls its module's ``connect()`` with.

        Args:
            target: those given, by URL or keyword, of ``host``, ``port``, ``user``, ``password``,
                ``database``, which is how most modules call them too.
        """
        return target

    def _of_url(self, url: str, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the module, and options of three kinds: ours, of the URL's parts, the module's."""
        kind, options = type(self).__name__, dict(given)
        target: dict[str, Any] = {}
        if url:
            parsed = parse_url(url)
            if parsed.scheme not in self.schemes:
                raise ConfigurationError(
                    f"{kind} takes URLs that begin with {listed(self.schemes)}; this one begins "
                    f"with {parsed.scheme}://"
                )
            target = {name: getattr(parsed, name) for name in _TARGET}
            hints = {**_HINTS, **self.url_options}
            for name, text in parsed.query.items():
                value = convert_option(name, text, hints[name]) if name in hints else text
                options.setdefault(name, value)
        target.update({name: options.pop(name) for name in _TARGET if name in options})
        known = {name: value for name, value in target.items() if value is not None}
        return _imported(kind, self.module), {**self.connect_options(known), **options}

    def driver_options(self) -> Mapping[str, Any]:
        """Return the names of what is passed on; their types are the module's to know."""
        if self._creator is None:
            raise ConfigurationError("this DBAPIEngine is deferred: init() says what it is")
        return dict.fromkeys(self._creator.options, object)

    def _create_driver(
        self,
        target: Mapping[str, Any],  # noqa: ARG002 - the creator has them
        options: Mapping[str, Any],  # noqa: ARG002
    ) -> Driver:
        assert self._creator is not None
        return DBAPIDriver(
            self._creator,
            connect_timeout=self.pool_options.connect_timeout,
            reset=self.pool_options.reset,
            connection_factory=self.options.connection_factory,
        )


def _imported(kind: str, name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the module needs
        raise ConfigurationError(
            f"{kind} needs the module {name}, which is not installed"
        ) from error
