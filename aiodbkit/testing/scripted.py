"""An engine whose server does as a test says: for tests of what your code does in an outage.

    script = Script()
    script.on("select .* from users", rows=[{"id": 1, "name": "Ada"}])
    script.on("insert into users", error=DeadlockError("as you wish", is_transient=True), times=1)
    script.on("connect", error=CannotConnectError("down", is_transient=True), times=3)
    db = ScriptedEngine(script)

No network and no thread: it runs under `aiodbkit.testing.virtual_time` as well.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, get_args

from aiodbkit.driver import (
    Capabilities,
    Driver,
    DriverConnection,
    DriverCursor,
    ExecuteResult,
    Fetched,
    Params,
)
from aiodbkit.engine import Engine
from aiodbkit.errors import (
    CommitUnknownError,
    ConfigurationError,
    ConnectionLostError,
    Error,
    QueryTimeoutError,
)
from aiodbkit.options import Isolation, TransactionOptions, count

__all__ = ["HANG", "LOSE", "Script", "ScriptedEngine"]


class _Fault(Enum):
    HANG = "hang"
    LOSE = "lose"


HANG = _Fault.HANG  # the server does not answer any more: only a timeout or a cancellation ends it
LOSE = _Fault.LOSE  # the connection breaks in the middle of the statement


class _Rule:
    """What is answered to statements that match, and how often."""

    def __init__(self, pattern: str, times: int | None, answer: Any) -> None:
        try:
            self.pattern = re.compile(pattern, re.IGNORECASE | re.DOTALL)
        except (TypeError, re.error) as error:
            raise ConfigurationError(
                f"on() takes a regular expression, and {pattern!r} is none: {error}; re.escape() "
                "makes one of SQL"
            ) from None
        if times is not None:
            count("times", times)
        self.left = times
        self.answer = answer


class Script:
    """What the server answers, and what was said to it.

    Besides statements these words are asked for: ``connect``, ``ping``, ``begin``, ``commit``,
    ``rollback``, and those of savepoints as they are sent.

    Attributes:
        said: every statement and word that reached the server, in order.
        connections: how many connections were opened.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        self.connections = 0
        self._rules: list[_Rule] = []

    def on(
        self,
        pattern: str,
        *,
        rows: Iterable[Mapping[str, Any]] | None = None,
        affected: int | None = None,
        error: BaseException | None = None,
        fault: _Fault | None = None,
        answer: Callable[[str, Params], Any] | None = None,
        times: int | None = None,
    ) -> None:
        """Say what is answered to statements that begin like ``pattern``, a regular expression.

        Case does not matter, and any white space counts as one blank. The latest rule that
        matches counts; what none matches gets no rows, and affects one.

        Args:
            rows: mappings, each with the same names.
            affected: the ``rows_affected`` of an execute.
            error: is raised.
            fault: `HANG` or `LOSE`.
            answer: a function, sync or async, of the SQL and the parameters that returns one of
                the above: a list of rows, a number, an exception, a fault; or None.
            times: how often this rule counts; None is always.

        Raises:
            ConfigurationError: not just one kind of answer was given, or one that cannot be.
        """
        given = [each for each in (rows, affected, error, fault, answer) if each is not None]
        if len(given) != 1:
            raise ConfigurationError(
                "on() takes just one of rows=, affected=, error=, fault= and answer="
            )
        if affected is not None:
            count("affected", affected)
        if error is not None and not isinstance(error, BaseException):
            raise ConfigurationError(f"error= takes an exception, as ValueError(), not {error!r}")
        if fault is not None and not isinstance(fault, _Fault):
            raise ConfigurationError(f"fault= takes HANG or LOSE, not {fault!r}")
        if answer is not None and not callable(answer):
            raise ConfigurationError(f"answer= takes a function of the SQL, not {answer!r}")
        chosen = given[0] if rows is None else _checked_rows(rows)
        self._rules.insert(0, _Rule(pattern, times, chosen))

    async def ask(self, said: str, params: Params, timeout: float | None = None) -> Any:
        """Return a list of rows or a number; raise what the script says."""
        self.said.append(said)
        answer = self._answer(said)
        if callable(answer):
            answer = _checked_answer(await _awaited(answer(said, params)))
        if answer is HANG:
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError as error:
                raise QueryTimeoutError(
                    f"the statement did not finish within timeout={timeout} s", query=said
                ) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _answer(self, said: str) -> Any:
        text = " ".join(said.split())
        for rule in self._rules:
            if rule.left != 0 and rule.pattern.match(text):
                if rule.left is not None:
                    rule.left -= 1
                return rule.answer
        return None


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _checked_rows(rows: Any) -> list[dict[str, Any]]:
    """Return ``rows`` as dicts, all with the names of the first.

    Raises:
        ConfigurationError: they are something else.
    """
    is_listed = isinstance(rows, Iterable) and not isinstance(rows, Mapping)
    listed: list[Any] = list(rows) if is_listed else [None]
    if not all(isinstance(row, Mapping) for row in listed):
        raise ConfigurationError(f"rows= takes a list of mappings, not {rows!r}")
    for row in listed:
        if list(row) != list(listed[0]):
            raise ConfigurationError(
                f"the rows of one answer have the same names in the same order: {list(row)} is "
                f"not {list(listed[0])}"
            )
    return [dict(row) for row in listed]


def _checked_answer(answer: Any) -> Any:
    """Return what a function of the test's own answered.

    Raises:
        ConfigurationError: it is nothing that a server could say.
    """
    if answer is None or isinstance(answer, int | BaseException | _Fault):
        return answer
    if isinstance(answer, list | tuple):
        return _checked_rows(answer)
    raise ConfigurationError(
        "answer= returns a list of rows, a number, an exception, a fault or None, not "
        f"{type(answer).__name__}"
    )


class _ScriptedDriver(Driver):
    capabilities: ClassVar[Capabilities] = Capabilities(
        isolation_levels=frozenset(get_args(Isolation)), deferrable=True, lock_modes=True
    )

    def __init__(self, script: Script) -> None:
        self._script = script

    async def connect(self) -> DriverConnection:
        if await self._script.ask("connect", None) is LOSE:
            raise ConnectionLostError("the connection was lost, as the script says")
        self._script.connections += 1
        return _ScriptedConnection(self._script)

    def quote(self, identifier: str) -> str:
        return '"' + identifier.replace('"', '""') + '"'


class _ScriptedConnection(DriverConnection):
    __slots__ = ("_is_open", "_script", "_transaction")

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self._script = script
        self._is_open = True
        self._transaction = False

    @property
    def is_closed(self) -> bool:
        return not self._is_open

    @property
    def in_transaction(self) -> bool:
        return self._transaction and self._is_open

    @property
    def is_dirty(self) -> bool:
        return self.suspect or self.in_transaction

    async def _say(self, said: str, params: Params = None, timeout: float | None = None) -> Any:
        if not self._is_open:
            raise ConnectionLostError("the connection is closed", is_transient=True, query=said)
        try:
            answer = await self._script.ask(said, params, timeout)
        except ConnectionLostError as error:
            self._lose(error)
            raise
        if answer is LOSE:
            lost = ConnectionLostError("the connection was lost, as the script says", query=said)
            self._lose(lost)
            raise lost
        return answer

    def _lose(self, error: Error) -> None:
        if self._transaction:
            self.transaction_lost = error
        self._is_open = False

    async def execute(self, sql: str, params: Params, timeout: float | None) -> ExecuteResult:
        answer = await self._say(sql, params, timeout)
        if isinstance(answer, list):
            return ExecuteResult(len(answer))
        return ExecuteResult(1 if answer is None else int(answer))

    async def execute_many(
        self, sql: str, rows: Sequence[Params], timeout: float | None
    ) -> ExecuteResult:
        answer = await self._say(sql, list(rows), timeout)
        return ExecuteResult(answer if isinstance(answer, int) else len(rows))

    async def execute_script(self, sql: str, timeout: float | None) -> None:
        await self._say(sql, None, timeout)

    async def fetch(
        self, sql: str, params: Params, timeout: float | None, limit: int = 0
    ) -> Fetched:
        return _table(await self._say(sql, params, timeout), limit)

    async def open_cursor(
        self, sql: str, params: Params, timeout: float | None, batch_size: int
    ) -> DriverCursor:
        return _ScriptedCursor(_table(await self._say(sql, params, timeout)), batch_size)

    async def insert_many(
        self,
        table: str,
        columns: Sequence[str],  # noqa: ARG002
        rows: Any,
        timeout: float | None,
    ) -> int:
        listed = [row async for row in rows] if hasattr(rows, "__aiter__") else list(rows)
        answer = await self._say(f"insert into {table}", listed, timeout)
        return answer if isinstance(answer, int) else len(listed)

    async def begin(self, options: TransactionOptions) -> None:  # noqa: ARG002
        await self._say("begin")
        self._transaction = True
        self.transaction_lost = None

    async def commit(self) -> None:
        try:
            await self._say("commit")
        except ConnectionLostError as error:
            raise CommitUnknownError(
                "the connection was lost during COMMIT: whether it took effect is unknown",
                query="COMMIT",
            ) from error
        self._transaction = False

    async def rollback(self) -> None:
        if self._transaction:
            await self._say("rollback")
        self._transaction = False

    async def ping(self) -> None:
        await self._say("ping")

    async def recover(self) -> None:
        if not self._is_open:
            raise ConnectionLostError("the connection is closed")
        self.suspect = False

    async def clean(self) -> None:
        await self.recover()
        await self.rollback()
        self.transaction_lost = None

    async def close(self) -> None:
        self._is_open = False

    def abort(self) -> None:
        self._is_open = False


class _ScriptedCursor(DriverCursor):
    def __init__(self, table: Fetched, batch_size: int) -> None:
        self._columns, self._rows = table
        self._batch_size = batch_size

    async def fetch(self) -> Fetched:
        batch = self._rows[: self._batch_size]
        self._rows = self._rows[self._batch_size :]
        return self._columns, batch

    async def close(self) -> None:
        self._rows = []


def _table(answer: Any, limit: int = 0) -> Fetched:
    rows = answer if isinstance(answer, list) else []
    if limit:
        rows = rows[:limit]
    columns = tuple(rows[0]) if rows else ()
    return columns, [tuple(row.values()) for row in rows]


class ScriptedEngine(Engine):
    """An engine over a `Script`. It takes the options of pools and engines, and no driver's."""

    schemes = ("scripted",)

    def __init__(self, script: Script | None = None, **options: Any) -> None:
        if not isinstance(script, Script | None):
            raise ConfigurationError(f"ScriptedEngine() takes a Script, not {script!r}")
        self.script = Script() if script is None else script
        super().__init__("scripted://script", **options)

    def driver_options(self) -> Mapping[str, Any]:
        return {}

    def _create_driver(self, target: Mapping[str, Any], options: Mapping[str, Any]) -> Driver:  # noqa: ARG002
        return _ScriptedDriver(self.script)
