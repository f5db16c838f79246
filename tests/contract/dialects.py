"""What differs between the SQL of the backends, so that the tests need not know which one it is.

A test asks a `Dialect` for a piece of SQL, and a backend's `Capabilities` for what it can do.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiodbkit
from tests.servers.environment import driver_of

__all__ = ["DIALECTS", "Dialect", "split_url"]

# Rows a recursive CTE of SQLite makes in a second on a fast machine, so that "seconds" is
# rather too long than too short.
_SQLITE_ROWS_PER_SECOND = 12_000_000

_DIGITS = "(select 0 as i " + " ".join(f"union all select {digit}" for digit in range(1, 10)) + ")"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The SQL of one backend.

    Attributes:
        drivers: the top-level modules whose exceptions may be an error's ``__cause__``.
        types: declared column type for each kind of value.
        key: column definition of a generated integer key.
        quote: what stands around a quoted identifier.
        returned: kinds of values that may come back as text, and what makes them values again.
        positional: the driver's own placeholder for the n-th parameter.
        integer: the type of an integer inside ``cast(... as ...)``.
        repeated: an expression for ``x`` repeated; takes a number.
        conflict: what the loser of two colliding serializable transactions gets.
        busy: engine options that make a statement give up soon on a lock.
        session: engine options that set session state, SQL that shows it, and what it shows.
        session_sql: SQL that changes session state, SQL that shows it, and what it shows then.
        slow: a SELECT of one row that takes about so many seconds.
        connect: opens a connection of the driver itself.
        unconnectable: URLs that cannot be connected to, and what the message has to name.
        casts: expressions with ``::`` and ``:n``, each worth 7 plus ``n``.
        deferred_key: how a foreign key is checked at COMMIT, None where it cannot.
        read_only_code: what the server says of a write in a read-only transaction.
        refuses_nul: text with a NUL character is no text for this backend.
    """

    name: str
    drivers: tuple[str, ...]
    types: Mapping[str, str]
    key: str
    quote: str = '"'
    positional: Callable[[int], str]
    integer: str
    repeated: Callable[[int], str]
    conflict: type[aiodbkit.Error]
    busy: Mapping[str, Any]
    session: tuple[Mapping[str, Any], str, str]
    session_sql: tuple[str, str, str]
    slow: Callable[[float], str]
    connect: Callable[[str], Awaitable[Any]]
    unconnectable: Callable[[str], Mapping[str, tuple[str, str]]]
    returned: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    casts: tuple[str, ...] = ()
    refuses_nul: bool = False
    deferred_key: str | None = None
    read_only_code: str | int = ""

    def series(self, count: int) -> str:
        """A SELECT whose column ``n`` runs from 1 to ``count``, in any order."""
        names = [f"d{place}" for place in range(len(str(count)))]
        number = " + ".join(f"{10**place} * {name}.i" for place, name in enumerate(names))
        tables = " cross join ".join(f"{_DIGITS} {name}" for name in names)
        numbers = f"(select 1 + {number} as n from {tables}) numbers"
        return f"select numbers.n from {numbers} where numbers.n <= {count}"

    def slow_insert(self, table: str, seconds: float) -> str:
        """An INSERT of one row with the id 1 that takes its time."""
        return f"insert into {table} (id) select 1 from ({self.slow(seconds)}) waited"


def split_url(url: str) -> dict[str, Any]:
    """The parts of a server's URL as keywords of an engine; for SQLite, the path alone."""
    parts = urlsplit(url)
    if parts.hostname is None:
        return {"database": parts.path.removeprefix("/")}
    given = {
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username and unquote(parts.username),
        "password": parts.password and unquote(parts.password),
        "database": unquote(parts.path.removeprefix("/")),
    }
    return {name: value for name, value in given.items() if value is not None}


def _with(url: str, **changed: Any) -> str:
    """The same server, reached by another user, name or database."""
    parts = {**split_url(url), **changed}
    user = parts.get("user", "")
    return f"{urlsplit(url).scheme}://{user}@{parts['host']}:{parts['port']}/{parts['database']}"


def _wrong_server_urls(url: str) -> Mapping[str, tuple[str, str]]:
    """URLs that cannot be connected to, and what the message has to name."""
    return {
        "user": (_with(url, user="nobody_at_all"), "nobody_at_all"),
        "host": (_with(url, host="no-such-host.invalid"), "no-such-host.invalid"),
        "port": (_with(url, host="127.0.0.1", port=1), "127.0.0.1"),
        "database": (_with(url, database="no_such_database"), "no_such_database"),
    }


def _wrong_paths(url: str) -> Mapping[str, tuple[str, str]]:
    folder, scheme = Path(split_url(url)["database"]).parent, urlsplit(url).scheme
    return {
        "missing directory": (f"{scheme}:///{folder}/missing/app.db", "missing/app.db"),
        "directory": (f"{scheme}:///{folder}", folder.name),
    }


def _from_text(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda found: parse(found) if isinstance(found, str) else found


async def _connect_sqlite(url: str) -> Any:
    if driver_of("sqlite") == "apsw":
        import apsw

        return apsw.Connection(split_url(url)["database"])
    import aiosqlite

    return await aiosqlite.connect(split_url(url)["database"], isolation_level=None)


async def _connect_postgres(url: str) -> Any:
    if driver_of("postgres") == "psycopg":
        import psycopg

        plain = url.replace("+psycopg", "")
        return await psycopg.AsyncConnection.connect(plain, autocommit=True)
    import asyncpg

    return await asyncpg.connect(**split_url(url))


async def _connect_mysql(url: str) -> Any:
    given = {**split_url(url), "autocommit": True, "charset": "utf8mb4"}
    if driver_of("mysql") == "asyncmy":
        import asyncmy

        return await asyncmy.connect(**given)
    import aiomysql

    given["db"] = given.pop("database")
    return await aiomysql.connect(**given)


SQLITE = Dialect(
    name="sqlite",
    drivers=("sqlite3", "aiosqlite", "apsw"),
    types={
        "int": "integer",
        "bigint": "bigint",
        "float": "real",
        "str": "text",
        "bytes": "blob",
        "bool": "boolean",
        "decimal": "decimal text",
        "date": "date",
        "time": "time",
        "naive": "datetime",
        "aware": "timestamptz",
        "uuid": "uuid",
        "json": "json",
    },
    key="id integer primary key autoincrement",
    positional=lambda _: "?",
    integer="integer",
    repeated=lambda count: f"printf('%.*c', {count}, 'x')",
    conflict=aiodbkit.LockTimeoutError,
    busy={"pragmas": {"busy_timeout": 50}},
    session=({"pragmas": {"cache_size": -1234}}, "pragma cache_size", "-1234"),
    session_sql=("pragma cache_size = -4321", "pragma cache_size", "-4321"),
    slow=lambda seconds: (
        "with recursive turns(n) as (select 1 union all select n + 1 from turns "
        f"where n < {int(seconds * _SQLITE_ROWS_PER_SECOND)}) select max(n) as waited from turns"
    ),
    connect=_connect_sqlite,
    unconnectable=_wrong_paths,
    deferred_key="deferrable initially deferred",
    read_only_code=8,
)

POSTGRES = Dialect(
    name="postgres",
    drivers=("asyncpg", "psycopg"),
    types={
        "int": "integer",
        "bigint": "bigint",
        "float": "double precision",
        "str": "text",
        "bytes": "bytea",
        "bool": "boolean",
        "decimal": "numeric(30, 10)",
        "date": "date",
        "time": "time",
        "naive": "timestamp",
        "aware": "timestamptz",
        "uuid": "uuid",
        "json": "jsonb",
    },
    key="id serial primary key",
    positional=lambda n: f"${n}",
    integer="integer",
    repeated=lambda count: f"repeat('x', {count})",
    conflict=aiodbkit.SerializationError,
    busy={"server_settings": {"lock_timeout": "50"}},
    session=(
        {"server_settings": {"application_name": "contract"}},
        "show application_name",
        "contract",
    ),
    session_sql=("set statement_timeout = 54321", "show statement_timeout", "54321ms"),
    slow=lambda seconds: f"select 1 as waited from pg_sleep({seconds})",
    connect=_connect_postgres,
    unconnectable=_wrong_server_urls,
    casts=("select '7'::int + :n::int", "select ((array[5, 6, 7])[2:3])[2] + :n::int"),
    refuses_nul=True,
    deferred_key="deferrable initially deferred",
    read_only_code="25006",
)

MYSQL = Dialect(
    name="mysql",
    drivers=("pymysql", "aiomysql", "asyncmy"),
    types={
        "int": "int",
        "bigint": "bigint",
        "float": "double",
        "str": "text",
        "bytes": "blob",
        "bool": "boolean",
        "decimal": "decimal(30, 10)",
        "date": "date",
        "time": "time(6)",
        "naive": "datetime(6)",
        "aware": "timestamp(6)",
        "uuid": "char(36)",
        "json": "json",
    },
    key="id int auto_increment primary key",
    positional=lambda _: "%s",
    integer="signed",
    repeated=lambda count: f"repeat('x', {count})",
    conflict=aiodbkit.DeadlockError,
    busy={"init_command": "set session innodb_lock_wait_timeout = 1"},
    session=(
        {"init_command": "set session group_concat_max_len = 4321"},
        "select @@group_concat_max_len",
        "4321",
    ),
    session_sql=(
        "set session group_concat_max_len = 5432",
        "select @@group_concat_max_len",
        "5432",
    ),
    slow=lambda seconds: f"select sleep({seconds}) as waited",
    connect=_connect_mysql,
    unconnectable=_wrong_server_urls,
    read_only_code=1792,
    quote="`",
    returned={"uuid": _from_text(UUID), "json": _from_text(json.loads)},
)

DIALECTS = {dialect.name: dialect for dialect in (SQLITE, POSTGRES, MYSQL)}
