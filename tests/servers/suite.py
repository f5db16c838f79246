"""All servers of one test run: each found and started when first asked for, stopped at the end."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from tests.servers.binaries import Binaries
from tests.servers.certificates import Authority
from tests.servers.database import Database, MySQLDatabase, PostgresDatabase
from tests.servers.environment import Unavailable, given_url
from tests.servers.mariadb import MariaDBServer, MariaDBTemplate
from tests.servers.postgres import PostgresServer, PostgresTemplate

__all__ = ["BACKENDS", "Server", "Servers"]

BACKENDS = ("sqlite", "postgres", "mysql")

Server: TypeAlias = PostgresServer | MariaDBServer
Template: TypeAlias = PostgresTemplate | MariaDBTemplate
T = TypeVar("T")

TEMPLATES: dict[str, type[Template]] = {"postgres": PostgresTemplate, "mysql": MariaDBTemplate}
DATABASES: dict[str, type[Database]] = {"postgres": PostgresDatabase, "mysql": MySQLDatabase}
DRIVERS = {"postgres": "asyncpg", "mysql": "aiomysql"}


class Servers:
    """Starts what is asked for and remembers what could not be had.

    It has an event loop of its own, which runs only between the tests' loops: set-up and
    clean-up do not depend on the state in which a test leaves its loop.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.binaries = Binaries(say)
        self._authority: Authority | None = None
        self._templates: dict[str, Template] = {}
        self._running: list[Server] = []
        self._databases: dict[str, Database | Exception] = {}
        self._ca: dict[str, Path | None] = {}
        self._loop = asyncio.new_event_loop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, while no other loop runs."""
        return self._loop.run_until_complete(work)

    def prepare(self, backend: str) -> None:
        """Find or install a server's programs: what may take longer than a test is given."""
        getattr(self.binaries, backend)

    def database(self, backend: str) -> Database:
        """Return this run's database.

        Raises:
            Unavailable: there is no server here.
            Exception: there is one that does not work; the same again at each call.
        """
        if backend not in self._databases:
            try:
                self._databases[backend] = self.run(self._open(backend))
            except Exception as error:
                self._databases[backend] = error
        found = self._databases[backend]
        if isinstance(found, Exception):
            raise found
        return found

    def private(self, backend: str) -> Server:
        """Return a new server, not started, for one test; the caller removes it."""
        if backend not in self._templates:
            programs = getattr(self.binaries, backend)
            if isinstance(programs, Unavailable):
                raise programs
            self._authority = self._authority or Authority()
            self._templates[backend] = TEMPLATES[backend](programs, self._authority)
        return self._templates[backend].server()

    def ca(self, backend: str) -> Path:
        """Return the authority that signed the certificate of the shared server."""
        self.database(backend)
        if (found := self._ca.get(backend)) is None:
            raise Unavailable(
                f"the {backend} server in use has no TLS, or was given by URL",
                "install the distribution's server and give no URL",
            )
        return found

    def report(self) -> list[str]:
        """Return a line for each server that was used."""
        return [
            f"{backend}: {database.version}, {'given by URL' if given_url(backend) else 'private'}"
            for backend, database in self._databases.items()
            if isinstance(database, Database)
        ]

    def close(self) -> None:
        """Drop the databases, stop the servers, remove the folders."""
        try:
            self.run(self._close())
        finally:
            self._loop.close()
            for template in self._templates.values():
                template.clear()
            self.binaries.clear()

    async def _open(self, backend: str) -> Database:
        if importlib.util.find_spec(driver := DRIVERS[backend]) is None:
            raise Unavailable(f"{driver} is not installed", "pip install 'aiodbkit[all]'")
        if (url := given_url(backend)) is None:
            url = await self._start(backend)
        database = DATABASES[backend](url)
        try:
            await database.open()
        except Exception as error:
            if given_url(backend) is not None:
                error.add_note(f"the server is the one of AIODBKIT_TEST_{backend.upper()}_URL")
            raise
        return database

    async def _start(self, backend: str) -> str:
        server = self.private(backend)
        self._running.append(server)
        await server.start()
        self._ca[backend] = server.ca
        return server.url

    async def _close(self) -> None:
        for backend, database in self._databases.items():
            if isinstance(database, Database) and given_url(backend):
                await database.close()
        for server in self._running:
            await server.remove()
