"""PostgreSQL: what an engine of it can do beyond what every engine can."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Literal, TypeAlias, overload

from aiodbkit.backends.postgres.abilities import Codec
from aiodbkit.backends.postgres.copy_verbs import CopyStream, Query, copy_bytes_in, copy_to
from aiodbkit.backends.postgres.copying import (
    CopyFormat,
    CopyOptions,
    Progress,
    is_bytes_source,
    is_statement,
    rows_with_progress,
)
from aiodbkit.backends.postgres.listen import Notifications, closed
from aiodbkit.backends.postgres.locks import AdvisoryLockBlock
from aiodbkit.backends.postgres.types import codec_for
from aiodbkit.core_statements import SQL, bound
from aiodbkit.driver import Driver, DriverConnection, Params
from aiodbkit.engine import DriverSource, Engine
from aiodbkit.errors import NotSupportedError
from aiodbkit.options import choice

__all__ = ["PostgresEngine"]

# What the bytes of a COPY are written to: a path, an open file, a function of the bytes.
Target: TypeAlias = str | Any


class PostgresEngine(Engine):
    """PostgreSQL over asyncpg.

    Besides the options of `Engine` it takes those of ``asyncpg.connect()``, and:

    - ``prepared_statements``: False behind a pooler that hands out its server connections per
      transaction, such as PgBouncer.
    - ``application_name``; and ``sslmode``, ``sslrootcert``, ``sslcert``, ``sslkey``, ``sslcrl``,
      ``sslpassword`` as in libpq, besides ``ssl`` (an `ssl.SSLContext` or a mode).
    - ``keepalive`` (30 s): silence after which the kernel asks whether the server is there.
    - ``tcp_user_timeout`` (30 s): how long sent data may stay unacknowledged.

    Several hosts are tried in order, each for its share of ``connect_timeout``.
    """

    schemes: ClassVar[tuple[str, ...]] = (
        *("postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg"),
    )
    drivers: ClassVar[Mapping[str, DriverSource | type[Driver]]] = {
        "asyncpg": DriverSource(
            "aiodbkit.backends.postgres.driver:PostgresDriver", "asyncpg", "aiodbkit[postgres]"
        ),
        "psycopg": DriverSource(
            "aiodbkit.backends.postgres.psycopg.driver:PsycopgDriver",
            *("psycopg", "aiodbkit[psycopg]"),
        ),
    }

    def __init__(self, url: str | None = "", **options: Any) -> None:
        self._codecs: dict[tuple[str | None, str], Codec] = {}
        self._listening: set[Notifications] = set()
        # Behind a transaction-pooling proxy a session is not one's own.
        self._shares_server_connections = False
        super().__init__(url, **options)

    def _create_driver(self, target: Mapping[str, Any], options: Mapping[str, Any]) -> Driver:
        self._shares_server_connections = options.get("prepared_statements") is False
        return super()._create_driver(target, options)

    def _ability(self, driver: DriverConnection, name: str) -> Callable[..., Awaitable[Any]]:
        """Return a method of `PostgresDriverConnection`, which a driver may be without."""
        method: Callable[..., Awaitable[Any]] | None = getattr(driver, name, None)
        if method is None:
            raise NotSupportedError(f"{name}() is not there with the driver {self._driver_name}")
        return method

    async def close(self, timeout: float = 10.0) -> None:
        """Close the engine; those who read notifications get a `PoolClosedError`."""
        is_kept = self._pool is not None and self._pool.is_sandbox  # by its sandbox
        for notifications in () if is_kept else tuple(self._listening):
            await notifications._end(closed())
        await super().close(timeout)

    # Notifications

    def listen(
        self, *channels: str, buffer_size: int = 1000, heartbeat: float | None = 30.0
    ) -> Notifications:
        """Listen on channels for a block: ``async with db.listen("orders") as notifications:``.

        An async iterator of `Notification`. It has a connection of its own, which does not count
        for the pool. When that is lost another one is opened, as often as it takes, and a `Gap`
        (its ``is_gap`` is true) stands where notifications may be missing.

        Args:
            channels: their names, as they stand.
            buffer_size: how many notifications wait for their reader; what comes beyond is
                dropped, and a `Gap` says so.
            heartbeat: seconds after which the connection is asked for a sign of life, which has to
                come within ``check_timeout``. None: never.

        Raises:
            CannotConnectError: on entering, or later, for a reason that will not pass.
            NotSupportedError: behind a transaction-pooling proxy (``prepared_statements=False``).
            PoolClosedError: while reading: the engine was closed.
        """
        if self._shares_server_connections:
            raise NotSupportedError(
                "listen() needs a session of its own, which a transaction-pooling proxy "
                "(prepared_statements=False) does not give: listen with an engine that connects "
                "to the server directly"
            )
        return Notifications(self, channels, buffer_size=buffer_size, heartbeat=heartbeat)

    async def notify(
        self, channel: str, payload: str = "", *, timeout: float | None = None
    ) -> None:
        """Notify those who listen on a channel; inside a transaction, when it is committed.

        Raises:
            DataError: the payload has 8000 bytes or more.
        """
        await self.execute(
            "select pg_catalog.pg_notify(:channel, :payload)",
            {"channel": channel, "payload": payload},
            timeout=timeout,
        )

    async def _open_for_listening(self) -> None:
        if not self.pool.is_open:
            await self._connect_by_itself()

    # Locks

    def advisory_lock(
        self, name: str, *, timeout: float | None = None, shared: bool = False
    ) -> AdvisoryLockBlock:
        """Hold a lock on a name for a block: one block at a time, in all programs on the database.

        The block is a `connection` block too. Outside of a transaction the lock ends with the
        block; inside of one it is the transaction's and ends with that. Taken again by the same
        task, on the same connection, it counts. Decorates async functions too.

        Args:
            name: any text; 64 bits of its SHA-256 are the key (`lock_key`).
            timeout: seconds to wait for the lock; 0 does not wait, None waits for ever.
            shared: together with others that share it.

        Raises:
            LockTimeoutError: somebody else held it for ``timeout`` seconds.
            ConnectionLostError: at the end of the block: the lock was lost on the way.
            NotSupportedError: outside of a transaction, behind a transaction-pooling proxy.
        """
        return AdvisoryLockBlock(self, name, timeout=timeout, shared=shared)

    # Types

    def register_type(
        self,
        name: str,
        *,
        schema: str | None = None,
        enum: type[Enum] | None = None,
        into: Callable[..., Any] | None = None,
        encode: Callable[[Any], Any] | None = None,
        decode: Callable[[Any], Any] | None = None,
        format: Literal["text", "binary"] = "text",  # noqa: A002 - as it is called everywhere
        optional: bool = False,
    ) -> None:
        """Let values of a type of the database come and go as Python's, on every connection.

        Call it any time: connections that are open already are replaced, borrowed ones as they
        come back. ``register_type("hstore")`` is all for hstore; any other type says what its
        values are.

        Args:
            name: of the type, as it stands in the database.
            schema: where it is; None looks in the search path.
            enum: an `Enum` whose values (or names, if the values are no texts) are the labels.
            into: for a composite type: a class or callable as ``into=`` of the verbs takes it. Its
                objects, mappings and sequences go in.
            encode, decode: functions of a value to what ``format`` says, and back.
            format: what these speak of: PostgreSQL's text of a value, as `str`, or its binary
                form, as `bytes`, which alone `insert_many` can send.
            optional: a database that does not have the type is left as it is; otherwise connecting
                to it fails with a `ConfigurationError`.

        Raises:
            ConfigurationError: it is not said what the values are, or in several ways.
        """
        codec = codec_for(name, schema, enum, into, encode, decode, format, optional=optional)
        self._codecs[schema, name] = codec
        self._driver_takes_codecs()
        self._replace_connections()

    def init(self, url: str | None = None, **options: Any) -> None:
        super().init(url, **options)
        self._driver_takes_codecs()

    def _driver_takes_codecs(self) -> None:
        if self._driver is None or not self._codecs:
            return
        driver: Any = self._driver
        if not hasattr(driver, "codecs"):
            raise NotSupportedError(
                f"register_type() is not there with the driver {self._driver_name}"
            )
        driver.codecs = tuple(self._codecs.values())

    def _replace_connections(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # at module level: nothing is open yet
            return
        if self._pool is None:
            return
        # expire() decides at once and waits for nothing, so no old connection is lent after this.
        expiring = self._pool.expire()
        try:
            expiring.send(None)
        except StopIteration:
            pass

    # COPY

    async def copy_in(
        self,
        table: str,
        source: Any,
        *,
        columns: Sequence[str] | None = None,
        format: CopyFormat | Literal["rows"] | None = None,  # noqa: A002 - COPY's own word
        header: bool = False,
        delimiter: str | None = None,
        null: str | None = None,
        quote: str | None = None,
        escape: str | None = None,
        encoding: str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> int:
        """Copy rows into a table, all or none; return how many.

        Args:
            table: the name as it stands in the database, with its schema if need be; or a whole
                ``COPY ... FROM STDIN``, which says all the rest itself.
            source: rows, as `insert_many` takes them; or a path, an open file, bytes, or a sync or
                async iterable of bytes.
            columns: which columns the source has; None is all of the table's, in their order (of
                rows: the mappings').
            format: ``"rows"``, ``"csv"``, ``"text"``, ``"binary"``. None is rows, and csv where
                the source is a path, a file or bytes.
            header, delimiter, null, quote, escape, encoding: as of COPY.
            progress: called with the bytes, or the rows, that were sent so far; sync or async.

        Raises:
            DataError: a line or a value that does not fit.
            Error: as of all verbs; what ``source`` or ``progress`` raises passes as it is.
        """
        if format is None:
            given = is_bytes_source(source) or is_statement(table, "in")
            format = "csv" if given else "rows"  # noqa: A001
        choice("format", format, ("rows", "csv", "text", "binary"))
        if format == "rows":
            rows = source if progress is None else rows_with_progress(source, progress)
            return await self.insert_many(table, rows, columns=columns, timeout=timeout)
        options = CopyOptions(
            format,
            header=header,
            delimiter=delimiter,
            null=null,
            quote=quote,
            escape=escape,
            encoding=encoding,
        )
        _ = self.pool  # refuses where there is no database yet
        return await copy_bytes_in(self, table, source, columns, options, progress, timeout)

    @overload
    def copy_out(
        self,
        source: str,
        params: Params = None,
        *,
        to: Target,
        format: CopyFormat = "csv",
        header: bool = False,
        delimiter: str | None = None,
        null: str | None = None,
        quote: str | None = None,
        escape: str | None = None,
        encoding: str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Awaitable[int]: ...
    @overload
    def copy_out(
        self,
        source: str,
        params: Params = None,
        *,
        format: CopyFormat = "csv",
        header: bool = False,
        delimiter: str | None = None,
        null: str | None = None,
        quote: str | None = None,
        escape: str | None = None,
        encoding: str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> CopyStream: ...
    def copy_out(
        self,
        source: str,
        params: Params = None,
        *,
        to: Target | None = None,
        format: CopyFormat = "csv",  # noqa: A002 - COPY's own word
        header: bool = False,
        delimiter: str | None = None,
        null: str | None = None,
        quote: str | None = None,
        escape: str | None = None,
        encoding: str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Copy a table's or a query's rows out, as COPY writes them.

        ``await db.copy_out("users", to="users.csv")`` returns how many rows there were.
        ``async with db.copy_out("users") as chunks:`` gives the bytes to read.

        Args:
            source: the name of a table, which holds no white space; else a query, with ``params``;
                or a whole ``COPY ... TO STDOUT``.
            params: as of all verbs; they are put into the text by the server, as literals.
            to: a path, an open file, or a callable of the bytes; sync or async. A file at a path
                is there when it is complete: one that was there before stays until then.
            format, header, delimiter, null, quote, escape, encoding: as of COPY.
            progress: called with the bytes that were received so far; sync or async.

        Raises:
            Error: as of all verbs; what ``to`` or ``progress`` raises passes as it is.
        """
        options = CopyOptions(
            format,
            header=header,
            delimiter=delimiter,
            null=null,
            quote=quote,
            escape=escape,
            encoding=encoding,
        )
        assert self.pool is not None
        assert self._driver is not None
        query = Query(source, params, options, self._driver.quote)
        if to is None:
            return CopyStream(self, query, progress, timeout)
        return copy_to(self, query, to, progress, timeout)

    # Plans

    @overload
    async def explain(
        self,
        sql: SQL,
        params: Params = None,
        *,
        analyze: bool = False,
        buffers: bool = False,
        verbose: bool = False,
        settings: bool = False,
        format: Literal["text"] = "text",
        timeout: float | None = None,
    ) -> str: ...
    @overload
    async def explain(
        self,
        sql: SQL,
        params: Params = None,
        *,
        analyze: bool = False,
        buffers: bool = False,
        verbose: bool = False,
        settings: bool = False,
        format: Literal["json"],
        timeout: float | None = None,
    ) -> list[dict[str, Any]]: ...
    async def explain(
        self,
        sql: SQL,
        params: Params = None,
        *,
        analyze: bool = False,
        buffers: bool = False,
        verbose: bool = False,
        settings: bool = False,
        format: Literal["text", "json"] = "text",  # noqa: A002 - EXPLAIN's own word
        timeout: float | None = None,
    ) -> Any:
        """Return the plan of a statement: lines of text, or with ``format="json"`` its objects.

        ``analyze=True`` runs the statement, in a transaction (or a savepoint) that is rolled back:
        nothing that it writes remains, but sequences go on, and so does what its functions do
        outside of the database.

        Args:
            analyze: run it, and tell what each step took.
            buffers, verbose, settings: as of EXPLAIN.
        """
        choice("format", format, ("text", "json"))
        query, params, timeout = await bound(self, sql, params, timeout)
        flags = {"analyze": analyze, "buffers": buffers, "verbose": verbose, "settings": settings}
        named = [name for name, is_on in flags.items() if is_on]
        text = f"EXPLAIN ({', '.join([*named, f'FORMAT {format}']).upper()}) {query}"
        if not analyze:
            return _plan(await self.fetch_column(text, params, timeout=timeout))
        lines: list[Any] = []
        async with self.transaction(force_rollback=True):
            lines = await self.fetch_column(text, params, timeout=timeout)
        return _plan(lines)


def _plan(lines: list[Any]) -> Any:
    """Return the objects of a plan in JSON, which is one value, or the lines as a text."""
    return lines[0] if isinstance(lines[0], list) else "\n".join(lines)
