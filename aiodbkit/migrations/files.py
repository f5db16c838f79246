"""The folder of migrations: its files, their numbers, and what stands in them."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from aiodbkit.errors import ConfigurationError
from aiodbkit.sql import Dialect, blank, split

__all__ = ["Direction", "Migration", "Script", "read_folder"]

Direction = Literal["up", "down"]

_NAME = re.compile(r"(?P<number>\d+)_\w[\w-]*\.(?:sql|py)")
_DOWN = re.compile(r"^--[ \t]*down[ \t]*$", re.IGNORECASE | re.MULTILINE)
_ALONE = re.compile(r"^--[ \t]*no[ \t]+transaction[ \t]*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Migration:
    """One file of the folder.

    Attributes:
        number: that its name begins with.
        name: of the file.
        checksum: SHA-256 of its text, whatever its line ends are.
    """

    number: int
    name: str
    checksum: str
    path: Path = field(repr=False)
    text: str = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def script(self, dialect: Dialect) -> Script:
        """Return what the file does.

        Raises:
            ConfigurationError: it cannot be read as what it has to be.
        """
        return _load_python(self) if self.path.suffix == ".py" else _read_sql(self, dialect)


@dataclass(frozen=True)
class Script:
    """What a file does.

    Attributes:
        up, down: statements, or a function of the engine; None: there is no way down.
        in_transaction: whether it may run in one.
    """

    up: Sequence[str] | Callable[[Any], Awaitable[Any]]
    down: Sequence[str] | Callable[[Any], Awaitable[Any]] | None
    in_transaction: bool


def read_folder(folder: str | PathLike[str]) -> list[Migration]:
    """Return the migrations of a folder, in order.

    Names that begin with ``_`` or ``.``, and files that are neither SQL nor Python, are left out.

    Raises:
        ConfigurationError: there is no such folder, a name has no number, or the numbers have
            gaps or duplicates.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ConfigurationError(f"migrations: {str(place)!r} is no folder")
    files = [file for file in place.iterdir() if file.suffix in (".sql", ".py")]
    found = [_read(file) for file in files if file.name[0] not in "._"]
    found.sort(key=lambda migration: (migration.number, migration.name))
    for before, after in pairwise(found):
        if before.number == after.number:
            raise ConfigurationError(
                f"migrations: {before} and {after} have the same number: give one the next"
            )
        if before.number + 1 != after.number:
            raise ConfigurationError(
                f"migrations: there is a gap between {before} and {after}: a file is missing, or "
                "is numbered wrongly"
            )
    return found


def _read(file: Path) -> Migration:
    match = _NAME.fullmatch(file.name)
    if match is None:
        raise ConfigurationError(
            f"migrations: {file.name!r} is not named as a migration, 0001_create_users.sql or "
            "0002_backfill.py; a helper's name begins with _"
        )
    try:
        text = file.read_text(encoding="utf-8")  # which makes every line end a \n
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"migrations: {file.name} cannot be read: {error}") from error
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return Migration(int(match["number"]), file.name, checksum, file, text)


def _read_sql(migration: Migration, dialect: Dialect) -> Script:
    text = migration.text
    blanked = blank(text, dialect)  # a mark inside of a string is none
    marks = [mark for mark in _DOWN.finditer(text) if blanked[mark.start()].isspace()]
    if len(marks) > 1:
        raise ConfigurationError(f"migrations: {migration} has {len(marks)} lines `-- down`")
    cut = marks[0].start() if marks else len(text)
    up, down = split(text[:cut], dialect), split(text[cut:], dialect)
    if not up:
        raise ConfigurationError(f"migrations: {migration} has no statement")
    alone = any(blanked[mark.start()].isspace() for mark in _ALONE.finditer(text))
    return Script(up, down or None, in_transaction=not alone)


def _load_python(migration: Migration) -> Script:
    # Not imported: it is no one's module, and leaves no bytecode behind that could go stale.
    module = ModuleType(f"aiodbkit_migration_{migration.path.stem}")
    module.__file__ = str(migration.path)
    sys.modules[module.__name__] = module  # a dataclass looks there for its own
    try:
        code = compile(migration.text, str(migration.path), "exec", dont_inherit=True)
        exec(code, vars(module))  # noqa: S102 - it is a program to be run
    except Exception as error:
        raise ConfigurationError(
            f"migrations: {migration} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    up, down = getattr(module, "up", None), getattr(module, "down", None)
    for name, function in (("up", up), ("down", down)):
        if not inspect.iscoroutinefunction(function) and (name == "up" or function is not None):
            raise ConfigurationError(f"migrations: {migration} needs `async def {name}(db):`")
    return Script(up, down, in_transaction=getattr(module, "transaction", True))  # type: ignore[arg-type]
