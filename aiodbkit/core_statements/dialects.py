"""SQLAlchemy's dialects for our engines: made without an engine of SQLAlchemy, kept by version."""

from __future__ import annotations

import importlib
import re
import sqlite3
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Protocol, cast
from weakref import WeakKeyDictionary

from sqlalchemy import types as sqltypes
from sqlalchemy.dialects.mysql.aiomysql import MySQLDialect_aiomysql
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

from aiodbkit.core_statements.coretypes import MYSQL, SQLITE, Given, postgres_types
from aiodbkit.errors import NotSupportedError

if TYPE_CHECKING:
    from aiodbkit.engine import Engine
    from aiodbkit.verbs import Verbs

__all__ = ["CoreDialect", "bulk_types", "dialect_of", "engine_of", "settle"]

_MAX_PLANS = 1000
_POSTGRES = {  # by our driver's name: SQLAlchemy's module and class for it
    "asyncpg": ("asyncpg", "PGDialect_asyncpg"),
    "psycopg": ("psycopg", "PGDialectAsync_psycopg"),
}

Version = tuple[bool, tuple[int, ...]]  # is it MariaDB, and which version


class CoreDialect(Protocol):
    """What we use of a dialect, and what we have added to it."""

    name: str
    plans: Any  # compiled statements by their key, the least recently used go first
    knows_server: bool
    tells_columns: bool  # the driver decodes what plain columns hold, and expressions not


def engine_of(verbs: Verbs) -> Engine:
    """Return the engine behind an engine, a proxy, a connection or a session."""
    target = getattr(verbs, "_target", None)
    found = target if target is not None else verbs._engine._target  # type: ignore[attr-defined]
    # A ReplicatedEngine has no dialect: its members have.
    return cast("Engine", getattr(found, "primary_engine", found))


def dialect_of(verbs: Verbs) -> Any:
    """Return the dialect; on MySQL a preliminary one until `settle` was called.

    Raises:
        NotSupportedError: SQLAlchemy is not told how to write for this engine.
    """
    engine = engine_of(verbs)
    _ = engine.pool  # refuses a deferred engine
    schemes, driver = engine.schemes, engine._driver_name
    if "sqlite" in schemes:
        options = getattr(engine._driver, "_options", {})
        return _sqlite(tells_columns=options.get("detect_types") != 0)
    if "postgresql" in schemes:
        return _postgres(driver)
    if "mysql" in schemes:
        return _mysql(_versions.get(engine))
    raise NotSupportedError(
        f"statements of SQLAlchemy run on SQLite, PostgreSQL and MySQL engines; a "
        f"{type(engine).__name__} takes SQL text"
    )


async def settle(verbs: Verbs, timeout: float | None) -> Any:
    """Return the dialect. The first time on MySQL, a connection is asked what it connects to."""
    dialect = dialect_of(verbs)
    if not dialect.knows_server:
        limit, engine = verbs._limit(timeout), engine_of(verbs)
        # Not a ReplicatedEngine, to which this would be a write.
        asked: Verbs = verbs if hasattr(verbs, "_engine") else engine
        if (turn := asked._use()) is None:
            turn, _ = await asked._wait(limit)
        with turn as driver:  # nothing is sent: the server's greeting has told it
            told = str(getattr(driver.raw, "server_version", ""))
        _versions[engine] = _version(told)
        return dialect_of(verbs)
    return dialect


_versions: WeakKeyDictionary[Engine, Version] = WeakKeyDictionary()


def _version(told: str) -> Version:
    numbers = re.findall(r"\d+\.\d+\.\d+", told) or ["0.0.0"]
    # MariaDB's greeting may begin with 5.5.5-, for the sake of old replicas.
    number = numbers[1] if numbers[0] == "5.5.5" and len(numbers) > 1 else numbers[0]
    return "mariadb" in told.lower(), tuple(map(int, number.split(".")))


def _ready(dialect: Any, *, knows_server: bool = True, tells_columns: bool = False) -> Any:
    dialect.plans = LRUCache(_MAX_PLANS)
    dialect.knows_server, dialect.tells_columns = knows_server, tells_columns
    return dialect


class _SQLite(SQLiteDialect_pysqlite):
    supports_statement_cache = True
    colspecs = {**SQLiteDialect_pysqlite.colspecs, **SQLITE}  # noqa: RUF012 - as theirs


class _MySQL(MySQLDialect_aiomysql):
    supports_statement_cache = True
    colspecs = {**MySQLDialect_aiomysql.colspecs, **MYSQL}  # noqa: RUF012 - as theirs


@lru_cache(maxsize=2)
def _sqlite(*, tells_columns: bool) -> Any:
    # sqlite3 is given for its version, which the dialect looks at.
    return _ready(_SQLite(dbapi=sqlite3, paramstyle="qmark"), tells_columns=tells_columns)


# What SQLAlchemy's own initialize() finds out of a version.


def _mariadb_can(version: tuple[int, ...]) -> dict[str, bool]:
    return {
        "supports_sequences": version >= (10, 3),
        "insert_returning": version >= (10, 5),
        "supports_native_uuid": version >= (10, 7),
        "_allows_uuid_binds": True,
        "_support_float_cast": version >= (10, 4, 5),
    }


def _mysql_can(version: tuple[int, ...]) -> dict[str, bool]:
    return {
        "supports_for_update_of": version >= (8,),
        "use_mysql_for_share": version >= (8, 0, 1),
        "_requires_alias_for_on_duplicate_key": version >= (8, 0, 20),
        "_support_float_cast": version >= (8, 0, 17),
    }


@lru_cache(maxsize=16)
def _mysql(version: Version | None) -> Any:
    if version is None:
        dialect: Any = _MySQL(paramstyle="format")
        dialect.server_version_info = (0,)
        return _ready(dialect, knows_server=False)
    is_mariadb, number = version
    dialect = _MySQL(paramstyle="format", is_mariadb=is_mariadb)
    dialect.server_version_info = number
    for name, value in (_mariadb_can if is_mariadb else _mysql_can)(number).items():
        if not isinstance(getattr(_MySQL, name, None), property):  # 2.0 finds some by itself
            setattr(dialect, name, value)
    return _ready(dialect)


@cache
def _postgres(driver: str) -> Any:
    module, name = _POSTGRES.get(driver, _POSTGRES["asyncpg"])
    base = getattr(importlib.import_module(f"sqlalchemy.dialects.postgresql.{module}"), name)
    compiler = base.statement_compiler
    made = type(
        f"_Postgres_{module}",
        (base,),
        {
            "supports_statement_cache": True,
            "supports_native_json_serialization": False,
            "colspecs": {**base.colspecs, **postgres_types(base.colspecs)},
            "statement_compiler": type("PostgresCompiler", (_JSONAsText, compiler), {}),
        },
    )
    try:
        dbapi = base.import_dbapi()  # ranges and bit strings are the driver's own types
    except ImportError:
        dbapi = None
    dialect: Any = made(dbapi=dbapi, paramstyle="numeric_dollar")
    dialect._backslash_escapes = False  # standard_conforming_strings is on
    return _ready(dialect)


class _JSONAsText:
    """Sends JSON as text, which a codec for JSON on the connection leaves alone."""

    def render_bind_cast(self, type_: Any, dbapi_type: Any, sqltext: str) -> str:
        if isinstance(dbapi_type, sqltypes.JSON):
            sqltext = f"{sqltext}::TEXT"
        text: str = super().render_bind_cast(type_, dbapi_type, sqltext)  # type: ignore[misc]
        return text


@cache
def _postgres_bulk(driver: str) -> Any:
    base = type(_postgres(driver))
    # COPY has no casts: the driver writes JSON itself.
    plain = {
        kind: type(kind.__name__, (Given, base.colspecs[kind]), {"__module__": __name__})
        for kind in base.colspecs
        if isinstance(kind, type) and issubclass(base.colspecs[kind], sqltypes.JSON)
    }
    made = type(base.__name__, (base,), {"colspecs": {**base.colspecs, **plain}})
    return made(dbapi=_postgres(driver).dbapi, paramstyle="numeric_dollar")


def bulk_types(verbs: Verbs, dialect: Any) -> Any:
    """Return the dialect whose types say what `insert_many` of the driver takes."""
    if dialect.name != "postgresql":
        return dialect
    return _postgres_bulk(engine_of(verbs)._driver_name)
