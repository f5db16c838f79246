"""Rows on their way into the database, in batches, and what a deadline says when it has passed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any, TypeAlias

from aiodbkit.backends.dbapi.thread import Deadline
from aiodbkit.errors import Error, OperationalError, QueryTimeoutError

__all__ = ["batches", "timed_out"]

_Rows: TypeAlias = Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]]
_Batch: TypeAlias = list[Sequence[Any]]


def timed_out(
    sql: str | None, limit: Deadline | None, *, while_: str = "", can_stop: bool = True
) -> Error:
    """Return the error for work that was given up."""
    if limit is None:
        return OperationalError("the statement was interrupted", query=sql)
    passed = f"timeout={limit.timeout:g} s has passed"
    if while_:
        text = f"{passed} while {while_}; nothing was done"
    elif can_stop:
        text = f"{passed}: the statement was stopped"
    else:
        text = (
            f"{passed}: this module cannot stop a statement, which runs on at the server; its "
            "connection is not used again before it has ended"
        )
    return QueryTimeoutError(text, query=sql)


async def batches(
    rows: _Rows, size: int, sql: str, limit: Deadline | None
) -> AsyncGenerator[_Batch, None]:
    """Yield the rows in lists of ``size``, the last one shorter; to be closed by who leaves it.

    Raises:
        QueryTimeoutError: their source was still at work when ``limit`` had passed.
    """
    async with aclosing(_batches(rows, size)) as source:
        while batch := await _next(source, sql, limit):
            yield batch


async def _next(source: AsyncIterator[_Batch], sql: str, limit: Deadline | None) -> _Batch | None:
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
        if limit.left:
            return batch
    raise timed_out(sql, limit, while_="the source of the rows was at work")


async def _batches(rows: _Rows, size: int) -> AsyncGenerator[_Batch, None]:
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
