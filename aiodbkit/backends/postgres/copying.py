"""COPY for users: what `copy_in` takes from, what `copy_out` writes to, and what is sent for it."""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import re
import secrets
import shutil
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Sequence,
)
from contextlib import aclosing
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeAlias

from aiodbkit.errors import ProgrammingError

__all__ = [
    "CopyFormat",
    "CopyOptions",
    "FileSink",
    "Progress",
    "Sink",
    "call_progress",
    "chunks_of",
    "is_bytes_source",
    "rows_with_progress",
    "sink_for",
]

CopyFormat: TypeAlias = Literal["csv", "text", "binary"]
# Called with the bytes or the rows so far; sync or async.
Progress: TypeAlias = Callable[[int], Any]

_CHUNK = 256 * 1024  # bytes read from a file at once
_ROWS_BETWEEN_REPORTS = 1000
_STATEMENT = re.compile(r"\s*copy\b", re.IGNORECASE)
_TAIL = {
    "in": re.compile(r"\bfrom\s+stdin\b", re.IGNORECASE),
    "out": re.compile(r"\bto\s+stdout\b", re.IGNORECASE),
}


class CopyOptions:
    """The options of a COPY statement, by PostgreSQL's names.

    https://www.postgresql.org/docs/current/sql-copy.html
    """

    def __init__(self, format: CopyFormat, **given: str | bool | None) -> None:  # noqa: A002
        if format not in ("csv", "text", "binary"):
            raise ProgrammingError(f"format={format!r}: csv, text and binary are what COPY knows")
        self._options = {"format": format} | {
            k: v for k, v in given.items() if v not in (None, False)
        }
        if format == "binary" and len(self._options) > 1:
            raise ProgrammingError("format='binary' goes with no other option of COPY")

    def refuse_beside(self, statement: str) -> None:
        """Raise `ProgrammingError` if any was given: a whole COPY says them itself."""
        if len(self._options) > 1:
            given = ", ".join(f"{name}=" for name in self._options if name != "format")
            raise ProgrammingError(
                f"{given} would have no effect: a whole COPY says that itself", query=statement
            )

    def sql(self) -> str:
        """Return what stands behind WITH."""
        parts = (
            f"{name.upper()} {'true' if value is True else _literal(name, value)}"
            for name, value in self._options.items()
        )
        return f"({', '.join(parts)})"

    def into(self, table: str, columns: str) -> str:
        """Return the statement that copies into a table, both quoted; a whole COPY as it stands."""
        return f"COPY {table}{columns} FROM STDIN WITH {self.sql()}"

    def out_of(self, source: str) -> str:
        """Return the statement that copies a query in parentheses, or a quoted table, out."""
        return f"COPY {source} TO STDOUT WITH {self.sql()}"


def _literal(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ProgrammingError(f"{name}= is a text, not {type(value).__name__}")
    doubled = value.replace("'", "''")
    return "E'" + doubled.replace("\\", "\\\\") + "'" if "\\" in value else f"'{doubled}'"


def is_statement(text: object, way: Literal["in", "out"]) -> bool:
    """Whether this is a whole COPY statement, to be sent as it stands."""
    if not isinstance(text, str):
        return False
    return _STATEMENT.match(text) is not None and _TAIL[way].search(text) is not None


# Where bytes and rows come from.


def is_bytes_source(source: object) -> bool:
    """Whether this is surely no iterable of rows: a path, bytes, an open file."""
    return isinstance(source, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(
        source, "read"
    )


async def chunks_of(source: Any, progress: Progress | None) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a path, a file, a bytes-like object or an iterable of such."""
    done = 0
    async with aclosing(_raw_chunks(source)) as chunks:
        async for chunk in chunks:
            data = _as_bytes(chunk)
            yield data
            done += len(data)
            await call_progress(progress, done)


async def _raw_chunks(source: Any) -> AsyncGenerator[Any, None]:
    if isinstance(source, bytes | bytearray | memoryview):
        yield source
    elif isinstance(source, str | os.PathLike):
        async with aclosing(_chunks_of_path(source)) as chunks:
            async for chunk in chunks:
                yield chunk
    elif hasattr(source, "read"):
        read = source.read
        is_async = inspect.iscoroutinefunction(read)
        while chunk := await (read(_CHUNK) if is_async else _in_thread(read, _CHUNK)):
            yield chunk
    elif isinstance(source, AsyncIterable):
        async for chunk in source:
            yield chunk
    else:
        for chunk in source:
            yield chunk


async def _chunks_of_path(path: str | os.PathLike[str]) -> AsyncGenerator[bytes, None]:
    file = await _in_thread(open, path, "rb")
    is_reading = True
    try:
        while chunk := await _in_thread(file.read, _CHUNK):
            is_reading = False
            yield chunk
            is_reading = True
        is_reading = False
    finally:
        if is_reading:  # a thread still is, of a pipe for ever, and close() would wait for it
            _in_thread(file.close)
        else:
            file.close()  # nothing is written: it does not wait for the disk


def _as_bytes(chunk: Any) -> bytes:
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, bytearray | memoryview):
        return bytes(chunk)
    if isinstance(chunk, str):  # a file that was opened as text
        return chunk.encode()
    raise ProgrammingError(
        f"copy_in(): the source gives {type(chunk).__name__} where bytes are expected; for rows "
        "leave format= out"
    )


async def rows_with_progress(
    rows: Iterable[Any] | AsyncIterable[Any], progress: Progress
) -> AsyncIterator[Any]:
    """Yield rows and report how many there were, now and then and at the end."""
    done = 0
    async for row in _each(rows):
        yield row
        done += 1
        if done % _ROWS_BETWEEN_REPORTS == 0:
            await call_progress(progress, done)
    if done % _ROWS_BETWEEN_REPORTS or not done:
        await call_progress(progress, done)


async def _each(rows: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            yield row
    else:
        for row in rows:
            yield row


async def call_progress(progress: Progress | None, done: int) -> None:
    """Tell how far it is."""
    if progress is not None:
        told = progress(done)
        if inspect.isawaitable(told):
            await told


# Where bytes go.


class Sink(Protocol):
    """What takes the bytes of a COPY."""

    async def write(self, data: bytes, /) -> None: ...
    async def finish(self) -> None:
        """All was written."""

    async def discard(self) -> None:
        """It went wrong: nothing of it remains, where that can be."""


def sink_for(to: Any) -> Sink:
    """Return what writes to a path, an open file or a callable.

    Raises:
        ProgrammingError: it is none of these.
    """
    if isinstance(to, str | os.PathLike):
        return FileSink(to)
    if isinstance(to, io.TextIOBase):
        raise ProgrammingError(
            "copy_out(to=...) writes bytes, and this file is open for text: open it with 'wb'"
        )
    if hasattr(to, "write"):
        write = to.write
        if not inspect.iscoroutinefunction(write):
            return _Call(lambda data: _in_thread(write, data))
        return _Call(write)
    if callable(to):
        return _Call(to)
    raise ProgrammingError(
        f"copy_out(to=...) takes a path, an open file or a callable, not {type(to).__name__}"
    )


class _Call:
    """A function of the caller's, sync or async; what it did with the bytes is its own affair."""

    def __init__(self, call: Callable[[bytes], Any]) -> None:
        self._call = call

    async def write(self, data: bytes) -> None:
        done = self._call(data)
        if inspect.isawaitable(done):
            await done

    async def finish(self) -> None:
        pass

    async def discard(self) -> None:
        pass


class FileSink:
    """A file that is there when all of it is: until then it has another name beside it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).resolve()
        self._is_special = self._path.exists() and not self._path.is_file()  # a pipe, a device
        part = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.part")
        self._written = self._path if self._is_special else part
        self._file: IO[bytes] | None = None
        self._last: asyncio.Future[Any] | None = None  # what a thread may still be at

    async def write(self, data: bytes) -> None:
        await self._do(self._write, data)

    async def finish(self) -> None:
        await self._do(self._keep)

    async def discard(self) -> None:
        if self._is_special:  # a pipe may never take what a thread is writing to it
            for left in (self._last, _in_thread(self._drop)):
                if left is not None:
                    left.add_done_callback(_heard)
            return
        if self._last is not None and not self._last.done():
            await asyncio.wait((self._last,))
        await self._do(self._drop)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._file = self._written.open("wb")
            if not self._is_special and self._path.exists():
                shutil.copymode(self._path, self._written)
        return self._file

    def _write(self, data: bytes) -> None:
        self._opened().write(data)

    def _keep(self) -> None:
        self._opened().close()
        if not self._is_special:
            self._written.replace(self._path)

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
            if not self._is_special:
                self._written.unlink(missing_ok=True)

    async def _do(self, call: Callable[..., Any], *args: Any) -> None:
        self._last = asyncio.get_running_loop().run_in_executor(None, call, *args)
        await asyncio.wait((self._last,))  # cancelled, it leaves the future to the thread
        self._last.result()


def _heard(done: asyncio.Future[Any]) -> None:
    """Fetch the error that nobody waits for, so that asyncio does not report it."""
    if not done.cancelled():
        done.exception()


def _in_thread(call: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    return asyncio.get_running_loop().run_in_executor(None, call, *args)


def column_list(columns: Sequence[str] | None, quote: Callable[[str], str]) -> str:
    """Return ``" (a, b)"``, or nothing where all columns are meant."""
    if columns is None:
        return ""
    if isinstance(columns, str):
        raise ProgrammingError(f"columns must be a sequence of names, not the str {columns!r}")
    return f" ({', '.join(map(quote, columns))})"
