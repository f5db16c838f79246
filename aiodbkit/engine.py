"""The engine: one database, its pool, and the verbs over both."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from logging import DEBUG
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, ParamSpec, TypeVar, overload

from aiodbkit.blocks import ConnectionBlock, ExecutionContext, TransactionBlock
from aiodbkit.configuration import DriverSource, chosen_driver, configure, load_driver
from aiodbkit.connection import Connection
from aiodbkit.driver import Capabilities, Driver, DriverConnection, Params
from aiodbkit.engine_pool import EnginePool
from aiodbkit.errors import InterfaceError, PoolClosedError, TransactionScopeError
from aiodbkit.lasting import LastingStream
from aiodbkit.observation import Observed
from aiodbkit.options import (
    ChildTasks,
    EngineOptions,
    Isolation,
    LockMode,
    PoolOptions,
    RetryBudget,
    RetryPolicy,
    TransactionOptions,
)
from aiodbkit.persistent import KeptConnections
from aiodbkit.pool import Slot
from aiodbkit.querylog import is_query_logged
from aiodbkit.retry import Retry, Retrying, decorator, policy_of
from aiodbkit.scope import Place, current_place, own_place
from aiodbkit.session import Session
from aiodbkit.shared import SharedBlock, SharedConnections
from aiodbkit.stream import Stream
from aiodbkit.turns import Turns
from aiodbkit.verbs import Turn, Verbs, time_left, waited

if TYPE_CHECKING:
    from typing import Self

    from aiodbkit.portal import Portal

__all__ = ["DriverSource", "Engine"]

P = ParamSpec("P")
T = TypeVar("T")


class Engine(Verbs, Observed):
    """One database. Built without I/O and without a running loop; see `create_engine`.

    Args:
        url: None makes a deferred engine: `init` says later which database it is. Without a URL,
            ``database=``, ``host=``, ``port=``, ``user=`` and ``password=`` say it.
        options: of the pool (`PoolOptions`), of the engine (`EngineOptions`), and of the driver,
            which gets them unchanged.

    Raises:
        ConfigurationError: an option that nobody knows, or a value that cannot be.
    """

    schemes: ClassVar[tuple[str, ...]] = ()
    # By the name that stands behind the + of a scheme or is given as driver=, the default first.
    drivers: ClassVar[Mapping[str, DriverSource | type[Driver]]] = {}

    options: EngineOptions
    pool_options: PoolOptions

    def __init__(self, url: str | None = "", **options: Any) -> None:
        self._driver: Driver | None = None
        self._driver_name = ""
        self._pool: EnginePool | None = None
        self._command_timeout: float | None = None
        self._opening = Turns()
        self._opened_hooks: list[Callable[[DriverConnection], None]] = []
        self._take: Callable[[], Slot[DriverConnection] | None] = self._take_from_deferred
        self._kept: KeptConnections | None = None
        self._shared = SharedConnections(self)
        self._deferred_options = options
        self._begin_observation()
        if url is not None:
            self.init(url or None, **options)

    # What a backend says

    def driver_options(self) -> Mapping[str, Any]:
        """Return the names the driver takes, with the type that a URL's text is converted to."""
        return self._driver_class().options()

    def _create_driver(self, target: Mapping[str, Any], options: Mapping[str, Any]) -> Driver:
        """Build the driver: ``target`` says where the database is, without I/O."""
        build: Any = self._driver_class()
        created: Driver = build(
            target,
            options,
            connect_timeout=self.pool_options.connect_timeout,
            reset=self.pool_options.reset,
            connection_factory=self.options.connection_factory,
        )
        return created

    def _driver_class(self) -> type[Driver]:
        return load_driver(type(self).__name__, self.drivers[self._driver_name])

    # Set-up

    def init(self, url: str | None = None, **options: Any) -> None:
        """Say which database this is: for engines made with ``None``, once, before use.

        Raises:
            InterfaceError: the engine is open.
            ConfigurationError: as the constructor.
        """
        if self._pool is not None and not self._pool.was_closed and self._driver is not None:
            raise InterfaceError("init(): this engine has its database; close() it first")
        given = {**self._deferred_options, **options}
        if self.drivers:
            self._driver_name = chosen_driver(type(self).__name__, self.drivers, url, given)
        configured = configure(type(self).__name__, self.schemes, self.driver_options(), url, given)
        self.pool_options = configured.pool
        self.options = configured.engine
        self._command_timeout = self.options.command_timeout
        self._driver = self._create_driver(configured.target, configured.driver)
        self._pool = EnginePool(self)
        self._kept = KeptConnections(self) if self.options.persistent else None
        self._lend_from(self._pool)
        self._observation.configure()

    def _lend_from(self, pool: EnginePool) -> None:
        """Take connections from ``pool`` from now on: the engine's, or a sandbox's."""
        self._pool = pool
        # A persistent engine has nothing for a statement outside of a block: see _wait.
        self._take = pool.take if self._kept is None or pool.is_sandbox else _nothing

    # Life

    @property
    def pool(self) -> EnginePool:
        """The pool of this engine's connections."""
        if self._pool is None:
            raise InterfaceError(
                f"this {type(self).__name__} is deferred and has no database yet: "
                'call init("...") with its URL first'
            )
        return self._pool

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do."""
        assert self.pool is not None
        assert self._driver is not None
        return self._driver.capabilities

    @property
    def is_connected(self) -> bool:
        """Whether the engine is open, in this event loop."""
        return self._pool is not None and self._pool.is_open

    async def connect(self) -> None:
        """Open the engine: ``min_size`` connections are made now. Safe to call again.

        Raises:
            CannotConnectError: with the real reason; nothing is left open then.
            InterfaceError: it is open in another event loop.
        """
        pool = self.pool
        if pool.is_open and not self._opening.taken:
            return
        await self._opening.take()
        try:
            assert self._driver is not None
            await self._driver.start()
            await pool.open()
        finally:
            self._opening.pass_on()

    async def close(self, timeout: float = 10.0) -> None:
        """Close the engine: callers that wait are refused, borrowers get ``timeout`` seconds.

        After that their connections are cut. Safe to call again, and to be cancelled.
        """
        if self._pool is None or self._driver is None or self._pool.is_sandbox:
            return
        await self._opening.take()
        if self._kept is not None:
            self._kept.release()
        try:
            await self._pool.close(timeout)
        finally:
            self._opening.pass_on()
            await self._driver.stop()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:  # noqa: ARG002 - as it is called
        """Open the engine for as long as an ASGI app runs: ``FastAPI(lifespan=db.lifespan)``.

        `aiodbkit.lifespan` is for several engines, or an app that has a lifespan of its own.
        """
        async with self:
            yield

    def __repr__(self) -> str:
        name = self._pool.name if self._pool is not None else "deferred"
        return f"<{type(self).__name__} {name}>"

    async def _connect_by_itself(self) -> None:
        if not self.options.autoconnect:
            raise InterfaceError(
                f"this engine is not open ({self.pool.name}), and autoconnect=False: "
                "`await db.connect()` opens it"
            )
        if self.pool.was_closed:
            raise PoolClosedError(
                f"this engine was closed ({self.pool.name}): `await db.connect()` opens it again"
            )
        await self.connect()

    # Connections

    @overload
    def connection(self, *, shared: Literal[False] = False) -> ConnectionBlock: ...
    @overload
    def connection(self, *, shared: Literal[True]) -> SharedBlock: ...
    def connection(self, *, shared: bool = False) -> ConnectionBlock | SharedBlock:
        """The task's connection for a block: taken at its start, given back at its end.

        Inside another one of the same task it is that same connection. Verbs on the engine use
        it while the block lasts. Decorates async functions too.

        Args:
            shared: one that other tasks use at the same time, for statements in autocommit.
        """
        return SharedBlock(self) if shared else ConnectionBlock(self)

    def execution_context(self, transaction: bool = True) -> ExecutionContext:  # noqa: FBT001, FBT002
        """A separate connection for a block, in a transaction unless told otherwise.

        Decorates async functions too.
        """
        return ExecutionContext(self, transaction=transaction)

    def current_connection(self) -> Connection | None:
        """Return the connection that this task's block holds, or None."""
        place = current_place(self)
        return None if place is None else place._held

    def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        deferrable: bool = False,
        mode: LockMode | None = None,
        force_rollback: bool = False,
        child_tasks: ChildTasks | None = None,
        retry: RetryPolicy | None = None,
    ) -> TransactionBlock:
        """A transaction for a block, or for each call of an async function it decorates.

        It commits at the end, and rolls back on any exception. Inside another transaction of the
        same task it is a savepoint.

        Args:
            isolation: ``"read uncommitted"``, ``"read committed"``, ``"repeatable read"``,
                ``"serializable"``.
            read_only: writes are refused.
            deferrable: PostgreSQL: wait for a snapshot that cannot fail.
            mode: SQLite: ``"deferred"``, ``"immediate"``, ``"exclusive"``.
            force_rollback: roll back at the end in any case.
            child_tasks: what a statement of a child task does meanwhile: ``"error"``,
                ``"own"``, ``"share"``; None is the engine's setting.
            retry: for decorated functions: run again as a whole on a transient error.

        Raises:
            NotSupportedError: this backend cannot do what was asked.
            TypeError: ``retry`` was given to an ``async with``.
        """
        return self._transaction_block(
            TransactionOptions(
                isolation=isolation, read_only=read_only, deferrable=deferrable, mode=mode
            ),
            force_rollback=force_rollback,
            child_tasks=child_tasks,
            retry=retry,
        )

    def session(
        self,
        *,
        read_only: bool = False,
        isolation: Isolation | None = None,
        deferrable: bool = False,
        mode: LockMode | None = None,
        child_tasks: ChildTasks | None = None,
    ) -> Session:
        """A unit of work for a block, which takes a connection with its first statement.

        It commits at the end and rolls back on any exception; see `Session`.

        Args:
            read_only: writes are refused.
            isolation, deferrable, mode, child_tasks: as of `transaction`.

        Raises:
            NotSupportedError: at the first statement: this backend cannot do what was asked.
        """
        options = TransactionOptions(
            isolation=isolation, read_only=read_only, deferrable=deferrable, mode=mode
        )
        return Session(self, options, child_tasks)

    def portal(self) -> Portal:
        """The verbs for threads without an event loop: ``with db.portal() as sync_db:``.

        The engine runs in a loop on a thread of its own meanwhile; see `Portal`.
        """
        from aiodbkit.portal import portal_of  # noqa: PLC0415 - few programs need it

        return portal_of(self)

    def _transaction_block(
        self,
        options: TransactionOptions,
        *,
        force_rollback: bool,
        child_tasks: ChildTasks | None,
        retry: RetryPolicy | None = None,
        place: Place | None = None,
    ) -> TransactionBlock:
        return TransactionBlock(
            self,
            options,
            force_rollback=force_rollback,
            child_tasks=child_tasks,
            retry=retry,
            place=place,
        )

    async def run_in_transaction(
        self,
        function: Callable[P, Awaitable[T]],
        *args: Any,
        retry: RetryPolicy | None = None,
        isolation: Isolation | None = None,
        read_only: bool = False,
        **kwargs: Any,
    ) -> T:
        """Call an async function in a transaction, again as a whole where ``retry`` says so.

        Raises:
            TypeError: ``function`` is no async function.
        """
        block = self.transaction(isolation=isolation, read_only=read_only, retry=retry)

        @functools.wraps(function)
        async def call() -> T:
            result = function(*args, **kwargs)
            if not inspect.isawaitable(result):
                raise TypeError(f"run_in_transaction() runs async functions, not {function!r}")
            return await result

        return await block(call)()

    # Again

    @overload
    def retry(self, function: Callable[P, Awaitable[T]], /) -> Callable[P, Awaitable[T]]: ...
    @overload
    def retry(self, policy: RetryPolicy | None = None, /, **figures: Any) -> Retry: ...
    def retry(self, policy: Any = None, /, **figures: Any) -> Any:
        """Run each call of an async function again on errors that are worth it.

        As `aiodbkit.retry`, with this engine's `retry_budget`; and inside an open transaction of
        this engine it is called once, as only the whole transaction can be repeated.

        Raises:
            TypeError: when decorating what is no async function.
            ConfigurationError: a figure that cannot be.
        """
        if callable(policy):
            function: Any = policy
            return self._retry_by(policy_of(None, figures), self._is_in_transaction)(function)
        return self._retry_by(policy_of(policy, figures), self._is_in_transaction)

    def retrying(self, policy: RetryPolicy | None = None, /, **figures: Any) -> Retrying:
        """Iterate over tries, as `aiodbkit.retrying`; with the engine's budget, as `retry`."""
        policy = policy_of(policy, figures)
        if self._is_in_transaction():
            policy = replace(policy, max_retries=0)
        return Retrying(policy, "retrying()", self._retry_budget())

    def _retry_by(self, policy: RetryPolicy, runs_once: Callable[[], bool]) -> Retry:
        return decorator(policy, budget=self._retry_budget, runs_once=runs_once)

    def _retry_budget(self) -> RetryBudget | None:
        return None if self._pool is None else self.options.retry_budget

    def _is_in_transaction(self, place: Place | None = None) -> bool:
        try:
            place = place or current_place(self)
        except TransactionScopeError:  # its parent's transaction, through what was handed over
            return True
        if place is None:
            return False
        held = place._held
        return place._open_to_children is not None or (held is not None and held.in_transaction)

    # Where statements run

    @property
    def _target(self) -> Engine:
        """The engine whose connections a block opened now is to use: itself, see `EngineProxy`."""
        return self

    @property
    def _scoped(self) -> Engine:
        """The engine that the scopes of its blocks are of: itself, see `ReplicatedEngine`."""
        return self

    def _use(self) -> AbstractContextManager[DriverConnection] | None:
        place = current_place(self)
        if place is not None:
            return place._use()
        if is_query_logged(DEBUG) is not self._logs_queries:
            self._observation.update()
        return self._take()

    def _may_read_again(self, sql: str) -> bool:
        if not self.options.retry_reads or current_place(self) is not None:
            return False
        assert self._driver is not None
        return self._driver.only_reads(sql)

    def _take_from_deferred(self) -> None:
        _ = self.pool  # refuses

    async def _settle(self, limit: float | None = None) -> Place | None:
        """Return where this task can open a block; in persistent mode, give it a connection."""
        place = own_place(self)
        if place is None and self._kept is not None and not self.pool.is_sandbox:
            return await self._kept.keep(limit)
        return place

    async def _wait(self, limit: float | None) -> Turn:
        place, left = current_place(self), limit
        if place is None and self._kept is not None:
            since = monotonic()
            place = await self._settle(limit)  # a place, but in a sandbox
            left = time_left(limit, since)
        if place is not None:
            return await place._wait(left)
        slot, left = await self.pool.wait_within(limit)
        return waited(slot, limit, left)

    async def _borrow(self, limit: float | None = None) -> Connection:
        pool = self.pool
        slot, _ = await pool.slot_within(limit)
        return pool.lend(slot)

    def _stream(
        self, sql: str, params: Params, into: Any, batch_size: int, timeout: float | None
    ) -> Stream[Any]:
        kind = Stream if self._kept is None else LastingStream
        return kind(self, sql, params, into, batch_size, timeout)

    async def _connection_for_stream(
        self, limit: float | None
    ) -> tuple[Connection, bool, float | None]:
        since = monotonic()
        place = current_place(self) or await self._settle(limit)
        if place is not None:
            connection = await place._take_hold(limit)
            return connection, False, time_left(limit, since)
        slot, left = await self.pool.slot_within(limit)
        # Another task may read the rows to their end, and give it back.
        return self.pool.hand_out(slot), True, left


def _nothing() -> None:
    return None
