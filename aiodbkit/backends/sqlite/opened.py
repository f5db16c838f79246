"""What a connection has open: it ends with its transaction."""

from __future__ import annotations

import sqlite3
from typing import Any

from aiodbkit.backends.sqlite.functions import Functions

__all__ = ["OpenCursors", "close_cursors"]


class OpenCursors(set[Any]):
    """A connection's cursors and blobs that are open; the end of a transaction closes them.

    Attributes:
        interrupted: set before an interrupt, which ends them all.
        functions: of the user's, on this connection.
    """

    def __init__(self, functions: Functions | None = None) -> None:
        super().__init__()
        self.interrupted = False
        self.functions = functions or Functions()

    def close_doomed(self) -> None:
        """Close what an interrupt has ended.

        It lasts until no statement is open: it would meet all that is run beside them, for ever.
        """
        self.interrupted = False
        close_cursors(self)


def close_cursors(cursors: set[sqlite3.Cursor]) -> None:
    """Close them all: they would hold read locks, and outlive the transaction they read in."""
    while cursors:
        cursors.pop().close()
