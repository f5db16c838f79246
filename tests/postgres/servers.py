"""A hot standby of a private PostgreSQL, and PgBouncer before one."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, Process, folder, free_port, run

__all__ = ["Bouncer", "Standby", "allow_replication", "find_pgbouncer"]

HBA = "host replication all 127.0.0.1/32 trust\n"


def allow_replication(primary: PostgresServer) -> None:
    """Let standbys connect; before it is started."""
    with (primary.home / "data" / "pg_hba.conf").open("a") as file:
        file.write(HBA)


class Standby(PostgresServer):
    """A copy of a running primary, which follows it."""

    def __init__(self, primary: PostgresServer, programs) -> None:
        home = folder(data=True)
        source = f"host={HOST} port={primary.port} user=postgres"
        command = [programs.folder / "pg_basebackup", "-D", home / "data", "-d", source]
        run([*command, "-X", "stream", "-c", "fast", "-R"], home)
        super().__init__(programs, home)

    def _ready(self) -> bool:
        try:
            lines = (self.home / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() in ("standby", "ready")


def find_pgbouncer() -> str | None:
    """Return PgBouncer's program, if it is there."""
    return shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


class Bouncer:
    """PgBouncer in transaction mode, with two connections to the server.

    Attributes:
        url: of the server's database, by way of it.
    """

    def __init__(self, program: str, server: PostgresServer) -> None:
        self.home = folder()
        self.port = free_port()
        self.url = f"postgresql://postgres@{HOST}:{self.port}/postgres?prepared_statements=false"
        settings = self.home / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={HOST} port={server.port}\n[pgbouncer]\n"
            f"listen_addr = {HOST}\nlisten_port = {self.port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
            "server_round_robin = 1\n"
        )
        # auth_type any takes the user of the [databases] line.
        settings.write_text(settings.read_text().replace(f"port={server.port}",
            f"port={server.port} user=postgres"))  # fmt: skip
        settings.chmod(0o644)
        self._process = Process([Path(program), settings], self.home, orphaned=signal.SIGTERM)

    async def start(self) -> None:
        await self._process.start(self._ready)

    def _ready(self) -> bool:
        return "process up" in self._process.log.read_text()

    async def remove(self) -> None:
        await self._process.kill()
        shutil.rmtree(self.home, ignore_errors=True)
