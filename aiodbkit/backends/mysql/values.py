"""Values as MySQL sends them, made into Python's: the decoders of a connection.

- BOOLEAN is TINYINT(1): 0 and 1 come back as bool, other numbers as int (see `booleans`).
- TIMESTAMP is an instant: aware, in UTC, when the session's time zone is a fixed offset; naive
  when it is not. DATETIME has no zone and comes back naive.
- TIME is a time of day and a duration: `datetime.time` from 00:00 up to 24:00, else `timedelta`.
- ``0000-00-00`` is None; a date that no calendar has (``2024-02-00``) stays text.
- BIT is an int, JSON what it holds. MariaDB's JSON is LONGTEXT and comes as text, its UUID, INET4
  and INET6 too: the server does not tell them from text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

from aiodbkit.backends.mysql.protocol import Type

__all__ = ["booleans", "make_decoders"]

_BOOL = {0: False, 1: True}
_INTEGERS = (Type.TINY, Type.SHORT, Type.LONG, Type.LONGLONG, Type.INT24, Type.YEAR)


def make_decoders(zone: timezone | None) -> dict[int, Callable[[Any], Any]]:
    """Return what drivers take as ``conv``, for a session in this time zone."""
    return {
        **dict.fromkeys(_INTEGERS, int),
        **dict.fromkeys((Type.FLOAT, Type.DOUBLE), float),
        **dict.fromkeys((Type.DECIMAL, Type.NEWDECIMAL), Decimal),
        Type.DATE: _date,
        Type.DATETIME: _datetime,
        Type.TIMESTAMP: _datetime if zone is None else _timestamp(zone),
        Type.TIME: _time,
        Type.BIT: _bit,
        Type.JSON: json.loads,
    }


def booleans(
    description: Sequence[Sequence[Any]], rows: Sequence[Sequence[Any]]
) -> Sequence[Sequence[Any]]:
    """Return the rows with the numbers of TINYINT(1) columns as bool.

    Only the description knows the width of a column, a decoder is told the type alone.
    """
    places = [
        place
        for place, column in enumerate(description)
        if column[1] == Type.TINY and column[3] == 1
    ]
    if not places:
        return rows
    if len(description) == 1:
        return [(_BOOL.get(value, value),) for (value,) in rows]
    return [_with_booleans(row, places) for row in rows]


def _with_booleans(row: Sequence[Any], places: list[int]) -> tuple[Any, ...]:
    values = list(row)
    for place in places:
        values[place] = _BOOL.get(values[place], values[place])
    return tuple(values)


def _date(text: str) -> date | str | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return _no_date(text)


def _datetime(text: str) -> datetime | str | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return _no_date(text)


def _timestamp(zone: timezone) -> Callable[[str], datetime | str | None]:
    def decode(text: str) -> datetime | str | None:
        try:
            return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)
        except (ValueError, OverflowError):
            return _no_date(text)

    def decode_utc(text: str) -> datetime | str | None:
        try:
            return datetime.fromisoformat(text + "+00:00")
        except ValueError:
            return _no_date(text)

    return decode if zone.utcoffset(None) else decode_utc


def _no_date(text: str) -> str | None:
    return None if text.startswith("0000-00-00") else text


def _time(text: str) -> time | timedelta | str:
    # Newer Pythons take 24:00 for midnight.
    if text[2:3] == ":" and text[:2] < "24":
        return time.fromisoformat(text)
    return _duration(text)


def _duration(text: str) -> timedelta | str:
    try:
        hours, minutes, seconds = text.lstrip("-").split(":")
        length = timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))
    except ValueError:
        return text
    return -length if text.startswith("-") else length


def _bit(raw: bytes) -> int:
    return int.from_bytes(raw)
