"""A database of this run's own on a server, and what a test may not leave in it.

Each call opens a connection of its own (2-4 ms) and keeps none: a fault test may well cut off
every session there is.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

__all__ = ["Database", "MySQLDatabase", "PostgresDatabase"]

GRACE = 2.0
"""Seconds in which a server may notice that a client has closed its connection."""


class Database(ABC):
    """One database on a running server: created, emptied after each test, dropped.

    Where the account may create no database, the one of the URL serves, provided that it is
    empty: it would be emptied after the first test.

    Attributes:
        url: what tests connect to.
        version: the server's, once open.
    """

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._own = f"aiodbkit_{os.getpid()}_{secrets.token_hex(4)}"
        self.url = with_database(server_url, self._own)
        self.version = "unknown version"

    async def open(self) -> None:
        """Create the database; RuntimeError if that is impossible."""
        if not await self._create():
            self._own = ""
            self.url = self._server_url
            if tables := await self.tables():
                raise RuntimeError(
                    f"the test account may create no database and the given one is not empty "
                    f"({', '.join(tables[:5])}): give one without tables, it is emptied"
                )
        self.version = await self._version()

    async def close(self) -> None:
        """Drop the database, or leave the given one empty."""
        if self._own:
            await self._drop()

    async def leftovers(self) -> list[str]:
        """Return what describes each session still open after a moment of grace."""
        deadline = time.monotonic() + GRACE
        while (found := await self.sessions()) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return found

    @property
    def name(self) -> str:
        """The name of the database that ``url`` points to."""
        return unquote(urlsplit(self.url).path.lstrip("/"))

    @abstractmethod
    async def sessions(self) -> list[str]:
        """Describe the sessions open in this database, but for the one that asks."""

    @abstractmethod
    async def tables(self) -> list[str]:
        """Return the names of the tables there are."""

    @abstractmethod
    async def wipe(self) -> None:
        """End all sessions and remove all that tests created."""

    @abstractmethod
    async def _create(self) -> bool:
        """Create the database; False when the account may not."""

    @abstractmethod
    async def _drop(self) -> None: ...

    @abstractmethod
    async def _version(self) -> str: ...


def with_database(url: str, name: str) -> str:
    """Return ``url`` with another database's name."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


class PostgresDatabase(Database):
    """A database on a PostgreSQL server."""

    async def sessions(self) -> list[str]:
        query = """select format('pid %s, %s: %s', pid, coalesce(state, '?'), left(query, 100))
                   from pg_stat_activity where datname = current_database()
                   and backend_type = 'client backend' and pid <> pg_backend_pid()"""
        async with self._connection() as connection:
            return [row[0] for row in await connection.fetch(query)]

    async def tables(self) -> list[str]:
        query = """select relname from pg_class join pg_namespace n on n.oid = relnamespace
                   where relkind in ('r', 'p', 'v', 'm') and nspname !~ '^pg_'
                   and nspname <> 'information_schema'"""
        async with self._connection() as connection:
            return [row[0] for row in await connection.fetch(query)]

    async def wipe(self) -> None:
        async with self._connection() as connection:
            await connection.execute("""
                set lock_timeout = '10s';
                select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()
                and backend_type = 'client backend';
                do $$ declare name text; begin
                    for name in select nspname from pg_namespace
                        where nspname !~ '^pg_' and nspname <> 'information_schema'
                    loop execute format('drop schema %I cascade', name); end loop;
                end $$;
                create schema public; grant all on schema public to public""")

    async def _create(self) -> bool:
        import asyncpg

        async with self._connection(self._server_url) as connection:
            try:
                await connection.execute(f'create database "{self._own}"')
            except asyncpg.InsufficientPrivilegeError:
                return False
            return True

    async def _drop(self) -> None:
        async with self._connection(self._server_url) as connection:
            await connection.execute(f'drop database "{self._own}" with (force)')

    async def _version(self) -> str:
        async with self._connection() as connection:
            return f"PostgreSQL {await connection.fetchval('show server_version')}"

    @asynccontextmanager
    async def _connection(self, url: str | None = None) -> AsyncIterator[Any]:
        import asyncpg

        parts = urlsplit(url or self.url)._replace(scheme="postgresql")
        connection = await asyncpg.connect(urlunsplit(parts), timeout=10)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)


class MySQLDatabase(Database):
    """A database on a MariaDB or MySQL server."""

    async def sessions(self) -> list[str]:
        query = """select concat('id ', id, ', ', command, ' ', coalesce(state, ''), ': ',
                   coalesce(left(info, 100), 'nothing'))
                   from information_schema.processlist
                   where db = database() and id <> connection_id()"""
        return [row[0] for row in await self._fetch(query)]

    async def tables(self) -> list[str]:
        query = "select table_name from information_schema.tables where table_schema = database()"
        return [row[0] for row in await self._fetch(query)]

    async def wipe(self) -> None:
        ids = await self._fetch("""select id from information_schema.processlist
                                   where db = database() and id <> connection_id()""")
        for (number,) in ids:
            await self._kill(number)
        name = self.name
        statements = ("set lock_wait_timeout = 10", f"drop database `{name}`")
        await self._run(*statements, f"create database `{name}` character set utf8mb4")

    async def _kill(self, number: int) -> None:
        import pymysql

        try:
            await self._run(f"kill {number}")
        except pymysql.err.OperationalError as error:
            if error.args[0] != 1094:  # it has gone by itself meanwhile
                raise

    async def _create(self) -> bool:
        import pymysql

        statement = f"create database `{self._own}` character set utf8mb4"
        try:
            await self._run(statement, url=self._server_url)
        except pymysql.err.OperationalError as error:
            if error.args[0] == 1044:
                return False
            raise
        return True

    async def _drop(self) -> None:
        await self._run(f"drop database `{self._own}`", url=self._server_url)

    async def _version(self) -> str:
        ((version,),) = await self._fetch("select version()")
        return f"MariaDB {version}" if "MariaDB" in version else f"MySQL {version}"

    async def _run(self, *statements: str, url: str | None = None) -> None:
        async with self._cursor(url) as cursor:
            for statement in statements:
                await cursor.execute(statement)

    async def _fetch(self, query: str) -> list[tuple[Any, ...]]:
        async with self._cursor() as cursor:
            await cursor.execute(query)
            return list(await cursor.fetchall())

    @asynccontextmanager
    async def _cursor(self, url: str | None = None) -> AsyncIterator[Any]:
        import aiomysql

        parts = urlsplit(url or self.url)
        connection = await aiomysql.connect(
            host=parts.hostname or "localhost",
            port=parts.port or 3306,
            user=unquote(parts.username or "root"),
            password=unquote(parts.password or ""),
            db=unquote(parts.path.lstrip("/")) or None,
            autocommit=True,
            connect_timeout=10,
        )
        try:
            async with connection.cursor() as cursor:
                yield cursor
        finally:
            await connection.ensure_closed()
