"""After a fork the child starts with empty pools and never touches its parent's connections.

A socket that both use mixes up their conversations; closing one in the child says goodbye to
the server in the parent's name, and even taking it off the event loop's selector does so in the
parent, which shares it.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol

__all__ = ["watch"]


class _Forkable(Protocol):
    def leave_to_parent(self) -> object: ...


_pools: weakref.WeakSet[Any] = weakref.WeakSet()
_inherited: list[object] = []  # kept for ever: a finalizer would touch what is the parent's


def watch(pool: _Forkable) -> None:
    """Empty this pool in every child process forked from now on."""
    _pools.add(pool)


def _in_child() -> None:
    _inherited.extend(pool.leave_to_parent() for pool in list(_pools))


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_in_child)
