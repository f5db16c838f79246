"""Types that a program registers, taught to an asyncpg connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from aiodbkit.backends.postgres.abilities import Codec
from aiodbkit.backends.postgres.registered import full_name, missing, refuse_other_kind

__all__ = ["set_codecs"]

# One round trip for all. to_regtype() looks where an unqualified name in SQL would be looked for.
_FIND = """\
SELECT t.oid, n.nspname, t.typname, t.typtype, ARRAY(
    SELECT attname::text FROM pg_catalog.pg_attribute
    WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped ORDER BY attnum)
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, number)
LEFT JOIN pg_catalog.pg_type t ON t.oid = pg_catalog.to_regtype(wanted.name)
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
ORDER BY wanted.number"""
_HSTORE = "pg_contrib.hstore"  # what asyncpg calls its own codec


async def set_codecs(raw: asyncpg.Connection[Any], codecs: Sequence[Codec]) -> None:
    """Let values of these types come and go as they say.

    Raises:
        ConfigurationError: the database has no such type, or one of another kind.
    """
    if not codecs:
        return
    found = await raw.fetch(_FIND, [full_name(codec) for codec in codecs])
    for codec, (oid, schema, name, kind, attributes) in zip(codecs, found, strict=True):
        if oid is None:
            if codec.is_optional:
                continue
            raise missing(codec)
        refuse_other_kind(codec, kind)
        await _set(raw, codec, oid, schema, name, attributes)


async def _set(  # noqa: PLR0917 - a row of _FIND
    raw: asyncpg.Connection[Any], codec: Codec, oid: int, schema: str, name: str, attributes: Any
) -> None:
    if codec.kind == "composite":
        await raw.set_type_codec(
            name,
            schema=schema,
            encoder=_with_names(codec.encode, attributes),
            decoder=_with_names(codec.decode, attributes),
            format="tuple",
        )
        return
    settings: Any = raw.get_settings()
    if codec.kind == "hstore":
        settings.set_builtin_type_codec(oid, name, schema, "scalar", _HSTORE, None)
        return
    # Not set_type_codec(), which would ask the server for what is known here.
    settings.add_python_codec(
        oid, name, schema, [], "scalar", codec.encode, codec.decode, codec.kind
    )


def _with_names(call: Callable[..., Any], attributes: Sequence[str]) -> Callable[[Any], Any]:
    names = tuple(attributes)
    return lambda value: call(value, names)
