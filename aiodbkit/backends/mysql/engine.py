"""MySQL and MariaDB over aiomysql.

What aiomysql leaves to its callers, and where it is done:

- a cancelled statement runs on at the server, a late one cannot be stopped: `wire`
- values are interpolated in ways that depend on the SQL mode: `literals`
- TLS that a server does not have is silently left out, several statements are taken where one is
  meant: `connect`
- ``executemany`` leaves the rows of the batches that were sent: `MySQLConnection.execute_many`
- statements that commit an open transaction are refused in it, before they are sent
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from aiodbkit.backends.mysql.connect import OPTION_TYPES, Opener
from aiodbkit.backends.mysql.connection import MySQLConnection
from aiodbkit.backends.mysql.stop import Stopper
from aiodbkit.driver import Capabilities, Driver
from aiodbkit.engine import Engine
from aiodbkit.errors import ProgrammingError
from aiodbkit.options import Isolation
from aiodbkit.sql import Dialect, compile_sql

__all__ = ["MySQLConnection", "MySQLDriver", "MySQLEngine"]


class MySQLDriver(Driver):
    """Opens connections, and stops statements through connections of its own."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        isolation_levels=frozenset(get_args(Isolation)),
        cursor_is_exclusive=True,
        returning=False,  # MariaDB has it for INSERT and DELETE, MySQL has not
        deferred_constraints=False,
    )

    def __init__(
        self,
        target: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        connection_factory: Any = None,
        reset: str = "auto",
    ) -> None:
        self.reset = reset
        self._opener = Opener(target, options, connection_factory)
        self.literals = self._opener.literals
        self.set_up = self._opener.set_up
        self.database = self._opener.database
        self.stopper = Stopper(self._opener.open_side)

    def __repr__(self) -> str:
        return f"<MySQLDriver of {self._opener.where}>"

    async def connect(self) -> MySQLConnection:
        """Open one connection and set it up."""
        return MySQLConnection(*await self._opener.open(), self)

    async def stop(self) -> None:
        """Let the KILLs that were ordered be sent."""
        await self.stopper.close()

    def quote(self, identifier: str) -> str:
        """Return one identifier in backticks."""
        if "\0" in identifier:
            raise ProgrammingError("a name cannot have a NUL character")
        return "`" + identifier.replace("`", "``") + "`"

    def only_reads(self, sql: str) -> bool:
        # How a session reads backslashes is not asked: it must read in either way.
        dialects = (Dialect.MYSQL, Dialect.MYSQL_NO_BACKSLASH)
        return all(compile_sql(sql, dialect).is_read for dialect in dialects)


class MySQLEngine(Engine):
    """MySQL or MariaDB.

    Options besides those of every engine and its pool:

    - ``ssl``: an `ssl.SSLContext`; or ``true`` or ``"verify-full"`` (encrypted, certificate and
      host name verified), ``"verify-ca"``, ``"require"`` (encrypted, nothing verified), ``false``,
      the default. ``ssl_ca``: the file of the certificates to trust. Where TLS is asked for and
      not to be had, no connection is made.
    - ``time_zone``: of the session, default ``"+00:00"``; with another fixed offset aware datetimes
      still keep their instant; with a name or None (the server's) they are refused.
    - ``sql_mode``: as it stands; by default the server's, made strict if it is not.
    - ``init_command``: SQL to begin each session with, also after it was reset.
    - ``unix_socket``, ``local_infile`` (off), ``auth_plugin``, ``program_name``, ``client_flag``,
      ``conv``, ``read_default_file``, ``read_default_group``, ``server_public_key``: aiomysql's.
    """

    schemes: ClassVar[tuple[str, ...]] = ("mysql", "mariadb", "mysql+aiomysql")

    @classmethod
    def driver_options(cls) -> Mapping[str, type]:
        """The options that the driver takes."""
        return OPTION_TYPES

    def _create_driver(self, target: Mapping[str, Any], options: Mapping[str, Any]) -> Driver:
        return MySQLDriver(
            target,
            options,
            connection_factory=self.options.connection_factory,
            reset=self.pool_options.reset,
        )
