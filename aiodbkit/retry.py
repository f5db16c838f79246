"""Trying again: exponential backoff with full jitter."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

from aiodbkit.errors import Error
from aiodbkit.options import RetryPolicy

__all__ = ["pause_before", "run_with_retry"]

T = TypeVar("T")


def pause_before(retry: int, policy: RetryPolicy) -> float:
    """Return the seconds to wait before retry number ``retry`` (0 is the first)."""
    longest = min(policy.backoff * 2 ** min(retry, 30), policy.max_backoff)
    return random.uniform(0.0, longest) if policy.jitter else longest


async def run_with_retry(policy: RetryPolicy, work: Callable[[], Awaitable[T]]) -> T:
    """Run ``work`` until it succeeds, fails for good or the policy says enough.

    Only errors whose ``is_transient`` is true are tried again. The last error is raised as it
    is, the number of attempts in its notes.
    """
    began = monotonic()
    retries = 0
    while True:
        try:
            return await work()
        except Error as error:
            pause = pause_before(retries, policy)
            late = policy.max_elapsed is not None and (
                monotonic() + pause - began > policy.max_elapsed
            )
            if not error.is_transient or retries >= policy.max_retries or late:
                if retries:
                    error.add_note(f"aiodbkit gave up after {retries + 1} attempts")
                raise
        retries += 1
        await asyncio.sleep(pause)
