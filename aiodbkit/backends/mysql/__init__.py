"""MySQL and MariaDB, over aiomysql."""

from aiodbkit.backends.mysql.engine import MySQLConnection, MySQLDriver, MySQLEngine

__all__ = ["MySQLConnection", "MySQLDriver", "MySQLEngine"]
