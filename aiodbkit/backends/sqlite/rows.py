"""Many rows on their way into the database: in batches, and no longer than the caller waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from itertools import islice
from typing import Any, TypeAlias

from aiodbkit.backends.sqlite.thread import Until, timed_out

__all__ = ["batches"]

_Rows: TypeAlias = Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]]
_Batch: TypeAlias = list[Sequence[Any]]


async def batches(rows: _Rows, size: int, sql: str, limit: Until | None) -> AsyncIterator[_Batch]:
    """Yield the rows in lists of ``size``, the last one shorter.

    Raises:
        QueryTimeoutError: their source was still at work when ``limit`` had passed.
    """
    source = _batches(rows, size)
    while batch := await _next(source, sql, limit):
        yield batch


async def _next(source: AsyncIterator[_Batch], sql: str, limit: Until | None) -> _Batch | None:
    if limit is None:
        return await anext(source, None)
    scope = asyncio.timeout_at(limit.at)
    try:
        async with scope:
            batch = await anext(source, None)
    except TimeoutError:
        if not scope.expired():
            raise
    else:
        # A source that never waits does not let the deadline through.
        if asyncio.get_running_loop().time() < limit.at:
            return batch
    raise timed_out(sql, limit, while_="the source of the rows was at work")


async def _batches(rows: _Rows, size: int) -> AsyncIterator[_Batch]:
    if not isinstance(rows, AsyncIterable):
        rest = iter(rows)
        while batch := list(islice(rest, size)):
            yield batch
        return
    batch = []
    async for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
