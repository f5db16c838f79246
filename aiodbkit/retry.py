"""Trying again: exponential backoff with full jitter, for errors that nothing remains of.

The delays are those of "full jitter": a random part of ``backoff * 2**n``, so that clients that
failed together do not come back together. What is tried again is a whole piece of work, never a
statement that may have reached the server. A `RetryBudget` keeps an outage from being multiplied.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, overload

from aiodbkit.errors import CommitUnknownError, ConfigurationError, Error, InterfaceError
from aiodbkit.options import RetryBudget, RetryEvent, RetryPolicy, is_async

__all__ = [
    "Attempt",
    "Retry",
    "Retrying",
    "decorator",
    "pause_before",
    "policy_of",
    "refuse_what_cannot_be_repeated",
    "retry",
    "retrying",
    "run_with_retry",
]

P = ParamSpec("P")
T = TypeVar("T")

HOOK_NOTE = "raised by a hook after the transaction: {}"
_HOOK_AFTER_COMMIT = HOOK_NOTE.format("committed")

logger = logging.getLogger("aiodbkit.retry")
# Where logging is not set up, what is being dealt with is no news for stderr.
logger.addHandler(logging.NullHandler())


def pause_before(retry: int, policy: RetryPolicy) -> float:
    """Return the seconds to wait before retry number ``retry`` (0 is the first)."""
    longest = min(policy.backoff * 2 ** min(retry, 30), policy.max_backoff)
    return random.uniform(0.0, longest) if policy.jitter else longest


class Attempt:
    """One try: ``async with attempt:`` around the work. An error that can be retried stays in it.

    Attributes:
        number: 1 for the first try.
    """

    __slots__ = ("_retrying", "number")

    def __init__(self, retrying: Retrying, number: int) -> None:
        self._retrying = retrying
        self.number = number

    def __repr__(self) -> str:
        return f"<Attempt {self.number}>"

    async def __aenter__(self) -> Self:
        retrying = self._retrying
        if retrying._is_entered or retrying._tries != self.number:
            raise InterfaceError(
                f"attempt {self.number} has been entered before: put all of the work into one "
                "`async with attempt:`, as only the whole can be tried again"
            )
        retrying._is_entered = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if exc is None:
            self._retrying._succeeded()
            return False
        return self._retrying._failed(exc)


class Retrying:
    """The tries of one piece of work, as an async iterator; see `retrying`."""

    def __init__(self, policy: RetryPolicy, name: str, budget: RetryBudget | None = None) -> None:
        self._policy = policy
        self._name = name
        self._budget = policy.budget or budget
        self._began = monotonic()
        self._tries = 0
        self._is_entered = True
        self._is_used = False
        self._is_over = False
        self._next: RetryEvent | None = None  # the retry that is to come

    def __aiter__(self) -> Retrying:
        if self._is_used:
            raise InterfaceError(
                "these tries are used up, and the work would be left out: call retrying() for each "
                "`async for`"
            )
        self._is_used = True
        self._began = monotonic()
        return self

    async def __anext__(self) -> Attempt:
        if self._is_over:
            raise StopAsyncIteration
        if not self._is_entered:
            raise InterfaceError(
                "retrying() went on without a try: put the work into `async with attempt:`"
            )
        if self._next is not None:
            event, self._next = self._next, None
            await self._pause(event)
        elif self._tries:  # the body was left by `continue` or the like, without an error
            raise StopAsyncIteration
        self._tries += 1
        self._is_entered = False
        return Attempt(self, self._tries)

    async def _pause(self, event: RetryEvent) -> None:
        logger.warning(
            "%s: try %d of %d failed, the next one comes in %.3f s: %s: %s",
            event.name,
            event.attempt,
            self._policy.max_retries + 1,
            event.wait,
            type(event.error).__name__,
            event.error,
        )
        if self._policy.before_retry is not None:
            await self._tell(self._policy.before_retry, event)
            if self._is_too_late(event.wait):
                self._is_over = True
                self._give_up(event.error, self._said_too_late)
                raise event.error
        await asyncio.sleep(event.wait)

    @staticmethod
    async def _tell(hook: Callable[[RetryEvent], Any], event: RetryEvent) -> None:
        try:
            told = hook(event)
            if inspect.isawaitable(told):
                await told
        except Exception as error:  # it ends the tries: the error that led to it stays visible
            error.__context__ = error.__context__ or event.error
            raise

    def _succeeded(self) -> None:
        self._is_over = True
        if self._budget is not None and self._tries == 1:
            self._budget.earn()

    def _failed(self, error: BaseException) -> bool:
        """Decide whether there is another try; then the error is kept for now."""
        self._is_over = True
        if not isinstance(error, Exception) or not _may_be_repeated(error, self._policy):
            self._give_up(error, "")
            return False
        if _is_after_commit(error):
            self._give_up(error, ": what failed is a hook, the transaction was committed")
            return False
        wait = pause_before(self._tries - 1, self._policy)
        reason = self._reason_to_stop(wait)
        if reason is not None:
            self._give_up(error, reason)
            return False
        self._is_over = False
        self._next = RetryEvent(name=self._name, attempt=self._tries, wait=wait, error=error)
        return True

    def _reason_to_stop(self, wait: float) -> str | None:
        policy = self._policy
        if self._tries > policy.max_retries:
            return ""
        if self._is_too_late(wait):
            return self._said_too_late
        if self._budget is not None and not self._budget.spend():
            return ": the retry budget is used up"
        return None

    def _is_too_late(self, wait: float) -> bool:
        limit = self._policy.max_elapsed
        return limit is not None and monotonic() + wait - self._began > limit

    @property
    def _said_too_late(self) -> str:
        return f": the next one would come after max_elapsed={self._policy.max_elapsed:g} s"

    def _give_up(self, error: BaseException, reason: str) -> None:
        if self._tries > 1 or reason:
            tries = f"{self._tries} attempt" + "s" * (self._tries > 1)
            error.add_note(f"aiodbkit gave up after {tries}{reason}")


def _may_be_repeated(error: Exception, policy: RetryPolicy) -> bool:
    if policy.on is not None and not isinstance(policy.on, tuple):
        return bool(policy.on(error))
    if isinstance(error, ExceptionGroup) and ExceptionGroup not in (policy.on or ()):
        return all(_may_be_repeated(each, policy) for each in error.exceptions)
    if policy.on is None:
        return isinstance(error, Error) and error.is_transient
    if isinstance(error, CommitUnknownError):  # it may have happened: asked for by its own name
        return CommitUnknownError in policy.on
    return isinstance(error, policy.on)


def _is_after_commit(error: Exception) -> bool:
    """Whether a hook raised it after its transaction had been committed, which says so in a note.

    Another try would do the transaction again.
    """
    if isinstance(error, ExceptionGroup):
        return any(map(_is_after_commit, error.exceptions))
    return _HOOK_AFTER_COMMIT in getattr(error, "__notes__", ())


async def run_with_retry(
    policy: RetryPolicy,
    work: Callable[[], Awaitable[T]],
    name: str = "connect",
    budget: RetryBudget | None = None,
) -> T:
    """Run ``work`` until it succeeds, fails for good or the policy says enough.

    The last error is raised as it is, the number of attempts in its notes.
    """
    async for attempt in Retrying(policy, name, budget):
        async with attempt:
            return await work()
    raise AssertionError("unreachable")  # pragma: no cover


def retrying(policy: RetryPolicy | None = None, /, **figures: Any) -> Retrying:
    """Iterate over tries: ``async for attempt in retrying(max_retries=3): async with attempt: …``.

    Args:
        policy: a `RetryPolicy`; or give its fields as keywords.

    Raises:
        ConfigurationError: a figure that cannot be.
    """
    return Retrying(policy_of(policy, figures), "retrying()")


class Retry(Protocol):
    """A decorator of async functions that keeps their types."""

    def __call__(self, function: Callable[P, Awaitable[T]], /) -> Callable[P, Awaitable[T]]: ...


@overload
def retry(function: Callable[P, Awaitable[T]], /) -> Callable[P, Awaitable[T]]: ...
@overload
def retry(policy: RetryPolicy | None = None, /, **figures: Any) -> Retry: ...
def retry(policy: Any = None, /, **figures: Any) -> Any:
    """Run each call of an async function again on errors that are worth it.

    Args:
        policy: a `RetryPolicy`; or give its fields as keywords: ``max_retries``, ``backoff``,
            ``max_backoff``, ``max_elapsed``, ``jitter``, ``on``, ``before_retry``, ``budget``.

    Raises:
        TypeError: when decorating what is no async function.
        ConfigurationError: a figure that cannot be.
    """
    if callable(policy):
        function: Any = policy
        return decorator(policy_of(None, figures))(function)
    return decorator(policy_of(policy, figures))


def decorator(
    policy: RetryPolicy,
    *,
    budget: Callable[[], RetryBudget | None] = lambda: None,
    runs_once: Callable[[], bool] = lambda: False,
) -> Retry:
    """Return the decorator; where ``runs_once`` says so the function is called just once.

    Raises:
        ConfigurationError: ``policy`` is none.
    """
    policy_of(policy, {})

    def decorate(function: Callable[P, Awaitable[T]], /) -> Callable[P, Awaitable[T]]:
        refuse_what_cannot_be_repeated("retry", function)

        @functools.wraps(function)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            if runs_once():
                return await function(*args, **kwargs)
            name = getattr(function, "__qualname__", repr(function))
            work = functools.partial(function, *args, **kwargs)
            return await run_with_retry(policy, work, name, budget())

        return wrapper

    return decorate


def policy_of(policy: RetryPolicy | None, figures: dict[str, Any]) -> RetryPolicy:
    """Return ``policy``, or the one that the figures make.

    Raises:
        ConfigurationError: both were given, or a figure that cannot be.
    """
    if policy is None:
        try:
            return RetryPolicy(**figures)
        except TypeError as error:
            known = ", ".join(RetryPolicy.__dataclass_fields__)
            raise ConfigurationError(f"{error}; a retry takes: {known}") from None
    if isinstance(policy, classmethod):
        refuse_what_cannot_be_repeated("retry", policy)
    if not isinstance(policy, RetryPolicy):
        raise ConfigurationError(f"a retry takes a RetryPolicy or its fields, not {policy!r}")
    if figures:
        raise ConfigurationError("give a RetryPolicy or its fields, not both")
    return policy


def refuse_what_cannot_be_repeated(call: str, function: Any) -> None:
    """Refuse to decorate what is no async function.

    Raises:
        TypeError: says why.
    """
    if isinstance(function, (staticmethod, classmethod)):
        kind = type(function).__name__
        raise TypeError(
            f"@{call} wraps async functions, and this is a {kind} already: write @{kind} above "
            f"@{call}"
        )
    if inspect.isclass(function):
        raise TypeError(f"@{call} wraps async functions; {function.__qualname__} is a class")
    if is_async(function):
        return
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isasyncgenfunction(function):
        raise TypeError(
            f"@{call} cannot wrap the async generator {name}: rows that were handed out cannot be "
            "taken back for another try. Retry what consumes it, or collect the rows in an async "
            "function"
        )
    if inspect.isgeneratorfunction(function):
        raise TypeError(f"@{call} wraps async functions; {name} is a generator")
    raise TypeError(
        f"@{call} wraps async functions; {name} is not one: a sync function cannot wait between "
        "two tries without stopping the event loop"
    )
