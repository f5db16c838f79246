"""Functions of the user's on one connection of sqlite3, and what they raise."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from aiodbkit.backends.sqlite.definitions import Definition, Definitions, Missing
from aiodbkit.backends.sqlite.errors import INTERRUPT, UserCodeError, primary_code
from aiodbkit.backends.sqlite.values import result_to_sqlite

__all__ = ["Functions"]


class Functions:
    """The functions of one connection: made on its thread, before the next job.

    sqlite3 hides what a function raises, and goes on where a collation does; so it is kept here.

    Attributes:
        queue: what is to be made still.
        raised: what was raised first in the present job, and where.
    """

    __slots__ = ("_missing", "queue", "raised")

    def __init__(self, definitions: Definitions | None = None) -> None:
        self._missing: Missing = (definitions or Definitions()).for_connection()
        self.queue = self._missing.queue
        self.raised: tuple[Definition, BaseException] | None = None

    def make(self, db: sqlite3.Connection) -> None:
        """Make what is missing, and forget what a job left that was stopped."""
        self.raised = None
        for _ in range(len(self.queue)):
            definition = self.queue.popleft()
            try:
                self._make(db, definition)
            except sqlite3.OperationalError:
                # It replaces one that is at work in a result being read: later then.
                self.queue.append(definition)

    def _make(self, db: sqlite3.Connection, definition: Definition) -> None:
        name, number = definition.name, definition.arguments
        match definition.kind:
            case "function":
                call = self._guard(definition, definition.call)
                db.create_function(name, number, call, deterministic=definition.deterministic)
            case "aggregate":
                db.create_aggregate(name, number, self._guarded_class(definition))
            case "window function":
                db.create_window_function(name, number, self._guarded_class(definition))
            case _:
                db.create_collation(name, self._guarded_collation(definition))

    def failure(self, error: BaseException | None = None) -> BaseException:
        """Return the error of a job: that of the user's code, if there was one."""
        raised, self.raised = self.raised, None
        if raised is None or (error is not None and primary_code(error) == INTERRUPT):
            assert error is not None
            return error
        definition, cause = raised
        failure = UserCodeError(f"the {definition} raised {type(cause).__name__}")
        failure.__cause__ = cause
        return failure

    # What is called by SQLite

    def _note(self, definition: Definition, error: BaseException) -> None:
        if self.raised is None:
            self.raised = definition, error

    def _guard(
        self, definition: Definition, call: Callable[..., Any], *, has_result: bool = True
    ) -> Callable[..., Any]:
        def guarded(*args: Any) -> Any:
            try:
                result = call(*args)
                return result_to_sqlite(result, str(definition)) if has_result else None
            except BaseException as error:
                self._note(definition, error)
                raise

        return guarded

    def _guarded_class(self, definition: Definition) -> Any:
        functions = self

        class Guarded:
            """One group of rows."""

            def __init__(self) -> None:
                try:
                    group = definition.call()
                except BaseException as error:
                    functions._note(definition, error)
                    raise
                for name in ("step", "inverse", "value", "finalize"):
                    if hasattr(group, name):
                        method = getattr(group, name)
                        has_result = name in ("value", "finalize")
                        guarded = functions._guard(definition, method, has_result=has_result)
                        setattr(self, name, guarded)

        return Guarded

    def _guarded_collation(self, definition: Definition) -> Callable[[str, str], int]:
        def guarded(first: str, second: str) -> int:
            if self.raised is not None:
                return 0  # the job will fail: what it sorts meanwhile does not matter
            try:
                order = definition.call(first, second)
                return int(order > 0) - int(order < 0)
            except BaseException as error:  # noqa: BLE001 - sqlite3 would drop it
                self._note(definition, error)
                return 0

        return guarded
