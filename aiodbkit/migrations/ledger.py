"""The table of what was applied, and whether the folder still says the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from aiodbkit.errors import ConfigurationError
from aiodbkit.inspection import dialect_of
from aiodbkit.migrations.files import Migration
from aiodbkit.sql import Dialect

__all__ = ["TABLE", "Applied", "Ledger", "MigrationStatus", "compare", "refuse_differences"]

TABLE = "aiodbkit_migrations"

# Types that every database has: the time is text, in UTC.
_CREATE = f"""\
create table if not exists {TABLE} (
    number bigint not null primary key,
    name varchar(255) not null,
    checksum char(64) not null,
    applied_at varchar(32) not null
)"""
_EXISTS = {
    Dialect.SQLITE: "select count(*) from sqlite_master where type = 'table' and name = :name",
    Dialect.POSTGRES: "select count(*) from pg_class where oid = to_regclass(:name)",
    Dialect.MYSQL: (
        "select count(*) from information_schema.tables "
        "where table_schema = database() and table_name = :name"
    ),
}

State = Literal["applied", "pending", "edited", "missing"]


@dataclass(frozen=True)
class Applied:
    """A row of the table."""

    number: int
    name: str
    checksum: str
    applied_at: datetime


@dataclass(frozen=True)
class MigrationStatus:
    """What is known of one migration.

    Attributes:
        number, name: of the file.
        state: ``"applied"``, ``"pending"``; ``"edited"``, its file is not what was applied;
            ``"missing"``, it was applied and has no file.
        applied_at: when, in UTC, or None.
    """

    number: int
    name: str
    state: State
    applied_at: datetime | None


class Ledger:
    """The table, read and written on the task's current connection."""

    def __init__(self, db: Any) -> None:
        self._db = db

    async def create(self) -> None:
        """Make the table where it is not there yet."""
        if not await self._exists():
            await self._db.execute(_CREATE)

    async def read(self) -> dict[int, Applied]:
        """Return what was applied, by number; nothing where there is no table."""
        if not await self._exists():
            return {}
        rows = await self._db.fetch_all(
            f"select number, name, checksum, applied_at from {TABLE} order by number"  # noqa: S608
        )
        return {
            row.number: Applied(
                row.number, row.name, row.checksum, datetime.fromisoformat(row.applied_at)
            )
            for row in rows
        }

    async def add(self, migration: Migration) -> None:
        """Note that it was applied."""
        await self._db.execute(
            f"insert into {TABLE} (number, name, checksum, applied_at) "  # noqa: S608
            "values (:number, :name, :checksum, :at)",
            {
                "number": migration.number,
                "name": migration.name,
                "checksum": migration.checksum,
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )

    async def remove(self, migration: Migration) -> None:
        """Note that it was undone."""
        await self._db.execute(
            f"delete from {TABLE} where number = :number",  # noqa: S608
            {"number": migration.number},
        )

    async def _exists(self) -> bool:
        sql = _EXISTS[dialect_of(self._db)]
        return bool(await self._db.fetch_val(sql, {"name": TABLE}))


def compare(folder: Sequence[Migration], applied: Mapping[int, Applied]) -> list[MigrationStatus]:
    """Return the state of every migration that the folder or the table knows, in order."""
    files = {migration.number: migration for migration in folder}
    found = list[MigrationStatus]()
    for number in sorted(files.keys() | applied.keys()):
        file, row = files.get(number), applied.get(number)
        if row is None:
            found.append(MigrationStatus(number, files[number].name, "pending", None))
            continue
        state: State = "applied" if file and _same(file, row) else "edited" if file else "missing"
        found.append(MigrationStatus(number, row.name, state, row.applied_at))
    return found


def refuse_differences(folder: Sequence[Migration], applied: Mapping[int, Applied]) -> None:
    """Raise where folder and table do not fit.

    Raises:
        ConfigurationError: names the first file that was edited, renamed or removed after it was
            applied, or that is older than the last one applied.
    """
    last = max(applied, default=None)
    files = {migration.number: migration for migration in folder}
    for found in compare(folder, applied):
        if found.state == "pending" and last is not None and found.number < last:
            raise ConfigurationError(
                f"migrations: {found.name} was not applied, and {applied[last].name} was: give it "
                "the number after the last one"
            )
        if found.state == "missing":
            raise ConfigurationError(
                f"migrations: {found.name} was applied on {_day(found)} and is not in the folder: "
                "put it back; is this an older version of the program?"
            )
        if found.state == "edited":
            _refuse_edited(files[found.number], found)


def _refuse_edited(file: Migration, found: MigrationStatus) -> None:
    if file.name != found.name:
        raise ConfigurationError(
            f"migrations: {found.name} was applied on {_day(found)} and is called {file} now: give "
            "it its name back"
        )
    raise ConfigurationError(
        f"migrations: {file} was edited after it was applied on {_day(found)}: put it back as it "
        "was, and write a new migration for the change"
    )


def _same(file: Migration, row: Applied) -> bool:
    return (file.name, file.checksum) == (row.name, row.checksum)


def _day(found: MigrationStatus) -> str:
    return f"{found.applied_at:%Y-%m-%d}"
