"""One value, read and written in place: SQLite's incremental I/O.

https://www.sqlite.org/c3ref/blob_open.html
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiodbkit.connection import Connection
from aiodbkit.engine import Engine
from aiodbkit.errors import DataError, InterfaceError, ReadOnlyError
from aiodbkit.options import count

__all__ = ["Blob", "opened_blob"]


class Blob:
    """A value of one row that is open: a file of fixed size, good until its block ends.

    ``len(blob)`` is its size in bytes.
    """

    def __init__(self, connection: Connection, handle: Any, size: int, *, read_only: bool) -> None:
        self._connection = connection
        self._handle = handle
        self._size = size
        self._place = 0
        self._read_only = read_only

    def __len__(self) -> int:
        return self._size

    def tell(self) -> int:
        """Return the place, in bytes from the beginning, where the next call reads or writes."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, and return it.

        Raises:
            ValueError: it is outside of the value.
        """
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}
        if whence not in base:
            raise ValueError(f"seek(): whence={whence!r} is none of os.SEEK_SET, _CUR and _END")
        place = base[whence] + _whole("seek", offset)
        if not 0 <= place <= self._size:
            raise ValueError(f"seek(): byte {place} is outside of the {self._size} of this value")
        self._place = place
        return place

    async def read(self, size: int = -1) -> bytes:
        """Return the next ``size`` bytes, or all that are left; none at the end.

        Raises:
            InterfaceError: the block, or its transaction, has ended.
            OperationalError: the row was changed or deleted meanwhile.
        """
        left = self._size - self._place
        wanted = left if _whole("read", size) < 0 else min(size, left)
        found: bytes = await self._call("read_blob", self._place, wanted)
        self._place += len(found)
        return found

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write over the next bytes, and return how many.

        Raises:
            DataError: they reach beyond the end: the size of a value is that with which it was
                inserted, as ``zeroblob(size)``.
            ReadOnlyError: it was opened with ``read_only=True``.
            InterfaceError, OperationalError: as `read`.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"write(): bytes are written, not {type(data).__name__}")
        content = bytes(data)
        if self._read_only:
            raise ReadOnlyError(
                "this blob was opened with read_only=True, and is not written",
                is_transient=False,
            )
        if self._place + len(content) > self._size:
            raise DataError(
                f"{len(content)} bytes at {self._place} reach beyond the {self._size} of this "
                "value, which cannot grow: insert it as zeroblob(size), as large as it is to be"
            )
        await self._call("write_blob", self._place, content)
        self._place += len(content)
        return len(content)

    async def chunks(self, size: int = 65536) -> AsyncIterator[bytes]:
        """Yield what is left, ``size`` bytes at a time."""
        count("size", size, least=1)
        while chunk := await self.read(size):
            yield chunk

    async def _call(self, name: str, *args: Any) -> Any:
        if self._handle is None:
            raise InterfaceError("this blob was used after its block: open it where it is needed")
        if (turn := self._connection._use()) is None:
            turn, _ = await self._connection._wait(None)
        with turn as driver:
            return await getattr(driver, name)(self._handle, *args)

    async def _close(self) -> None:
        try:
            if not self._connection.is_closed:
                await self._call("close_blob")
        except InterfaceError:
            pass  # its transaction has ended, and the blob with it
        finally:
            self._handle = None


def _whole(call: str, number: object) -> int:
    if not isinstance(number, int):
        raise TypeError(f"{call}(): a number of bytes is an int, not {type(number).__name__}")
    return number


def _refuse_nonsense(table: object, column: object, rowid: object, schema: object) -> None:
    for name in (table, column, schema):
        if not isinstance(name, str) or "\0" in name:
            raise InterfaceError(
                f"open_blob(): schema, table and column are names, which {name!r} is not"
            )
    if not isinstance(rowid, int):
        raise InterfaceError(f"open_blob(): a rowid is an int, not {type(rowid).__name__}")


@asynccontextmanager
async def opened_blob(
    engine: Engine, table: str, column: str, rowid: int, schema: str, *, read_only: bool
) -> AsyncIterator[Blob]:
    """Open a value for a block, in a transaction if it is to be written."""
    _refuse_nonsense(table, column, rowid, schema)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(engine.connection())
        if not read_only:
            await stack.enter_async_context(connection.transaction())
        if (turn := connection._use()) is None:
            turn, _ = await connection._wait(None)
        with turn as driver:
            opening: Any = driver
            handle, size = await opening.open_blob(
                table, column, rowid, schema=schema, read_only=read_only
            )
        blob = Blob(connection, handle, size, read_only=read_only)
        try:
            yield blob
        finally:
            # Cancelled here it is closed with the transaction, or before the next borrower.
            await blob._close()
