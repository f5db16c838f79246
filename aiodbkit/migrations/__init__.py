"""Migrations: a folder of numbered files, each applied once, in order, by one runner at a time.

``await migrate(db, "migrations")`` applies what is pending, `rollback` undoes, `status` tells.
The operations (`add_column`, ...) are for what the databases write differently.
"""

from __future__ import annotations

from aiodbkit.migrations.files import Migration
from aiodbkit.migrations.ledger import MigrationStatus
from aiodbkit.migrations.operations import (
    add_column,
    add_index,
    add_not_null,
    drop_column,
    drop_index,
    drop_not_null,
    rename_column,
    rename_table,
)
from aiodbkit.migrations.runner import migrate, rollback, status

__all__ = [
    "Migration",
    "MigrationStatus",
    "add_column",
    "add_index",
    "add_not_null",
    "drop_column",
    "drop_index",
    "drop_not_null",
    "migrate",
    "rename_column",
    "rename_table",
    "rollback",
    "status",
]
