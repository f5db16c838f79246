"""Values from apsw, decoded by their column's declared type as `aiodbkit.backends.sqlite.values`
says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from aiodbkit.backends.sqlite.values import decoder_of

__all__ = ["Plan", "decoded", "plan_of", "undecoded_plan_of"]

_Description: TypeAlias = tuple[tuple[str, str | None], ...]


class Plan(NamedTuple):
    """What is known of a result's columns.

    Attributes:
        description: as DB-API has it, names only.
        decoders: of those columns that have one, by their place.
    """

    description: tuple[tuple[str], ...]
    decoders: tuple[tuple[int, Callable[[bytes], Any]], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(name for (name,) in self.description)


@lru_cache(maxsize=1024)
def plan_of(description: _Description) -> Plan:
    """Return how to decode the rows of a result whose columns' types were declared like this."""
    found = ((place, decoder_of(declared or "")) for place, (_, declared) in enumerate(description))
    decoders = tuple((place, decode) for place, decode in found if decode is not None)
    return Plan(tuple((name,) for name, _ in description), decoders)


@lru_cache(maxsize=1024)
def undecoded_plan_of(description: _Description) -> Plan:
    """The same, with all values left as SQLite stores them."""
    return Plan(plan_of(description).description, ())


def decoded(row: Sequence[Any], plan: Plan) -> tuple[Any, ...]:
    """Return a row with its values decoded."""
    values = list(row)
    for place, decode in plan.decoders:
        value = values[place]
        if value is not None:
            values[place] = decode(_shown(value))
    return tuple(values)


def _shown(value: Any) -> bytes:
    """Return a value as SQLite would show it in text."""
    if type(value) is str:
        return value.encode()
    if type(value) is bytes:
        return value
    if type(value) is float:
        text = f"{value:.15g}"
        return (text if text.strip("-0123456789") else f"{text}.0").encode()
    return str(value).encode()
