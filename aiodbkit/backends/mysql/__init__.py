"""MySQL and MariaDB: over aiomysql or asyncmy."""

from aiodbkit.backends.mysql.engine import MySQLEngine

__all__ = ["MySQLEngine"]
