"""The verbs over statements of SQLAlchemy: compile, run the text by the plain verb, convert."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiodbkit.core_statements.defaults import Prefetched
from aiodbkit.core_statements.dialects import dialect_of, settle
from aiodbkit.core_statements.plans import Bound, Plan, Request, plan_for
from aiodbkit.driver import ExecuteResult
from aiodbkit.errors import NotSupportedError, ProgrammingError, QueryTimeoutError
from aiodbkit.rows import Row, column_values, converter, make_rows, value

if TYPE_CHECKING:
    from aiodbkit.stream import Stream
    from aiodbkit.verbs import Verbs

__all__ = [
    "bound",
    "execute",
    "execute_many",
    "fetch_all",
    "fetch_column",
    "fetch_one",
    "fetch_val",
    "iterate",
    "statement_text",
]


async def execute(
    verbs: Verbs, statement: Any, params: Any, *, timeout: float | None
) -> ExecuteResult:
    """Run it. Where an INSERT has to ask for its key (PostgreSQL), it does so with RETURNING."""
    plan, (text, args), timeout = await _prepared(verbs, statement, params, timeout)
    if not _returns_key(plan):
        return await verbs.execute(text, args, timeout=timeout)
    rows = await verbs.fetch_all(text, args, timeout=timeout)
    key = rows[0][0] if len(rows) == 1 and len(rows[0]) == 1 else None
    return ExecuteResult(len(rows), key if isinstance(key, int) else None)


async def execute_many(
    verbs: Verbs, statement: Any, rows: Iterable[Any], *, timeout: float | None
) -> ExecuteResult:
    """Run it for each of the rows, which are mappings with the same names."""
    listed = list(rows)
    if not listed:
        return await verbs.execute_many(statement_text(verbs, statement), [])  # says so
    _refuse_misfits(listed)
    dialect, timeout = await _settled(verbs, timeout)
    request = plan_for(dialect, statement, tuple(listed[0]), many=True)
    plan = request.plan
    if plan.is_ddl or not plan.is_fixed:
        raise ProgrammingError(
            "execute_many(): lists (in_) and literals that are written into the SQL differ from "
            "row to row, and DDL has no rows: call execute() for each",
            query=plan.text,
        )
    values = [request.values(row, number) for number, row in enumerate(listed)]
    if plan.prefetch:
        prefetched = Prefetched(plan, dialect)
        for each in values:
            found, timeout = await _ask(verbs, prefetched, timeout)
            prefetched.fill(each, found)
    text = request.bind(values[0]).text
    args = [plan.arguments(each) for each in values]
    return await verbs.execute_many(text, args, timeout=timeout)


async def fetch_all(
    verbs: Verbs, statement: Any, params: Any, *, into: Any, timeout: float | None
) -> Any:
    """Return all rows."""
    plan, (text, args), timeout = await _prepared(verbs, statement, params, timeout)
    rows = await verbs.fetch_all(text, args, timeout=timeout)
    columns, values = _decoded(plan, rows)
    if not values:
        return []
    if into is None:
        return rows if values is rows else make_rows(columns, values)
    return list(map(converter(into, columns), values))


async def fetch_one(
    verbs: Verbs, statement: Any, params: Any, *, into: Any, timeout: float | None
) -> Any:
    """Return the first row, or None."""
    columns, values = await _first(verbs, statement, params, timeout)
    if not values:
        return None
    return make_rows(columns, values)[0] if into is None else converter(into, columns)(values[0])


async def fetch_val(
    verbs: Verbs, statement: Any, params: Any, *, column: int | str, timeout: float | None
) -> Any:
    """Return one value of the first row, or None."""
    columns, values = await _first(verbs, statement, params, timeout)
    return value(columns, values, column)


async def fetch_column(
    verbs: Verbs, statement: Any, params: Any, *, column: int | str, timeout: float | None
) -> list[Any]:
    """Return the values of one column."""
    plan, (text, args), timeout = await _prepared(verbs, statement, params, timeout)
    rows = await verbs.fetch_all(text, args, timeout=timeout)
    columns, values = _decoded(plan, rows)
    return column_values(columns, values, column)


def iterate(
    verbs: Verbs, statement: Any, params: Any, into: Any, *, batch_size: int, timeout: float | None
) -> Stream[Any]:
    """Return an iterator over the rows."""
    dialect = dialect_of(verbs)
    request = plan_for(dialect, statement, _names(params))
    values = _values(request, params)
    if not request.plan.is_ddl and request.plan.prefetch:
        prefetched = Prefetched(request.plan, dialect)
        if prefetched.statements():
            raise NotSupportedError(
                "iterate(): a default of this statement is an SQL expression that has to be "
                "asked for first: use fetch_all()",
                query=request.plan.text,
            )
        prefetched.fill(values, {})
    text, args = request.bind(values)
    make: Callable[[Row], Any] = _RowMaker(request.plan, into)
    return verbs.iterate(text, args, into=make, batch_size=batch_size, timeout=timeout)


async def bound(
    verbs: Verbs, statement: Any, params: Any, timeout: float | None
) -> tuple[str, Any, float | None]:
    """Return text and arguments, and what is left of the time."""
    _, (text, args), timeout = await _prepared(verbs, statement, params, timeout)
    return text, args, timeout


def statement_text(verbs: Verbs, statement: Any) -> str:
    """Return the text of a statement, without its values."""
    return plan_for(dialect_of(verbs), statement).plan.text


class _RowMaker:
    """Makes of each raw row what the caller wants."""

    def __init__(self, plan: Plan, into: Any) -> None:
        self._plan = plan
        self._into = into
        self._names: tuple[str, ...] | None = None
        self._processors: list[Any] = []
        self._make: Callable[[Any], Any] = tuple

    def __call__(self, row: Row) -> Any:
        names = row.keys()
        if names is not self._names:
            self._names = names
            columns, self._processors = self._plan.decoder(names)
            into = self._into
            self._make = (
                (lambda values: make_rows(columns, [values])[0])
                if into is None
                else converter(into, columns)
            )
        return self._make(self._plan.decode(row, self._processors))


# Steps


async def _prepared(
    verbs: Verbs, statement: Any, params: Any, timeout: float | None
) -> tuple[Plan, Bound, float | None]:
    """Return what to run, and what is left of the time."""
    dialect, timeout = await _settled(verbs, timeout)
    request = plan_for(dialect, statement, _names(params))
    plan = request.plan
    values = _values(request, params)
    if not plan.is_ddl and plan.prefetch:
        prefetched = Prefetched(plan, dialect)
        found, timeout = await _ask(verbs, prefetched, timeout)
        prefetched.fill(values, found)
    return plan, request.bind(values), timeout


async def _settled(verbs: Verbs, timeout: float | None) -> tuple[Any, float | None]:
    """Return the dialect, and what is left of the time."""
    dialect = dialect_of(verbs)
    if dialect.knows_server:
        return dialect, timeout
    limit, since = verbs._limit(timeout), monotonic()
    return await settle(verbs, limit), _left(limit, since)


async def _ask(
    verbs: Verbs, prefetched: Prefetched, timeout: float | None
) -> tuple[dict[str, Any], float | None]:
    """Return the defaults that only the database can tell, and what is left of the time."""
    found: dict[str, Any] = {}
    if not (asked := prefetched.statements()):
        return found, timeout
    left = limit = verbs._limit(timeout)
    since = monotonic()
    for key, statement in asked.items():
        found[key] = await verbs.fetch_val(statement, timeout=left)
        left = _left(limit, since)
    return found, left


def _left(limit: float | None, since: float) -> float | None:
    if limit is None:
        return None
    left = round(limit - (monotonic() - since), 3)
    if left <= 0.0:
        raise QueryTimeoutError(
            f"what had to be asked first took all of the {limit:g} s: the statement was not sent"
        )
    return left


def _names(params: Any) -> tuple[str, ...]:
    if isinstance(params, Mapping):
        return tuple(params)
    if params is None:
        return ()
    is_many = isinstance(params, Sequence) and params and isinstance(params[0], Mapping)
    cure = "; execute_many() takes several" if is_many else ""
    raise ProgrammingError(
        "a statement of SQLAlchemy takes its parameters by name: give a mapping, "
        f"not {type(params).__name__}{cure}"
    )


def _values(request: Request, params: Any) -> dict[str, Any]:
    if not request.plan.is_ddl:
        return request.values(params)
    if params:
        raise ProgrammingError("DDL takes no parameters", query=request.plan.text)
    return {}


def _returns_key(plan: Plan) -> bool:
    return not plan.is_ddl and plan.returns_key


async def _first(
    verbs: Verbs, statement: Any, params: Any, timeout: float | None
) -> tuple[Sequence[str], Sequence[Any]]:
    plan, (text, args), timeout = await _prepared(verbs, statement, params, timeout)
    row = await verbs.fetch_one(text, args, timeout=timeout)
    return _decoded(plan, [] if row is None else [row])


def _decoded(plan: Plan, rows: list[Row]) -> tuple[Sequence[str], Sequence[Any]]:
    """Return names and values; ``rows`` itself where nothing was to be done."""
    if not rows or _returns_key(plan):  # a key that nobody but us has asked for
        return (), []
    names = rows[0].keys()
    columns, processors = plan.decoder(names)
    if processors:
        return columns, [plan.decode(row, processors) for row in rows]
    return columns, rows if columns == names else [tuple(row) for row in rows]


def _refuse_misfits(rows: list[Any]) -> None:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ProgrammingError(
                "execute_many(): a statement of SQLAlchemy takes its parameters by name: row "
                f"{number} is a {type(row).__name__}, not a mapping"
            )
        if row.keys() != rows[0].keys():
            odd = ", ".join(sorted(str(name) for name in row.keys() ^ rows[0].keys()))
            raise ProgrammingError(
                f"execute_many(): row {number} has other names than row 0: {odd}"
            )
