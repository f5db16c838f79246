"""What a database says of its tables: columns, keys, indexes, foreign keys.

``await tables(db)`` reads all of them, ``await tables(db, "users")`` those that are named; on
SQLite, PostgreSQL, MySQL and MariaDB, and over a DB-API module of one of these.
"""

# ruff: noqa: S608 - queries are put together from pieces that stand here

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from aiodbkit._text import listed, near
from aiodbkit.connection import Connection
from aiodbkit.engine import Engine
from aiodbkit.errors import InterfaceError, NotSupportedError, ProgrammingError
from aiodbkit.rows import Row
from aiodbkit.session import Session
from aiodbkit.sql import Dialect

__all__ = ["Column", "ForeignKey", "Index", "Table", "dialect_of", "engine_of", "tables"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        name: as it stands in the database.
        type: as declared, in the database's own words; ``""`` where SQLite was told none.
        nullable: whether it takes NULL.
        default: the expression, as the database writes it, or None.
        primary_key: whether it is the primary key or a part of it.
    """

    name: str
    type: str
    nullable: bool
    default: str | None = None
    primary_key: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    """An index, that of a UNIQUE constraint too; the primary key's is left out.

    Attributes:
        name: as it stands in the database.
        columns: in order; the text of an expression, or ``""`` where the database hides it.
        unique: whether it refuses duplicates.
    """

    name: str
    columns: tuple[str, ...]
    unique: bool


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key.

    Attributes:
        name: of the constraint; None on SQLite, which does not tell it.
        columns: those that refer, in order.
        table: the one that is referred to, with its schema where that is another one.
        references: the columns there, in the same order.
        on_delete, on_update: ``"NO ACTION"``, ``"CASCADE"``, ``"SET NULL"``, ...
    """

    name: str | None
    columns: tuple[str, ...]
    table: str
    references: tuple[str, ...]
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        name: as it stands in the database.
        columns: in order.
        primary_key: the names of its columns in the order of the key, empty without one.
        indexes, foreign_keys: by name, or in the order of the database.
    """

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    indexes: tuple[Index, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()

    def column(self, name: str) -> Column:
        """Return a column by its name.

        Raises:
            ProgrammingError: there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        names = [column.name for column in self.columns]
        raise ProgrammingError(
            f"table {self.name} has no column {name!r}{near(name, names)}; it has {listed(names)}",
            table=self.name,
            column=name,
        )


async def tables(
    db: Engine | Connection | Session, *names: str, schema: str | None = None
) -> list[Table]:
    """Return the tables of a database, in the order of their names; views are left out.

    Args:
        db: an engine, a connection or a session.
        names: only these.
        schema: of PostgreSQL, by default the first of the search path; a database of MySQL's, by
            default the current one; of SQLite, ``"main"``.

    Raises:
        ProgrammingError: a table of ``names`` is not there.
        NotSupportedError: nothing is known of the database behind a DB-API module.
    """
    engine = engine_of(db)
    if isinstance(db, Engine):
        # One connection for all questions; the module of a function is known after the first.
        async with engine.connection() as connection:
            return await tables(connection, *names, schema=schema)
    found = await _READERS[dialect_of(engine)](db, schema).read()
    if not names:
        return found
    by_name = {table.name: table for table in found}
    for name in names:
        if name not in by_name:
            raise ProgrammingError(
                f"there is no table {name!r}{near(name, by_name)}; there are {listed(by_name)}",
                table=name,
            )
    return [by_name[name] for name in dict.fromkeys(names)]


def engine_of(db: Any) -> Engine:
    """Return the engine behind an engine, a proxy, a connection or a session.

    That of the primary, where there are replicas.

    Raises:
        InterfaceError: it is none of these.
    """
    found = db if isinstance(db, Engine) else getattr(db, "_engine", None)
    if not isinstance(found, Engine):
        raise InterfaceError(f"an engine, a connection or a session is needed, and {db!r} is none")
    return cast("Engine", getattr(found._target, "primary_engine", found._target))


def dialect_of(engine: Engine) -> Dialect:
    """Return which database an engine is for.

    Raises:
        NotSupportedError: it is of a backend or a module of which nothing is known.
    """
    _ = engine.pool  # refuses a deferred engine
    module = getattr(engine._driver, "_module", None)  # of a DBAPIEngine
    known = {*engine.schemes, getattr(module, "database", "")}
    if "sqlite" in known:
        return Dialect.SQLITE
    if known & {"postgresql", "postgres"}:
        return Dialect.POSTGRES
    if "mysql" in known:
        return Dialect.MYSQL
    raise NotSupportedError(
        f"{engine!r}: only SQLite, PostgreSQL, MySQL and MariaDB can be asked for their tables"
    )


class _Reader:
    """Asks one kind of database. Each query begins its rows with the table's name."""

    tables: str
    columns: str  # table, name, type, nullable, default
    primary_keys: str  # table, column, in the order of the key
    indexes: str  # table, index, column, unique, in order
    foreign_keys: str  # table, key, name, column, other table, its column, on delete, on update

    def __init__(self, db: Any, schema: str | None) -> None:
        self._db = db
        self._schema = schema

    async def read(self) -> list[Table]:
        names = sorted(str(row[0]) for row in await self._ask(self.tables))
        columns = _by_table(await self._ask(self.columns))
        keys = {
            name: tuple(str(row[1]) for row in rows)
            for name, rows in _by_table(await self._ask(self.primary_keys)).items()
        }
        indexes = _by_table(await self._ask(self.indexes))
        foreign = _by_table(await self._ask(self.foreign_keys))
        return [
            Table(
                name,
                tuple(self._column(row, keys.get(name, ())) for row in columns[name]),
                keys.get(name, ()),
                tuple(_indexes(indexes[name])),
                tuple(self._foreign_keys(foreign[name], keys)),
            )
            for name in names
        ]

    async def _ask(self, sql: str) -> list[Row]:
        rows: list[Row] = await self._db.fetch_all(sql, {"schema": self._schema})
        return rows

    def _column(self, row: Sequence[Any], key: Sequence[str]) -> Column:
        _, name, declared, nullable, default = row
        return Column(
            str(name),
            str(declared),
            bool(nullable),
            None if default is None else str(default),
            str(name) in key,
        )

    def _foreign_keys(
        self, rows: Sequence[Any], keys: dict[str, tuple[str, ...]]
    ) -> Iterable[ForeignKey]:
        grouped: dict[Any, list[Any]] = defaultdict(list)
        for row in rows:
            grouped[row[1]].append(row)
        for group in grouped.values():
            _, _, name, _, table, _, on_delete, on_update = group[0]
            references = tuple(row[5] for row in group)
            if None in references:  # SQLite: the primary key, unsaid
                references = keys.get(table, ())
            columns = tuple(row[3] for row in group)
            yield ForeignKey(name, columns, table, references, on_delete, on_update)


def _by_table(rows: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        found[str(row[0])].append(row)
    return found


def _indexes(rows: Sequence[Any]) -> Iterable[Index]:
    grouped: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        grouped[row[1]].append(row)
    for name, group in grouped.items():
        yield Index(name, tuple(row[2] or "" for row in group), bool(group[0][3]))


class _SQLite(_Reader):
    _space = (
        "t.type = 'table' and t.schema = coalesce(:schema, 'main') "
        "and t.name not like 'sqlite\\_%' escape '\\'"
    )
    _columns = "pragma_table_list t, pragma_table_xinfo(t.name, t.schema) c"
    _indexes = "pragma_table_list t, pragma_index_list(t.name, t.schema) i"
    tables = f"select t.name from pragma_table_list t where {_space}"
    # An INTEGER PRIMARY KEY is the row's number; any other may be NULL, unless said otherwise.
    columns = f"""
        select t.name, c.name, c.type,
               not (c."notnull" or (c.pk and (t.wr or t.strict or lower(c.type) = 'integer'))),
               case when c.hidden = 0 then c.dflt_value end
        from {_columns} where {_space} and c.hidden <> 1 order by t.name, c.cid"""
    primary_keys = f"""
        select t.name, c.name from {_columns} where {_space} and c.pk > 0 order by t.name, c.pk"""
    indexes = f"""
        select t.name, i.name, c.name, i."unique"
        from {_indexes}, pragma_index_xinfo(i.name) c
        where {_space} and i.origin <> 'pk' and c.key = 1 order by t.name, i.name, c.seqno"""
    foreign_keys = f"""
        select t.name, f.id, null, f."from", f."table", f."to", f.on_delete, f.on_update
        from pragma_table_list t, pragma_foreign_key_list(t.name, t.schema) f
        where {_space} order by t.name, f.id, f.seq"""


class _Postgres(_Reader):
    _space = "n.nspname = coalesce(cast(:schema as text), current_schema())"
    _of = "pg_class c join pg_namespace n on n.oid = c.relnamespace"
    tables = f"select c.relname::text from {_of} where c.relkind in ('r', 'p') and {_space}"
    columns = f"""
        select c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
               not a.attnotnull,
               case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end
        from {_of} join pg_attribute a on a.attrelid = c.oid
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
        where c.relkind in ('r', 'p') and {_space} and a.attnum > 0 and not a.attisdropped
        order by 1, a.attnum"""
    primary_keys = f"""
        select c.relname::text, a.attname::text
        from {_of} join pg_index i on i.indrelid = c.oid and i.indisprimary
        cross join generate_series(0, i.indnkeyatts - 1) k
        join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[k]
        where {_space} order by 1, k"""
    indexes = f"""
        select c.relname::text, x.relname::text,
               coalesce(a.attname::text, pg_get_indexdef(i.indexrelid, k + 1, true)), i.indisunique
        from {_of} join pg_index i on i.indrelid = c.oid and not i.indisprimary
        join pg_class x on x.oid = i.indexrelid
        cross join generate_series(0, i.indnkeyatts - 1) k
        left join pg_attribute a
            on a.attrelid = c.oid and a.attnum = i.indkey[k] and a.attnum > 0
        where {_space} order by 1, 2, k"""
    _rule = (
        "case o.conf{}type when 'c' then 'CASCADE' when 'n' then 'SET NULL' when 'd' "
        "then 'SET DEFAULT' when 'r' then 'RESTRICT' else 'NO ACTION' end"
    )
    foreign_keys = f"""
        select c.relname::text, o.oid, o.conname::text, a.attname::text,
               case when m.nspname <> n.nspname then m.nspname || '.' else '' end || t.relname,
               b.attname::text, {_rule.format("del")}, {_rule.format("upd")}
        from {_of} join pg_constraint o on o.conrelid = c.oid and o.contype = 'f'
        join pg_class t on t.oid = o.confrelid join pg_namespace m on m.oid = t.relnamespace
        cross join generate_series(1, array_length(o.conkey, 1)) k
        join pg_attribute a on a.attrelid = c.oid and a.attnum = o.conkey[k]
        join pg_attribute b on b.attrelid = t.oid and b.attnum = o.confkey[k]
        where {_space} order by 1, 3, k"""


class _MySQL(_Reader):
    _space = "t.table_schema = coalesce(:schema, database()) and t.table_type = 'BASE TABLE'"
    _of = "information_schema.tables t"
    tables = f"select t.table_name from {_of} where {_space}"
    columns = f"""
        select t.table_name, c.column_name, c.column_type, c.is_nullable = 'YES', c.column_default
        from {_of} join information_schema.columns c using (table_schema, table_name)
        where {_space} order by 1, c.ordinal_position"""
    _statistics = "join information_schema.statistics s using (table_schema, table_name)"
    primary_keys = f"""
        select t.table_name, s.column_name from {_of} {_statistics}
        where {_space} and s.index_name = 'PRIMARY' order by 1, s.seq_in_index"""
    indexes = f"""
        select t.table_name, s.index_name, s.column_name, s.non_unique = 0
        from {_of} {_statistics}
        where {_space} and s.index_name <> 'PRIMARY' order by 1, 2, s.seq_in_index"""
    foreign_keys = f"""
        select t.table_name, k.constraint_name, k.constraint_name, k.column_name,
               concat(if(k.referenced_table_schema = k.table_schema, '',
                         concat(k.referenced_table_schema, '.')), k.referenced_table_name),
               k.referenced_column_name, r.delete_rule, r.update_rule
        from {_of} join information_schema.key_column_usage k
            on k.table_schema = t.table_schema and k.table_name = t.table_name
        join information_schema.referential_constraints r
            on r.constraint_schema = k.constraint_schema
            and r.constraint_name = k.constraint_name and r.table_name = k.table_name
        where {_space} and k.referenced_table_name is not null
        order by 1, 2, k.ordinal_position"""

    def _column(self, row: Sequence[Any], key: Sequence[str]) -> Column:
        *rest, default = row
        # MariaDB writes NULL where there is none.
        return super()._column([*rest, None if default == "NULL" else default], key)


_READERS: dict[Dialect, type[_Reader]] = {
    Dialect.SQLITE: _SQLite,
    Dialect.POSTGRES: _Postgres,
    Dialect.MYSQL: _MySQL,
}
