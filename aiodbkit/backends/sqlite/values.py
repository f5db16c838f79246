"""Python values to SQLite's five storage classes and, by a column's declared type, back.

========================  ==========================================  =========================
Python                    stored as                                   comes back from a column
                                                                      declared
========================  ==========================================  =========================
None, int, float, str,    themselves                                  anything else
bytes
bool                      0, 1                                        BOOLEAN, BOOL
Decimal                   text; see below                             DECIMAL, NUMERIC
date                      ``2024-02-29``                              DATE
time                      ``12:30:00``, ``12:30:00.000001``           TIME
datetime                  ``2024-02-29 12:30:00``, with microseconds  DATETIME, TIMESTAMP,
                          and offset where it has them:               TIMESTAMPTZ
                          ``2024-02-29 12:30:00.5+05:30``
UUID                      ``123e4567-e89b-12d3-a456-426614174000``    UUID
dict, list                JSON text                                   JSON, JSONB
========================  ==========================================  =========================

A subclass is stored as the type that it is of: an IntEnum as its int, a StrEnum as its text.

What counts is the first word of the declared type, in any case. SQLite knows it for a plain column
of a table, also through a view, a subquery or RETURNING, but not for an expression: ``max(born)``
is text.

A column declared DECIMAL has numeric affinity: SQLite turns the text into a 64-bit integer or
float, so of a Decimal with a fraction about 15 digits survive and its trailing zeros do not.
Declare it ``DECIMAL TEXT`` and every digit is kept; comparing and ordering is then by text. The
same goes for a bare number of more than 15 digits in a JSON column: ``JSON TEXT``.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from aiodbkit.driver import Params
from aiodbkit.errors import DataError
from aiodbkit.sql import Expand

__all__ = [
    "decode_on_this_thread",
    "decoder_of",
    "named",
    "result_to_sqlite",
    "rows_to_sqlite",
    "to_sqlite",
]

_LEAST, _MOST = -(2**63), 2**63 - 1


class _Misfit(Exception):  # noqa: N818 - becomes a DataError
    """Why a value cannot be stored; never the value itself."""


def to_sqlite(args: Sequence[Any], params: Params, sql: str) -> Sequence[Any]:
    """Return the values as SQLite stores them, ``args`` itself if there is nothing to change.

    Args:
        params, sql: what the caller gave, for the error.

    Raises:
        DataError: a value that SQLite cannot keep, or has nothing for; names the parameter.
    """
    try:
        return _stored(args)
    except _Misfit as misfit:
        raise DataError(_told(misfit, params), query=sql) from None


def rows_to_sqlite(
    rows: Sequence[Sequence[Any]], params: Callable[[int], Params], sql: str, first: int = 0
) -> list[Sequence[Any]]:
    """Return many rows as SQLite stores them; an error tells the row, counted from ``first``."""
    done: list[Sequence[Any]] = []
    try:
        for row in rows:
            done.append(_stored(row))  # noqa: PERF401 - an error has to know how far it got
    except _Misfit as misfit:
        number = len(done)
        told = f"row {first + number}: {_told(misfit, params(number))}"
        raise DataError(told, query=sql) from None
    return done


def result_to_sqlite(value: Any, of: str) -> Any:
    """Return what a function of the user's returned, as SQLite stores it; ``of`` names it.

    Raises:
        DataError: SQLite has no place for it.
    """
    try:
        return _stored((value,))[0]
    except _Misfit as misfit:
        raise DataError(f"{of} returned what cannot be stored: {misfit}") from None


def named(columns: Sequence[str], rows: Sequence[Sequence[Any]], number: int) -> Params:
    """Return one of the rows with its columns' names."""
    return dict(zip(columns, rows[number], strict=True))


def _stored(args: Sequence[Any]) -> Sequence[Any]:
    for value in args:
        kind = type(value)
        if not (
            (kind is str and value.isascii())
            or value is None
            or (kind is int and _LEAST <= value <= _MOST)
        ):
            return [_encode(value) for value in args]
    return args


def _told(misfit: _Misfit, params: Params) -> str:
    """Say which of the caller's parameters it is, by its name or number."""
    given = params.items() if isinstance(params, Mapping) else enumerate(params or (), 1)
    for name, value in given:
        try:
            _stored(value.values if isinstance(value, Expand) else (value,))
        except _Misfit:
            return f"parameter {name if isinstance(name, int) else f':{name}'}: {misfit}"
    return str(misfit)


def _encode(value: Any) -> Any:
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        encoder = next((_ENCODERS[kind] for kind in _ENCODERS if isinstance(value, kind)), None)
        if encoder is None:
            raise _Misfit(
                f"SQLite has no place for the type {type(value).__name__}: convert it first (to "
                "str, int, float, bytes, Decimal, date, time, datetime, UUID, or a dict or list "
                "for JSON; expand() for a list of values)"
            )
    return encoder(value)


def _int(value: int) -> int:
    if not _LEAST <= value <= _MOST:
        raise _Misfit("an int beyond 64 bits; store it as Decimal or str")
    return int(value)


def _float(value: float) -> float:
    if value != value:  # noqa: PLR0124 - only NaN differs from itself
        raise _Misfit("a float that is NaN, which SQLite would store as NULL")
    return float(value)


def _text(value: str) -> str:
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        # The cause would show the value.
        raise _Misfit("a text with a lone surrogate, which is no character") from None
    return text


def _json(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        # The cause would show the value.
        raise _Misfit(f"a {type(value).__name__} that cannot be written as JSON") from None
    return _text(text)


# In the order in which isinstance has to ask: bool before int, datetime before date. A subclass may
# say something else of itself, so it is the type's own method that is asked.
_ENCODERS: dict[Any, Callable[[Any], Any]] = {
    type(None): lambda value: value,
    bool: int,
    int: _int,
    float: _float,
    str: _text,
    bytes: bytes,
    bytearray: bytes,
    memoryview: bytes,
    Decimal: Decimal.__str__,
    datetime: lambda value: datetime.isoformat(value, " "),
    date: date.isoformat,
    time: time.isoformat,
    UUID: UUID.__str__,
    dict: _json,
    list: _json,
}


def _bool(data: bytes) -> bool:
    if data == b"1":
        return True
    return data != b"0" and bool(float(data))


def _uuid(data: bytes) -> UUID:
    return UUID(bytes=data) if len(data) == 16 else UUID(data.decode())


def _from_text(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: parse(data.decode())


_datetime = _from_text(datetime.fromisoformat)
_decimal = _from_text(Decimal)

_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "BOOL": _bool,
    "BOOLEAN": _bool,
    "DATE": _from_text(date.fromisoformat),
    "DATETIME": _datetime,
    "DECIMAL": _decimal,
    "JSON": json.loads,
    "JSONB": json.loads,
    "NUMERIC": _decimal,
    "TIME": _from_text(time.fromisoformat),
    "TIMESTAMP": _datetime,
    "TIMESTAMPTZ": _datetime,
    "UUID": _uuid,
}


class _Thread(threading.local):
    decodes = False


_thread = _Thread()


class _DeclaredType(str):
    """A key of sqlite3's table of converters that only our worker threads can find.

    sqlite3 gives away a column's declared type in one way alone: converters, looked up in one
    table for the whole process. One of ours there would change what every other user of sqlite3
    reads, and one of theirs what we read. So ours stand under keys that equal nothing elsewhere.
    """

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return _thread.decodes and str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def decode_on_this_thread() -> None:
    """Let connections with PARSE_DECLTYPES decode by the table above on the calling thread."""
    if not _thread.decodes:
        _register()
        _thread.decodes = True


def _register() -> None:
    with _registering:
        table: dict[str, Callable[[bytes], Any]] = sqlite3.converters
        if any(type(key) is _DeclaredType for key in table):
            return
        for name in _DECODERS:
            theirs = table.pop(name, None)
            table[_DeclaredType(name)] = _decoder(name)
            if theirs is not None:  # the first of two equal keys is found: ours has to come first
                table[name] = theirs


_registering = threading.Lock()


def decoder_of(declared: str) -> Callable[[bytes], Any] | None:
    """Return what turns SQLite's text for a value into what a column so declared holds."""
    word = re.split(r"[ (]", declared, maxsplit=1)[0].upper()
    return _decoder(word) if word in _DECODERS else None


def _decoder(declared: str) -> Callable[[bytes], Any]:
    parse = _DECODERS[declared]

    def decode(data: bytes) -> Any:
        try:
            return parse(data)
        except (ValueError, ArithmeticError):
            # The cause would show the value.
            raise DataError(
                f"a column declared {declared} holds a value that is none: correct the data, "
                "declare the column otherwise, or read it through an expression (column || '')"
            ) from None

    return decode
