"""The engine: one database, its pool, and the verbs over both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from operator import attrgetter
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar, get_type_hints

from aiodbkit._text import listed, near
from aiodbkit.blocks import ConnectionBlock, ExecutionContext, TransactionBlock
from aiodbkit.connection import Connection
from aiodbkit.driver import Capabilities, Driver, DriverConnection, Params
from aiodbkit.errors import (
    ConfigurationError,
    Error,
    InterfaceError,
    PoolClosedError,
    QueryTimeoutError,
)
from aiodbkit.options import (
    ChildTasks,
    ConnectionHook,
    EngineOptions,
    Isolation,
    LockMode,
    PoolOptions,
    RetryPolicy,
    TransactionOptions,
    seconds,
)
from aiodbkit.pool import Acquire, Pool, Slot
from aiodbkit.pool.slot import SlotState
from aiodbkit.scope import current_connection
from aiodbkit.stream import Stream
from aiodbkit.turns import Turns
from aiodbkit.url import convert_option, parse_url
from aiodbkit.verbs import Turn, Verbs, time_left, waited

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Engine", "EnginePool"]

P = ParamSpec("P")
T = TypeVar("T")

_TARGET = ("host", "port", "user", "password", "database")
_POOL_HINTS = get_type_hints(PoolOptions)
_ENGINE_HINTS = get_type_hints(EngineOptions)


class EnginePool(Pool[DriverConnection]):
    """An engine's pool: lends `Connection`s, and opens itself with the first of them."""

    def __init__(self, engine: Engine) -> None:
        options = engine.options
        super().__init__(
            engine._open_connection,
            close=_close,
            ping=_ping,
            clean=engine._clean_connection,
            is_dirty=attrgetter("is_dirty") if options.on_release is None else _yes,
            is_closed=attrgetter("is_closed"),
            prepare=None if options.on_acquire is None else engine._prepare_connection,
            abort=_abort,
            on_failure=_note_failure,
            options=engine.pool_options,
            connect_retry=options.connect_retry,
        )
        self._engine = engine

    def acquire(self, *, timeout: float | None = None) -> Acquire[Connection]:
        """Borrow a connection; see `Pool.acquire`."""
        if timeout is not None:
            seconds("timeout", timeout, optional=True)
        return Acquire(self, timeout)

    def lend(self, slot: Slot[DriverConnection]) -> Connection:
        """Make the connection of a slot that was taken for a block."""
        return Connection(self._engine, slot)

    def hand_out(self, slot: Slot[DriverConnection]) -> Connection:
        """Make the connection of a slot that was taken without a block."""
        slot.is_handed_out = True
        return Connection(self._engine, slot)

    async def wait(self, timeout: float | None = None) -> Slot[DriverConnection]:
        """Stand in line for a slot; see `acquire`."""
        if not self.is_open or self._engine._opening.taken:
            await self._engine._connect_by_itself()
        return await super().wait(timeout)


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
        merged = {**self._deferred_options, **options}
        name, target = self._read_url(url, merged)
        target.update({key: merged.pop(key) for key in _TARGET if key in merged})
        pool_options = {key: merged.pop(key) for key in list(merged) if key in _POOL_HINTS}
        engine_options = {key: merged.pop(key) for key in list(merged) if key in _ENGINE_HINTS}
        self._refuse_unknown(merged)
        pool_options.setdefault("name", name)
        self.pool_options = PoolOptions(**pool_options)
        self.options = EngineOptions(**engine_options)
        self._command_timeout = self.options.command_timeout
        self._driver = self._create_driver(target, merged)
        self._pool = EnginePool(self)
        self._take = self._pool.take

    def _read_url(self, url: str | None, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return a name for messages and the target; the URL's options go below those given."""
        if url is None:
            place = options.get("host") or "localhost"
            return f"{self.schemes[0]}://{place}/{options.get('database') or ''}", {}
        parsed = parse_url(url)
        if parsed.scheme not in self.schemes:
            raise ConfigurationError(
                f"{type(self).__name__} takes URLs that begin with {listed(self.schemes)}; "
                f"this one begins with {parsed.scheme}://"
            )
        hints: dict[str, Any] = {**self.driver_options(), **_POOL_HINTS, **_ENGINE_HINTS}
        for name, text in parsed.query.items():
            if name in _TARGET or name not in hints:
                options.setdefault(name, text)
            else:
                options.setdefault(name, convert_option(name, text, hints[name]))
        target = {name: value for name in _TARGET if (value := getattr(parsed, name)) is not None}
        if len(parsed.hosts) > 1:
            target["hosts"] = list(parsed.hosts)
        return str(parsed).partition("?")[0], target

    def _refuse_unknown(self, options: Mapping[str, Any]) -> None:
        known = [*_TARGET, *_POOL_HINTS, *_ENGINE_HINTS, *self.driver_options()]
        for name in options:
            if name not in known:
                raise ConfigurationError(
                    f"unknown option {name!r}{near(name, known)}: neither {type(self).__name__} "
                    "nor its driver knows it"
                )

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
        if self._pool is None or self._driver is None:
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
        return current_connection(self)

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

    def _transaction_block(
        self,
        options: TransactionOptions,
        *,
        force_rollback: bool,
        child_tasks: ChildTasks | None,
        retry: RetryPolicy | None = None,
        connection: Connection | None = None,
    ) -> TransactionBlock:
        return TransactionBlock(
            self,
            options,
            force_rollback=force_rollback,
            child_tasks=child_tasks,
            retry=retry,
            connection=connection,
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

    # Where statements run

    def _use(self) -> AbstractContextManager[DriverConnection] | None:
        connection = current_connection(self)
        if connection is not None:
            return connection._use()
        return self._take()

    def _take_from_deferred(self) -> None:
        _ = self.pool  # refuses

    async def _wait(self, limit: float | None) -> Turn:
        connection = current_connection(self)
        if connection is not None:
            return await connection._wait(limit)
        slot, left = await self._wait_for_slot(limit)
        return waited(slot, limit, left)

    async def _wait_for_slot(
        self, limit: float | None
    ) -> tuple[Slot[DriverConnection], float | None]:
        """Stand in line for as long as ``limit`` allows; return what is left of it, too."""
        since = monotonic()
        longest = self.pool_options.acquire_timeout
        slot = await self.pool.wait(longest if limit is None else min(limit, longest))
        try:
            return slot, time_left(limit, since)
        except QueryTimeoutError:
            self.pool.give_back(slot)
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
        connection = current_connection(self)
        if connection is not None:
            return connection, False, limit
        slot, left = self._take(), limit
        if slot is None:
            slot, left = await self._wait_for_slot(limit)
        # Another task may read the rows to their end, and give it back.
        return self.pool.hand_out(slot), True, left

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


def _note_failure(driver: DriverConnection, error: BaseException) -> None:
    """Only an `Error` says that the connection is still in step with the server."""
    if not isinstance(error, Error):
        driver.suspect = True


async def _close(driver: DriverConnection) -> None:
    await driver.close()


async def _ping(driver: DriverConnection) -> None:
    await driver.ping()


def _abort(driver: DriverConnection) -> None:
    driver.abort()


def _yes(_driver: DriverConnection) -> bool:
    return True
