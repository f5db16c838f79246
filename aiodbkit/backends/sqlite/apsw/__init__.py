"""SQLite over apsw, which brings an SQLite of its own: newer than the one of sqlite3, as a rule."""
