"""Types that a program registers, as they are found in the database, or not."""

from __future__ import annotations

from aiodbkit.backends.postgres.abilities import Codec
from aiodbkit.errors import ConfigurationError

__all__ = ["full_name", "missing", "refuse_other_kind"]


def full_name(codec: Codec) -> str:
    """Return the name of its type, quoted."""
    parts = (codec.schema, codec.name) if codec.schema is not None else (codec.name,)
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def missing(codec: Codec) -> ConfigurationError:
    """Return the error for a type that is not there."""
    return ConfigurationError(
        f"register_type({codec.name!r}): the database has no type {full_name(codec)}, at least "
        "not in the search path: create it first (CREATE TYPE, CREATE EXTENSION), name its "
        "schema=, or say optional=True and call `await db.pool.expire()` when it is there"
    )


def refuse_other_kind(codec: Codec, kind: bytes) -> None:
    """Raise `ConfigurationError` for a type that is not of the kind that was registered."""
    is_composite = kind == b"c"
    if is_composite != (codec.kind == "composite"):
        what = "a composite type: give into=" if is_composite else "no composite type: leave into="
        raise ConfigurationError(f"register_type({codec.name!r}): it is {what}")
    if kind == b"d":
        raise ConfigurationError(
            f"register_type({codec.name!r}): it is a domain, whose values the server sends as "
            "those of its base type: register that one"
        )
    if kind in (b"r", b"m"):
        raise ConfigurationError(
            f"register_type({codec.name!r}): ranges need no codec, register the type they are of"
        )
