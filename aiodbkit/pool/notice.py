"""What happens in a pool, told to the log and to whoever watches it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from aiodbkit.errors import CannotConnectError
from aiodbkit.events import PoolEventKind
from aiodbkit.pool import report

if TYPE_CHECKING:
    from aiodbkit.pool.core import PoolCore

__all__ = ["Watcher", "refusal", "tell"]

logger = logging.getLogger("aiodbkit.pool")

Watcher: TypeAlias = "Callable[[PoolCore[Any], PoolEventKind, float, BaseException | None], None]"

# Loans are in nobody's log: there may be thousands a second. Refused callers have their error.
_LEVELS = {
    "opened": logging.DEBUG,
    "closed": logging.DEBUG,
    "expired": logging.DEBUG,
    "lost": logging.INFO,
    "failed": logging.INFO,
    "timeout": logging.INFO,
    "overloaded": logging.INFO,
}

_TEXTS = {
    "opened": "a connection was opened",
    "closed": "a connection was closed",
    "expired": "a connection has served its time, and is replaced",
    "lost": "a connection was lost",
    "failed": "no connection could be opened",
    "timeout": "a caller has waited too long for a connection",
    "overloaded": "a caller was refused, as too many wait",
}


def tell(
    pool: PoolCore[Any],
    kind: PoolEventKind,
    duration: float = 0.0,
    error: BaseException | None = None,
) -> None:
    """Log an event of a pool, and tell it on."""
    if pool.watcher is not None:
        pool.watcher(pool, kind, duration, error)
    level = _LEVELS.get(kind)
    if level is not None and logger.isEnabledFor(level):
        took = f" after {duration:.3f} s" if duration else ""
        why = f" ({error})" if isinstance(error, CannotConnectError) else ""
        logger.log(level, "%s: %s%s%s: %s", pool.name, _TEXTS[kind], took, why, report.sizes(pool))


def refusal(
    pool: PoolCore[Any], kind: PoolEventKind, error: BaseException, waited: float = 0.0
) -> BaseException:
    """Count, tell and return the error of a caller that gets no connection."""
    if kind == "timeout":
        pool.timeouts += 1
    else:
        pool.overloads += 1
    tell(pool, kind, waited, error)
    return error
