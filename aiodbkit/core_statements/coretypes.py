"""SQLAlchemy's types over our drivers, which have decoded much before SQLAlchemy sees it.

What is sent is what SQLAlchemy sends, so that its own engines read what ours wrote and the other
way round. What comes back is converted only if it still is what SQLAlchemy expects of a bare
driver. Two things are kept that SQLAlchemy's SQLite loses: the offset of an aware datetime, and
the digits of an integral Decimal beyond a float's.
"""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.dialects.postgresql.json import JSONPathType
from sqlalchemy.engine.interfaces import Dialect

__all__ = ["DECODED", "MYSQL", "SQLITE", "Given", "postgres_types"]

Processor: TypeAlias = Any  # what converts a value, or None; SQLAlchemy has a type for each

# Given as the column's driver type: our driver has decoded what the column holds.
DECODED = "decoded"


def _only(raw: type | tuple[type, ...], process: Processor) -> Processor:
    """Return ``process`` for values that are still raw; others are let through."""
    if process is None:
        return None
    convert = process
    return lambda value: convert(value) if isinstance(value, raw) else value


# Numbers


class _Decimals:
    """Numeric and Float: Decimal or float, whichever the type is declared to return."""

    asdecimal: bool

    def result_processor(self, dialect: Dialect, coltype: object) -> Processor:  # noqa: ARG002
        if not self.asdecimal:
            return lambda value: float(value) if isinstance(value, Decimal) else value
        digits = f"%.{self._effective_decimal_return_scale}f"  # type: ignore[attr-defined]

        def process(value: Any) -> Any:
            if value is None or isinstance(value, Decimal):
                return value
            return Decimal(digits % value) if isinstance(value, float) else Decimal(value)

        return process


class _SQLiteNumbers(_Decimals):
    # As text a Decimal would be greater than any number, where no column gives it an affinity.
    def bind_processor(self, dialect: Dialect) -> Processor:  # noqa: ARG002
        return lambda value: _sqlite_number(value) if isinstance(value, Decimal) else value


def _sqlite_number(value: Decimal) -> int | float:
    if value.is_finite() and value == value.to_integral_value() and abs(value) < 2**63:
        return int(value)
    return float(value)


class _SQLiteNumeric(_SQLiteNumbers, sqltypes.Numeric):  # type: ignore[type-arg]
    pass


class _SQLiteFloat(_SQLiteNumbers, sqltypes.Float):  # type: ignore[type-arg]
    pass


class _MySQLNumeric(_Decimals, mysql.NUMERIC):
    pass


class _MySQLFloat(_Decimals, mysql.FLOAT):
    pass


class _MySQLDouble(_Decimals, mysql.DOUBLE):
    pass


# Times


class _ISO:
    """SQLite's dates and times: text, unless our driver has made a value of it."""

    def bind_processor(self, dialect: Dialect) -> Processor:
        process = super().bind_processor(dialect)  # type: ignore[misc]
        # SQLAlchemy would drop the offset; our driver stores it.
        return lambda value: value if getattr(value, "tzinfo", None) else process(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Processor:
        return _only(str, super().result_processor(dialect, coltype))  # type: ignore[misc]


class _SQLiteDate(_ISO, sqlite.DATE):
    pass


class _SQLiteDateTime(_ISO, sqlite.DATETIME):
    pass


class _SQLiteTime(_ISO, sqlite.TIME):
    pass


class _MySQLTime(mysql.TIME):
    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return _only(timedelta, super().result_processor(dialect, coltype))


class _MySQLBit(mysql.BIT):
    def result_processor(self, dialect: Any, coltype: object) -> Any:
        return _only(bytes, super().result_processor(dialect, coltype))


# Others


class _Uuid(sqltypes.Uuid):  # type: ignore[type-arg]
    def result_processor(self, dialect: Dialect, coltype: object) -> Any:  # noqa: ARG002
        as_uuid = self.as_uuid

        def process(value: Any) -> Any:
            if value is None or (as_uuid and isinstance(value, UUID)):
                return value
            found = value if isinstance(value, UUID) else UUID(value)
            return found if as_uuid else str(found)

        return process


def _loads(value: Any) -> Any:
    if not isinstance(value, (str, bytes)):
        return value
    try:
        return json.loads(value)
    except ValueError:  # a JSON string that the driver has decoded
        return value


class _JSONFromText:
    """JSON that is text to the database, but where our driver knows its columns."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Processor:
        decoded = coltype == DECODED or (dialect.name == "mysql" and _is_mysql(dialect))
        return None if decoded else _loads


def _is_mysql(dialect: Any) -> bool:
    return dialect.knows_server and not dialect.is_mariadb


class _SQLiteJSON(_JSONFromText, sqlite.JSON):
    pass


class _MySQLJSON(_JSONFromText, mysql.JSON):
    pass


class _PostgresPath(JSONPathType):
    """A path into JSON: an array of text to our drivers."""

    def bind_processor(self, dialect: Dialect) -> Processor:  # noqa: ARG002
        return lambda path: path if isinstance(path, str) else [str(step) for step in path or ()]


class _Decoded:
    """JSON of PostgreSQL: sent as text, see `PostgresCompiler`, and decoded by our driver."""

    render_bind_cast = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Processor:  # noqa: ARG002
        return None


class Given:
    """Sent as it is given: what the driver's module would wrap, our driver takes plain."""

    def bind_processor(self, dialect: Dialect) -> Processor:  # noqa: ARG002
        return None


class _PostgresBytes(Given, postgresql.BYTEA):
    render_bind_cast = True


class _PostgresBoolean(sqltypes.Boolean):
    render_bind_cast = True


class _PostgresInterval(postgresql.INTERVAL):
    render_bind_cast = True

    @classmethod
    def adapt_emulated_to_native(  # type: ignore[override] # as SQLAlchemy's own
        cls,
        interval: sqltypes.Interval,
        **kw: Any,  # noqa: ARG003
    ) -> postgresql.INTERVAL:
        return cls(precision=interval.second_precision)


class _PostgresJSON(_Decoded, postgresql.JSON):
    pass


class _PostgresJSONB(_Decoded, postgresql.JSONB):
    pass


SQLITE: dict[type[Any], type[Any]] = {
    sqltypes.Date: _SQLiteDate,
    sqltypes.DateTime: _SQLiteDateTime,
    sqltypes.TIMESTAMP: _SQLiteDateTime,
    sqltypes.Time: _SQLiteTime,
    sqltypes.Numeric: _SQLiteNumeric,
    sqltypes.Float: _SQLiteFloat,
    sqltypes.Uuid: _Uuid,
    sqltypes.JSON: _SQLiteJSON,
}
MYSQL: dict[type[Any], type[Any]] = {
    sqltypes.Time: _MySQLTime,
    sqltypes.Numeric: _MySQLNumeric,
    sqltypes.Float: _MySQLFloat,
    sqltypes.Double: _MySQLDouble,
    sqltypes.Uuid: _Uuid,
    sqltypes.JSON: _MySQLJSON,
    mysql.BIT: _MySQLBit,
}


def postgres_types(colspecs: Any) -> dict[type[Any], type[Any]]:
    """Return what replaces some of a dialect's own types."""

    # With casts, also where a driver of SQLAlchemy tells types by values: ours ask the server.
    cast = {"__module__": __name__, "render_bind_cast": True}

    def decimals(base: type[Any]) -> type[Any]:
        return type(base.__name__, (_Decimals, base), cast)

    return {
        sqltypes.Numeric: decimals(colspecs[sqltypes.Numeric]),
        sqltypes.Float: decimals(colspecs[sqltypes.Float]),
        sqltypes.Boolean: _PostgresBoolean,
        sqltypes.Interval: _PostgresInterval,
        postgresql.INTERVAL: _PostgresInterval,
        sqltypes.LargeBinary: _PostgresBytes,
        sqltypes.JSON: _PostgresJSON,
        sqltypes.JSON.JSONPathType: _PostgresPath,
        postgresql.JSON: _PostgresJSON,
        postgresql.JSONB: _PostgresJSONB,
    }
