"""Python-side defaults of columns, ``default=`` and ``onupdate=``, which compiling leaves out."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, type_coerce
from sqlalchemy.engine.default import DefaultExecutionContext

from aiodbkit.core_statements.plans import Plan

__all__ = ["Context", "Prefetched", "constant", "default_of"]


class Context:
    """What a default that is a function is called with."""

    def __init__(self, compiled: Any, dialect: Any) -> None:
        self.compiled = compiled
        self.dialect = dialect
        self.isinsert = bool(compiled is None or compiled.isinsert)
        self.isupdate = not self.isinsert
        self.current_parameters: dict[str, Any] = {}
        self.current_column: Any = None

    def get_current_parameters(self, isolate_multiinsert_groups: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002 - theirs
        """Return the values of the current row; see SQLAlchemy."""
        if self.compiled is None:
            return self.current_parameters
        ask: Any = DefaultExecutionContext.get_current_parameters
        found: dict[str, Any] = ask(self, isolate_multiinsert_groups)
        return found

    def call(self, column: Any, default: Any, parameters: dict[str, Any]) -> Any:
        """Return what a default's function gives for the row with these parameters."""
        self.current_column, self.current_parameters = column, parameters
        return default.arg(self)


def default_of(column: Any, *, insert: bool) -> Any:
    """Return what fills the column when it is not given."""
    return column.default if insert else column.onupdate


def constant(default: Any) -> bool:
    """Whether it is one value for all rows."""
    return not (default.is_sequence or default.is_callable or default.is_clause_element)


class Prefetched:
    """The defaults of a plan, to be put among the values of each row."""

    def __init__(self, plan: Plan, dialect: Any) -> None:
        compiled = plan.compiled
        self._context = Context(compiled, dialect)
        key_of = compiled._within_exec_param_key_getter
        self._columns = [
            (column, key_of(column), default_of(column, insert=compiled.isinsert))
            for column in plan.prefetch
        ]

    def statements(self) -> dict[str, Any]:
        """Return what has to be asked of the database first, by the parameter it is for."""
        asked: dict[str, Any] = {}
        for column, key, default in self._columns:
            if default.is_sequence:
                asked[key] = select(default.next_value())
            elif default.is_clause_element:
                asked[key] = select(type_coerce(default.arg, column.type))
        return asked

    def fill(self, values: dict[str, Any], asked: dict[str, Any]) -> None:
        """Put the defaults among the values of one row."""
        for column, key, default in self._columns:
            if key in asked:
                values[key] = asked[key]
            elif default.is_callable:
                values[key] = self._context.call(column, default, values)
            else:
                values[key] = default.arg
