"""What an engine is built from: a URL and keywords, sorted by whose options they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from aiodbkit._text import listed, near
from aiodbkit.errors import ConfigurationError
from aiodbkit.options import EngineOptions, PoolOptions
from aiodbkit.url import convert_option, parse_url

__all__ = ["Configuration", "configure"]

_TARGET = ("host", "port", "user", "password", "database")
_POOL_HINTS = get_type_hints(PoolOptions)
_ENGINE_HINTS = get_type_hints(EngineOptions)


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
