"""SQLAlchemy Core statements, accepted wherever SQL text is.

The verbs come here with whatever is no plain `str`. SQLAlchemy is imported by the modules beside
this one, with the first statement of it. What runs in the end is text, by the same verbs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from aiodbkit.core_statements.refusals import refusal
from aiodbkit.driver import Params
from aiodbkit.errors import ProgrammingError

if TYPE_CHECKING:
    from aiodbkit.stream import Stream
    from aiodbkit.verbs import Verbs

__all__ = [
    "SQL",
    "CoreMetaData",
    "CoreStatement",
    "CoreTable",
    "bound",
    "insert_into",
    "iterate",
    "run",
    "schema",
    "script",
    "statement_text",
]


class CoreStatement(Protocol):
    """What type checkers take for a statement of SQLAlchemy, installed or not."""

    def get_execution_options(self) -> Mapping[str, Any]: ...


class CoreTable(Protocol):
    """What type checkers take for a Table of SQLAlchemy."""

    @property
    def primary_key(self) -> Any: ...

    @property
    def columns(self) -> Any: ...


class CoreMetaData(Protocol):
    """What type checkers take for a MetaData of SQLAlchemy."""

    @property
    def sorted_tables(self) -> Sequence[Any]: ...


SQL: TypeAlias = str | CoreStatement


async def run(verbs: Verbs, verb: str, sql: object, params: Any, **options: Any) -> Any:
    """Do what a verb does with SQL that is no plain `str`.

    Raises:
        ProgrammingError: it is no SQL.
    """
    if isinstance(sql, str):
        return await getattr(verbs, verb)(str.__str__(sql), params, **options)
    _refuse_unless_core(sql)
    from aiodbkit.core_statements import running  # noqa: PLC0415 - imports SQLAlchemy

    return await getattr(running, verb)(verbs, sql, params, **options)


def iterate(verbs: Verbs, sql: object, params: Params, into: Any, **options: Any) -> Stream[Any]:
    """Do what `iterate` does with SQL that is no plain `str`."""
    if isinstance(sql, str):
        return verbs.iterate(str.__str__(sql), params, into=into, **options)
    _refuse_unless_core(sql)
    from aiodbkit.core_statements import running  # noqa: PLC0415 - imports SQLAlchemy

    return running.iterate(verbs, sql, params, into, **options)


async def bound(
    verbs: Verbs, sql: object, params: Any, timeout: float | None = None
) -> tuple[str, Any, float | None]:
    """Return text and parameters of a statement that is run as a part of another, as of EXPLAIN.

    The third is what is left of the time: for SQLAlchemy the database may have to be asked.

    Raises:
        ProgrammingError: it is no SQL.
    """
    if isinstance(sql, str):
        return str.__str__(sql), params, timeout
    _refuse_unless_core(sql)
    from aiodbkit.core_statements import running  # noqa: PLC0415 - imports SQLAlchemy

    return await running.bound(verbs, sql, params, timeout)


def script(sql: object) -> str:
    """Return the text of a script.

    Raises:
        ProgrammingError: it is none.
    """
    if isinstance(sql, str):
        return str.__str__(sql)
    what = type(sql).__name__
    raise ProgrammingError(
        f"execute_script() runs SQL text, a str, not {what}; a statement of SQLAlchemy goes to "
        "execute(), each by itself"
    )


async def insert_into(
    verbs: Verbs, table: object, rows: Any, columns: Any, timeout: float | None
) -> int:
    """Do what `insert_many` does with a table that is no plain `str`."""
    if isinstance(table, str):
        name = str.__str__(table)
        return await verbs.insert_many(name, rows, columns=columns, timeout=timeout)
    if not _is_loaded():
        raise refusal("a table is named by a str, or is a Table of SQLAlchemy", table)
    from aiodbkit.core_statements import bulk  # noqa: PLC0415 - imports SQLAlchemy

    return await bulk.insert_many(verbs, table, rows, columns, timeout)


async def schema(
    verbs: Verbs, metadata: object, tables: Sequence[Any] | None, *, create: bool, checkfirst: bool
) -> None:
    """Create or drop the tables of a MetaData."""
    if not _is_loaded():
        raise refusal("create_all() and drop_all() take a MetaData of SQLAlchemy", metadata)
    from aiodbkit.core_statements import ddl  # noqa: PLC0415 - imports SQLAlchemy

    await ddl.run(verbs, metadata, tables, create=create, checkfirst=checkfirst)


def statement_text(verbs: Verbs, sql: object) -> str:
    """Return the SQL text that a statement has on the database of an engine or a connection.

    Lists (``in_``) and literals that are written with each execution stand in it as placeholders.

    Raises:
        ProgrammingError: it is no SQL.
    """
    if isinstance(sql, str):
        return str.__str__(sql)
    _refuse_unless_core(sql)
    from aiodbkit.core_statements import running  # noqa: PLC0415 - imports SQLAlchemy

    return running.statement_text(verbs, sql)


def _is_loaded() -> bool:
    # Whoever has a statement of SQLAlchemy has imported it.
    return "sqlalchemy.sql.base" in sys.modules


def _refuse_unless_core(sql: object) -> None:
    if _is_loaded():
        from sqlalchemy.sql.base import Executable  # noqa: PLC0415

        if isinstance(sql, Executable):
            return
    # A Table and a Column are the one, a mapped class and its attributes the others.
    marks = ("_clone", "__table__", "__clause_element__")
    is_selectable = _is_loaded() and any(hasattr(sql, mark) for mark in marks)
    cure = "select(...) of it is one" if is_selectable else ""
    raise refusal("SQL is a str, or a statement of SQLAlchemy Core", sql, cure)
