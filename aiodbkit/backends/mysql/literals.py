"""Python values as MySQL literals.

aiomysql sends text only, and what its escaping makes of a value depends on the SQL mode and on
the character set that the client believes in: there are ways out of the quotes. The literals here
mean the same under every mode, and end where they should under every character set: a quote is
doubled, which no mode reads in another way and which no character set has inside of a character;
a backslash, of which neither can be said, makes it hexadecimal digits. Those have the character
set's own collation and not the session's, so they are left to the texts that need them. Only known
types are taken; a type that is not known is refused rather than written as its ``str()``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

__all__ = ["Literals", "UnfitValueError"]

_Writer: TypeAlias = Callable[[Any], str]

_MOST_DIGITS = 65  # of DECIMAL, the widest exact number
_BEYOND_DECIMAL = 10**_MOST_DIGITS
_LONGEST_TIME = timedelta(hours=838, minutes=59, seconds=59)


class UnfitValueError(Exception):
    """Raised for a value that has no literal; the text names its type, never the value."""


class Literals:
    """Writes values as literals.

    Args:
        zone: the session's time zone, into which aware datetimes are converted; None where it is
            not known, aware datetimes are refused then.
    """

    def __init__(self, zone: timezone | None) -> None:
        self._zone = zone
        self._writers: dict[type, _Writer] = {**_WRITERS, datetime: self._datetime}

    def write(self, value: Any) -> str:
        """Return the literal for one value.

        Raises:
            UnfitValueError: there is none; the text says why.
        """
        write = self._writers.get(type(value))
        return write(value) if write is not None else self._of_subclass(value)

    def _of_subclass(self, value: Any) -> str:
        """An IntEnum is written as its int, a subclass of str as its text, and so on."""
        for base in type(value).__mro__:
            if base in self._writers:
                return self._writers[base](_EXACT[base](value))
        raise UnfitValueError(f"values of type {_name(value)} cannot be sent to MySQL")

    def _datetime(self, value: datetime) -> str:
        if value.tzinfo is not None:
            if self._zone is None:
                raise UnfitValueError(
                    "an aware datetime needs a session time zone that is a fixed offset: "
                    "leave the option time_zone at '+00:00', or send a naive one"
                )
            try:
                value = datetime.astimezone(value, self._zone)
            except OverflowError:
                raise UnfitValueError("a datetime beyond the years 1 to 9999") from None
            value = datetime.replace(value, tzinfo=None)
        return f"TIMESTAMP'{datetime.isoformat(value, ' ')}'"


def _text(text: str) -> str:
    if "\\" not in text and "\0" not in text and text.isascii():
        return "'" + text.replace("'", "''") + "'"
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise UnfitValueError("the text has a lone surrogate, which is no character") from None
    if b"\\" in raw or b"\0" in raw:
        return f"_utf8mb4 X'{raw.hex()}'"
    return "'" + text.replace("'", "''") + "'"


def _bytes(value: bytes | bytearray | memoryview) -> str:
    return f"_binary X'{value.hex()}'"


def _bool(value: bool) -> str:  # noqa: FBT001 - one writer's shape
    return "TRUE" if value else "FALSE"


def _int(value: int) -> str:
    if not -_BEYOND_DECIMAL < value < _BEYOND_DECIMAL:
        raise UnfitValueError(f"an integer of more than {_MOST_DIGITS} digits")
    return int.__repr__(value)


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise UnfitValueError("a float that is infinite or not a number")
    text = float.__repr__(value)
    # Without an exponent it would be a DECIMAL.
    return text if "e" in text else text + "e0"


def _decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise UnfitValueError("a Decimal that is infinite or not a number")
    exponent = int(value.as_tuple().exponent)
    whole = max(value.adjusted() + 1, 1) if value else max(exponent + 1, 1)
    if whole + max(-exponent, 0) > _MOST_DIGITS:
        raise UnfitValueError(f"a Decimal of more than {_MOST_DIGITS} digits")
    text = format(value, "f")
    # Without a point it would be an integer.
    return text if "." in text else text + "."


def _date(value: date) -> str:
    return f"DATE'{date.isoformat(value)}'"


def _time(value: time) -> str:
    if value.tzinfo is not None:
        raise UnfitValueError("a time with a time zone, which MySQL does not have")
    return f"TIME'{time.isoformat(value)}'"


def _timedelta(value: timedelta) -> str:
    length = abs(value)
    if length > _LONGEST_TIME:
        raise UnfitValueError("a timedelta of more than 838:59:59, where MySQL's TIME ends")
    minutes, seconds = divmod(length.days * 86400 + length.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if value < timedelta() else ""
    return f"TIME'{sign}{hours:02d}:{minutes:02d}:{seconds:02d}.{length.microseconds:06d}'"


def _uuid(value: UUID) -> str:
    return f"'{value}'"


def _json(value: dict[Any, Any] | list[Any]) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        # TypeError's text names a type; that of ValueError may show a value.
        why = f": {error}" if isinstance(error, TypeError) else ""
        raise UnfitValueError(f"a {_name(value)} that is no JSON{why}") from None
    return _text(text)


def _null(value: None) -> str:  # noqa: ARG001 - one writer's shape
    return "NULL"


def _name(value: Any) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _exact_datetime(value: datetime) -> datetime:
    return datetime.combine(datetime.date(value), datetime.timetz(value))


def _exact_uuid(value: UUID) -> UUID:
    # A driver's own UUID keeps its number elsewhere: it has to be asked.
    try:
        return UUID(int=int.__index__(value.int))
    except (TypeError, ValueError):
        raise UnfitValueError(f"a {_name(value)} without a UUID's number") from None


# The same value as one of the base class: a subclass may say anything of itself, even SQL, so
# none of its methods is called. Of a list or dict json takes the parts, whatever they are.
_EXACT: dict[type, Callable[[Any], Any]] = {
    int: int.__index__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    bytearray: bytearray.copy,
    Decimal: Decimal,
    date: lambda value: date.fromordinal(date.toordinal(value)),
    datetime: _exact_datetime,
    time: lambda value: datetime.combine(date.min, value).timetz(),
    timedelta: timedelta.__pos__,
    UUID: _exact_uuid,
    dict: lambda value: value,
    list: lambda value: value,
}

_WRITERS: dict[type, _Writer] = {
    type(None): _null,
    bool: _bool,
    int: _int,
    float: _float,
    str: _text,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    Decimal: _decimal,
    date: _date,
    time: _time,
    timedelta: _timedelta,
    UUID: _uuid,
    dict: _json,
    list: _json,
}
