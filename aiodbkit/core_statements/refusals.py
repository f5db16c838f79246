"""What is said to who gives something else than a statement, a Table or a MetaData."""

from __future__ import annotations

from importlib.util import find_spec

from aiodbkit.errors import ProgrammingError

__all__ = ["refusal"]


def refusal(accepted: str, given: object, cure: str = "") -> ProgrammingError:
    """Return the error for what is not accepted; ``cure`` says what to give in its place."""
    needs = "" if find_spec("sqlalchemy") else " (which needs the extra aiodbkit[sqlalchemy])"
    what = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
    return ProgrammingError(f"{accepted}{needs}, not {what}{cure and f': {cure}'}")
