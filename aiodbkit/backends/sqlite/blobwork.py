"""Blobs on the thread of their connection."""

from __future__ import annotations

import sqlite3
from typing import Any

from aiodbkit.backends.sqlite.worker import Job
from aiodbkit.errors import InterfaceError

__all__ = ["close_blob", "open_blob", "read_blob", "write_blob"]


def open_blob(
    db: sqlite3.Connection,
    _job: Job,
    *,
    where: tuple[str, str, int, str],
    read_only: bool,
    open_ones: set[Any],
) -> tuple[sqlite3.Blob, int]:
    """Open a value; return it and its size."""
    table, column, rowid, schema = where
    blob = db.blobopen(table, column, rowid, readonly=read_only, name=schema)
    open_ones.add(blob)
    return blob, len(blob)


def read_blob(
    _db: sqlite3.Connection,
    _job: Job,
    *,
    blob: sqlite3.Blob,
    start: int,
    size: int,
    open_ones: set[Any],
) -> bytes:
    """Read ``size`` bytes from ``start``."""
    _refuse_unless_open(blob, open_ones)
    blob.seek(start)
    return blob.read(size)


def write_blob(
    _db: sqlite3.Connection,
    _job: Job,
    *,
    blob: sqlite3.Blob,
    start: int,
    data: bytes,
    open_ones: set[Any],
) -> None:
    """Write at ``start``."""
    _refuse_unless_open(blob, open_ones)
    blob.seek(start)
    blob.write(data)


def close_blob(
    _db: sqlite3.Connection, _job: Job, *, blob: sqlite3.Blob, open_ones: set[Any]
) -> None:
    """Close a value."""
    blob.close()
    open_ones.discard(blob)


def _refuse_unless_open(blob: sqlite3.Blob, open_ones: set[Any]) -> None:
    if blob not in open_ones:
        raise InterfaceError(
            "this blob has been closed: with its transaction, or because a statement beside it "
            "was interrupted"
        )
