"""A private MariaDB on a free loopback port."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from tests.servers.binaries import Programs
from tests.servers.certificates import Authority
from tests.servers.process import HOST, Process, folder, free_port, run

__all__ = ["MariaDBServer", "MariaDBTemplate"]

# innodb_flush_log_at_trx_commit=2 writes at COMMIT without fsync: what was acknowledged
# survives SIGKILL. 0 would lose up to a second of it.
SETTINGS = """
[mariadbd]
datadir={home}/data
tmpdir={home}/tmp
socket={home}/socket
pid-file={home}/pid
init-file={home}/accounts.sql
bind-address={host}
port={port}
skip-name-resolve
skip-log-bin
character-set-server=utf8mb4
innodb_log_file_size=8M
innodb_buffer_pool_size=32M
innodb_flush_log_at_trx_commit=2
innodb_buffer_pool_dump_at_shutdown=0
innodb_buffer_pool_load_at_startup=0
performance_schema=off
max_connections=100
ssl-ca={home}/ca.crt
ssl-cert={home}/server.crt
ssl-key={home}/server.key
"""

# Run before the server listens, at each start.
ACCOUNTS = """
create user if not exists app@'127.0.0.1' identified by 'secret';
grant all on *.* to app@'127.0.0.1' with grant option;
create user if not exists tls@'127.0.0.1' identified by 'secret' require ssl;
grant all on *.* to tls@'127.0.0.1';
create database if not exists test;
"""

# Nothing that speeds up InnoDB here: an install with a fast shutdown leaves unreadable files.
INSTALL = ("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")


class MariaDBTemplate:
    """An installed data folder, made once and copied for each server."""

    def __init__(self, programs: Programs, authority: Authority) -> None:
        self.programs = programs
        self._authority = authority
        self._home: Path | None = None

    def server(self) -> MariaDBServer:
        """Return a new server, not started."""
        if self._home is None:
            self._home = self._install()
        home = folder(data=True)
        run(["cp", "-Rp", self._home / "data", home], home)
        self._authority.write(home)
        return MariaDBServer(self.programs, home)

    def clear(self) -> None:
        """Remove the template."""
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)

    def _install(self) -> Path:
        home = folder(data=True)
        base = self.programs.folder.parent
        places = [base / part / "mariadb-install-db" for part in ("bin", "scripts")]
        install = next((place for place in places if place.is_file()), "mariadb-install-db")
        # --no-defaults first, or else the machine's own configuration is read.
        options = ("--no-defaults", f"--basedir={base}", f"--datadir={home / 'data'}", *INSTALL)
        run([install, *options, "--innodb-log-file-size=8M"], home)
        return home


class MariaDBServer:
    """One MariaDB with the account ``app``, password ``secret``, which may do everything.

    ``tls``, with the same password, must use TLS.

    Attributes:
        url: of the database ``test``, as ``app``.
        auth_url: the same.
        ca: the authority's certificate.
    """

    def __init__(self, programs: Programs, home: Path) -> None:
        self.version = programs.version
        self.home = home
        self.port = free_port()
        self.url = f"mysql://app:secret@{HOST}:{self.port}/test"
        self.auth_url = self.url
        self.ca: Path | None = home / "ca.crt"
        self._already_logged = 0
        (home / "tmp").mkdir(mode=0o777)
        (home / "tmp").chmod(0o777)
        (home / "accounts.sql").write_text(ACCOUNTS)
        (home / "my.cnf").write_text(SETTINGS.format(home=home, host=HOST, port=self.port))
        program = next(
            place
            for place in (programs.folder / "mariadbd", programs.folder / "mysqld")
            if place.is_file()
        )
        command = [str(program), f"--defaults-file={home / 'my.cnf'}"]
        self._process = Process(command, home, orphaned=signal.SIGKILL)

    async def start(self) -> None:
        """Start, on the same port and data as before."""
        log = self._process.log
        self._already_logged = log.stat().st_size if log.exists() else 0
        await self._process.start(self._ready)

    def _ready(self) -> bool:
        # The kernel accepts connections before the server does, so ask its log.
        with self._process.log.open("rb") as log:
            log.seek(self._already_logged)
            return b"ready for connections" in log.read()

    async def stop(self) -> None:
        """Stop in order; clients are cut off."""
        self._process.thaw()
        await self._process.signal(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL it; returns when it is gone."""
        await self._process.kill()

    async def freeze(self) -> None:
        """Stop its clock: connects are still accepted by the kernel, nothing answers."""
        self._process.freeze()

    async def thaw(self) -> None:
        """Let it go on where it stood."""
        self._process.thaw()

    async def remove(self) -> None:
        """Kill it, and delete its folder."""
        await self.kill()
        shutil.rmtree(self.home, ignore_errors=True)
