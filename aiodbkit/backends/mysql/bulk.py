"""Many rows as few statements: chunks of multi-row INSERT, or one statement for each row."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from aiodbkit.backends.mysql.literals import Literals, UnfitValueError
from aiodbkit.errors import DataError
from aiodbkit.sql import Statement

__all__ = ["MultiRow", "Rows", "chunks", "multi_row", "singles"]

Rows: TypeAlias = Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]]

# Bytes of one statement: larger ones are not faster, and the server parses each as a whole.
_CHUNK = 1_000_000

# Quotes and comments are left to the slow way: what is between them may look like anything.
_PLAIN = r"(?:(?!--|/\*)[^'\"#{}])*"
_HEAD = re.compile(
    rf"(\s*(?:insert|replace)\b{_PLAIN.format('')}\bvalues?\s*)(\({_PLAIN.format('()')})",
    re.IGNORECASE,
)
_BETWEEN = re.compile(_PLAIN.format("()"))
_TAIL = re.compile(
    rf"({_PLAIN.format('()')}\))(\s*(?:(?:as\s+\S+\s+)?on\s+duplicate\b{_PLAIN.format(';')})?);?\s*",
    re.IGNORECASE,
)


class MultiRow(NamedTuple):
    """An INSERT cut into what stands once and the format of one row."""

    head: bytes
    row: str
    tail: bytes


@lru_cache(maxsize=256)
def multi_row(statement: Statement) -> MultiRow | None:
    """Return the pieces of an ``INSERT ... VALUES (...)`` that may take several rows, or None."""
    if not statement.names:
        return None
    first, *between, last = statement.parts
    head, tail = _HEAD.fullmatch(first), _TAIL.fullmatch(last)
    if head is None or tail is None or not all(map(_BETWEEN.fullmatch, between)):
        return None
    row = "%s".join(part.replace("%", "%%") for part in (head[2], *between, tail[1]))
    return MultiRow(head[1].encode(), row, tail[2].encode())


async def chunks(
    pieces: MultiRow, rows: Rows, literals: Literals, sql: str, most: int
) -> AsyncGenerator[bytes, None]:
    """Yield INSERT statements of as many rows as fit into ``most`` bytes, but at least one."""
    batch = _Batch(pieces, literals, sql, min(most, _CHUNK))
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            if full := batch.add(row):
                yield full
    else:
        for row in rows:
            if full := batch.add(row):
                yield full
    if rest := batch.take():
        yield rest


class _Batch:
    """An INSERT that grows by rows."""

    def __init__(self, pieces: MultiRow, literals: Literals, sql: str, most: int) -> None:
        self._pieces = pieces
        self._literals = literals
        self._sql = sql
        self._most = most - len(pieces.tail)
        self._rows = 0
        self._text = bytearray()

    def add(self, row: Sequence[Any]) -> bytes:
        """Add a row; return the statement without it if it no longer fits, or nothing."""
        values = _format(self._pieces.row, row, self._literals, self._sql, self._rows)
        self._rows += 1
        full = b""
        if len(self._text) + len(values) >= self._most:
            full = self.take()
        self._text += b"," if self._text else self._pieces.head
        self._text += values
        return full

    def take(self) -> bytes:
        """Return the statement, or nothing when it has no rows; begin anew."""
        if not self._text:
            return b""
        text = bytes(self._text + self._pieces.tail)
        self._text.clear()
        return text


async def singles(
    text: str, rows: Iterable[Sequence[Any]], literals: Literals, sql: str
) -> AsyncGenerator[bytes, None]:
    """Yield the statement once for each row."""
    for number, row in enumerate(rows):
        yield _format(text, row, literals, sql, number) if row else text.encode()


def _format(text: str, row: Sequence[Any], literals: Literals, sql: str, number: int) -> bytes:
    try:
        return (text % tuple([literals.write(value) for value in row])).encode()
    except UnfitValueError:
        raise _unfit(row, literals, sql, number) from None


def _unfit(row: Sequence[Any], literals: Literals, sql: str, number: int) -> DataError:
    for place, value in enumerate(row, 1):
        try:
            literals.write(value)
        except UnfitValueError as error:
            return DataError(f"row {number}: value {place}: {error}", query=sql)
    return DataError(f"row {number}: a value cannot be sent to MySQL", query=sql)
