"""What `register_type` takes, as the codec that a driver sets on each connection."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, cast

from aiodbkit.backends.postgres.abilities import Codec
from aiodbkit.errors import ConfigurationError, DataError
from aiodbkit.options import choice
from aiodbkit.rows import converter

__all__ = ["codec_for"]


def codec_for(  # noqa: PLR0917 - called with names alone
    name: str,
    schema: str | None,
    enum: type[Enum] | None,
    into: Callable[..., Any] | None,
    encode: Callable[[Any], Any] | None,
    decode: Callable[[Any], Any] | None,
    form: Literal["text", "binary"],
    *,
    optional: bool,
) -> Codec:
    """Return the codec of a type.

    Raises:
        ConfigurationError: none of the ways to convert it was given, or several.
    """
    if not name or not isinstance(cast("object", name), str):
        raise ConfigurationError(f"register_type(): a type is named by a text, not by {name!r}")
    choice("format", form, ("text", "binary"))
    if (encode is None) != (decode is None):
        raise ConfigurationError(f"register_type({name!r}): encode= and decode= go together")
    ways = [way for way in (enum, into, encode) if way is not None]
    if len(ways) > 1:
        raise ConfigurationError(
            f"register_type({name!r}): give one of enum=, into=, and encode= with decode="
        )
    if enum is not None:
        return _of_enum(name, schema, enum, is_optional=optional)
    if into is not None:
        return _of_composite(name, schema, into, is_optional=optional)
    if encode is not None and decode is not None:
        return Codec(name, schema, form, encode, decode, optional)
    if name == "hstore":
        return Codec(name, schema, "hstore", dict, dict, optional)
    raise ConfigurationError(
        f"register_type({name!r}): say what its values are: enum=, into= for a composite type, or "
        "encode= and decode=; hstore alone needs nothing"
    )


def _of_enum(name: str, schema: str | None, kind: type[Enum], *, is_optional: bool) -> Codec:
    by_value = all(isinstance(member.value, str) for member in kind)
    members = {member.value if by_value else member.name: member for member in kind}
    labels = {member: label for label, member in members.items()}

    # An enum in binary is its text; COPY takes nothing else than binary.
    def encode(value: Any) -> bytes:
        if isinstance(value, kind):
            return labels[value].encode()
        if isinstance(value, str):
            return value.encode()
        raise TypeError(f"{kind.__name__} or str expected")

    def decode(data: bytes) -> Enum:
        try:
            return members[data.decode()]
        except KeyError:
            raise DataError(
                f"the type {name} has a label that the enum {kind.__name__} has not"
            ) from None

    return Codec(name, schema, "binary", encode, decode, is_optional)


def _of_composite(
    name: str, schema: str | None, into: Callable[..., Any], *, is_optional: bool
) -> Codec:
    makers: dict[tuple[str, ...], Callable[[Any], Any]] = {}

    def decode(values: Sequence[Any], attributes: tuple[str, ...]) -> Any:
        make = makers.get(attributes)
        if make is None:
            make = makers[attributes] = converter(into, attributes)
        return make(tuple(values))

    return Codec(name, schema, "composite", _attributes_of, decode, is_optional)


def _attributes_of(value: Any, attributes: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the values of a composite's attributes, in their order."""
    if isinstance(value, Mapping):
        return tuple(value[name] for name in attributes)
    if isinstance(value, Sequence) and not dataclasses.is_dataclass(value):
        if len(value) != len(attributes):
            raise ValueError(f"{len(value)} values for {len(attributes)} attributes")
        return tuple(value)
    return tuple(getattr(value, name) for name in attributes)
