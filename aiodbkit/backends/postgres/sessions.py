"""Sessions that are not one's own: behind a proxy that lends connections per transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable

from aiodbkit.backends.postgres.sql import keeps_in_session

__all__ = ["warn_once"]

logger = logging.getLogger("aiodbkit.session")

_MOST_WARNINGS = 100


def warn_once() -> Callable[[str], None]:
    """Return what warns of session state behind a proxy, once for each statement."""
    told: set[str] = set()

    def warn(sql: str) -> None:
        if sql in told or len(told) >= _MOST_WARNINGS or not keeps_in_session(sql):
            return
        told.add(sql)
        logger.warning(
            "behind a transaction-pooling proxy (prepared_statements=False) this changes the "
            "session of whichever server connection runs it, and whoever gets that next meets it: "
            "use SET LOCAL in a transaction, ALTER ROLE ... SET, or the proxy's own settings: %s",
            sql,
        )

    return warn
