"""Options: frozen, keyword-only, in seconds; a bad value is refused by its name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from aiodbkit.errors import ConfigurationError

__all__ = [
    "ChildTasks",
    "EngineOptions",
    "Isolation",
    "PoolOptions",
    "RetryBudget",
    "RetryEvent",
    "RetryPolicy",
    "TransactionOptions",
]

Isolation = Literal["read uncommitted", "read committed", "repeatable read", "serializable"]
LockMode = Literal["deferred", "immediate", "exclusive"]
ChildTasks = Literal["error", "own", "share"]
ConnectionHook = Callable[[Any], Awaitable[Any]]


def is_async(function: Any) -> bool:
    """Whether a call gives a coroutine: of a function, or of an object with such a `__call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - asked for itself, not whether it is
    )


def _refuse(name: str, value: object, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"{name} must be {wanted}, not {value!r}")


def seconds(name: str, value: Any, *, optional: bool = False) -> None:
    """Refuse what is no finite, non-negative number of seconds (None where ``optional``)."""
    if value is None and optional:
        return
    if not _is_seconds(value):
        raise _refuse(name, value, "a number of seconds, 0 or more" + (", or None" * optional))


def _is_seconds(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value) and value >= 0
    except OverflowError:  # a whole number beyond all floats
        return False


def count(name: str, value: Any, *, least: int = 0) -> None:
    """Refuse what is no whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _refuse(name, value, f"a whole number, {least} or more")


def choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuse what is not one of ``allowed``."""
    if value not in allowed:
        raise _refuse(name, value, "one of " + ", ".join(repr(option) for option in allowed))


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolOptions:
    """How a pool grows, checks, replaces and waits. All times are in seconds.

    Attributes:
        min_size: connections opened by ``open()`` and kept.
        max_size: the most connections there are at once.
        acquire_timeout: how long a caller waits for a connection.
        max_waiting: how many callers may wait; 0 is no bound.
        max_lifetime: age at which a connection is replaced, less up to 10 % jitter; None is never.
        idle_timeout: idle connections above ``min_size`` are closed after it; None is never.
        max_uses: uses after which a connection is replaced; 0 is no bound.
        check: round-trip check before use: ``"never"``, ``"idle"`` (unused for ``check_after``),
            ``"always"``.
        check_after: idleness after which ``"idle"`` checks.
        reset: ``"auto"`` undoes what was done, ``"always"`` is the backend's full reset,
            ``"never"`` leaves the session as it is (but rolls an open transaction back).
        leak_after: a connection held longer is logged with where it was taken; None is off.
        shed_after: shed load when waits stay above it; None is off.
        connect_timeout, check_timeout, reset_timeout, close_timeout: deadlines of those steps.
        name: the pool's name in messages.
    """

    min_size: int = 0
    max_size: int = 10
    acquire_timeout: float = 30.0
    max_waiting: int = 0
    max_lifetime: float | None = 3600.0
    idle_timeout: float | None = 600.0
    max_uses: int = 0
    check: Literal["never", "idle", "always"] = "idle"
    check_after: float = 30.0
    reset: Literal["auto", "always", "never"] = "auto"
    leak_after: float | None = None
    shed_after: float | None = None
    connect_timeout: float = 10.0
    check_timeout: float = 5.0
    reset_timeout: float = 5.0
    close_timeout: float = 5.0
    name: str = "pool"

    def __post_init__(self) -> None:
        count("min_size", self.min_size)
        count("max_size", self.max_size, least=1)
        count("max_waiting", self.max_waiting)
        count("max_uses", self.max_uses)
        for name in ("acquire", "connect", "check", "reset", "close"):
            seconds(f"{name}_timeout", getattr(self, f"{name}_timeout"))
        seconds("check_after", self.check_after)
        for name in ("max_lifetime", "idle_timeout", "leak_after", "shed_after"):
            seconds(name, getattr(self, name), optional=True)
        if self.max_lifetime == 0:
            raise _refuse("max_lifetime", 0, "more than 0 seconds, or None for no bound")
        choice("check", self.check, ("never", "idle", "always"))
        choice("reset", self.reset, ("auto", "always", "never"))
        if self.max_size < self.min_size:
            raise ConfigurationError(
                f"max_size={self.max_size} is below min_size={self.min_size}: "
                f"raise max_size or lower min_size"
            )


class RetryBudget:
    """What many retries share, so that an outage is not multiplied by them.

    Every piece of work that succeeds at its first try earns a part of a retry; every retry costs
    a whole one. While most work succeeds there is always enough; in an outage the reserve is soon
    used up, and errors go through at once. (gRPC throttles its retries in this manner.)

    Args:
        ratio: of a retry, earned by each success.
        reserve: retries that are there at the start, and the most that are kept.
    """

    __slots__ = ("_left", "ratio", "reserve")

    def __init__(self, *, ratio: float = 0.1, reserve: int = 10) -> None:
        seconds("ratio", ratio)
        count("reserve", reserve, least=1)
        self.ratio = ratio
        self.reserve = reserve
        self._left = float(reserve)

    @property
    def left(self) -> float:
        """How many retries can be paid for."""
        return self._left

    def earn(self) -> None:
        """Take note of a success at the first try."""
        self._left = min(self._left + self.ratio, float(self.reserve))

    def spend(self) -> bool:
        """Pay for a retry; False if there is not enough."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def __repr__(self) -> str:
        return f"<RetryBudget {self._left:.1f} of {self.reserve}>"


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryEvent:
    """What `RetryPolicy.before_retry` is told.

    Attributes:
        name: of the function that is to run again.
        attempt: number of the try that failed, from 1.
        wait: seconds until the next one.
        error: why it failed.
    """

    name: str
    attempt: int
    wait: float
    error: Exception


RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often and how fast to try again: waits ``backoff * 2**n``, full jitter.

    Attributes:
        max_retries: tries after the first one.
        backoff: seconds before the first retry, doubled each time.
        max_backoff: the most seconds between two tries.
        max_elapsed: no retry starts later than this many seconds after the first try; None is
            no bound.
        jitter: wait a random part of each pause, so that clients do not retry in step.
        on: which errors are worth another try: a class, a tuple of classes, or a function of the
            error. None is those whose ``is_transient`` is true. A `CommitUnknownError` may have
            taken effect: it is meant only if it is named itself.
        before_retry: called with a `RetryEvent` before each pause; sync or async.
        budget: a `RetryBudget` to share; None is the engine's, where there is one.
    """

    max_retries: int = 3
    backoff: float = 0.1
    max_backoff: float = 5.0
    max_elapsed: float | None = 30.0
    jitter: bool = True
    on: RetryOn | None = None
    before_retry: Callable[[RetryEvent], Any] | None = None
    budget: RetryBudget | None = None

    def __post_init__(self) -> None:
        if isinstance(self.on, type):
            object.__setattr__(self, "on", (self.on,))
        self._check_on()
        if not (self.before_retry is None or callable(self.before_retry)):
            raise _refuse("before_retry", self.before_retry, "a callable")
        if not isinstance(self.budget, RetryBudget | None):
            raise _refuse("budget", self.budget, "a RetryBudget")
        count("max_retries", self.max_retries)
        seconds("backoff", self.backoff)
        seconds("max_backoff", self.max_backoff)
        seconds("max_elapsed", self.max_elapsed, optional=True)

    def _check_on(self) -> None:
        wanted = "exception classes, or a function of the error"
        if isinstance(self.on, tuple):
            given: tuple[Any, ...] = self.on
            for each in given:
                if not (isinstance(each, type) and issubclass(each, Exception)):
                    raise _refuse("on", each, wanted)
        elif is_async(self.on):
            raise ConfigurationError(
                "on= takes a sync function of the error, not an async one: it is asked while an "
                "error is on its way; await what it needs in before_retry="
            )
        elif not (self.on is None or callable(self.on)):
            raise _refuse("on", self.on, wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class TransactionOptions:
    """What BEGIN asks for; None leaves the server's default.

    Attributes:
        isolation: one of the four names of the SQL standard.
        read_only: the transaction may not write.
        deferrable: PostgreSQL, with serializable and read only: wait for a snapshot that cannot
            fail.
        mode: SQLite's lock mode; None is ``"immediate"``, or ``"deferred"`` when ``read_only``.
    """

    isolation: Isolation | None = None
    read_only: bool = False
    deferrable: bool = False
    mode: LockMode | None = None

    def __post_init__(self) -> None:
        for name in ("read_only", "deferrable"):
            if not isinstance(getattr(self, name), bool):
                raise _refuse(name, getattr(self, name), "True or False")
        if self.isolation is not None:
            choice("isolation", self.isolation, get_args(Isolation))
        if self.mode is not None:
            choice("mode", self.mode, get_args(LockMode))

    @property
    def is_default(self) -> bool:
        """Whether nothing was asked for: a plain BEGIN serves."""
        return self == _DEFAULT_TRANSACTION


_DEFAULT_TRANSACTION = TransactionOptions()

POOL_OPTION_NAMES = frozenset(field.name for field in fields(PoolOptions))


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """What an engine does beyond pooling.

    Attributes:
        command_timeout: seconds for each statement that names no ``timeout`` itself; None is
            no limit.
        child_tasks: what a statement of a child task does while its parent's transaction is
            open: ``"error"``, ``"own"`` or ``"share"``.
        session_sql: statements run on each new connection.
        on_connect: async callable, given each new `Connection`.
        on_acquire: async callable, given the `Connection` before each loan.
        on_release: async callable, given the `Connection` after each loan.
        connection_factory: async callable that returns a raw driver connection.
        connect_retry: how long to go on trying to open connections.
        retry_budget: shared by `db.retry` and all transactions that are retried.
        retry_reads: whether a fetch verb of the engine, outside of any block, sends a statement
            that only reads once more when its connection was lost in flight. A SELECT counts as
            reading whatever functions of yours it calls.
        autoconnect: whether the first use opens the engine; if not, `connect` has to come first.
        persistent: whether a task keeps one connection from its first statement until it ends,
            instead of one for each statement or block.
        max_shared: how many connections ``connection(shared=True)`` spreads its users over.
        slow_query: statements that take more seconds are logged at WARNING; None is off.
        log_params: whether the log and the listeners are told the values of parameters.
    """

    command_timeout: float | None = None
    child_tasks: ChildTasks = "error"
    session_sql: tuple[str, ...] = ()
    on_connect: ConnectionHook | None = None
    on_acquire: ConnectionHook | None = None
    on_release: ConnectionHook | None = None
    connection_factory: Callable[[], Awaitable[Any]] | None = None
    connect_retry: RetryPolicy | None = None
    retry_budget: RetryBudget | None = None
    retry_reads: bool = False
    autoconnect: bool = True
    persistent: bool = False
    max_shared: int = 1
    slow_query: float | None = None
    log_params: bool = False

    def __post_init__(self) -> None:
        seconds("command_timeout", self.command_timeout, optional=True)
        choice("child_tasks", self.child_tasks, get_args(ChildTasks))
        if isinstance(self.session_sql, str):
            raise _refuse("session_sql", self.session_sql, "a list of statements")
        object.__setattr__(self, "session_sql", tuple(self.session_sql))
        for name in ("on_connect", "on_acquire", "on_release", "connection_factory"):
            if not (getattr(self, name) is None or callable(getattr(self, name))):
                raise _refuse(name, getattr(self, name), "an async callable")
        if not isinstance(self.connect_retry, RetryPolicy | None):
            raise _refuse("connect_retry", self.connect_retry, "a RetryPolicy")
        if not isinstance(self.retry_budget, RetryBudget | None):
            raise _refuse("retry_budget", self.retry_budget, "a RetryBudget")
        for name in ("retry_reads", "autoconnect", "persistent", "log_params"):
            if not isinstance(getattr(self, name), bool):
                raise _refuse(name, getattr(self, name), "True or False")
        count("max_shared", self.max_shared, least=1)
        seconds("slow_query", self.slow_query, optional=True)


ENGINE_OPTION_NAMES = frozenset(field.name for field in fields(EngineOptions))
