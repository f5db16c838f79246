"""One server process that belongs to us: started without privileges, reaped, never left behind.

We are the parent, so that a killed server is gone when we say so: an orphan stays a zombie until
process 1 reaps it, and PostgreSQL refuses to start while its predecessor's pid exists.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Process", "credentials", "folder", "free_port", "reachable", "run", "until"]

HOST = "127.0.0.1"
MEMORY = "/dev/shm"
MEMORY_FOR_DATA = 2 * 1024**3  # bytes; a server needs about 50 MB
START_TIMEOUT = 30.0
"""Seconds a server may take to answer; a loaded machine needs far more than the usual 0.2."""


def credentials() -> dict[str, Any]:
    """Return subprocess's arguments that drop root, which database servers refuse to run as."""
    if os.geteuid() != 0:
        return {}
    import pwd

    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def reachable(path: Path) -> bool:
    """Whether a server may enter ``path``: as root we hand over to a user without rights."""
    if os.geteuid() != 0:
        return True
    path = path.resolve()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))


def folder(*, data: bool = False) -> Path:
    """Return a new folder that a server can write to. The caller removes it.

    For ``data`` it lies in memory, if there is room: copying a server then takes a tenth of
    the time. Programs may not be run from there.
    """
    parents = [tempfile.gettempdir(), "/tmp", "/var/tmp"]  # short: sockets lie in it
    if data and _free_memory() > MEMORY_FOR_DATA:
        parents.insert(0, MEMORY)
    for parent in parents:
        if Path(parent).is_dir() and reachable(Path(parent)):
            break
    else:
        raise RuntimeError("no temporary folder that the user `nobody` can enter")
    path = Path(tempfile.mkdtemp(prefix="aiodbkit-", dir=parent)).resolve()
    path.chmod(0o755)
    if who := credentials():
        os.chown(path, who["user"], who["group"])
    return path


def _free_memory() -> int:
    usable = os.access(MEMORY, os.W_OK)
    return shutil.disk_usage(MEMORY).free if usable else 0


def free_port() -> int:
    """Return a free loopback port below the ephemeral ones.

    A client that knocks at a dead server's ephemeral port is sooner or later given that very
    port as its own and then talks to itself.
    """
    for _ in range(100):
        port = random.randint(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise RuntimeError("no free port between 15000 and 32000 in 100 tries")


def run(command: Sequence[str | Path], cwd: Path, *, given: str = "") -> str:
    """Run a preparing command as the server's user, with ``given`` to read.

    Returns what it printed, which is in the RuntimeError too if it fails.
    """
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=_environment(cwd),
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **credentials(),
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed ({done.returncode}): {done.stdout[-2000:]}")
    return done.stdout


def _environment(home: Path) -> dict[str, str]:
    keep = ("PATH", "LD_LIBRARY_PATH", "TZDIR")
    kept = {name: os.environ[name] for name in keep if name in os.environ}
    return {**kept, "HOME": str(home), "LC_ALL": "C", "TMPDIR": str(home)}


class Process:
    """A server's process and, on Linux, the tree under it."""

    def __init__(self, command: Sequence[str | Path], cwd: Path, *, orphaned: signal.Signals):
        """Name what to run; ``orphaned`` is the signal it gets should we die unexpectedly."""
        self.command = [str(word) for word in command]
        self.cwd = cwd
        self.log = cwd / "log"
        self._orphaned = orphaned
        self._popen: subprocess.Popen[bytes] | None = None
        atexit.register(self._last_resort)

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    async def start(self, ready: Callable[[], bool]) -> None:
        """Start it and return once ``ready()``."""
        if self.running:
            return
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [*self._leash(), *self.command],
                cwd=self.cwd,
                env=_environment(self.cwd),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops the server
                **credentials(),
            )
        try:
            await until(lambda: ready() or not self.running, "the server answers", START_TIMEOUT)
        except BaseException:
            await self.kill()
            raise
        if not self.running:
            raise RuntimeError(f"{self.command[0]} died: {self.log.read_text()[-2000:]}")

    def _leash(self) -> list[str]:
        # Not preexec_fn: it forks, which is refused (a warning) beside SQLite's threads.
        setpriv = shutil.which("setpriv")
        return [setpriv, f"--pdeathsig={self._orphaned.name[3:]}", "--"] if setpriv else []

    async def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself and wait until it has ended."""
        if self._popen is not None and self.running:
            self._popen.send_signal(number)
            await until(lambda: not self.running, "the server stops", START_TIMEOUT)

    async def kill(self) -> None:
        """SIGKILL the whole tree, and wait until nothing of it is left."""
        pids = self._tree()
        _send(pids, signal.SIGKILL)
        await until(lambda: not self.running, "the killed server is gone", START_TIMEOUT)
        await until(lambda: not any(map(_alive, pids)), "its children are gone", START_TIMEOUT)

    def freeze(self) -> None:
        """SIGSTOP the whole tree; twice, for what was forked meanwhile."""
        for _ in range(2):
            _send(self._tree(), signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT the whole tree."""
        _send(self._tree(), signal.SIGCONT)

    def _tree(self) -> list[int]:
        if self._popen is None or not self.running:
            return []
        return list(_descendants(self._popen.pid))

    def _last_resort(self) -> None:
        """Leave nothing behind when the fixtures' own ends did not run."""
        if self._popen is not None and self.running:
            _send(self._tree(), signal.SIGKILL)
            self._popen.wait()


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _descendants(root: int) -> Iterator[int]:
    """Yield ``root`` and all below it: PostgreSQL's backends leave the process group."""
    children: dict[int, list[int]] = {}
    for pid, (_, parent) in _processes():
        children.setdefault(parent, []).append(pid)
    todo = [root]
    while todo:
        yield (pid := todo.pop())
        todo += children.get(pid, [])


def _processes() -> Iterator[tuple[int, tuple[str, int]]]:
    proc = Path("/proc")
    for entry in proc.iterdir() if proc.is_dir() else ():
        if entry.name.isdigit() and (found := _state(int(entry.name))):
            yield int(entry.name), found


def _state(pid: int) -> tuple[str, int] | None:
    """Return the state letter and the parent of a process, None when there is none."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return after_name[0], int(after_name[1])


def _alive(pid: int) -> bool:
    found = _state(pid)
    return found is not None and found[0] not in "ZX"


async def until(condition: Callable[[], bool], what: str, timeout: float) -> None:
    """Poll ``condition``, as nothing announces it; TimeoutError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain until {what}")
        await asyncio.sleep(0.005)
