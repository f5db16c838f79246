"""The environment variables of the test suite, and how a missing server is told.

``AIODBKIT_TEST_POSTGRES_URL``, ``AIODBKIT_TEST_MYSQL_URL``
    Use this server instead of starting one. A database of this run's own is created in it and
    dropped at the end; where the account may not create databases, the URL's own database is
    used, if it is empty.
``AIODBKIT_TEST_SERVER_PATH``
    Folders, separated by the system's path separator, in which to look for server programs
    instead of the usual places.
``AIODBKIT_TEST_INSTALL``
    ``0`` forbids to install anything (by pip or apt-get).
``AIODBKIT_TEST_DRIVERS``
    Names (``apsw,psycopg,asyncmy``): the tests use these drivers instead of the default ones.
``AIODBKIT_REQUIRE``
    Names (``postgres,mysql,browser,oldest``): a server, the browser for the example's page, or
    the oldest FastAPI and Starlette that are supported (installed by pip), that cannot be had
    fails the tests that need it instead of skipping them.
"""

from __future__ import annotations

import os

__all__ = ["Unavailable", "driver_of", "given_url", "may_install", "required", "server_path"]


class Unavailable(Exception):  # noqa: N818 - a finding, not an error
    """A server, or an ability of it, that cannot be had here: why, and the cure."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(f"{reason}; to run this test: {cure}")


def given_url(backend: str) -> str | None:
    """Return the URL of a server to use for ``"postgres"`` or ``"mysql"``, if one was given."""
    return os.environ.get(f"AIODBKIT_TEST_{backend.upper()}_URL") or None


_DRIVERS = {
    "sqlite": ("aiosqlite", "apsw"),
    "postgres": ("asyncpg", "psycopg"),
    "mysql": ("aiomysql", "asyncmy"),
}


def driver_of(backend: str) -> str:
    """Return the driver that the tests of a backend use."""
    default, *others = _DRIVERS[backend]
    wanted = os.environ.get("AIODBKIT_TEST_DRIVERS", "").split(",")
    return next((name for name in others if name in wanted), default)


def server_path() -> list[str] | None:
    """Return the folders to search for server programs; None stands for the usual ones."""
    path = os.environ.get("AIODBKIT_TEST_SERVER_PATH")
    return None if path is None else [folder for folder in path.split(os.pathsep) if folder]


def may_install() -> bool:
    """Whether missing programs may be installed."""
    return os.environ.get("AIODBKIT_TEST_INSTALL", "1") != "0"


def required() -> frozenset[str]:
    """Return the names of the backends that must not be skipped, and ``browser``."""
    names = os.environ.get("AIODBKIT_REQUIRE", "").split(",")
    return frozenset(name.strip() for name in names if name.strip())
