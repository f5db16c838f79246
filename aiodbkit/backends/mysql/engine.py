"""MySQL and MariaDB: what an engine of them can do beyond what every engine can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from aiodbkit.backends.mysql.locks import AdvisoryLockBlock
from aiodbkit.core_statements import SQL, bound
from aiodbkit.driver import Driver, Params
from aiodbkit.engine import DriverSource, Engine

__all__ = ["MySQLEngine"]

# What asks for a plan, and what runs the statement too.
_EXPLAIN = {
    "mariadb": ("EXPLAIN FORMAT=JSON", "ANALYZE FORMAT=JSON"),
    "mysql": ("EXPLAIN FORMAT=TREE", "EXPLAIN ANALYZE"),
}


class MySQLEngine(Engine):
    """MySQL or MariaDB, over aiomysql or asyncmy.

    Options besides those of every engine and its pool:

    - ``ssl``: an `ssl.SSLContext`; or ``true`` or ``"verify-full"`` (encrypted, certificate and
      host name verified), ``"verify-ca"``, ``"require"`` (encrypted, nothing verified), ``false``,
      the default. ``ssl_ca``: the file of the certificates to trust. Where TLS is asked for and
      not to be had, no connection is made.
    - ``time_zone``: of the session, default ``"+00:00"``; with another fixed offset aware datetimes
      still keep their instant; with a name or None (the server's) they are refused.
    - ``sql_mode``: as it stands; by default the server's, made strict if it is not.
    - ``init_command``: SQL to begin each session with, also after it was reset.
    - ``log_warnings``: what the server warns of after a statement is logged (``aiodbkit.mysql``),
      by default; it costs a round trip where there is a warning, and nothing where there is none.
    - ``local_infile``: whether ``LOAD DATA LOCAL`` works (off): the server gets the file that the
      statement names, and no other.
    - ``unix_socket``, ``program_name``, ``client_flag``, ``conv``, ``read_default_file``,
      ``read_default_group``, ``server_public_key``, and with aiomysql ``auth_plugin``: the
      driver's.
    """

    schemes: ClassVar[tuple[str, ...]] = (
        *("mysql", "mariadb", "mysql+aiomysql", "mysql+asyncmy"),
        *("mariadb+aiomysql", "mariadb+asyncmy"),
    )
    drivers: ClassVar[Mapping[str, DriverSource | type[Driver]]] = {
        "aiomysql": DriverSource(
            "aiodbkit.backends.mysql.by_aiomysql:AiomysqlDriver", "aiomysql", "aiodbkit[mysql]"
        ),
        "asyncmy": DriverSource(
            "aiodbkit.backends.mysql.by_asyncmy:AsyncmyDriver", "asyncmy", "aiodbkit[asyncmy]"
        ),
    }

    def _create_driver(self, target: Mapping[str, Any], options: Mapping[str, Any]) -> Driver:
        driver: Any = super()._create_driver(target, options)
        driver.log_params = self.options.log_params
        return driver  # type: ignore[no-any-return]

    def advisory_lock(self, name: str, *, timeout: float | None = None) -> AdvisoryLockBlock:
        """Hold a lock on a name for a block: one session at a time, on the whole server.

        By ``GET_LOCK``, so that other programs can take part. The block is a `connection` block
        too. The lock ends with the block, not with a transaction: open the transaction inside.
        Taken again by the same task, on the same connection, it counts. Decorates async functions.

        Args:
            name: any text, which the server compares without regard to case; for one of more than
                64 characters or 192 bytes its SHA-256 stands.
            timeout: seconds to wait for the lock, which MySQL rounds to whole ones; 0 does not
                wait, None waits for ever. The engine's ``command_timeout`` has no say in it.

        Raises:
            LockTimeoutError: another session held it for ``timeout`` seconds.
            ConnectionLostError: at the end of the block: the lock was lost on the way.
        """
        return AdvisoryLockBlock(self, name, timeout=timeout)

    async def explain(
        self,
        sql: SQL,
        params: Params = None,
        *,
        analyze: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Return the plan of a statement: MySQL's tree, MariaDB's JSON.

        ``analyze=True`` runs the statement, in a transaction (or a savepoint) that is rolled back,
        and tells what each step took.
        """
        text, params, timeout = await bound(self, sql, params, timeout)
        if not analyze:
            return await self._plan(0, text, params, timeout)
        async with self.transaction(force_rollback=True):
            return await self._plan(1, text, params, timeout)
        raise AssertionError("unreachable")  # pragma: no cover

    async def _plan(self, how: int, sql: str, params: Params, timeout: float | None) -> str:
        version = str(await self.fetch_val("select version()", timeout=timeout))
        words = _EXPLAIN["mariadb" if "mariadb" in version.lower() else "mysql"][how]
        return str(await self.fetch_val(f"{words} {sql}", params, timeout=timeout))
