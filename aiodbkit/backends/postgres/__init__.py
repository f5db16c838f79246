"""PostgreSQL, over asyncpg."""

from aiodbkit.backends.postgres.engine import PostgresConnection, PostgresDriver, PostgresEngine

__all__ = ["PostgresConnection", "PostgresDriver", "PostgresEngine"]
