"""Any database that has a DB-API 2.0 module: on worker threads."""

from aiodbkit.backends.dbapi.engine import DBAPIEngine

__all__ = ["DBAPIEngine"]
