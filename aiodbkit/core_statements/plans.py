"""Compiled statements: made once per statement key and dialect, bound with each execution's values.

The steps are those of SQLAlchemy's own ``DefaultExecutionContext``: literals that were taken out
of the statement go in as parameters, lists are written out, types convert what is sent and what
comes back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column
from sqlalchemy import exc as sa_exc
from sqlalchemy.sql import ddl
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement, Grouping, Label, TypeCoerce
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.schema import Sequence as SchemaSequence
from sqlalchemy.sql.selectable import TableClause

from aiodbkit._text import listed, near
from aiodbkit.core_statements.coretypes import DECODED
from aiodbkit.errors import DataError, ProgrammingError
from aiodbkit.sql import Expand

__all__ = ["Bound", "Plan", "Request", "converted", "plan_for"]

# What a type may raise for a value that is none of its own, and SQLAlchemy about a statement.
_MISFIT = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
_TAKES_COLLECTED = "_collected_params" in inspect.signature(SQLCompiler.construct_params).parameters


class Request(NamedTuple):
    """A statement with its plan, and what belongs to this one execution alone."""

    plan: Plan
    extracted: Sequence[Any] | None  # its literals, in the order of the key
    collected: Mapping[str, Any] | None  # what its params() were given
    schemas: Mapping[Any, Any] | None  # schema_translate_map

    def values(self, params: Mapping[str, Any] | None, group: int | None = None) -> dict[str, Any]:
        """Return the value of each bind parameter, by name, ``params`` going before the rest."""
        self.plan.refuse_unused(params)
        more: dict[str, Any] = {"_collected_params": self.collected} if _TAKES_COLLECTED else {}
        if self.extracted is not None:
            self._refuse_missing(params)
            more["_check"] = False  # which would look at the statement that was compiled
        try:
            found: dict[str, Any] = self.plan.compiled.construct_params(
                params,
                extracted_parameters=self.extracted,
                escape_names=False,
                _group_number=group,
                **more,
            )
        except sa_exc.InvalidRequestError as error:
            raise ProgrammingError(_first_line(error), query=self.plan.text) from None
        return found

    def _refuse_missing(self, params: Mapping[str, Any] | None) -> None:
        # A bindparam() with a value and one without have the same key.
        missing = [
            compiled_as
            for compiled_as, here in zip(
                self.plan.compiled.cache_key[1], self.extracted or (), strict=True
            )
            if here.required
        ]
        if missing:
            self.plan.refuse_missing(missing, {*(params or ()), *(self.collected or ())})

    def bind(self, values: dict[str, Any]) -> Bound:
        """Return text and arguments."""
        bound = Bound(self.plan.text, ()) if self.plan.is_ddl else self.plan.bind(values)
        if not self.schemas:
            return bound
        render = self.plan.compiled.preparer._render_schema_translates
        return Bound(render(bound.text, self.schemas), bound.args)


class Bound(NamedTuple):
    """What the plain verbs take."""

    text: str
    args: Sequence[Any]


class Plan:
    """One compiled statement."""

    def __init__(self, compiled: Any, dialect: Any) -> None:
        self.compiled = compiled
        self._dialect = dialect
        self._places: Sequence[str] = getattr(compiled, "positiontup", None) or ()
        self.text = self._plain(compiled.string, self._places)
        self._decoders: dict[tuple[str, ...], tuple[tuple[str, ...], list[Any]]] = {}
        self.is_ddl = not isinstance(compiled, SQLCompiler)
        if self.is_ddl:
            return
        self.prefetch = compiled.insert_prefetch or compiled.update_prefetch
        self.returns_key = bool(compiled.isinsert and compiled.implicit_returning)
        self.is_fixed = not (compiled.literal_execute_params or compiled.post_compile_params)
        self._processors: Mapping[str, Any] = compiled._bind_processors
        self._steps = [(name, self._processors.get(name)) for name in self._places]
        names = compiled.bind_names
        self._known = {bind.key for bind in names} | set(names.values())

    def _plain(self, text: str, places: Sequence[str]) -> str:
        # Without parameters, % means nothing to our MySQL.
        if self._dialect.paramstyle == "format" and not places:
            return text.replace("%%", "%")
        return text

    def refuse_unused(self, params: Mapping[str, Any] | None) -> None:
        """Refuse names that the statement has not.

        Raises:
            ProgrammingError: names them.
        """
        if not params:
            return
        unused = [name for name in params if name not in self._known]
        if unused:
            known = [str(name) for name in self._known]
            told = listed(f"{name!r}{near(str(name), known)}" for name in unused)
            raise ProgrammingError(f"unused parameters: {told}", query=self.text)

    def refuse_missing(self, binds: Sequence[Any], given: set[str]) -> None:
        """Refuse what has no value of its own, and was given none.

        Raises:
            ProgrammingError: names it.
        """
        names = self.compiled.bind_names
        missing = [
            bind.key
            for bind in binds
            if bind in names and bind.key not in given and names[bind] not in given
        ]
        if missing:
            told = listed(repr(key) for key in dict.fromkeys(missing))
            raise ProgrammingError(f"missing parameters: {told}", query=self.text)

    def bind(self, values: dict[str, Any]) -> Bound:
        """Return text and arguments for the value of each bind parameter."""
        if not self.is_fixed:
            return self._expanded(values)
        return Bound(self.text, self.arguments(values))

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        """Return the arguments of a text that is the same for all values."""
        return [
            values[name] if process is None else self._sent(name, process, values[name])
            for name, process in self._steps
        ]

    def _expanded(self, values: dict[str, Any]) -> Bound:
        for name, value in values.items():
            if isinstance(value, Expand):
                values[name] = list(value.values)
        try:
            state = self.compiled._process_parameters_for_postcompile(values)
        except (sa_exc.SQLAlchemyError, *_MISFIT) as error:
            raise ProgrammingError(
                f"a list, or a literal that is written into the SQL, cannot be written: "
                f"{type(error).__name__}",
                query=self.text,
            ) from None
        processors = {**self._processors, **state.processors}
        values = {**values, **(state.additional_parameters or {})}
        places = state.positiontup or ()
        args = [
            self._sent(name, processors[name], values[name]) if name in processors else values[name]
            for name in places
        ]
        return Bound(self._plain(state.statement, places), args)

    def _sent(self, name: str, process: Callable[[Any], Any], value: Any) -> Any:
        if type(value) is Expand:
            return value
        return converted(process, value, self.text, "parameter", name)

    # What comes back

    def decoder(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], list[Any]]:
        """Return the names that the columns have, and what converts which of them."""
        found = self._decoders.get(names)
        if found is None:
            found = self._decoders[names] = self._match(names)
        return found

    def decode(self, row: Sequence[Any], processors: list[Any]) -> Sequence[Any]:
        """Return a row as the types have it."""
        values = list(row)
        for place, process, name in processors:
            values[place] = converted(process, values[place], self.text, "column", name)
        return values

    def _match(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], list[Any]]:
        compiled, found = self.compiled, names
        entries: list[Any] = [] if self.is_ddl else list(compiled._result_columns)
        by_place = len(entries) == len(names)
        if by_place and compiled._ordered_columns and not compiled._textual_ordered_columns:
            found = tuple(entry[0] for entry in entries)
        elif not (by_place and (compiled._textual_ordered_columns or compiled._ad_hoc_textual)):
            by_name = {entry[0]: entry for entry in reversed(entries)}
            entries = [by_name.get(name) for name in names]
        processors = [
            (place, process, names[place])
            for place, entry in enumerate(entries[: len(names)])
            if entry is not None and (process := self._result_processor(entry)) is not None
        ]
        return found, processors

    def _result_processor(self, entry: Any) -> Any:
        stored = self._dialect.tells_columns and _is_stored(entry[2])
        return entry[3]._cached_result_processor(self._dialect, DECODED if stored else None)


def converted(process: Callable[[Any], Any], value: Any, sql: str, *what: object) -> Any:
    """Return a value as its type converts it.

    Raises:
        DataError: the type refuses it; neither the text nor a cause has the value.
    """
    try:
        return process(value)
    except (sa_exc.SQLAlchemyError, *_MISFIT) as error:
        kind, reason = type(value).__name__, type(error).__name__
        told = f"its type refuses a value of the type {kind} ({reason})"
        raise DataError(f"{' '.join(map(str, what))}: {told}", query=sql) from None


def _is_stored(objects: Sequence[Any]) -> bool:
    """Whether it is a plain column of a table, also through a subquery: SQLite knows its type."""
    element: Any = next((each for each in objects if isinstance(each, ColumnElement)), None)
    while isinstance(element, (Label, Grouping, TypeCoerce)):
        element = element.clause if isinstance(element, TypeCoerce) else element.element
    if element is None:
        return False
    bases = element.base_columns
    return bool(bases) and all(_is_of_table(base) for base in bases)


def _is_of_table(base: Any) -> bool:
    return isinstance(base, Column) and isinstance(base.table, TableClause)


# From statements to plans


def plan_for(
    dialect: Any, statement: Any, columns: tuple[str, ...] = (), *, many: bool = False
) -> Request:
    """Return the plan of a statement, compiled if its like was not compiled before.

    Args:
        columns: the names of the parameters that come with it: an INSERT has these columns.
        many: for one execution per row.

    Raises:
        ProgrammingError: SQLAlchemy cannot write it for this database.
    """
    statement = _executable(statement)
    schemas = statement.get_execution_options().get("schema_translate_map")
    columns = columns if getattr(statement, "is_dml", False) else ()
    if isinstance(statement, ddl.ExecutableDDLElement):
        compiled = _compiled(statement, dialect, {"schema_translate_map": schemas})
        return Request(Plan(compiled, dialect), None, None, schemas)
    options = {
        "column_keys": list(columns),  # none is not None, which stands for all columns
        "for_executemany": many,
        "schema_translate_map": schemas,
    }
    cache_key = statement._generate_cache_key()
    if cache_key is None:
        plan = Plan(_compiled(statement, dialect, options), dialect)
        return Request(plan, None, None, schemas)
    key = cache_key[0], columns, many, bool(schemas)
    found: Plan | None = dialect.plans.get(key)
    if found is None:
        compiled = _compiled(statement, dialect, {**options, "cache_key": cache_key})
        found = dialect.plans[key] = Plan(compiled, dialect)
    collected = cache_key[2] if len(cache_key) > 2 else None
    return Request(found, cache_key[1], collected, schemas)


def _executable(statement: Any) -> Any:
    if isinstance(statement, FunctionElement):  # as SQLAlchemy's connections have it
        return statement.select()
    if isinstance(statement, SchemaSequence):
        return statement.next_value().select()
    return statement


def _compiled(statement: Any, dialect: Any, options: dict[str, Any]) -> Any:
    try:
        return statement._compiler(dialect, **options)
    except sa_exc.SQLAlchemyError as error:
        raise ProgrammingError(
            f"SQLAlchemy cannot write this {type(statement).__name__} for {dialect.name}: "
            f"{_first_line(error)}"
        ) from None


def _first_line(error: sa_exc.SQLAlchemyError) -> str:
    line = str(error.args[0] if error.args else error).partition("\n")[0]
    # A literal that cannot be rendered is told with its value.
    return "a literal cannot be written" if "literal value" in line else line
