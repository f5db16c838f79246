"""Rows for `insert_many`: mappings or sequences, sync or async, put in the columns' order."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from aiodbkit.errors import ProgrammingError

__all__ = ["rows_in_order"]


async def rows_in_order(
    table: str, rows: Iterable[Any] | AsyncIterable[Any], columns: Sequence[str] | None
) -> tuple[list[str], Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]]]:
    """Return the column names and the rows as sequences in that order.

    The names are empty when there are no rows. Only the first row is looked at here.
    """
    if isinstance(columns, str):
        raise ProgrammingError(f"columns must be a sequence of names, not the str {columns!r}")
    if isinstance(rows, AsyncIterable):
        iterator = aiter(rows)
        async for first in iterator:
            order = _Order(table, first, columns)
            return order.names, _arranged_async(order, first, iterator)
        return [], []
    for first in (rest := iter(rows)):
        order = _Order(table, first, columns)
        return order.names, _arranged(order, chain([first], rest))
    return [], []


def _arranged(order: _Order, rows: Iterable[Any]) -> Iterator[Sequence[Any]]:
    for number, row in enumerate(rows):
        yield order.arrange(number, row)


async def _arranged_async(
    order: _Order, first: Any, rest: AsyncIterator[Any]
) -> AsyncIterator[Sequence[Any]]:
    yield order.arrange(0, first)
    number = 0
    async for row in rest:
        number += 1
        yield order.arrange(number, row)


class _Order:
    """Checks each row against the columns of the first and puts its values in their order."""

    def __init__(self, table: str, first: Any, columns: Sequence[str] | None) -> None:
        self.table = table
        self.by_name = isinstance(first, Mapping)
        self.picks = columns is not None  # mappings may have more than the columns asked for
        if columns is not None:
            self.names = list(columns)
        elif isinstance(first, Mapping):
            self.names = [str(name) for name in first]
        else:
            raise ProgrammingError(
                f"insert_many({table!r}): rows that are sequences need columns=[...]; "
                "or give mappings"
            )
        if not self.names:
            raise ProgrammingError(f"insert_many({table!r}): there are no columns to insert")

    def arrange(self, number: int, row: Any) -> Sequence[Any]:
        if isinstance(row, Mapping) and self.by_name:
            return self._from_mapping(number, row)
        if isinstance(row, Sequence) and not isinstance(row, str | bytes) and not self.by_name:
            if len(row) == len(self.names):
                return row
            raise self._error(number, f"has {len(row)} values for {len(self.names)} columns")
        wanted = "a mapping like the first row" if self.by_name else "a sequence"
        raise self._error(number, f"is a {type(row).__name__}, not {wanted}")

    def _from_mapping(self, number: int, row: Mapping[str, Any]) -> Sequence[Any]:
        try:
            values = [row[name] for name in self.names]
        except KeyError as error:
            raise self._error(number, f"has no {error.args[0]!r}") from None
        if len(row) != len(self.names) and not self.picks:
            extra = sorted(str(name) for name in row if name not in self.names)
            raise self._error(number, f"has columns of its own: {', '.join(extra)}")
        return values

    def _error(self, number: int, what: str) -> ProgrammingError:
        return ProgrammingError(
            f"insert_many({self.table!r}): row {number} {what}; "
            f"the columns are {', '.join(self.names)}"
        )
