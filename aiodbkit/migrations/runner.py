"""Applying and undoing migrations, one runner at a time.

On SQLite and PostgreSQL a file and its entry in the table are one transaction. MySQL's and
MariaDB's DDL commits by itself: there a file runs statement by statement, and an error says which
of them stay. Others are kept away by the server's advisory lock for the whole run; on SQLite by
its write lock for each file, before which the table is read again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from os import PathLike
from typing import Any

from aiodbkit.engine import Engine
from aiodbkit.errors import (
    ConfigurationError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
)
from aiodbkit.inspection import dialect_of, engine_of
from aiodbkit.migrations.files import Direction, Migration, Script, read_folder
from aiodbkit.migrations.ledger import Ledger, MigrationStatus, compare, refuse_differences
from aiodbkit.migrations.rebuilding import ForeignKeysError, without_foreign_keys
from aiodbkit.sql import Dialect

__all__ = ["migrate", "rollback", "status"]

Folder = str | PathLike[str]

# What tells that a statement has had no effect.
_REFUSALS = (DataError, IntegrityError, InterfaceError, NotSupportedError, ProgrammingError)


async def migrate(
    db: Engine,
    folder: Folder,
    *,
    target: int | None = None,
    dry_run: bool = False,
    lock_timeout: float | None = 60.0,
) -> list[Migration]:
    """Apply the pending migrations of a folder, in order; return those that were applied here.

    Several processes may call it at once: each migration is applied by one of them.

    Args:
        db: an engine; with replicas, the primary is migrated.
        folder: of files ``0001_create_users.sql``, ``0002_backfill.py``.
        target: the number of the last one to apply; None applies all.
        dry_run: change nothing, return what would be applied.
        lock_timeout: seconds to wait for another runner; None waits for ever. On SQLite the
            engine's `busy_timeout` counts instead.

    Raises:
        ConfigurationError: the folder has gaps, duplicates or unreadable files, or a file that was
            applied is not as it was then; nothing was done.
        LockTimeoutError: another runner took longer.
        InterfaceError: called inside of a transaction.
        Error: what the database said; a note tells the file and what stays of it.
    """
    run = _Run(db, folder, "up")
    async with run.alone(lock_timeout, dry_run=dry_run):
        found = await run.pending(target)
        if not dry_run:
            found = await run.all(found)
    return found


async def rollback(
    db: Engine,
    folder: Folder,
    *,
    target: int | None = None,
    dry_run: bool = False,
    lock_timeout: float | None = 60.0,
) -> list[Migration]:
    """Undo the last migration, or all after number ``target``; return those that were undone here.

    Args:
        db, folder, dry_run, lock_timeout: as of `migrate`.
        target: the number of the last one to stay, 0 for none; None undoes the last one.

    Raises:
        ConfigurationError: as of `migrate`, or a file has no way down; nothing was done.
        LockTimeoutError, InterfaceError, Error: as of `migrate`.
    """
    run = _Run(db, folder, "down")
    async with run.alone(lock_timeout, dry_run=dry_run):
        found = await run.undoable(target)
        if not dry_run:
            found = await run.all(found)
    return found


async def status(db: Engine, folder: Folder) -> list[MigrationStatus]:
    """Return the state of each migration, in order. Changes nothing.

    Raises:
        ConfigurationError: the folder has gaps, duplicates or unreadable files.
    """
    engine = _engine(db, "status")
    files = read_folder(folder)
    async with engine.connection():
        return compare(files, await Ledger(engine).read())
    raise AssertionError("unreachable")  # pragma: no cover


def _engine(db: object, call: str) -> Engine:
    if not isinstance(db, Engine):
        raise InterfaceError(f"{call}() takes an engine, and {db!r} is none")
    return engine_of(db)


class _Run:
    """One call of `migrate` or `rollback`."""

    def __init__(self, db: Engine, folder: Folder, direction: Direction) -> None:
        call = "migrate" if direction == "up" else "rollback"
        self._db = _engine(db, call)
        self._direction: Direction = direction
        self._ledger = Ledger(self._db)
        self._folder = read_folder(folder)
        self._scripts: dict[int, Script] = {}
        if self._db._is_in_transaction():
            raise InterfaceError(f"{call}() has transactions of its own: call it outside of any")

    # Keeping others away

    @asynccontextmanager
    async def alone(self, timeout: float | None, *, dry_run: bool) -> AsyncIterator[None]:
        """Hold one connection, and the lock where there is one for a whole run."""
        db: Any = self._db
        async with db.connection():
            self._dialect = dialect_of(db)
            if dry_run:
                yield
                return
            async with self._lock(db, await self._lock_name(), timeout):
                await self._ledger.create()
                yield

    async def _lock_name(self) -> str:
        if self._dialect is not Dialect.MYSQL:
            return "aiodbkit.migrations"
        # MySQL's locks are the whole server's.
        return f"aiodbkit.migrations.{await self._db.fetch_val('select database()')}"

    @asynccontextmanager
    async def _lock(self, db: Any, name: str, timeout: float | None) -> AsyncIterator[None]:
        if self._dialect is Dialect.SQLITE:
            yield
        elif not hasattr(db, "advisory_lock"):
            raise NotSupportedError(
                f"migrations need a lock, and {type(db).__name__} has no advisory_lock(): use "
                "PostgresEngine or MySQLEngine"
            )
        else:
            async with db.advisory_lock(name, timeout=timeout):
                yield

    # Which ones

    async def pending(self, target: int | None) -> list[Migration]:
        applied = await self._ledger.read()
        refuse_differences(self._folder, applied)
        if target is not None:
            self._refuse_unknown(target)
        chosen = [
            migration
            for migration in self._folder
            if migration.number not in applied and (target is None or migration.number <= target)
        ]
        self._load(chosen)
        return chosen

    async def undoable(self, target: int | None) -> list[Migration]:
        applied = await self._ledger.read()
        refuse_differences(self._folder, applied)
        done = [migration for migration in self._folder if migration.number in applied]
        done.reverse()
        if target is None:
            chosen = done[:1]
        else:
            if target != 0:
                self._refuse_unknown(target)
            chosen = [migration for migration in done if migration.number > target]
        self._load(chosen)
        for migration in chosen:
            if self._scripts[migration.number].down is None:
                raise ConfigurationError(
                    f"migrations: {migration} has no way down: it needs a section `-- down`, or "
                    "`async def down(db):`. Nothing was undone"
                )
        return chosen

    def _refuse_unknown(self, target: int) -> None:
        numbers = [migration.number for migration in self._folder]
        if target not in numbers:
            known = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
            raise ConfigurationError(
                f"migrations: target={target} is not the number of a file; there are {known}"
            )

    def _load(self, chosen: Sequence[Migration]) -> None:
        """Read all files before the first one runs."""
        for migration in chosen:
            script = self._scripts[migration.number] = migration.script(self._dialect)
            if self._dialect is Dialect.SQLITE and not script.in_transaction:
                raise NotSupportedError(
                    f"migrations: {migration} is to run without a transaction, and on SQLite "
                    "nothing else keeps other runners away"
                )

    # Running

    async def all(self, chosen: Sequence[Migration]) -> list[Migration]:
        done = list[Migration]()
        for migration in chosen:
            try:
                if await self._one(migration):
                    done.append(migration)
            except Error as error:
                if done:
                    error.add_note(f"before it, {', '.join(map(str, done))} succeeded and stays")
                raise
        return done

    async def _one(self, migration: Migration) -> bool:
        script = self._scripts[migration.number]
        if not (script.in_transaction and self._db.capabilities.ddl_is_transactional):
            return await self._run(migration, stays=True)
        if self._dialect is not Dialect.SQLITE:
            async with self._db.transaction():
                return await self._run(migration)
        try:
            async with self._db.transaction(mode="immediate"):
                return await self._run(migration)
        except ForeignKeysError:
            # A table that others refer to is rebuilt. Whether foreign keys are on is decided
            # before a transaction begins, so it was rolled back, and begins anew without them.
            async with without_foreign_keys(self._db):
                return await self._run(migration)
        raise AssertionError("unreachable")  # pragma: no cover

    async def _run(self, migration: Migration, *, stays: bool = False) -> bool:
        """Run one file and note it; return whether another runner had not done so before."""
        applied = await self._ledger.read()
        refuse_differences(self._folder, applied)
        if (migration.number in applied) is (self._direction == "up"):
            return False
        script = self._scripts[migration.number]
        work = script.up if self._direction == "up" else script.down
        assert work is not None
        if callable(work):
            await self._call(migration, work, stays=stays)
        else:
            await self._execute(migration, work, stays=stays)
        note = self._ledger.add if self._direction == "up" else self._ledger.remove
        try:
            await note(migration)
        except BaseException as error:
            error.add_note(f"{migration} was run{', and could not be noted down' * stays}")
            raise
        return True

    async def _call(
        self, migration: Migration, function: Callable[[Any], Awaitable[Any]], *, stays: bool
    ) -> None:
        try:
            await function(self._db)
        except BaseException as error:
            what = "what it had done by then may stay" if stays else "it is rolled back"
            error.add_note(f"in {self._direction}() of {migration}: {what}")
            raise

    async def _execute(
        self, migration: Migration, statements: Sequence[str], *, stays: bool
    ) -> None:
        for index, statement in enumerate(statements, 1):
            try:
                # A script, as it has no parameters: ":name" in it is text.
                await self._db.execute_script(statement)
            except BaseException as error:
                what = _remains(index - 1, error) if stays else "it is rolled back"
                error.add_note(
                    f"in statement {index} of {len(statements)} of {migration}"
                    f"{' (down)' * (self._direction == 'down')}: {what}"
                )
                raise


def _remains(count: int, error: BaseException) -> str:
    if isinstance(error, _REFUSALS):
        last = ""
    else:  # cancelled, timed out, cut off
        last = f"; whether statement {count + 1} was is not known"
    if count == 0:
        return f"no statement before it was applied{last}"
    first = "statement 1 was" if count == 1 else f"statements 1 to {count} were"
    return (
        f"{first} applied and cannot be rolled back{last}: undo that by hand before the file is "
        "run again"
    )
