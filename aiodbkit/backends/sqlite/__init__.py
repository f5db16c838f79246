"""SQLite: over aiosqlite."""

from aiodbkit.backends.sqlite.blob import Blob
from aiodbkit.backends.sqlite.engine import SQLiteEngine
from aiodbkit.backends.sqlite.fts import FullText, fts_query

__all__ = ["Blob", "FullText", "SQLiteEngine", "fts_query"]
