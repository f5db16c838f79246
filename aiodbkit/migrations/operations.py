"""Changes of tables, the same on every database; for a migration in Python, or anywhere.

Each takes an engine, a connection or a session. Names are quoted as they stand; a table's may have
a schema before a dot. The names of the operations are those of Peewee's migrator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from aiodbkit.errors import ProgrammingError
from aiodbkit.inspection import Table, dialect_of, engine_of, tables
from aiodbkit.migrations.definitions import (
    with_column,
    with_nullability,
    with_nullable,
    without_column,
)
from aiodbkit.migrations.rebuilding import rebuild
from aiodbkit.sql import Dialect

__all__ = [
    "add_column",
    "add_index",
    "add_not_null",
    "drop_column",
    "drop_index",
    "drop_not_null",
    "rename_column",
    "rename_table",
]

_LONGEST = 63  # bytes of a name on PostgreSQL; MySQL has 64 characters, SQLite no bound


async def add_column(db: Any, table: str, column: str, definition: str) -> None:
    """Add a column: ``await add_column(db, "users", "team", "integer references teams (id)")``.

    Where SQLite refuses (UNIQUE, a default that is an expression), the table is rebuilt.

    Args:
        db: an engine, a connection or a session.
        table: its name.
        column: the name of the new one.
        definition: the type and what comes after it, as SQL.
    """
    name = _quote(db, column)
    sql = f"alter table {_quote_table(db, table)} add column {name} {definition}"
    if _dialect(db) is not Dialect.SQLITE:
        await db.execute_script(sql)
        return
    known = await _table(db, table)
    if any(each.name.lower() == column.lower() for each in known.columns):
        raise ProgrammingError(f"table {table} has a column {column!r}", table=table, column=column)
    try:
        await db.execute_script(sql)
    except ProgrammingError:  # nothing was done
        await rebuild(db, table, with_column(f"{name} {definition}"), call="add_column")


async def drop_column(db: Any, table: str, column: str) -> None:
    """Drop a column, together with the indexes and the constraints of its own table that have it.

    Where SQLite refuses, the table is rebuilt.

    Raises:
        ProgrammingError: there is no such column.
    """
    known = await _table(db, table)
    known.column(column)
    sql = f"alter table {_quote_table(db, table)} "
    drop = f"drop column {_quote(db, column)}"
    dialect = _dialect(db)
    if dialect is Dialect.POSTGRES:
        await db.execute(sql + drop)
    elif dialect is Dialect.MYSQL:  # which would keep an index on the columns that are left
        keys = [key.name or "" for key in known.foreign_keys if column in key.columns]
        indexes = [index.name for index in known.indexes if column in index.columns]
        await db.execute(
            sql
            + ", ".join(
                [
                    *(f"drop foreign key {_quote(db, name)}" for name in keys),
                    *(f"drop index {_quote(db, name)}" for name in indexes),
                    drop,
                ]
            )
        )
    else:
        try:
            await db.execute(sql + drop)
        except ProgrammingError:  # nothing was done
            await rebuild(db, table, without_column(column), dropped=column, call="drop_column")


async def rename_column(db: Any, table: str, column: str, name: str) -> None:
    """Rename a column; keys, indexes and constraints follow."""
    await db.execute(
        f"alter table {_quote_table(db, table)} "
        f"rename column {_quote(db, column)} to {_quote(db, name)}"
    )


async def rename_table(db: Any, table: str, name: str) -> None:
    """Rename a table, within its schema; foreign keys to it follow."""
    await db.execute(f"alter table {_quote_table(db, table)} rename to {_quote(db, name)}")


async def add_index(
    db: Any, table: str, columns: Sequence[str], *, unique: bool = False, name: str | None = None
) -> str:
    """Add an index; return its name, by default that of the table with those of the columns.

    Raises:
        ProgrammingError: no columns.
        UniqueViolationError: ``unique=True``, and there are duplicates.
    """
    if isinstance(columns, str) or not columns:
        raise ProgrammingError(f'add_index() takes a list of columns, ["a", "b"], not {columns!r}')
    name = name or _index_name(table, columns)
    schema, place = _index_places(db, table, name)
    names = ", ".join(_quote(db, column) for column in columns)
    await db.execute(f"create {'unique ' * unique}index {schema} on {place} ({names})")
    return name


async def drop_index(db: Any, table: str, name: str) -> None:
    """Drop an index of a table by its name."""
    dialect = _dialect(db)
    if dialect is Dialect.MYSQL:
        await db.execute(f"drop index {_quote(db, name)} on {_quote_table(db, table)}")
        return
    *schema, _ = table.split(".")
    await db.execute(f"drop index {_quote_table(db, '.'.join([*schema, name]))}")


async def add_not_null(db: Any, table: str, column: str) -> None:
    """Refuse NULL in a column from now on.

    Raises:
        NotNullViolationError: there are rows with NULL; DataError on MySQL and MariaDB.
        ProgrammingError: there is no such column.
    """
    await _set_null(db, table, column, nullable=False)


async def drop_not_null(db: Any, table: str, column: str) -> None:
    """Allow NULL in a column.

    Raises:
        ProgrammingError: there is no such column.
    """
    await _set_null(db, table, column, nullable=True)


async def _set_null(db: Any, table: str, column: str, *, nullable: bool) -> None:
    known = (await _table(db, table)).column(column)
    if known.nullable is nullable:
        return
    dialect, place = _dialect(db), _quote_table(db, table)
    if dialect is Dialect.POSTGRES:
        what = "drop" if nullable else "set"
        await db.execute(f"alter table {place} alter column {_quote(db, column)} {what} not null")
    elif dialect is Dialect.MYSQL:
        definition = await _mysql_definition(db, place, _quote(db, column))
        changed = with_nullable(definition, dialect, nullable=nullable)
        await db.execute_script(f"alter table {place} modify {changed}")
    else:
        edit = with_nullability(column, nullable=nullable)
        call = "drop_not_null" if nullable else "add_not_null"
        await rebuild(db, table, edit, call=call)


async def _mysql_definition(db: Any, place: str, column: str) -> str:
    """Return a column's definition as it stands in SHOW CREATE TABLE, name included."""
    text: str = await db.fetch_val(f"show create table {place}", column=1)
    line = next(line for line in text.splitlines() if line.strip().startswith(f"{column} "))
    return line.strip().removesuffix(",")


# Names


def _quote(db: Any, name: str) -> str:
    driver = engine_of(db)._driver
    assert driver is not None
    return driver.quote(name)


def _quote_table(db: Any, table: str) -> str:
    return ".".join(_quote(db, part) for part in table.split("."))


def _dialect(db: Any) -> Dialect:
    return dialect_of(engine_of(db))


async def _table(db: Any, table: str) -> Table:
    schema, _, name = table.rpartition(".")
    (found,) = await tables(db, name, schema=schema or None)
    return found


def _index_name(table: str, columns: Sequence[str]) -> str:
    name = "_".join([table.rpartition(".")[2], *columns])
    if len(name.encode()) <= _LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: _LONGEST - 9].decode(errors='ignore')}_{digest}"


def _index_places(db: Any, table: str, name: str) -> tuple[str, str]:
    """Return the names of index and table: SQLite wants the schema before the index's."""
    schema, _, bare = table.rpartition(".")
    if schema and _dialect(db) is Dialect.SQLITE:
        return _quote_table(db, f"{schema}.{name}"), _quote(db, bare)
    return _quote(db, name), _quote_table(db, table)
