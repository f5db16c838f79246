"""The SQLite that the tests' driver is over.

Two libraries in one process do not see each other's locks, so a test that stands for another
process has to use the engine's.
"""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Callable
from typing import Any

from tests.servers.environment import driver_of

__all__ = [
    "CAUSE",
    "DRIVER",
    "IS_APSW",
    "MEMORY",
    "NAME",
    "SCHEME",
    "call_with_each_statement",
    "change_rows",
    "on_raw",
    "opened",
    "path_of",
    "raw_connection",
]

NAME = driver_of("sqlite")
IS_APSW = NAME == "apsw"
SCHEME = "sqlite+apsw" if IS_APSW else "sqlite"
# Its class, as a statement that imports it.
DRIVER = (
    "from aiodbkit.backends.sqlite.apsw.driver import APSWDriver as SQLiteDriver"
    if IS_APSW
    else "from aiodbkit.backends.sqlite.driver import SQLiteDriver"
)
MEMORY = f"{SCHEME}://"

if IS_APSW:
    import apsw

    CAUSE: type[Exception] = apsw.Error
else:
    CAUSE = sqlite3.Error


def path_of(url: str) -> str:
    """The file of an engine's URL."""
    return url.partition(":///")[2]


def opened(path: Any) -> Any:
    """A connection with the methods of sqlite3's; it waits for no lock, and begins nothing."""
    if not IS_APSW:
        return sqlite3.connect(path, isolation_level=None, timeout=0)
    from aiodbkit.backends.sqlite.apsw.connection import open_handle

    return open_handle(str(path), is_uri=False)


async def raw_connection(path: Any) -> Any:
    """What a ``connection_factory`` returns."""
    if IS_APSW:
        return apsw.Connection(str(path))
    import aiosqlite

    return await aiosqlite.connect(path)


def change_rows(raw: Any) -> None:
    """Let the driver's own connection return rows that are no tuples."""
    if IS_APSW:
        raw.row_trace = lambda _, row: list(row)
    else:
        raw.row_factory = sqlite3.Row


async def call_with_each_statement(raw: Any, call: Callable[[str], None]) -> None:
    """Call a function on the connection's thread, before each statement."""
    if IS_APSW:
        raw.exec_trace = lambda _cursor, sql, _args: call(sql) is None
    else:
        await raw.set_trace_callback(call)


async def on_raw(call: Any, *args: Any) -> Any:
    """Call a method of the driver's own connection, which may be async."""
    result = call(*args)
    return await result if inspect.isawaitable(result) else result
