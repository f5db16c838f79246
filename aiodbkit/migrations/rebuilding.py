"""SQLite: what ALTER TABLE cannot do is done by a new table that takes the place of the old one.

The steps are those of https://www.sqlite.org/lang_altertable.html#otheralter.
"""

# ruff: noqa: S608 - names are quoted

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiodbkit.engine import Engine
from aiodbkit.errors import Error, ForeignKeyViolationError, NotSupportedError, ProgrammingError
from aiodbkit.inspection import engine_of
from aiodbkit.migrations.definitions import Definition, Edit, names_in
from aiodbkit.sql import Dialect, blank

__all__ = ["ForeignKeysError", "rebuild", "without_foreign_keys"]

_REFERRERS = """\
select distinct t.name from pragma_table_list t, pragma_foreign_key_list(t.name) f
where t.schema = 'main' and lower(f."table") = lower(:table) order by t.name"""
_ORPHANS = 'select "table", parent, count(*) from pragma_foreign_key_check() group by 1, 2'
_BELONGINGS = """\
select type, name, sql from sqlite_master
where tbl_name = :table and type in ('index', 'trigger') and sql is not null"""


class ForeignKeysError(NotSupportedError):
    """Raised when foreign keys are in the way of a rebuild, and it is too late to turn them off."""


async def rebuild(
    db: Any, table: str, edit: Edit, *, call: str, dropped: str | None = None
) -> None:
    """Make a table anew, as ``edit`` has it, with its rows, indexes and triggers: all or nothing.

    Args:
        db: an engine, a connection or a session.
        table: its name.
        edit: changes its definition.
        call: the name of the operation, for messages.
        dropped: the column that ``edit`` leaves out; indexes that have it are left out, too.

    Raises:
        ForeignKeysError: other tables refer to it, in a transaction in which foreign keys are on.
        NotSupportedError: a table of an attached database.
    """
    schema, _, name = table.rpartition(".")
    if schema not in ("", "main"):
        raise NotSupportedError(
            f"{call}(): {table} would have to be rebuilt, which is done in the main database only",
            table=table,
        )
    async with _held(db) as held, _transaction(held, name, call):
        await _rebuild(held, name, edit, dropped)


@asynccontextmanager
async def without_foreign_keys(db: Any) -> AsyncIterator[None]:
    """A transaction in which foreign keys are off, and are checked before it commits.

    Raises:
        ForeignKeysError: they stay on, as something has begun a transaction around it.
        ForeignKeyViolationError: at its end: rows refer to others that are not there any more.
    """
    async with (
        _held(db) as held,
        _set(held, "foreign_keys", 0),
        held.transaction(mode="immediate"),
    ):
        if await held.fetch_val("pragma foreign_keys"):
            raise ForeignKeysError(
                "foreign keys cannot be turned off here: a transaction is open already, as in a "
                "sandbox, and SQLite would delete the rows that refer to the table"
            )
        before = await _orphans(held)
        yield
        _refuse(await _orphans(held) - before)


@asynccontextmanager
async def _held(db: Any) -> AsyncIterator[Any]:
    """One connection for all statements: settings are a connection's."""
    if isinstance(db, Engine):
        async with engine_of(db).connection() as connection:
            yield connection
    else:
        yield db


@asynccontextmanager
async def _transaction(held: Any, table: str, call: str) -> AsyncIterator[None]:
    """A transaction, or a savepoint, in which dropping the table takes no rows of others along."""
    referrers = await held.fetch_column(_REFERRERS, {"table": table})
    if not referrers or not await held.fetch_val("pragma foreign_keys"):
        async with held.transaction():
            yield
        return
    if hasattr(held, "set_rollback_only") or held.in_transaction:  # a session is always in one
        raise ForeignKeysError(
            f"{call}() has to rebuild the table {table}, which {', '.join(referrers)} refers to, "
            "and in this transaction foreign keys are on: SQLite would delete or refuse those rows "
            "with it. Call it outside of a transaction, or in a migration",
            table=table,
        )
    async with without_foreign_keys(held):
        yield


async def _orphans(held: Any) -> Counter[tuple[str, str]]:
    return Counter({(row[0], row[1]): row[2] for row in await held.fetch_all(_ORPHANS)})


def _refuse(orphans: Counter[tuple[str, str]]) -> None:
    for (table, parent), count in orphans.items():
        raise ForeignKeyViolationError(
            f"{count} rows of {table} refer to rows of {parent} that are not there: foreign keys "
            "were off while a table was rebuilt, and are checked before the commit",
            table=table,
        )


async def _rebuild(held: Any, table: str, edit: Edit, dropped: str | None) -> None:
    table, sql = await held.fetch_one(
        "select name, sql from sqlite_master where type = 'table' and name = :name collate nocase",
        {"name": table},
    )
    definition = edit(Definition.of(sql))
    belongings = await held.fetch_all(_BELONGINGS, {"table": table})
    sequence = await _sequence(held, table)
    old, new = _quote(table), _quote(f"aiodbkit_new_{table}")
    await held.execute_script(f"create table {new} {definition.body()}")
    shared = await _shared_columns(held, table, f"aiodbkit_new_{table}")
    columns = ", ".join(map(_quote, shared))
    await held.execute_script(f"insert into {new} ({columns}) select {columns} from {old}")
    await _replace(held, old, new)
    if sequence is not None:
        await held.execute("delete from sqlite_sequence where name = :name", {"name": table})
        await held.insert_many("sqlite_sequence", [{"name": table, "seq": sequence}])
    for kind, _, text in belongings:
        if kind == "trigger" or dropped is None or not _indexes(text, dropped):
            await held.execute_script(text)
    if dropped is not None:
        await _check_views(held, table, dropped)


async def _replace(held: Any, old: str, new: str) -> None:
    # Without it, renaming would stumble over views and triggers that name the missing table.
    async with _set(held, "legacy_alter_table", 1):
        await held.execute_script(f"drop table {old}")
        await held.execute_script(f"alter table {new} rename to {old}")


@asynccontextmanager
async def _set(held: Any, pragma: str, value: int) -> AsyncIterator[None]:
    """Change a setting for a block. Where it cannot be put back, the connection is given up."""
    was = await held.fetch_val(f"pragma {pragma}")
    try:
        await held.execute(f"pragma {pragma} = {value}")
        yield
    finally:
        try:
            await held.execute(f"pragma {pragma} = {was}")
        except Error:
            _give_up(held)
        except BaseException:  # cancelled once more
            _give_up(held)
            raise


def _give_up(held: Any) -> None:
    connection = held if hasattr(held, "_driver") else held._held  # a session's
    if connection is not None:
        connection._driver.abort()


async def _sequence(held: Any, table: str) -> int | None:
    """Return the highest number that AUTOINCREMENT has given."""
    if not await held.fetch_val("select 1 from sqlite_master where name = 'sqlite_sequence'"):
        return None
    sql = "select seq from sqlite_sequence where name = :name"
    found: int | None = await held.fetch_val(sql, {"name": table})
    return found


async def _shared_columns(held: Any, old: str, new: str) -> Sequence[str]:
    """Return the columns of both that are stored."""
    sql = "select name from pragma_table_xinfo(:table) where hidden = 0"
    there = await held.fetch_column(sql, {"table": new})
    return [name for name in await held.fetch_column(sql, {"table": old}) if name in there]


async def _check_views(held: Any, table: str, dropped: str) -> None:
    """Fail where a view needs what is gone, as ALTER TABLE would have done."""
    views = await held.fetch_all("select name, sql from sqlite_master where type = 'view'")
    for name, text in views:
        if table.lower() not in names_in(text):
            continue
        await held.fetch_all(f"select * from {_quote(name)} limit 0")
        if _quote(dropped).lower() in text.lower():  # SQLite would take it for text from now on
            raise ProgrammingError(f"the view {name} needs the column {dropped!r}", column=dropped)


def _indexes(index: str, column: str) -> bool:
    """Whether an index has a column, in an expression or in its WHERE too."""
    start = blank(index, Dialect.SQLITE).index("(")
    return column.lower() in names_in(index[start:])


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
