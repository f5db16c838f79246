"""A connection as its thread sees it: what a job does there, in one hop.

What has to be all or nothing runs in a transaction of its own, and is committed only if nobody has
given it up meanwhile: then it is certain that it has not happened.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from aiodbkit.backends.dbapi.family import Begin, Family
from aiodbkit.backends.dbapi.module import DBAPIModule
from aiodbkit.backends.dbapi.paramstyle import Arguments
from aiodbkit.backends.dbapi.thread import Job
from aiodbkit.driver import ExecuteResult, Fetched
from aiodbkit.errors import InterfaceError, ProgrammingError
from aiodbkit.options import TransactionOptions

__all__ = ["LostError", "Worker"]

T = TypeVar("T")

_UNDO = "aiodbkit_undo"
_CHUNK = 500  # rows between two looks at whether somebody still waits
# What `executemany` is for; it refuses or forgets what has rows to return.
_MANY = re.compile(
    r"\s*(?:insert|update|delete|replace|merge)\b(?!.*\breturning\b)", re.IGNORECASE | re.DOTALL
)
_PLAIN = TransactionOptions()


class LostError(Exception):
    """After an error the connection gave no answer any more."""


class Worker:
    """Everything that touches a connection, on its thread.

    Attributes:
        raw: the module's connection.
        in_transaction: whether a transaction is open, as of the end of the last job.
        is_committing: a COMMIT was sent and not answered.
        cursors: that are open, the end of a transaction closes them.
        pid: of the server's process, 0 where the module does not tell.
        ended: how many transactions have ended here.
        tells: whether the module knows of transactions that were begun by SQL.
    """

    def __init__(self, raw: Any, module: DBAPIModule, family: Family) -> None:
        self.raw = raw
        self.module = module
        self.family = family
        self.in_transaction = self.is_committing = False
        self.cursors: set[Any] = set()
        self.ended = 0
        self._began = False
        self._afterwards: Sequence[str] = ()
        told: Any = getattr(raw, "get_backend_pid", None)
        self.pid = 0 if told is None else int(told())
        self.tells = family.in_transaction(raw) is not None

    def step(self, work: Callable[[Job], T], job: Job) -> T:
        """Do the work of a job, and note what it leaves."""
        self.is_committing = False
        try:
            return work(job)
        except Exception as error:
            self._look_again(error)
            raise
        finally:
            self.in_transaction = self._observe()

    def _observe(self) -> bool:
        try:
            told = self.family.in_transaction(self.raw)
        except Exception:  # noqa: BLE001 - it is closed
            return False
        return self._began if told is None else told

    def _look_again(self, error: Exception) -> None:
        """After an error that may mean anything, see whether the connection is still there."""
        if self._observe():
            with contextlib.suppress(Exception):
                self.family.after_error(self.raw)
        doubts: tuple[type[BaseException], ...] = (
            OSError,
            EOFError,
            *map(self.module.error, ("OperationalError", "InterfaceError")),
        )
        if self.module.database or not isinstance(error, doubts):
            return
        if not self._answers():
            raise LostError from error

    def _answers(self) -> bool:
        try:
            self.family.ping(self.raw)
        except Exception as error:  # noqa: BLE001 - any
            # It may not like the SQL, which is an answer all the same.
            is_answer = isinstance(error, self.module.error("ProgrammingError"))
            return is_answer and "closed" not in str(error)
        return True

    # Statements

    def fetch(self, job: Job, text: str, args: Arguments, *, limit: int, in_unit: bool) -> Fetched:
        """Run a statement and return its rows, all of them or at least ``limit``."""

        def work(_job: Job) -> Fetched:
            cursor = self._execute(text, args)
            try:
                return self._fetched(cursor, limit)
            finally:
                _close(cursor)

        return self.alone(job, work, in_unit=in_unit)

    def change(
        self, job: Job, text: str, args: Arguments, *, inserts: bool, in_unit: bool
    ) -> ExecuteResult:
        """Run a statement and return what it did."""

        def work(_job: Job) -> ExecuteResult:
            return self._change(text, args, inserts=inserts)

        return self.alone(job, work, in_unit=in_unit)

    def change_many(self, job: Job, text: str, rows: Sequence[Arguments], *, inserts: bool) -> int:
        """Run a statement for each of the rows: all of them or none."""

        def work(job: Job) -> int:
            return self.add_rows(job, text, rows, inserts=inserts)

        return self.unit(job, work)

    def add_rows(self, job: Job, text: str, rows: Sequence[Arguments], *, inserts: bool) -> int:
        """Do so in the unit that is open."""
        if not _MANY.match(text) or None in rows:
            return self._change_each(job, text, rows, inserts=inserts)
        done = 0
        cursor = self.raw.cursor()
        try:
            for start in range(0, len(rows), _CHUNK):
                job.go_on()
                cursor.executemany(text, rows[start : start + _CHUNK])
                done += cursor.rowcount
        finally:
            _close(cursor)
        return done if self.family.capabilities.rows_affected_of_many else -1

    def _change_each(self, job: Job, text: str, rows: Sequence[Arguments], *, inserts: bool) -> int:
        counts: list[int] = []
        for args in rows:
            job.go_on()
            counts.append(self._change(text, args, inserts=inserts).rows_affected)
        return -1 if min(counts) < 0 else sum(counts)

    def run_all(self, job: Job, statements: Sequence[str], *, in_unit: bool) -> None:
        """Run statements without parameters one after the other."""

        def work(job: Job) -> None:
            for statement in statements:
                job.go_on()
                self._change(statement, None, inserts=False)

        self.alone(job, work, in_unit=in_unit)

    def run_loose(self, job: Job, statements: Sequence[str]) -> None:
        """Run a script that has transactions of its own, outside of any other."""
        try:
            self.run_all(job, statements, in_unit=False)
            if self._observe():
                raise ProgrammingError("the script ends inside the transaction that it has begun")
        finally:
            if self._observe():
                self._rollback()

    def _execute(self, text: str, args: Arguments) -> Any:
        cursor = self.raw.cursor()
        try:
            if args is None:
                cursor.execute(text)
            else:
                cursor.execute(text, args)
        except BaseException:
            _close(cursor)
            raise
        return cursor

    def _change(self, text: str, args: Arguments, *, inserts: bool) -> ExecuteResult:
        cursor = self._execute(text, args)
        try:
            if cursor.description is not None:
                cursor.fetchall()  # SQLite is not done with it before
            affected = getattr(cursor, "rowcount", -1)
            key = getattr(cursor, "lastrowid", None) if inserts and affected else None
        finally:
            _close(cursor)
        if not self.family.capabilities.last_insert_id or not isinstance(key, int):
            key = None
        return ExecuteResult(-1 if affected is None else affected, key or None)

    def _fetched(self, cursor: Any, limit: int) -> Fetched:
        if cursor.description is None:
            return (), ()
        columns = tuple([column[0] for column in cursor.description])
        rows = cursor.fetchmany(limit) if limit else cursor.fetchall()
        if rows and isinstance(rows[0], Mapping):  # a cursor class of the user's
            rows = [_values(row, columns) for row in rows]
        return columns, rows

    # Cursors

    def open_cursor(self, _job: Job, text: str, args: Arguments, size: int) -> tuple[Any, Fetched]:
        """Start a statement and fetch its first rows; the cursor is None if there are no more."""
        cursor = self._execute(text, args)
        self.cursors.add(cursor)
        fetched = self.fetch_more(_job, cursor, size)
        return (cursor if cursor in self.cursors else None), fetched

    def fetch_more(self, _job: Job, cursor: Any, size: int) -> Fetched:
        """Fetch rows; with the last of them, or an error, the cursor is closed."""
        if cursor not in self.cursors:
            raise InterfaceError(
                "this result has ended: with its transaction, or because fetching from it failed"
            )
        fetched: Fetched = (), ()
        try:
            fetched = self._fetched(cursor, size)
            return fetched
        finally:
            if len(fetched[1]) < size:
                self.close_cursor(_job, cursor)

    def close_cursor(self, _job: Job, cursor: Any) -> None:
        """Close a cursor."""
        self.cursors.discard(cursor)
        _close(cursor)

    def close_named(self, _job: Job, name: str) -> None:
        """Close a cursor that was declared; an aborted transaction has closed it."""
        with contextlib.suppress(self.module.error("Error")):
            self._run(f"CLOSE {name}")

    # Transactions

    def alone(self, job: Job, work: Callable[[Job], T], *, in_unit: bool) -> T:
        """Do what is a transaction by itself, where none is open.

        Args:
            in_unit: the database would not know that it was given up.
        """
        if self._observe() or not (in_unit or self.family.is_implicit):
            return work(job)
        return self._in_transaction(job, work)

    def unit(self, job: Job, work: Callable[[Job], T]) -> T:
        """Do the work as a whole or not at all, within a transaction or in one of its own."""
        if not self._observe():
            return self._in_transaction(job, work)
        self.begin_unit(job)
        try:
            result = work(job)
            job.go_on()
        except BaseException:
            self.undo_unit(job, to_savepoint=True)
            raise
        self.end_unit(job, to_savepoint=True)
        return result

    def begin_unit(self, _job: Job) -> bool:
        """Begin one; return whether it is a savepoint."""
        if self._observe():
            self._run(f"SAVEPOINT {_UNDO}")
            return True
        self._begin(self.family.begin(_PLAIN))
        return False

    def end_unit(self, job: Job, *, to_savepoint: bool) -> None:
        """Keep what was done."""
        job.decide()
        if to_savepoint:
            self._run(f"RELEASE SAVEPOINT {_UNDO}")
        else:
            self._commit()

    def undo_unit(self, _job: Job, *, to_savepoint: bool) -> None:
        """Undo what was done, if that is still there."""
        with contextlib.suppress(Exception):  # what failed before is the error to tell
            if not to_savepoint:
                self._rollback()
            elif self._observe():
                self._run(f"ROLLBACK TO SAVEPOINT {_UNDO}")
                self._run(f"RELEASE SAVEPOINT {_UNDO}")

    def _in_transaction(self, job: Job, work: Callable[[Job], T]) -> T:
        self.begin_unit(job)
        try:
            result = work(job)
            self.end_unit(job, to_savepoint=False)
        except BaseException:
            self.undo_unit(job, to_savepoint=False)
            raise
        return result

    def begin(self, job: Job, how: Begin) -> None:
        """Begin a transaction for a caller, who may be gone by then."""
        try:
            self._begin(how)
            job.decide()
        except BaseException:
            with contextlib.suppress(Exception):
                self._rollback()
            raise

    def commit(self, job: Job) -> None:
        """Commit."""
        job.decide()
        self._commit()

    def rollback(self, _job: Job) -> None:
        """Roll back what there is."""
        self._rollback()

    def _begin(self, how: Begin) -> None:
        self._afterwards = how.afterwards
        for statement in how.statements:
            self._run(statement)
        self._began = True

    def _commit(self) -> None:
        self._close_cursors()
        self.is_committing = True
        if self.family.is_implicit:
            self.raw.commit()
        else:
            cursor = self._execute("COMMIT", None)
            try:
                self.family.refuse_commit(cursor)
            finally:
                self.is_committing = False
                _close(cursor)
        self.is_committing = False
        self._ended()

    def _rollback(self) -> None:
        self._close_cursors()
        if self.family.is_implicit:
            self.raw.rollback()
        elif self._observe():
            self._run("ROLLBACK")
        self._ended()

    def _ended(self) -> None:
        self._began = False
        self.ended += 1
        statements, self._afterwards = self._afterwards, ()
        for statement in statements:
            self._run(statement)

    def _close_cursors(self) -> None:
        """Close them: they would hold locks, and outlive the transaction they read in."""
        while self.cursors:
            _close(self.cursors.pop())

    def _run(self, sql: str) -> None:
        _close(self._execute(sql, None))

    # Upkeep

    def ping(self, _job: Job) -> None:
        """Make a round trip."""
        self.family.ping(self.raw)
        if self.family.is_implicit and not self._began:
            self.raw.rollback()

    def sync(self, job: Job, *, keeps_transaction: bool) -> None:
        """Take what a late cancel still hits; end a transaction that nobody counts on."""
        try:
            self.ping(job)
        except Exception:  # noqa: BLE001 - asked again
            self.ping_again(job)
        if not keeps_transaction:
            self._rollback()

    def ping_again(self, _job: Job) -> None:
        """Where the first one failed: in an aborted transaction any answer will do."""
        if not self._observe() and not self._answers():
            raise LostError

    def forget(self) -> None:
        """Take it that no transaction is open."""
        self._began = self.in_transaction = False

    def close(self, _job: Job) -> None:
        """Close the connection."""
        self._close_cursors()
        self.raw.close()


def _close(cursor: Any) -> None:
    with contextlib.suppress(Exception):  # its connection is lost, or in the middle of a result
        cursor.close()


def _values(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[Any, ...]:
    if len(row) == len(columns):
        return tuple(row.values())
    return tuple(row[name] for name in columns)  # two columns of one name have become one
