"""What the server warns of, in the log: lost digits, cut texts, indexes that are no more."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from aiodbkit.backends.mysql.errors import masked

__all__ = ["log_warnings", "logger"]

logger = logging.getLogger("aiodbkit.mysql")

_SHOWN = 5  # of those of one statement

# Those whose texts have names in them and no values.
_NAMES_ONLY = frozenset(
    (
        *(1007, 1008, 1048, 1050, 1051, 1054, 1060, 1061, 1091, 1146, 1196, 1261, 1262, 1263, 1264),
        *(1265, 1287, 1305, 1364, 1365, 1406, 1451, 1452, 1478, 1618, 1681, 1831, 3719, 3778),
    )
)
_SIGNALS = frozenset((1642, 1643, 1644))  # texts of a routine's author
# A value begins with a quote or is a number; a hash stands for a comment.
_VALUE = re.compile(r"""['"#0-9].*""", re.DOTALL)


def log_warnings(sql: str, count: int, rows: Sequence[Sequence[Any]], *, with_values: bool) -> None:
    """Log what SHOW WARNINGS told of one statement: a line for all of it, notes at INFO.

    Args:
        count: how many there were: the server keeps fewer.
        with_values: the texts may be shown as they stand.
    """
    texts = [
        _text(int(code), str(text), with_values=with_values) for _, code, text in rows[:_SHOWN]
    ]
    more = f" and {count - len(texts)} more" if count > len(texts) else ""
    only_notes = all(level == "Note" for level, _, _ in rows)
    logger.log(
        logging.INFO if only_notes else logging.WARNING,
        "%d %s%s: %s%s: %s",
        *(count, "note" if only_notes else "warning", "s" if count > 1 else ""),
        *("; ".join(texts), more, sql),
    )


def _text(code: int, text: str, *, with_values: bool) -> str:
    if not with_values:
        text = _without_values(code, text)
    return f"{text} ({code})"


def _without_values(code: int, text: str) -> str:
    if code in _SIGNALS:
        return "a warning of a routine's own"
    without = masked(code, text)
    if without != text or code in _NAMES_ONLY:
        return without
    return _VALUE.sub("…", text)
