"""Python's values as PostgreSQL's text and back.

A value is written in the type that the server expects of the parameter, and nothing is converted
that only looks like it: a ``str`` for an ``int`` is refused, as over asyncpg. What types other
than these take is for psycopg's adapters to say, and for the server.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

import psycopg
from psycopg.adapt import Loader, PyFormat, Transformer

__all__ = ["Encode", "Encoders", "Misfit", "array_of", "encode_row", "set_loaders", "text_of"]

Encode: TypeAlias = Callable[[Any], bytes]


class Misfit(TypeError):  # noqa: N818 - never seen by a user
    """A value is not of the type that is expected."""


def _integer(bits: int, *, is_signed: bool = True) -> Encode:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)

    def encode(value: Any) -> bytes:
        if isinstance(value, int) and low <= value <= high:
            return b"%d" % value
        raise Misfit

    return encode


def _float(value: Any) -> bytes:
    if isinstance(value, float | int | Decimal):
        return repr(float(value)).encode()
    raise Misfit


def _numeric(value: Any) -> bytes:
    if isinstance(value, Decimal | int | float):
        return str(Decimal(value)).encode()
    raise Misfit


def _boolean(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"t" if value else b"f"
    raise Misfit


def text_of(value: Any) -> bytes:
    """Write a text, which must not hold a NUL character."""
    if not isinstance(value, str):
        raise Misfit
    if "\0" in value:
        raise Misfit("NUL")  # told by _refused()
    return str.encode(value)


def _bytea(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return b"\\x" + bytes(value).hex().encode()
    raise Misfit


def _date(value: Any) -> bytes:
    if isinstance(value, date):
        return value.isoformat()[:10].encode()
    raise Misfit


def _time(value: Any) -> bytes:
    if isinstance(value, time) and value.tzinfo is None:
        return value.isoformat().encode()
    raise Misfit


def _time_with_zone(value: Any) -> bytes:
    if isinstance(value, time):
        aware = value if value.utcoffset() is not None else value.replace(tzinfo=UTC)
        return aware.isoformat().encode()
    raise Misfit


def _timestamp(value: Any) -> bytes:
    if isinstance(value, date) and getattr(value, "tzinfo", None) is None:
        return value.isoformat().encode()
    raise Misfit


def _timestamp_with_zone(value: Any) -> bytes:
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - local, as of asyncpg
    if isinstance(value, datetime):
        aware = value if value.utcoffset() is not None else value.astimezone()
        return aware.isoformat().encode()
    raise Misfit


def _interval(value: Any) -> bytes:
    if isinstance(value, timedelta):
        seconds = value.microseconds + value.seconds * 1_000_000
        return f"{value.days} days {seconds} microseconds".encode()
    raise Misfit


def _uuid(value: Any) -> bytes:
    return (value if isinstance(value, UUID) else UUID(value)).hex.encode()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


_SCALARS: Mapping[str, Encode] = {
    "bool": _boolean,
    "bytea": _bytea,
    "name": text_of,
    "int8": _integer(64),
    "int2": _integer(16),
    "int4": _integer(32),
    "text": text_of,
    "oid": _integer(32, is_signed=False),
    "json": _json,
    "float4": _float,
    "float8": _float,
    "bpchar": text_of,
    "varchar": text_of,
    "date": _date,
    "time": _time,
    "timestamp": _timestamp,
    "timestamptz": _timestamp_with_zone,
    "interval": _interval,
    "timetz": _time_with_zone,
    "numeric": _numeric,
    "uuid": _uuid,
    "jsonb": _json,
}


def array_of(element: Encode) -> Encode:
    """Return what writes arrays of what ``element`` writes."""

    def encode(value: Any) -> bytes:
        if isinstance(value, str | bytes | bytearray | memoryview | Mapping):
            raise Misfit
        if not isinstance(value, Collection):
            raise Misfit
        return b"{" + b",".join(map(encode_element, value)) + b"}"

    def encode_element(value: Any) -> bytes:
        if value is None:
            return b"NULL"
        if isinstance(value, list | tuple):
            return encode(value)
        return b'"' + element(value).replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'

    return encode


def _by_oid() -> dict[int, Encode]:
    known = psycopg.adapters.types
    found = {known[name].oid: encode for name, encode in _SCALARS.items()}
    arrays = {known[name].array_oid: array_of(encode) for name, encode in _SCALARS.items()}
    return {**found, **arrays}


_ENCODERS = _by_oid()


class Encoders:
    """What writes values, for each type; those of one connection.

    Attributes:
        own: of types that the program has registered.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.own: dict[int, Encode] = {}

    def of(self, oid: int) -> Encode:
        """Return what writes values of a type."""
        return self.own.get(oid) or _ENCODERS.get(oid) or self._adapted

    def _adapted(self, value: Any) -> bytes:
        """As psycopg, or whoever has registered a dumper with it, says; text is text."""
        if isinstance(value, str):
            return text_of(value)
        transformer = Transformer(self._raw)
        data = transformer.get_dumper(value, PyFormat.TEXT).dump(value)
        if data is None:
            raise Misfit
        return bytes(data)


def encode_row(values: Sequence[Any], encoders: Sequence[Encode]) -> list[bytes | None]:
    """Return the values as the server reads them.

    Raises:
        Exception: of any kind, for a value that does not fit.
    """
    return [
        None if value is None else encode(value)
        for value, encode in zip(values, encoders, strict=True)
    ]


# What comes back, where psycopg's values are others than asyncpg's.


class _InUtc(Loader):
    """An instant in UTC, whatever the session's time zone."""

    def load(self, data: Any) -> datetime:
        return datetime.fromisoformat(bytes(data).decode()).astimezone(UTC)


class _Single(Loader):
    """A ``real``, with the digits that it has."""

    def load(self, data: Any) -> float:
        value: float = struct.unpack("f", struct.pack("f", float(bytes(data))))[0]
        return value


class _Nothing(Loader):
    """What a function returns that returns nothing."""

    def load(self, data: Any) -> None:  # noqa: ARG002
        return None


_LOADERS: Mapping[int, type[Loader]] = {1184: _InUtc, 700: _Single, 2278: _Nothing}


def set_loaders(raw: Any) -> None:
    """Let values come back as over asyncpg."""
    for oid, loader in _LOADERS.items():
        raw.adapters.register_loader(oid, loader)
