"""insert_many into a Table: its types convert the values, its Python-side defaults fill them up."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON
from sqlalchemy.sql.selectable import TableClause

from aiodbkit.core_statements.defaults import Context, constant
from aiodbkit.core_statements.dialects import bulk_types, settle
from aiodbkit.core_statements.plans import converted
from aiodbkit.core_statements.refusals import refusal
from aiodbkit.errors import ProgrammingError
from aiodbkit.inserting import rows_in_order

if TYPE_CHECKING:
    from aiodbkit.verbs import Verbs

__all__ = ["insert_many"]


async def insert_many(
    verbs: Verbs, table: Any, rows: Any, columns: Any, timeout: float | None
) -> int:
    """Insert rows into a Table, by the backend's fastest safe way.

    Raises:
        ProgrammingError: it is no Table, or has not such a column.
        DataError: a column's type refuses a value.
    """
    if not isinstance(table, TableClause):
        accepted = "insert_many(): a table is named by a str, or is a Table of SQLAlchemy"
        raise refusal(accepted, table, "give its __table__" if hasattr(table, "__table__") else "")
    schema = getattr(table, "schema", None)
    name = f"{schema}.{table.name}" if schema else table.name
    keys = None if columns is None else [_key(column) for column in columns]
    given, ordered = await rows_in_order(name, rows, keys)
    if not given:
        return 0
    dialect = await settle(verbs, timeout)
    arrange = _Arrange(name, table, given, bulk_types(verbs, dialect))
    made = (
        arrange.each_async(ordered) if isinstance(ordered, AsyncIterable) else arrange.each(ordered)
    )
    return await verbs.insert_many(name, made, columns=arrange.names, timeout=timeout)


def _key(column: Any) -> str:
    return str(getattr(column, "key", column))


class _Arrange:
    """Makes the driver's values of each row's, and adds those of the defaults."""

    def __init__(self, name: str, table: TableClause, keys: Sequence[str], dialect: Any) -> None:
        self._name, self._keys = name, list(keys)
        missing = [key for key in keys if key not in table.c]
        if missing:
            raise ProgrammingError(
                f"insert_many({name!r}): the Table has no column {', '.join(missing)}; it has "
                f"{', '.join(table.c.keys())}"
            )
        columns = [table.c[key] for key in keys]
        self._context = Context(None, dialect)
        self._defaults: list[tuple[Any, Any]] = [
            (column, column.default)
            for column in table.c
            if column.key not in keys and self._is_filled(column)
        ]
        columns += [column for column, _ in self._defaults]
        self.names = [column.name for column in columns]
        self._processors = [
            (place, column.name, process)
            for place, column in enumerate(columns)
            if (process := _processor(column, dialect)) is not None
        ]
        self._number = -1
        self._sql = f"insert_many: {name}"

    def _is_filled(self, column: Any) -> bool:
        default = column.default
        if default is None or (not constant(default) and not default.is_callable):
            self._refuse(column)
            return False
        return True

    def _refuse(self, column: Any) -> None:
        if getattr(column.default, "is_clause_element", False):
            raise ProgrammingError(
                f"insert_many({self._name!r}): the default of the column {column.name} is an SQL "
                "expression: give its values, make it a server_default, or use "
                "execute_many(insert(table), rows)"
            )

    def each(self, rows: Any) -> Iterator[Sequence[Any]]:
        for row in rows:
            yield self._arranged(row)

    async def each_async(self, rows: AsyncIterable[Any]) -> AsyncIterator[Sequence[Any]]:
        async for row in rows:
            yield self._arranged(row)

    def _arranged(self, row: Sequence[Any]) -> Sequence[Any]:
        self._number += 1
        if not self._processors and not self._defaults:
            return row
        values = list(row)
        if self._defaults:
            values += self._filled(values)
        for place, name, process in self._processors:
            where = "row", self._number, "column", name
            values[place] = converted(process, values[place], self._sql, *where)
        return values

    def _filled(self, values: list[Any]) -> list[Any]:
        current = dict(zip(self._keys, values, strict=True))
        for column, default in self._defaults:
            if default.is_callable:
                current[column.key] = self._context.call(column, default, current)
            else:
                current[column.key] = default.arg
        return [current[column.key] for column, _ in self._defaults]


def _processor(column: Any, dialect: Any) -> Callable[[Any], Any] | None:
    process: Callable[[Any], Any] | None = column.type._cached_bind_processor(dialect)
    if dialect.name != "postgresql" or not isinstance(column.type.dialect_impl(dialect), JSON):
        return process

    def refuse_json_null(value: Any) -> Any:
        if value is JSON.NULL:
            raise ValueError("JSON.NULL")
        return value if process is None else process(value)

    return refuse_json_null
