"""The engine: one database, its pool, and the verbs over both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar, overload

from aiodbkit.blocks import ConnectionBlock, ExecutionContext, TransactionBlock
from aiodbkit.configuration import configure
from aiodbkit.connection import Connection
from aiodbkit.driver import Capabilities, Driver, DriverConnection, Params
from aiodbkit.engine_pool import EnginePool
from aiodbkit.errors import (
    InterfaceError,
    PoolClosedError,
    QueryTimeoutError,
    TransactionScopeError,
)
from aiodbkit.options import (
    ChildTasks,
    ConnectionHook,
    EngineOptions,
    Isolation,
    LockMode,
    PoolOptions,
    RetryBudget,
    RetryPolicy,
    TransactionOptions,
)
from aiodbkit.pool import Slot
from aiodbkit.pool.slot import SlotState
from aiodbkit.retry import Retry, decorator, policy_of
from aiodbkit.scope import Place, current_place
from aiodbkit.session import Session
from aiodbkit.stream import Stream
from aiodbkit.turns import Turns
from aiodbkit.verbs import Turn, Verbs, time_left, waited

if TYPE_CHECKING:
    from typing import Self

    from aiodbkit.portal import Portal

__all__ = ["Engine"]

P = ParamSpec("P")
T = TypeVar("T")


class Engine(Verbs):
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

    options: EngineOptions
    pool_options: PoolOptions

    def __init__(self, url: str | None = "", **options: Any) -> None:
        self._driver: Driver | None = None
        self._pool: EnginePool | None = None
        self._command_timeout: float | None = None
        self._opening = Turns()
        self._opened_hooks: list[Callable[[DriverConnection], None]] = []
        self._take: Callable[[], Slot[DriverConnection] | None] = self._take_from_deferred
        self._deferred_options = options
        if url is not None:
            self.init(url or None, **options)

    # What a backend says

    @classmethod
    def driver_options(cls) -> Mapping[str, Any]:
        """Return the names the driver takes, with the type that a URL's text is converted to."""
        raise NotImplementedError

    def _create_driver(self, target: Mapping[str, Any], options: Mapping[str, Any]) -> Driver:
        """Build the driver: ``target`` says where the database is, without I/O."""
        raise NotImplementedError

    # Set-up

    def init(self, url: str | None = None, **options: Any) -> None:
        """Say which database this is: for engines made with ``None``, once, before use.

        Raises:
            InterfaceError: the engine is open.
            ConfigurationError: as the constructor.
        """
        if self._pool is not None and not self._pool.was_closed and self._driver is not None:
            raise InterfaceError("init(): this engine has its database; close() it first")
        configured = configure(
            type(self).__name__,
            self.schemes,
            self.driver_options(),
            url,
            {**self._deferred_options, **options},
        )
        self.pool_options = configured.pool
        self.options = configured.engine
        self._command_timeout = self.options.command_timeout
        self._driver = self._create_driver(configured.target, configured.driver)
        self._pool = EnginePool(self)
        self._take = self._pool.take

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
        if self.pool.was_closed:
            raise PoolClosedError(
                f"this engine was closed ({self.pool.name}): `await db.connect()` opens it again"
            )
        await self.connect()

    # Connections

    def connection(self) -> ConnectionBlock:
        """The task's connection for a block: taken at its start, given back at its end.

        Inside another one of the same task it is that same connection. Verbs on the engine use
        it while the block lasts. Decorates async functions too.
        """
        return ConnectionBlock(self)

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
        """Call an async function in a transaction, again as a whole where ``retry`` says so."""
        block = self.transaction(isolation=isolation, read_only=read_only, retry=retry)

        async def call() -> T:
            return await function(*args, **kwargs)

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

    def _use(self) -> AbstractContextManager[DriverConnection] | None:
        place = current_place(self)
        if place is not None:
            return place._use()
        return self._take()

    def _may_read_again(self, sql: str) -> bool:
        if not self.options.retry_reads or current_place(self) is not None:
            return False
        assert self._driver is not None
        return self._driver.only_reads(sql)

    def _take_from_deferred(self) -> None:
        _ = self.pool  # refuses

    async def _wait(self, limit: float | None) -> Turn:
        place = current_place(self)
        if place is not None:
            return await place._wait(limit)
        slot, left = await self._wait_for_slot(limit)
        return waited(slot, limit, left)

    async def _wait_for_slot(
        self, limit: float | None
    ) -> tuple[Slot[DriverConnection], float | None]:
        """Stand in line for as long as ``limit`` allows; return what is left of it, too."""
        since = monotonic()
        longest = self.pool_options.acquire_timeout
        pool = self.pool
        slot = await pool.wait(longest if limit is None else min(limit, longest))
        try:
            return slot, time_left(limit, since)
        except QueryTimeoutError:
            pool.give_back(slot)
            raise

    async def _borrow(self) -> Connection:
        pool = self.pool
        return pool.lend(pool.take() or await pool.wait())

    def _stream(
        self, sql: str, params: Params, into: Any, batch_size: int, timeout: float | None
    ) -> Stream[Any]:
        return Stream(self, sql, params, into, batch_size, timeout)

    async def _connection_for_stream(
        self, limit: float | None
    ) -> tuple[Connection, bool, float | None]:
        place = current_place(self)
        if place is not None:
            since = monotonic()
            connection = await place._take_hold(limit)
            return connection, False, time_left(limit, since)
        slot, left = await self._slot_for(limit)
        # Another task may read the rows to their end, and give it back.
        return self.pool.hand_out(slot), True, left

    async def _slot_for(self, limit: float | None) -> tuple[Slot[DriverConnection], float | None]:
        """Return a slot of the pool, and the seconds that are left of ``limit``."""
        slot = self._take()
        return (slot, limit) if slot is not None else await self._wait_for_slot(limit)

    # What the pool does with a connection

    async def _open_connection(self) -> DriverConnection:
        assert self._driver is not None
        opened = await self._driver.connect()
        try:
            for sql in self.options.session_sql:
                await opened.execute_script(sql, None)
            if self.options.on_connect is not None:
                await self._run_hook(self.options.on_connect, opened)
            opened.keep_session()
            for hook in self._opened_hooks:
                hook(opened)
        except BaseException:
            opened.abort()
            raise
        return opened

    async def _prepare_connection(self, driver: DriverConnection) -> None:
        assert self.options.on_acquire is not None
        await self._run_hook(self.options.on_acquire, driver)

    async def _clean_connection(self, driver: DriverConnection) -> None:
        await driver.clean()
        if self.options.on_release is not None:
            await self._run_hook(self.options.on_release, driver)
            await driver.clean()

    async def _run_hook(self, hook: ConnectionHook, driver: DriverConnection) -> None:
        """Lend the connection to a hook, outside the pool's books."""
        slot: Slot[DriverConnection] = Slot(self.pool)
        slot.resource = driver
        slot.state = SlotState.CHECKING
        connection = Connection(self, slot)
        try:
            await hook(connection)
        finally:
            connection._end()
