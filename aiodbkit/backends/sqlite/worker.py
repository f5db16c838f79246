"""What runs on a connection's worker thread: jobs, each one hop there and back.

A job can be stopped from the event loop at any time before it has decided to take effect: one
that has not begun never runs, a write is rolled back. The decision is one lock that whoever is
first takes, so either the thread commits or the loop knows that nothing will have happened.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any

from aiodbkit.backends.sqlite.errors import (
    BUSY,
    BUSY_SNAPSHOT,
    INTERRUPT,
    error_code,
    primary_code,
)
from aiodbkit.backends.sqlite.opened import OpenCursors, close_cursors
from aiodbkit.driver import ExecuteResult
from aiodbkit.errors import InterfaceError, ProgrammingError

__all__ = [
    "Job",
    "SQLite3Connection",
    "Stopped",
    "Work",
    "atomically",
    "change",
    "change_many",
    "decided",
    "end",
    "execute",
    "fetch_more",
    "first_word",
    "patiently",
    "query",
    "roll_back",
    "run_all",
    "run_loose",
    "split_script",
    "start_cursor",
    "start_transaction",
    "undo",
    "undoable",
]

# Between two looks at whether a job was stopped, a few milliseconds of inserting.
_CHUNK = 500

# How often one statement can be hit by an interrupt that was meant for the one before it.
_TRIES = 20

_PAUSES = (0.001, 0.002, 0.005, 0.01, 0.02)

# What `executemany` runs in one go; the rest goes row by row.
_MANY = re.compile(
    r"\s*(?:insert|update|delete|replace)\b(?!.*\breturning\b)", re.IGNORECASE | re.DOTALL
)
_UPSERT = re.compile(r"\bon\s+conflict\b.*\bdo\s+update\b", re.IGNORECASE | re.DOTALL)

Work = Callable[[sqlite3.Connection, "Job"], Any]

_execute = sqlite3.Connection.execute


def execute(db: sqlite3.Connection, sql: str, args: Sequence[Any] = ()) -> sqlite3.Cursor:
    """Start a statement, past our own ``execute``; of another module, whatever has that method."""
    if isinstance(db, sqlite3.Connection):
        return _execute(db, sql, args)
    return db.execute(sql, args)


class Stopped(Exception):  # noqa: N818 - not an error
    """The job was stopped before it took effect."""


class Job:
    """Work on its way to the thread and back.

    Attributes:
        cursors: the connection's.
        result: what the work returned.
        finished: the thread has left it.
        is_protected: from interrupts by others than its caller.
        stopped: it will have had no effect; set in the event loop only.
        was_interrupted: by `SQLiteEngine.interrupt`.
    """

    __slots__ = (
        "_decision",
        "_work",
        "cursors",
        "finished",
        "is_protected",
        "result",
        "stopped",
        "was_interrupted",
    )

    def __init__(self, work: Work, cursors: OpenCursors | None = None) -> None:
        self._work = work
        self.cursors = OpenCursors() if cursors is None else cursors
        self._decision = threading.Lock()
        self.result: Any = None
        self.finished = False
        self.stopped = self.is_protected = self.was_interrupted = False

    def run(self, db: sqlite3.Connection) -> Job:
        """Do it, on the thread."""
        functions = self.cursors.functions
        try:
            if self.cursors.interrupted:
                self.cursors.close_doomed()
            if functions.queue or functions.raised is not None:
                functions.make(db)
            if self.stopped:  # `go_on`, without a call
                raise Stopped
            self.result = self._work(db, self)
            if functions.raised is not None:  # by a collation: sqlite3 has gone on
                roll_back(db, self)
                raise functions.failure()
            return self
        except (sqlite3.Error, MemoryError, OverflowError, UnicodeError) as error:
            if functions.raised is None:
                raise
            raise functions.failure(error)  # noqa: B904 - it has a cause
        finally:
            self.finished = True

    def go_on(self) -> None:
        """Raise `Stopped` on the thread if nobody waits for the work any more."""
        if self.stopped:
            raise Stopped

    def decide(self) -> None:
        """Decide on the thread that it takes effect, or raise `Stopped`: it must not any more."""
        if self.cursors.functions.raised is not None:
            raise self.cursors.functions.failure()
        if not self._decision.acquire(blocking=False):
            raise Stopped

    def stop(self) -> bool:
        """Decide in the event loop that it has no effect; False if the thread was first."""
        if not self.stopped:
            self.stopped = self._decision.acquire(blocking=False)
        return self.stopped

    def fetchall(self) -> None:
        """Nothing: a cursor's method, for the way by which jobs travel."""


class SQLite3Connection(sqlite3.Connection):
    """A connection of sqlite3 that runs a `Job` where SQL is expected.

    So a job gets to the worker thread, and back, by one public call of aiosqlite,
    ``execute_fetchall(job)``, in one hop.

    Attributes:
        open_cursors: see `OpenCursors`.
    """

    open_cursors: set[Any] = set()  # noqa: RUF012 - one of none, until there are some

    def close(self) -> None:
        """Close it, and first its cursors: one that is referred to would keep the file's lock."""
        close_cursors(self.open_cursors)
        super().close()

    def execute(self, sql: Any, parameters: Any = (), /) -> Any:
        """Run a `Job`, or SQL."""
        if type(sql) is Job:
            return sql.run(self)
        return super().execute(sql, parameters)

    def __del__(self) -> None:
        # A cancelled connect drops it unseen; from Python 3.13 on that is a ResourceWarning.
        try:
            self.close()
        except sqlite3.ProgrammingError:
            pass  # it could not be opened


# Statements


def query(
    db: sqlite3.Connection, _job: Job, text: str, args: Sequence[Any], limit: int
) -> tuple[list[str], list[Any]]:
    """Run a statement and return column names and rows, all of them or ``limit``."""
    cursor = execute(db, text, args)
    try:
        rows = cursor.fetchmany(limit) if limit else cursor.fetchall()
        return _columns(cursor), rows
    finally:
        # An error keeps this frame alive, and with it the cursor's read lock.
        cursor.close()


def _columns(cursor: sqlite3.Cursor) -> list[str]:
    return [column[0] for column in cursor.description or ()]


def change(
    db: sqlite3.Connection, _job: Job, text: str, args: Sequence[Any], keyword: str
) -> ExecuteResult:
    """Run a statement to its end and return what it did.

    Args:
        keyword: its first word, or ``"select"`` for whatever only reads.
    """
    before = _last_insert_id(db) if keyword == "insert" and _UPSERT.search(text) else None
    cursor = execute(db, text, args)
    try:
        _exhaust(cursor)
        affected = cursor.rowcount
        inserted = cursor.lastrowid
    finally:
        cursor.close()
    if keyword == "with":
        # The rows of WITH ... INSERT, UPDATE or DELETE are not counted by sqlite3.
        affected = execute(db, "select changes()").fetchone()[0]
    if affected < 1 or keyword not in ("insert", "replace") or inserted == before:
        inserted = None  # SQLite tells of an earlier one, e.g. if an upsert has updated
    return ExecuteResult(affected, inserted)


def _last_insert_id(db: sqlite3.Connection) -> int:
    return int(execute(db, "select last_insert_rowid()").fetchone()[0])


def _exhaust(cursor: Iterable[Any]) -> None:
    # A statement with RETURNING that is not run to its end is neither committed nor over.
    deque(cursor, maxlen=0)


def change_many(
    db: sqlite3.Connection, job: Job, text: str, rows: Sequence[Sequence[Any]], keyword: str
) -> int:
    """Run a statement once for each of ``rows``; return the rows affected, -1 if unknown."""
    if not _MANY.match(text):
        return _change_each(db, job, text, rows, keyword)
    done = 0
    cursor = db.cursor()
    try:
        for start in range(0, len(rows), _CHUNK):
            job.go_on()
            cursor.executemany(text, rows[start : start + _CHUNK])
            done += cursor.rowcount
    finally:
        cursor.close()
    return done


def _change_each(
    db: sqlite3.Connection, job: Job, text: str, rows: Iterable[Sequence[Any]], keyword: str
) -> int:
    done = 0
    for row in rows:
        job.go_on()
        affected = change(db, job, text, row, keyword).rows_affected
        done = -1 if affected < 0 or done < 0 else done + affected
    return done


def start_cursor(
    db: sqlite3.Connection,
    job: Job,
    *,
    text: str,
    args: Sequence[Any],
    size: int,
    open_ones: set[sqlite3.Cursor],
) -> tuple[sqlite3.Cursor | None, list[str], list[Any]]:
    """Start a statement and fetch ``size`` rows; the cursor is None if there are no more."""
    cursor = execute(db, text, args)
    open_ones.add(cursor)
    columns = _columns(cursor)
    rows = fetch_more(db, job, cursor=cursor, size=size, open_ones=open_ones)
    return cursor if cursor in open_ones else None, columns, rows


def fetch_more(
    _db: sqlite3.Connection,
    _job: Job,
    *,
    cursor: sqlite3.Cursor,
    size: int,
    open_ones: set[sqlite3.Cursor],
) -> list[Any]:
    """Fetch ``size`` rows; with the last of them, or an error, the cursor is closed."""
    if cursor not in open_ones:
        raise InterfaceError(
            "this result has ended: with its transaction, because fetching from it failed, or "
            "because a statement beside it was interrupted"
        )
    rows: list[Any] = []
    try:
        rows = cursor.fetchmany(size)
        return rows
    finally:
        if len(rows) < size:
            cursor.close()
            open_ones.discard(cursor)


# Scripts

_TOKEN = re.compile(
    r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)|;""", re.DOTALL
)
_FIRST_WORD = re.compile(r"(?:\s|;|--[^\n]*|/\*.*?(?:\*/|\Z))*([a-z]*)", re.IGNORECASE | re.DOTALL)


def split_script(script: str) -> Iterator[str]:
    """Cut a script into its statements; a trigger's body is part of its statement."""
    start = 0
    for token in _TOKEN.finditer(script):
        if token[0] == ";" and sqlite3.complete_statement(script[start : token.end()]):
            yield script[start : token.end()]
            start = token.end()
    if first_word(script[start:]):
        yield script[start:]


def first_word(statement: str) -> str:
    """Return a statement's first keyword in lower case, ``""`` if there is none."""
    found = _FIRST_WORD.match(statement)
    return found[1].lower() if found else ""


def run_all(db: sqlite3.Connection, job: Job, statements: Iterable[str]) -> None:
    """Run statements without parameters one after the other."""
    for statement in statements:
        job.go_on()
        cursor = execute(db, statement)
        try:
            _exhaust(cursor)
        finally:
            cursor.close()


def run_loose(db: sqlite3.Connection, job: Job, statements: Iterable[str]) -> None:
    """Run a script that has transactions of its own, outside of any other."""
    try:
        run_all(db, job, statements)
        if db.in_transaction:
            raise ProgrammingError("the script ends inside the transaction that it has begun")
    finally:
        roll_back(db, job)


# Transactions


def atomically(db: sqlite3.Connection, job: Job, work: Work) -> Any:
    """Do the work in a transaction of its own: it is committed, or it has not happened."""
    begin(db, job, "BEGIN IMMEDIATE")
    try:
        result = work(db, job)
        job.decide()
        execute(db, "COMMIT")
    except BaseException:
        roll_back(db, job)
        raise
    return result


def undoable(db: sqlite3.Connection, job: Job, work: Work) -> Any:
    """Do the work in a savepoint of the open transaction: all of it or nothing."""
    execute(db, "SAVEPOINT aiodbkit_undo")
    try:
        result = work(db, job)
        job.go_on()
    except BaseException:
        if db.in_transaction:
            _insist(db, job, "ROLLBACK TO aiodbkit_undo")
            _insist(db, job, "RELEASE aiodbkit_undo")
        raise
    execute(db, "RELEASE aiodbkit_undo")
    return result


def begin(db: sqlite3.Connection, job: Job, statement: str) -> None:
    """Begin a transaction, waiting for the lock as long as ``busy_timeout`` says.

    SQLite's own waiting cannot be interrupted, so the waiting is done here.
    """
    (busy_timeout,) = execute(db, "PRAGMA busy_timeout").fetchone()
    execute(db, "PRAGMA busy_timeout = 0")
    try:
        patiently(db, job, statement, busy_timeout / 1000)
    finally:
        _insist(db, job, f"PRAGMA busy_timeout = {busy_timeout}")


def patiently(db: sqlite3.Connection, job: Job, statement: str, patience: float) -> None:
    give_up = time.monotonic() + patience
    for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
        job.go_on()
        try:
            execute(db, statement)
            return
        except sqlite3.OperationalError as error:
            left = give_up - time.monotonic()
            if primary_code(error) != BUSY or error_code(error) == BUSY_SNAPSHOT or left <= 0:
                raise
        time.sleep(min(pause, left))


def start_transaction(db: sqlite3.Connection, job: Job, statement: str, *, read_only: bool) -> None:
    """Begin for a caller, who may be gone by the time the lock is granted."""
    begin(db, job, statement)
    try:
        if read_only:
            execute(db, "PRAGMA query_only = 1")
        job.decide()
    except BaseException:
        roll_back(db, job)
        raise


def end(
    db: sqlite3.Connection, job: Job, how: str, cursors: set[sqlite3.Cursor], *, read_only: bool
) -> None:
    """Commit or roll back, together with what belonged to the transaction."""
    job.decide()
    close_cursors(cursors)
    if how == "COMMIT":
        execute(db, "COMMIT")
    else:
        roll_back(db, job)
    if read_only:
        execute(db, "PRAGMA query_only = 0")


def decided(db: sqlite3.Connection, job: Job, statement: str) -> None:
    """Run what makes the work of earlier jobs last."""
    job.decide()
    execute(db, statement)


def undo(db: sqlite3.Connection, job: Job, *, to_savepoint: bool) -> None:
    """Undo what earlier jobs have left half done: a transaction, or a savepoint inside one."""
    if to_savepoint:
        _insist(db, job, "ROLLBACK TO aiodbkit_rows")
        _insist(db, job, "RELEASE aiodbkit_rows")
    else:
        roll_back(db, job)


def roll_back(db: sqlite3.Connection, job: Job) -> None:
    """Roll back if there is a transaction."""
    if db.in_transaction:
        _insist(db, job, "ROLLBACK")


def _insist(db: sqlite3.Connection, job: Job, statement: str) -> None:
    """Run what puts things right, even if the interrupt of what went before comes late."""
    for left in reversed(range(_TRIES)):
        try:
            execute(db, statement)
            return
        except sqlite3.OperationalError as error:
            if primary_code(error) != INTERRUPT:
                raise
            if not left:
                db.close()  # a cursor of the user's is open; half undone it must not go on
                raise
        job.cursors.close_doomed()
