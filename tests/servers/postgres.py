"""A private PostgreSQL on a free loopback port."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from tests.servers.binaries import Programs
from tests.servers.certificates import Authority
from tests.servers.environment import Unavailable
from tests.servers.process import HOST, Process, folder, free_port, run

__all__ = ["PostgresServer", "PostgresTemplate"]

# fsync may be off: what was acknowledged survives SIGKILL, and nobody cuts the power.
# synchronous_commit and full_page_writes stay on: without them a kill loses acknowledged work.
SETTINGS = """
listen_addresses = '127.0.0.1'
fsync = off
shared_buffers = 32MB
max_connections = 100
max_wal_size = 64MB
jit = off
log_min_messages = warning
password_encryption = 'scram-sha-256'
"""

ACCESS = """
local   all app           scram-sha-256
local   all all           trust
hostssl all tls 127.0.0.1/32 scram-sha-256
host    all tls 127.0.0.1/32 reject
host    all app 127.0.0.1/32 scram-sha-256
host    all all 127.0.0.1/32 trust
host    replication postgres 127.0.0.1/32 trust
"""

# Single-user mode reads one statement a line.
ACCOUNTS = """
create role app superuser login password 'secret'
create role tls superuser login password 'secret'
"""


class PostgresTemplate:
    """An initialised data folder, made once and copied for each server."""

    def __init__(self, programs: Programs, authority: Authority) -> None:
        self.programs = programs
        self._authority = authority
        self._home: Path | None = None

    def server(self) -> PostgresServer:
        """Return a new server, not started."""
        if self._home is None:
            self._home = self._initialise()
        home = folder(data=True)
        run(["cp", "-Rp", self._home / "data", home], home)
        return PostgresServer(self.programs, home)

    def clear(self) -> None:
        """Remove the template."""
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)

    def _initialise(self) -> Path:
        home = folder(data=True)
        data = home / "data"
        options = (
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
            "--wal-segsize=1",
        )
        run([self.programs.folder / "initdb", "-D", data, *options], home)
        settings = SETTINGS
        if "OpenSSL" in run([*self._postgres(data), "-C", "ssl_library"], home):
            self._authority.write(data)
            settings += "ssl = on\n"
        with (data / "postgresql.conf").open("a") as conf:
            conf.write(settings)
        (data / "pg_hba.conf").write_text(ACCESS)
        run([*self._postgres(data, "--single"), "postgres"], home, given=ACCOUNTS)
        return home

    def _postgres(self, data: Path, *mode: str) -> list[str | Path]:
        return [self.programs.folder / "postgres", *mode, "-D", data]


class PostgresServer:
    """One PostgreSQL: superuser ``postgres`` needs no password over loopback.

    ``app`` with the password ``secret`` logs in by SCRAM, ``tls`` with the same one by SCRAM
    over TLS only.

    Attributes:
        url: of the database ``postgres``, as the superuser.
        auth_url: the same, as ``app`` with its password.
        ca: the authority's certificate, None where the programs were built without TLS.
    """

    def __init__(self, programs: Programs, home: Path) -> None:
        self.version = programs.version
        self._programs = programs
        self.home = home
        self.port = free_port()
        self.url = f"postgresql://postgres@{HOST}:{self.port}/postgres"
        self.auth_url = f"postgresql://app:secret@{HOST}:{self.port}/postgres"
        ca = home / "data" / "ca.crt"
        self.ca = ca if ca.exists() else None
        command = (programs.folder / "postgres", "-D", home / "data", "-k", home)
        port = ("-p", str(self.port))
        self._process = Process([*command, *port], home, orphaned=signal.SIGQUIT)

    def standby(self) -> PostgresServer:
        """Return a new hot standby that streams from this server, which runs; it is not started.

        Raises:
            Unavailable: the programs have no pg_basebackup.
        """
        program = self._programs.folder / "pg_basebackup"
        if not program.is_file():
            raise Unavailable(f"{program} is missing", "install the distribution's PostgreSQL")
        home = folder(data=True)
        where = ("-h", HOST, "-p", str(self.port), "-U", "postgres")
        run([program, *where, "-D", home / "data", "-X", "stream", "-c", "fast", "-N"], home)
        with (home / "data" / "postgresql.auto.conf").open("a") as conf:
            source = f"host={HOST} port={self.port} user=postgres"
            # A killed primary is looked for again soon.
            conf.write(f"primary_conninfo = '{source}'\nwal_retrieve_retry_interval = 200ms\n")
        (home / "data" / "standby.signal").touch()
        return PostgresServer(self._programs, home)

    async def start(self) -> None:
        """Start, on the same port and data as before."""
        await self._process.start(self._ready)

    def _ready(self) -> bool:
        # The eighth line is the postmaster's own word; a TCP connect succeeds long before.
        try:
            lines = (self.home / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    async def stop(self) -> None:
        """Stop in order, without waiting for clients to leave."""
        self._process.thaw()
        await self._process.signal(signal.SIGINT)

    async def kill(self) -> None:
        """SIGKILL postmaster and backends; returns when all are gone."""
        await self._process.kill()
        (self.home / "data" / "postmaster.pid").unlink(missing_ok=True)

    async def freeze(self) -> None:
        """Stop the clocks: connects are still accepted by the kernel, nothing answers."""
        self._process.freeze()

    async def thaw(self) -> None:
        """Let it go on where it stood."""
        self._process.thaw()

    async def remove(self) -> None:
        """Kill it, and delete its folder."""
        await self.kill()
        shutil.rmtree(self.home, ignore_errors=True)
