"""PostgreSQL: over asyncpg."""

from aiodbkit.backends.postgres.copy_verbs import CopyStream
from aiodbkit.backends.postgres.engine import PostgresEngine
from aiodbkit.backends.postgres.listen import Gap, Notification, Notifications
from aiodbkit.backends.postgres.locks import AdvisoryLock, lock_key

__all__ = [
    "AdvisoryLock",
    "CopyStream",
    "Gap",
    "Notification",
    "Notifications",
    "PostgresEngine",
    "lock_key",
]
