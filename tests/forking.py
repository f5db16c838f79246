"""What a forked child sees: a connection must not be in the hands of two processes."""

from __future__ import annotations

import asyncio
import os
import signal
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

__all__ = ["forks", "in_a_child"]

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

_LONGEST = 20  # seconds, then the child is ended and has said nothing


def in_a_child(work: Callable[[], Awaitable[Any]]) -> str:
    """Fork, run an async function in the child; return its result, or its error, as text."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_LONGEST)
            os.write(write, _said_by(work).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def _said_by(work: Callable[[], Awaitable[Any]]) -> str:
    async def run() -> Any:
        return await work()

    try:
        return str(asyncio.run(run()))
    except BaseException as error:
        return repr(error)
