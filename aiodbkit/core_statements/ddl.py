"""create_all and drop_all: the statements are SQLAlchemy's, the answers and the locks are ours.

SQLAlchemy asks a connection what is there already while it walks through the tables. Here that is
read once beforehand, and what it would execute is written down and run afterwards.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import MetaData, Table
from sqlalchemy import exc as sa_exc
from sqlalchemy.schema import CreateSchema

from aiodbkit.core_statements.dialects import engine_of, settle
from aiodbkit.core_statements.refusals import refusal
from aiodbkit.errors import Error, LockTimeoutError, NotSupportedError, ProgrammingError

if TYPE_CHECKING:
    from aiodbkit.verbs import Verbs

__all__ = ["run"]

# Who creates tables waits for others who do: "is it there" and CREATE would be no one step else.
_LOCK = "aiodbkit.create_all"
_LOCK_NUMBER = 0x61696F64626B6974  # "aiodbkit"
_LOCK_SECONDS = 60

_POSTGRES_OBJECTS = """\
SELECT n.nspname, c.relname AS name, c.relkind::text AS kind,
       pg_catalog.pg_table_is_visible(c.oid) AS is_visible
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_toast|^pg_catalog$|^information_schema$'
UNION ALL
SELECT n.nspname, t.typname, 'type', pg_catalog.pg_type_is_visible(t.oid)
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype IN ('e', 'd') AND n.nspname !~ '^pg_catalog$|^information_schema$'
UNION ALL
SELECT nspname, nspname, 'schema', false FROM pg_catalog.pg_namespace"""
_POSTGRES_KINDS = {"i": "index", "I": "index", "S": "sequence", "type": "type", "schema": "schema"}
_MYSQL_OBJECTS = """\
SELECT table_schema AS nspname, table_name AS name, table_type AS kind,
       table_schema = database() AS is_visible
FROM information_schema.tables
UNION ALL
SELECT table_schema, concat(table_name, '.', index_name), 'INDEX', table_schema = database()
FROM information_schema.statistics"""


@dataclass
class _Existing:
    """What the database has, as (kind, schema or None for where unqualified names lead, name)."""

    found: set[tuple[str, str | None, str]] = field(default_factory=set)
    folds: bool = False  # names are the same in any case

    def add(self, kind: str, schema: str | None, name: str) -> None:
        self.found.add((kind, schema, name.casefold() if self.folds else name))

    def has(self, kind: str, schema: str | None, name: str) -> bool:
        return (kind, schema, name.casefold() if self.folds else name) in self.found


class _Answers:
    """Mixed into a dialect: answers what SQLAlchemy asks a database, from what was read."""

    def has_table(self, connection: Any, table_name: str, schema: Any = None, **_: Any) -> bool:
        found: bool = connection.existing.has("table", schema, table_name)
        return found

    def has_multi_table(
        self, connection: Any, table_names: Any, schema: Any = None, **_: Any
    ) -> dict[Any, bool]:
        return {(schema, name): self.has_table(connection, name, schema) for name in table_names}

    def has_index(
        self, connection: Any, table_name: str, index_name: str, schema: Any = None, **_: Any
    ) -> bool:
        names = (index_name, f"{table_name}.{index_name}")  # MySQL's belong to their tables
        return any(connection.existing.has("index", schema, name) for name in names)

    def has_sequence(
        self, connection: Any, sequence_name: str, schema: Any = None, **_: Any
    ) -> bool:
        found: bool = connection.existing.has("sequence", schema, sequence_name)
        return found

    def has_type(self, connection: Any, type_name: str, schema: Any = None, **_: Any) -> bool:
        found: bool = connection.existing.has("type", schema, type_name)
        return found


class _Recorder:
    """What SQLAlchemy takes for a connection: notes what it would execute."""

    def __init__(self, dialect: Any, existing: _Existing) -> None:
        self.dialect = _answering(dialect)
        self.name = dialect.name
        self.engine = self
        self.existing = existing
        self.statements: list[Any] = []

    def connect(self, **_: Any) -> _Recorder:
        return self

    def execution_options(self, **_: Any) -> _Recorder:
        return self

    def get_execution_options(self) -> Mapping[str, Any]:
        return {}

    def schema_for_object(self, thing: Any) -> str | None:
        schema: str | None = thing.schema
        return schema

    def execute(self, statement: Any, parameters: Any = None, **_: Any) -> None:
        self.statements.append((statement, parameters))

    def _run_ddl_visitor(self, visitor: Any, element: Any, **options: Any) -> None:
        visitor(self.dialect, self, **options).traverse_single(element)


def _answering(dialect: Any) -> Any:
    copied: Any = object.__new__(_answering_class(type(dialect)))
    copied.__dict__.update(dialect.__dict__)
    return copied


def _answering_class(base: type) -> type:
    return type(base.__name__, (_Answers, base), {"supports_statement_cache": True})


async def run(
    verbs: Verbs, metadata: Any, tables: Sequence[Any] | None, *, create: bool, checkfirst: bool
) -> None:
    """Create or drop the tables of a MetaData, with what belongs to them.

    Raises:
        ProgrammingError: it is no MetaData, or SQLAlchemy cannot write it.
        NotSupportedError: inside a transaction that the database's DDL would commit.
        LockTimeoutError: another create_all took longer than a minute.
    """
    if not isinstance(metadata, MetaData):
        holds = isinstance(getattr(metadata, "metadata", None), MetaData)
        accepted = "create_all() and drop_all() take a MetaData of SQLAlchemy"
        raise refusal(accepted, metadata, "give its metadata" if holds else "")
    tables = None if tables is None else list(tables)
    for table in tables or ():
        if not isinstance(table, Table):
            cure = "give its __table__" if hasattr(table, "__table__") else ""
            raise refusal("tables=[...] are Tables of SQLAlchemy", table, cure)
    dialect = await settle(verbs, None)
    async with _alone(verbs, dialect) as inside:
        existing = await _read(inside, dialect) if checkfirst else _Existing()
        recorder = _Recorder(dialect, existing)
        if create and checkfirst and dialect.name == "postgresql":
            _create_schemas(recorder, metadata, tables)
        work = metadata.create_all if create else metadata.drop_all
        try:
            work(recorder, tables=tables, checkfirst=checkfirst)  # type: ignore[arg-type]
        except sa_exc.SQLAlchemyError as error:
            raise ProgrammingError(f"{work.__name__}(): {error.args[0]}") from error
        for statement, params in recorder.statements:
            await inside.execute(statement, params)


def _create_schemas(recorder: _Recorder, metadata: MetaData, tables: Sequence[Any] | None) -> None:
    chosen = metadata.tables.values() if tables is None else tables
    for schema in dict.fromkeys(table.schema for table in chosen if table.schema):
        if not recorder.existing.has("schema", schema, schema):
            recorder.execute(CreateSchema(schema))


@asynccontextmanager
async def _alone(verbs: Any, dialect: Any) -> AsyncIterator[Any]:
    """Keep other create_all away: by SQLite's write lock, PostgreSQL's and MySQL's named locks."""
    if not hasattr(verbs, "transaction"):
        raise NotSupportedError(
            "create_all() and drop_all() run on an engine, a connection or a session: a shared "
            "connection has no transactions"
        )
    is_open = _is_in_transaction(verbs)
    if dialect.name == "mysql":
        if is_open:
            raise NotSupportedError(
                "create_all() and drop_all() inside a transaction: MySQL's DDL would commit it; "
                "call them before it begins"
            )
        async with _mysql_lock(verbs) as inside:
            yield inside
        return
    takes_lock = dialect.name == "sqlite" and not is_open
    async with verbs.transaction(**({"mode": "immediate"} if takes_lock else {})):
        if dialect.name == "postgresql":
            await verbs.execute(f"SELECT pg_catalog.pg_advisory_xact_lock({_LOCK_NUMBER})")
        yield verbs


def _is_in_transaction(verbs: Any) -> bool:
    if hasattr(verbs, "in_transaction"):
        is_session = hasattr(verbs, "set_rollback_only")
        return is_session or bool(verbs.in_transaction)
    return engine_of(verbs)._is_in_transaction()


@asynccontextmanager
async def _mysql_lock(verbs: Any) -> AsyncIterator[Any]:
    if not hasattr(verbs, "in_transaction"):  # an engine: the lock is a connection's
        async with verbs.connection() as connection, _mysql_lock(connection):
            yield connection
        return
    taken = await verbs.fetch_val(f"SELECT get_lock('{_LOCK}', {_LOCK_SECONDS})")
    if taken != 1:
        raise LockTimeoutError(
            f"another create_all() or drop_all() held the lock for {_LOCK_SECONDS} s"
        )
    release = f"SELECT release_lock('{_LOCK}')"
    try:
        yield verbs
    except Exception:
        # What failed is to be told; a lost connection has released it by itself.
        with suppress(Error):
            await verbs.fetch_val(release)
        raise
    await verbs.fetch_val(release)


async def _read(verbs: Any, dialect: Any) -> _Existing:
    if dialect.name == "sqlite":
        return await _read_sqlite(verbs)
    if dialect.name == "postgresql":
        existing = _Existing()
        for schema, name, kind, is_visible in await verbs.fetch_all(_POSTGRES_OBJECTS):
            _note(existing, _POSTGRES_KINDS.get(kind, "table"), schema, name, is_visible)
        return existing
    folds = await verbs.fetch_val("SELECT @@lower_case_table_names")
    existing = _Existing(folds=bool(folds))
    for schema, name, kind, is_visible in await verbs.fetch_all(_MYSQL_OBJECTS):
        known = {"INDEX": "index", "SEQUENCE": "sequence"}.get(kind, "table")
        _note(existing, known, schema, name, is_visible)
    return existing


def _note(existing: _Existing, kind: str, schema: str, name: str, is_visible: object) -> None:
    existing.add(kind, schema, name)
    if is_visible:
        existing.add(kind, None, name)


async def _read_sqlite(verbs: Any) -> _Existing:
    existing = _Existing(folds=True)
    for schema in await verbs.fetch_column("SELECT name FROM pragma_database_list"):
        quoted = '"' + schema.replace('"', '""') + '"'
        for name, kind in await verbs.fetch_all(f"SELECT name, type FROM {quoted}.sqlite_master"):  # noqa: S608
            known = "index" if kind == "index" else "table"
            existing.add(known, schema, name)
            if schema in ("main", "temp"):
                existing.add(known, None, name)
    return existing
