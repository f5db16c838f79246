"""What an engine is built from: a URL and keywords, sorted by whose options they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, cast, get_type_hints

from aiodbkit._text import listed, near
from aiodbkit.driver import Driver
from aiodbkit.errors import ConfigurationError
from aiodbkit.options import EngineOptions, PoolOptions
from aiodbkit.url import convert_option, parse_url

__all__ = ["Configuration", "DriverSource", "chosen_driver", "configure", "load_driver"]

_CHOSEN: Any = object()  # in place of a driver= that has been read
_TARGET = ("host", "port", "user", "password", "database")
_POOL_HINTS = get_type_hints(PoolOptions)
_ENGINE_HINTS = get_type_hints(EngineOptions)


class DriverSource(NamedTuple):
    """Where a `Driver` is, which is imported only when it is chosen.

    Attributes:
        place: ``"module:class"``.
        package: what the module imports.
        install: what to give ``pip install`` when that is missing.
    """

    place: str
    package: str
    install: str

    def load(self, kind: str) -> type[Driver]:
        """Import it, for an engine of the class called ``kind``.

        Raises:
            ConfigurationError: the package is not installed.
        """
        module, _, name = self.place.partition(":")
        try:
            return cast("type[Driver]", getattr(import_module(module), name))
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != self.package:
                raise
            raise ConfigurationError(
                f"{kind} needs the driver {self.package}, which is not installed: "
                f'pip install "{self.install}"'
            ) from error


def load_driver(kind: str, source: DriverSource | type[Driver]) -> type[Driver]:
    """Return a driver's class, importing it where only its place is known."""
    return source.load(kind) if isinstance(source, DriverSource) else source


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """Options, each with those who know them.

    Attributes:
        target: where the database is: host, port, user, password, database, hosts.
        driver: what only the driver knows.
    """

    target: Mapping[str, Any]
    pool: PoolOptions
    engine: EngineOptions
    driver: Mapping[str, Any]


def chosen_driver(
    kind: str, drivers: Mapping[str, Any], url: str | None, options: dict[str, Any]
) -> str:
    """Return which of ``drivers`` the URL's scheme names, or ``driver=`` in it or in the options.

    The option is marked as used, for `configure`.

    Raises:
        ConfigurationError: there is no such driver, or scheme and option say different things.
    """
    parsed = parse_url(url) if url is not None else None
    named = parsed.scheme.partition("+")[2] if parsed is not None else ""
    given = options.get("driver")
    if given is None and parsed is not None:
        given = parsed.query.get("driver")
    options["driver"] = _CHOSEN
    if given is not None and (not isinstance(given, str) or given not in drivers):
        raise ConfigurationError(
            f"driver={given!r}: the drivers of {kind} are {listed(list(drivers))}"
        )
    if given is not None and named and given != named:
        raise ConfigurationError(
            f"driver={given!r}, but the URL's scheme says {named!r}: leave one of them out"
        )
    chosen = given or named
    return chosen if chosen in drivers else next(iter(drivers))


def configure(
    kind: str,
    schemes: Sequence[str],
    driver_hints: Mapping[str, Any],
    url: str | None,
    options: Mapping[str, Any],
) -> Configuration:
    """Sort what a user gave.

    Args:
        kind: the engine's class, for messages.
        driver_hints: the driver's options, with the types that a URL's text is converted to.

    Raises:
        ConfigurationError: an option that nobody knows, or a value that cannot be.
    """
    merged = dict(options)
    name, target = _read_url(kind, schemes, driver_hints, url, merged)
    if merged.get("driver") is _CHOSEN:
        del merged["driver"]
    target.update({key: merged.pop(key) for key in _TARGET if key in merged})
    pool = {key: merged.pop(key) for key in list(merged) if key in _POOL_HINTS}
    engine = {key: merged.pop(key) for key in list(merged) if key in _ENGINE_HINTS}
    _refuse_unknown(kind, driver_hints, merged)
    pool.setdefault("name", name)
    return Configuration(
        target=target, pool=PoolOptions(**pool), engine=EngineOptions(**engine), driver=merged
    )


def _read_url(
    kind: str,
    schemes: Sequence[str],
    driver_hints: Mapping[str, Any],
    url: str | None,
    options: dict[str, Any],
) -> tuple[str, dict[str, Any]]:
    """Return a name for messages and the target; the URL's options go below those given."""
    if url is None:
        place = options.get("host") or "localhost"
        return f"{schemes[0]}://{place}/{options.get('database') or ''}", {}
    parsed = parse_url(url)
    if parsed.scheme not in schemes:
        raise ConfigurationError(
            f"{kind} takes URLs that begin with {listed(schemes)}; "
            f"this one begins with {parsed.scheme}://"
        )
    hints: dict[str, Any] = {**driver_hints, **_POOL_HINTS, **_ENGINE_HINTS}
    for name, text in parsed.query.items():
        if name in _TARGET or name not in hints:
            options.setdefault(name, text)
        else:
            options.setdefault(name, convert_option(name, text, hints[name]))
    target = {name: value for name in _TARGET if (value := getattr(parsed, name)) is not None}
    if len(parsed.hosts) > 1:
        target["hosts"] = list(parsed.hosts)
    return str(parsed).partition("?")[0], target


def _refuse_unknown(kind: str, driver_hints: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    known = [*_TARGET, *_POOL_HINTS, *_ENGINE_HINTS, *driver_hints]
    for name in options:
        if name not in known:
            raise ConfigurationError(
                f"unknown option {name!r}{near(name, known)}: neither {kind} nor its "
                "driver knows it"
            )
