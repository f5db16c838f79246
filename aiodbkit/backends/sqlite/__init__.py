"""SQLite, over aiosqlite."""

from aiodbkit.backends.sqlite.engine import SQLiteConnection, SQLiteDriver, SQLiteEngine

__all__ = ["SQLiteConnection", "SQLiteDriver", "SQLiteEngine"]
