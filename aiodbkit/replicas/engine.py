"""A primary and its replicas as one engine: reads are spread, writes are not."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from aiodbkit.blocks import ConnectionBlock, TransactionBlock
from aiodbkit.connection import Connection
from aiodbkit.core_statements import SQL, CoreTable
from aiodbkit.driver import DriverConnection, ExecuteResult, Params
from aiodbkit.engine import Engine
from aiodbkit.engine_pool import EnginePool
from aiodbkit.errors import (
    ConfigurationError,
    Error,
    InterfaceError,
    TransactionScopeError,
)
from aiodbkit.events import AnyListener
from aiodbkit.factory import create_engine
from aiodbkit.options import (
    ChildTasks,
    Isolation,
    LockMode,
    RetryPolicy,
    TransactionOptions,
)
from aiodbkit.proxy import EngineProxy
from aiodbkit.replicas.blocks import (
    ReadingSession,
    ReadingStream,
    ReadingTransaction,
    WritingShared,
    WritingStream,
    expired,
    is_of_primary,
)
from aiodbkit.replicas.marks import Marks, ReadYourWrites, WritingConnection, WritingTurn
from aiodbkit.replicas.members import Observations, Policy, Replica, Replicas, ReplicaState
from aiodbkit.replicas.routing import Primary, Router
from aiodbkit.scope import Place
from aiodbkit.session import Session
from aiodbkit.shared import SharedBlock
from aiodbkit.stream import Stream
from aiodbkit.verbs import Turn, time_left

if TYPE_CHECKING:
    from typing import Self

__all__ = ["ReplicatedEngine"]

V = TypeVar("V", bound=Callable[..., Any])


def _routed(verb: V) -> V:
    """The verb, run where its statement belongs."""

    @functools.wraps(verb)
    async def routed(
        self: ReplicatedEngine,
        sql: SQL,
        params: Params = None,
        *,
        timeout: float | None = None,
        **shape: Any,
    ) -> Any:
        if not isinstance(sql, str) or sql.__class__ is not str:
            return await verb(self, sql, params, timeout=timeout, **shape)  # comes back as text
        return await self._run(verb.__name__, sql, params, timeout, shape)

    return cast("V", routed)


class ReplicatedEngine(Engine):
    """A primary and its replicas: ``ReplicatedEngine(primary, replicas=[...])``.

    Statements that surely only read go to a replica, outside of blocks; so do read-only
    transactions and sessions. All else goes to the primary. Inside a block everything goes where
    the block is.

    Args:
        primary: an engine, or a URL for `create_engine`.
        replicas: engines or URLs, of the same kind of database, each of one server.
        policy: which replica is next: ``"round_robin"``, ``"random"``, or ``"least_busy"``, the
            one with the fewest connections in use here.
        read_your_writes: what a task that has written reads from: ``"time"``, from the primary
            for ``sticky_for`` seconds; ``"position"`` (PostgreSQL), from a replica that has
            replayed the write, and from the primary until then; None, from any replica.
        sticky_for: seconds; with ``"position"`` for writes of which it is not known when they take
            effect, as of a cancelled one.
        probe_backoff: seconds between the first two looks at a replica that is down, doubled each
            time, with jitter.
        probe_max_backoff: the most seconds between two looks.
        options: for the engines that are made of URLs.

    Raises:
        ConfigurationError: an engine that cannot be a member, or an option that cannot be.
    """

    def __init__(  # Engine's own set-up is left out: what it would set is the primary's.
        self,
        primary: Engine | str,
        replicas: Iterable[Engine | str] = (),
        *,
        policy: Policy = "round_robin",
        read_your_writes: ReadYourWrites | None = "time",
        sticky_for: float = 5.0,
        probe_backoff: float = 0.5,
        probe_max_backoff: float = 10.0,
        **options: Any,
    ) -> None:
        if isinstance(replicas, str | Engine) or not isinstance(replicas, Iterable):
            raise ConfigurationError("replicas must be a list of engines or URLs: [...]")
        given = [primary, *replicas]
        if options and not any(isinstance(each, str) for each in given):
            raise ConfigurationError(
                f"{', '.join(options)}: options are for engines that are made of URLs, and only "
                "engines were given: give the options to them"
            )
        self._primary, *others = [_member(each, options) for each in given]
        if len({id(each) for each in (self._primary, *others)}) < len(given):
            raise ConfigurationError("each replica, and the primary, needs an engine of its own")
        for each in others:
            if each.schemes != self._primary.schemes:
                raise ConfigurationError(
                    f"a replica has what its primary has: {type(each).__name__} cannot be one of "
                    f"{type(self._primary).__name__}"
                )
        self._marks = Marks(read_your_writes, sticky_for)
        if self._marks.by_position and "postgresql" not in self._primary.schemes:
            raise ConfigurationError(
                'read_your_writes="position" is for PostgreSQL, which tells how far a replica has '
                f'come; with {type(self._primary).__name__} use "time"'
            )
        self._replicas = Replicas(others, policy, probe_backoff, probe_max_backoff)
        self._router = Router(self._primary, self._replicas, self._marks)
        self._endings: set[asyncio.Task[None]] = set()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_primary":  # copy, pickle; before the set-up
            raise AttributeError(name)
        value = getattr(self._primary, name)
        if name.startswith("_") or not inspect.iscoroutinefunction(value):
            return value

        @functools.wraps(value)
        async def marked(*args: Any, **options: Any) -> Any:  # a verb of the backend: COPY writes
            with self._marks.writing():
                return await value(*args, **options)

        return marked

    def __repr__(self) -> str:
        replicas = ", ".join(repr(each) for each in self.replicas)
        return f"<ReplicatedEngine {self._primary!r}, replicas: {replicas or 'none'}>"

    # What it consists of

    @property
    def primary_engine(self) -> Engine:
        """The engine of the primary; `pool` is its pool."""
        return self._primary

    @property
    def replicas(self) -> tuple[Engine, ...]:
        """The engines of the replicas, in the order in which they were given."""
        return tuple(replica.engine for replica in self._replicas.all)

    def replica_states(self) -> tuple[ReplicaState, ...]:
        """Return what there is to know of each replica now, in the order of `replicas`."""
        return tuple(replica.state() for replica in self._replicas.all)

    def init(self, url: str | None = None, **options: Any) -> None:  # noqa: ARG002 - as it is called
        """Refuse: each member that is deferred is told its database itself."""
        raise InterfaceError(
            "init() is for one database: call it on primary_engine and on each of replicas"
        )

    @property
    def _observation(self) -> Observations:  # type: ignore[override]
        return Observations((self._primary, *self.replicas))

    def add_listener(self, listener: AnyListener) -> None:
        """Tell a listener of what the primary and all replicas do; see `Engine.add_listener`."""
        for engine in (self._primary, *self.replicas):
            engine.add_listener(listener)

    def remove_listener(self, listener: AnyListener) -> None:
        """Undo `add_listener`."""
        for engine in (self._primary, *self.replicas):
            engine.remove_listener(listener)

    # Life

    async def connect(self) -> None:
        """Open the primary and the replicas, each with its ``min_size`` connections.

        A replica that is down is left out, and logged.

        Raises:
            CannotConnectError: the primary is down, with a ``min_size``; nothing is left open then.
            InterfaceError: it is open in another event loop.
        """
        new = [each for each in (self._primary, *self.replicas) if not each.is_connected]
        await self._primary.connect()
        self._replicas.begin()
        try:
            await asyncio.gather(*map(self._connect, self._replicas.all))
        except BaseException:
            if self._primary in new:
                # Cancelled again here, the closing goes on by itself.
                await asyncio.wait(self._close_all(new, 0.0))
            raise

    async def _connect(self, replica: Replica) -> None:
        try:
            await replica.engine.connect()
        except Error as error:
            if isinstance(error, InterfaceError):
                raise
            self._replicas.eject(replica, error)

    async def close(self, timeout: float = 10.0) -> None:
        """Close all engines, at the same time; see `Engine.close`.

        Raises:
            Error: of the first that could not be closed; the others are.
        """
        pool = self._primary._pool
        if pool is not None and pool.is_sandbox:
            return
        closings = self._close_all((self._primary, *self.replicas), timeout)
        await asyncio.wait(closings)
        for closing in closings:
            if not closing.cancelled():
                closing.result()

    def _close_all(self, engines: Iterable[Engine], timeout: float) -> list[asyncio.Task[None]]:
        """Close in tasks of their own, which nobody's cancellation stops."""
        watchers = self._replicas.stop()
        loop = asyncio.get_running_loop()
        closings = [
            loop.create_task(_close(engine, timeout, watchers), context=Context())
            for engine in engines
        ]
        for closing in closings:
            self._endings.add(closing)
            closing.add_done_callback(self._endings.discard)
        return closings

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    # Which engine it is

    def primary(self) -> Primary:
        """Send this task's reads to the primary, for a ``with`` block or each call of a function.

        Tasks that are started inside the block go there, too, for as long as they live.
        """
        return self._router.force()

    @property
    def _home(self) -> Engine:
        return self._router.home

    @property
    def _scoped(self) -> Engine:
        return self._primary

    # Verbs

    async def _run(
        self,
        verb: str,
        sql: str,
        params: Params,
        timeout: float | None,
        shape: dict[str, Any],
    ) -> Any:
        if not self._router.reads(sql):
            return await self._write(verb, sql, params, timeout=timeout, **shape)
        left = limit = self._limit(timeout)
        since = monotonic()
        readers = await self._router.readers(limit)
        if self._marks.by_position:  # which may have asked
            left = time_left(limit, since)
        for replica in readers:
            try:
                return await getattr(replica.engine, verb)(sql, params, timeout=left, **shape)
            except Error as error:
                if is_of_primary(error):
                    self._router.note_write(sql)
                    left = time_left(limit, since)
                    return await self._write(verb, sql, params, timeout=left, **shape)
                if not self._replicas.excuses(replica, error, readers) or expired(limit, since):
                    raise
            left = time_left(limit, since)
        return await getattr(self._home, verb)(sql, params, timeout=left, **shape)

    async def _write(self, verb: str, *args: Any, **options: Any) -> Any:
        with self._marks.writing():
            return await getattr(self._home, verb)(*args, **options)

    execute = _routed(Engine.execute)
    fetch_all = _routed(Engine.fetch_all)
    fetch_one = _routed(Engine.fetch_one)
    fetch_val = _routed(Engine.fetch_val)
    fetch_column = _routed(Engine.fetch_column)

    async def execute_many(
        self,
        sql: SQL,
        rows: Iterable[Mapping[str, Any] | Sequence[Any]],
        *,
        timeout: float | None = None,
    ) -> ExecuteResult:
        done: ExecuteResult = await self._write("execute_many", sql, rows, timeout=timeout)
        return done

    async def execute_script(self, sql: str, *, timeout: float | None = None) -> None:
        await self._write("execute_script", sql, timeout=timeout)

    async def insert_many(
        self,
        table: str | CoreTable,
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        columns: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> int:
        inserted: int = await self._write(
            "insert_many", table, rows, columns=columns, timeout=timeout
        )
        return inserted

    def _stream(
        self, sql: str, params: Params, into: Any, batch_size: int, timeout: float | None
    ) -> Stream[Any]:
        if self._router.reads(sql):
            return ReadingStream(self, sql, params, into, batch_size, timeout)
        return WritingStream(self._marks, self, sql, params, into, batch_size, timeout)

    # Blocks

    @overload
    def connection(self, *, shared: Literal[False] = False) -> ConnectionBlock: ...
    @overload
    def connection(self, *, shared: Literal[True]) -> SharedBlock: ...
    def connection(self, *, shared: bool = False) -> ConnectionBlock | SharedBlock:
        return WritingShared(self, self._marks) if shared else super().connection()

    def current_connection(self) -> Connection | None:
        return self._home.current_connection()

    def session(
        self,
        *,
        read_only: bool = False,
        isolation: Isolation | None = None,
        deferrable: bool = False,
        mode: LockMode | None = None,
        child_tasks: ChildTasks | None = None,
    ) -> Session:
        kind = ReadingSession if read_only else Session
        options = TransactionOptions(
            isolation=isolation, read_only=read_only, deferrable=deferrable, mode=mode
        )
        return kind(self, options, child_tasks)

    def _transaction_block(
        self,
        options: TransactionOptions,
        *,
        force_rollback: bool,
        child_tasks: ChildTasks | None,
        retry: RetryPolicy | None = None,
        place: Place | None = None,
    ) -> TransactionBlock:
        if options.read_only and place is None:
            return ReadingTransaction(
                self, options, force_rollback=force_rollback, child_tasks=child_tasks, retry=retry
            )
        return super()._transaction_block(
            options,
            force_rollback=force_rollback,
            child_tasks=child_tasks,
            retry=retry,
            place=place,
        )

    def _is_in_transaction(self, place: Place | None = None) -> bool:
        try:
            home = self._home
        except TransactionScopeError:
            return True
        return home._is_in_transaction(place)

    # What the rest of `Engine` asks, and a proxy, which does not tell the SQL

    async def _borrow(self, limit: float | None = None) -> Connection:
        slot, _ = await self._primary.pool.slot_within(limit)
        return WritingConnection(self._primary, slot, self._marks)

    def _lend_from(self, pool: EnginePool) -> None:
        pool._engine = self._primary  # a sandbox is the primary's
        self._primary._lend_from(pool)

    async def _settle(self, limit: float | None = None) -> Place | None:
        return await self._home._settle(limit)

    def _use(self) -> AbstractContextManager[DriverConnection] | None:
        turn = self._home._use()
        return None if turn is None else WritingTurn(turn, self._marks)

    async def _wait(self, limit: float | None) -> Turn:
        turn, left = await self._home._wait(limit)
        return WritingTurn(turn, self._marks), left

    async def _connection_for_stream(
        self, limit: float | None
    ) -> tuple[Connection, bool, float | None]:
        return await self._home._connection_for_stream(limit)

    def _may_read_again(self, sql: str) -> bool:
        return self._home._may_read_again(sql)


def _member(given: Engine | str, options: Mapping[str, Any]) -> Engine:
    engine: Any = create_engine(given, **options) if isinstance(given, str) else given
    if not isinstance(engine, Engine) or isinstance(engine, EngineProxy | ReplicatedEngine):
        raise ConfigurationError(
            f"a ReplicatedEngine is made of engines and URLs, not of {engine!r}; to choose at run "
            "time let an EngineProxy stand in for the ReplicatedEngine"
        )
    if engine._pool is not None and engine.options.persistent:
        raise ConfigurationError(
            "persistent=True keeps a task on one connection, and a ReplicatedEngine sends each "
            "statement where it belongs: leave one of them out"
        )
    return engine


async def _close(engine: Engine, timeout: float, watchers: Sequence[asyncio.Task[None]]) -> None:
    if watchers:
        await asyncio.wait(watchers)
    await engine.close(timeout)
