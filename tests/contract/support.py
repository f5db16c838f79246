"""What several contract tests share: where a verb is called, and whether an engine is whole."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiodbkit

FLOORS = ("engine", "connection", "transaction")


@asynccontextmanager
async def verbs_on(db: aiodbkit.Engine, floor: str) -> AsyncIterator[Any]:
    """What takes verbs: the engine itself, a connection, or a connection in a transaction."""
    if floor == "engine":
        yield db
    elif floor == "connection":
        async with db.connection() as conn:
            yield conn
    else:
        async with db.connection() as conn, db.transaction():
            yield conn


async def assert_whole(db: aiodbkit.Engine) -> None:
    """Every connection can be borrowed at once, none is in a transaction, each sees its own row."""
    size = db.pool.stats().max_size
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(db.pool.acquire(timeout=20)) for _ in range(size)]
        assert not any(conn.in_transaction for conn in held)
        answers = await asyncio.gather(
            *(conn.fetch_val(f"select {1000 + n}") for n, conn in enumerate(held))
        )
        assert answers == [1000 + n for n in range(size)]
    stats = db.pool.stats()
    assert (stats.in_use, stats.waiting) == (0, 0)


async def alone(work: Coroutine[Any, Any, Any]) -> Any:
    """Run in a task of its own, so that the caller's scopes are a parent's."""
    return await asyncio.create_task(work)


def everything_said(error: BaseException) -> str:
    """All that aiodbkit itself tells of an error: text, repr, arguments, notes, attributes."""
    attributes = {name: value for name, value in vars(error).items() if name != "__notes__"}
    notes = getattr(error, "__notes__", [])
    said = "".join(traceback.format_exception_only(error))
    return "\n".join([str(error), repr(error), repr(error.args), repr(attributes), *notes, said])
