"""A user's aggregate in the form that apsw asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Group"]


class Group:
    """One group of rows: an object of the user's class, made when its first row comes.

    So the result for no rows at all is NULL, as over sqlite3.
    """

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def _group(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made

    def step(self, *args: Any) -> None:
        """Take a row in."""
        self._group().step(*args)

    def inverse(self, *args: Any) -> None:
        """Take a row out."""
        self._group().inverse(*args)

    def value(self) -> Any:
        """Return the result for the rows that are in."""
        return self._group().value()

    def final(self) -> Any:
        """Return the result."""
        return None if self._made is None else self._made.finalize()
