"""MySQL and MariaDB, whichever the driver: `by_aiomysql`, `by_asyncmy`.

What both leave to their callers, and where it is done:

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
from aiodbkit.backends.mysql.link import Link
from aiodbkit.backends.mysql.stop import Stopper
from aiodbkit.driver import Capabilities, Driver
from aiodbkit.errors import ProgrammingError
from aiodbkit.options import Isolation
from aiodbkit.sql import Dialect, compile_sql

__all__ = ["MySQLConnection", "MySQLDriver"]


class MySQLDriver(Driver):
    """Opens connections, and stops statements through connections of its own.

    Attributes:
        local_infile: files of this machine may be loaded.
        log_params: texts that are logged may hold values.
        log_warnings: what the server warns of is logged.
    """

    link: ClassVar[type[Link]]

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
        connect_timeout: float = 10.0,  # noqa: ARG002 - the caller cancels
        reset: str = "auto",
        connection_factory: Any = None,
    ) -> None:
        self.reset = reset
        self.local_infile: bool = options.get("local_infile", False)
        self.log_params = False
        self.log_warnings: bool = options.get("log_warnings", True)
        self._opener = Opener(target, options, connection_factory, self.link)
        self.literals = self._opener.literals
        self.set_up = self._opener.set_up
        self.database = self._opener.database
        self.stopper = Stopper(self._opener.open_side)

    def __repr__(self) -> str:
        return f"<MySQLDriver of {self._opener.where}>"

    @classmethod
    def options(cls) -> Mapping[str, type]:
        """The options of the driver that are the user's to set, and ours."""
        return {**OPTION_TYPES, **cls.link.own_options}

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
