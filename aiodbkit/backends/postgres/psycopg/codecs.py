"""Types that a program registers, taught to a psycopg connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.adapt import Loader
from psycopg.types import TypeInfo
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.hstore import register_hstore

from aiodbkit.backends.postgres.abilities import Codec
from aiodbkit.backends.postgres.psycopg.values import Encode, Encoders, array_of, text_of
from aiodbkit.backends.postgres.registered import missing, refuse_other_kind
from aiodbkit.errors import NotSupportedError

__all__ = ["FIND", "set_codecs"]

# to_regtype() looks where an unqualified name in SQL would be looked for.
FIND = """\
SELECT t.oid, t.typarray, t.typname, t.typtype::text,
    ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute
        WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped ORDER BY attnum),
    ARRAY(SELECT atttypid FROM pg_catalog.pg_attribute
        WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped ORDER BY attnum)
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, number)
LEFT JOIN pg_catalog.pg_type t ON t.oid = pg_catalog.to_regtype(wanted.name)
ORDER BY wanted.number"""


def set_codecs(
    raw: psycopg.AsyncConnection[Any],
    encoders: Encoders,
    codecs: Sequence[Codec],
    found: Sequence[Sequence[Any]],
) -> None:
    """Let values of these types come and go as they say.

    Args:
        found: the rows of `FIND`.

    Raises:
        ConfigurationError: the database has no such type, or one of another kind.
        NotSupportedError: the codec speaks of the binary form.
    """
    for codec, (oid, array, name, kind, names, types) in zip(codecs, found, strict=True):
        if oid is None:
            if codec.is_optional:
                continue
            raise missing(codec)
        refuse_other_kind(codec, kind.encode())
        if codec.kind == "composite":
            _set_composite(
                raw,
                encoders,
                codec,
                CompositeInfo(name, oid, array, field_names=names, field_types=types),
            )
        elif codec.kind == "hstore":
            register_hstore(TypeInfo(name, oid, array), raw)
        elif codec.kind == "text" or kind == "e":  # an enum's binary form is its text
            _set_text(raw, encoders, codec, TypeInfo(name, oid, array))
        else:
            raise NotSupportedError(
                f"register_type({codec.name!r}): values come as text with psycopg: use "
                "format='text', or driver='asyncpg'"
            )


def _set_text(
    raw: psycopg.AsyncConnection[Any], encoders: Encoders, codec: Codec, info: TypeInfo
) -> None:
    decode, is_text = codec.decode, codec.kind == "text"

    class Decoding(Loader):
        def load(self, data: Any) -> Any:
            return decode(bytes(data).decode() if is_text else bytes(data))

    def encode(value: Any) -> bytes:
        written = codec.encode(value)
        return text_of(written if is_text else bytes(written).decode())

    info.register(raw)
    raw.adapters.register_loader(info.oid, Decoding)
    _encode_with(encoders, info, encode)


def _set_composite(
    raw: psycopg.AsyncConnection[Any], encoders: Encoders, codec: Codec, info: CompositeInfo
) -> None:
    names = tuple(info.field_names)
    decode: Callable[..., Any] = codec.decode
    register_composite(info, raw, lambda *values: decode(values, names))

    def encode(value: Any) -> bytes:
        parts = zip(codec.encode(value, names), info.field_types, strict=True)
        return b"(" + b",".join([_part(encoders.of(oid), part) for part, oid in parts]) + b")"

    _encode_with(encoders, info, encode)


def _part(encode: Encode, value: Any) -> bytes:
    if value is None:
        return b""
    return b'"' + encode(value).replace(b"\\", b"\\\\").replace(b'"', b'""') + b'"'


def _encode_with(encoders: Encoders, info: TypeInfo, encode: Encode) -> None:
    encoders.own[info.oid] = encode
    encoders.own[info.array_oid] = array_of(encode)
