"""Phrases that error messages share."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["listed", "near"]


def near(name: str, names: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the likeliest of ``names``, or nothing."""
    folded = {other.casefold(): other for other in names}
    match = get_close_matches(name.casefold(), folded, n=1)
    return f" (did you mean {folded[match[0]]!r}?)" if match else ""


def listed(names: Iterable[str], most: int = 40) -> str:
    """Return the names in a line, ``"none"`` when there are none; past ``most``, how many more."""
    known = list(names)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return (", ".join(known[:most]) or "none") + more
