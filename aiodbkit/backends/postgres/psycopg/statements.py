"""What the server has said of statements: the types of their parameters, and prepared ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeAlias

from psycopg import errors, pq
from psycopg.generators import execute, fetch_many, pipeline_communicate, send

__all__ = [
    "Gen",
    "Known",
    "Statements",
    "checked",
    "describe",
    "parameter_types",
    "run_many",
    "run_one",
    "run_script",
]

Gen: TypeAlias = Generator[Any, int, Any]
Encode: TypeAlias = Callable[[Any], bytes]

FATAL = int(pq.ExecStatus.FATAL_ERROR)
_SYNC = int(pq.ExecStatus.PIPELINE_SYNC)

# How many statements are remembered per connection.
_SIZE = 100


class Known:
    """One text on one connection.

    Attributes:
        sql: as it is sent.
        types: the oids of its parameters' types, None before the server was asked.
        encoders: what makes a value of each of these.
        uses: how often it was run.
        name: of the prepared statement, empty where there is none.
    """

    __slots__ = ("encoders", "name", "sql", "types", "uses")

    def __init__(self, text: str) -> None:
        self.sql = text.encode()
        self.types: Sequence[int] | None = None
        self.encoders: Sequence[Encode] = ()
        self.uses = 0
        self.name = b""


class Statements:
    """The statements of one connection, those that were used last.

    Args:
        threshold: how often a statement is run before it is prepared; None never prepares.
        encoder: what makes values of a type.
    """

    def __init__(self, threshold: int | None, encoder: Callable[[int], Encode]) -> None:
        self._known: dict[str, Known] = {}
        self._threshold = threshold
        self._encoder = encoder
        self._number = 0
        self._dropped: list[bytes] = []  # prepared, and needed no more

    def of(self, text: str) -> Known:
        """Return what is known of a text."""
        known = self._known.pop(text, None)
        if known is None:
            known = Known(text)
            if len(self._known) >= _SIZE:
                self.forget(next(iter(self._known)))
        self._known[text] = known  # as the last one used
        return known

    def forget(self, text: str) -> None:
        """Ask the server anew the next time: what it said may be of before an ALTER TABLE."""
        known = self._known.pop(text, None)
        if known is not None and known.name:
            self._dropped.append(known.name)

    def forget_all(self) -> None:
        """Somebody else has had the connection."""
        for text in tuple(self._known):
            self.forget(text)
        self._dropped.clear()

    def is_due(self, known: Known, times: int, *, has_args: bool) -> bool:
        """Whether `introduce` has to come before the next run, in an exchange of its own.

        Of its own, because what a cancelled task leaves is run to its end: the statement itself
        must not be part of that.
        """
        known.uses += times
        if known.name:
            return False
        if has_args and known.types is None:
            return True
        return self._threshold is not None and known.uses > self._threshold

    def introduce(self, pgconn: Any, known: Known) -> Gen:
        """Ask for the parameters' types, and prepare the statement if it is run often enough."""
        name = b""
        if self._threshold is not None and known.uses > self._threshold:
            self._number += 1
            name = f"aiodbkit_{self._number}".encode()
        dropped, self._dropped = self._dropped if name else [], [] if name else self._dropped
        results = yield from describe(pgconn, known.sql, name, dropped)
        known.types = parameter_types(checked(results)[-1])
        known.encoders = [self._encoder(oid) for oid in known.types]
        known.name = name
        return results


def describe(pgconn: Any, sql: bytes, name: bytes = b"", dropped: Sequence[bytes] = ()) -> Gen:
    """Have a statement prepared; the last result of it says what comes and goes, as `run_one`."""
    pgconn.enter_pipeline_mode()
    for old in dropped:
        pgconn.send_query_params(b"DEALLOCATE " + old, None)
    pgconn.send_prepare(name, sql)
    pgconn.send_describe_prepared(name)
    pgconn.pipeline_sync()
    yield from send(pgconn)
    results = yield from _to_sync(pgconn, [])
    pgconn.exit_pipeline_mode()
    return results


def parameter_types(described: Any) -> list[int]:
    """Return the oids of the parameters' types, of the last result of `describe`."""
    return [described.param_type(number) for number in range(described.nparams)]


def run_one(pgconn: Any, known: Known, values: Sequence[bytes | None]) -> Gen:
    """Run one statement; a generator that returns its results, errors among them."""
    if known.name:
        pgconn.send_query_prepared(known.name, values)
    elif values:
        pgconn.send_query_params(known.sql, values, param_types=known.types)
    else:
        pgconn.send_query(known.sql)
    results = yield from execute(pgconn)
    return results


def run_script(pgconn: Any, sql: bytes) -> Gen:
    """Run several statements; as `run_one`."""
    pgconn.send_query(sql)
    results = yield from execute(pgconn)
    return results


def run_many(pgconn: Any, known: Known, rows: Iterable[Sequence[bytes | None]]) -> Gen:
    """Run one statement for each row, without waiting in between; as `run_one`."""
    commands: deque[Callable[[], None]] = deque()
    for row in rows:
        commands.append(_command(pgconn, known, row))
    commands.append(pgconn.pipeline_sync)
    pgconn.enter_pipeline_mode()
    done = yield from pipeline_communicate(pgconn, commands)
    results = yield from _to_sync(pgconn, [result for each in done for result in each])
    pgconn.exit_pipeline_mode()
    return results


def _command(pgconn: Any, known: Known, row: Sequence[bytes | None]) -> Callable[[], None]:
    if known.name:
        return lambda: pgconn.send_query_prepared(known.name, row)
    return lambda: pgconn.send_query_params(known.sql, row, param_types=known.types)


def _to_sync(pgconn: Any, results: list[Any]) -> Gen:
    """Read on to the end of a pipeline; return all results but that."""
    while not results or results[-1].status != _SYNC:
        results += yield from fetch_many(pgconn)
    return results[:-1]


def checked(results: Sequence[Any]) -> Sequence[Any]:
    """Return results none of which is an error; raise the first one that is."""
    for result in results:
        if result.status == FATAL:
            raise errors.error_from_result(result, encoding="utf-8")
    return results
