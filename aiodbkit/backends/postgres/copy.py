"""COPY for `insert_many`: rows on their way in, and what may be wrong with them."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import asyncpg

from aiodbkit.errors import DataError, Error, NotSupportedError

__all__ = ["Feed", "feed", "refused_row"]


class _SyncFeed:
    """Remembers where COPY stands, and whether an error was the source's own."""

    def __init__(self, rows: Iterable[Sequence[Any]]) -> None:
        self._rows = rows
        self.number = -1
        self.row: Sequence[Any] = ()
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[Sequence[Any]]:
        try:
            for row in self._rows:
                self.row = row
                self.number += 1
                yield row
        except Exception as error:
            self.error = error
            raise


class _AsyncFeed:
    """The same for an async iterable."""

    def __init__(self, rows: AsyncIterable[Sequence[Any]]) -> None:
        self._rows = aiter(rows)
        self.number = -1
        self.row: Sequence[Any] = ()
        self.error: BaseException | None = None

    def __aiter__(self) -> AsyncIterator[Sequence[Any]]:
        return self

    async def __anext__(self) -> Sequence[Any]:
        try:
            self.row = await anext(self._rows)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self.error = error
            raise
        self.number += 1
        return self.row


Feed: TypeAlias = _SyncFeed | _AsyncFeed


def feed(rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]]) -> Feed:
    """Wrap the rows of one COPY."""
    return _AsyncFeed(rows) if isinstance(rows, AsyncIterable) else _SyncFeed(rows)


def refused_row(
    error: Exception, table: str, columns: Sequence[str], rows: Feed, sql: str
) -> Error | None:
    """Say which row asyncpg could not encode; None when ``error`` is about something else."""
    if isinstance(error, asyncpg.InternalClientError) and rows.number < 0:
        # A column of a type that asyncpg knows as text only: tsvector, money.
        return NotSupportedError(
            f"insert_many({table!r}) copies rows in binary, and there is {error.args[0]}: "
            "use execute_many()",
            query=sql,
        )
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return None
    if getattr(error, "severity", None):
        return None
    given = ", ".join(
        f"{column} {type(value).__name__}" for column, value in zip(columns, rows.row, strict=False)
    )
    return DataError(
        f"insert_many({table!r}): row {rows.number} has a value that does not fit its column; "
        f"it was given {given}",
        query=sql,
    )
