"""The command line: ``inspect``, ``new``, ``migrate``, ``status``.

Exits with 0, with 1 after an error, which is one line on stderr, and with 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from aiodbkit import __version__
from aiodbkit.cli.classes import Style, classes_of
from aiodbkit.cli.skeleton import Database, Framework, write_app
from aiodbkit.engine import Engine
from aiodbkit.errors import ConfigurationError
from aiodbkit.factory import create_engine
from aiodbkit.inspection import dialect_of, tables
from aiodbkit.migrations import migrate, rollback, status
from aiodbkit.migrations.ledger import TABLE

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parsed(arguments)
    try:
        if options.command == "new":
            return _new(options)
        return asyncio.run(_on_database(options))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if options.traceback:
            raise
        print(f"aiodbkit: {_in_one_line(error)}", file=sys.stderr)  # noqa: T201
        return 1


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (options.command != "inspect" or any(each.startswith("-") for each in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse has no eye for tables that come after an option
        options.table += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aiodbkit", description="Tools for databases.")
    parser.add_argument("--version", action="version", version=f"aiodbkit {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common])

    inspect = command("inspect", "print Python classes for the tables of a database")
    _add_url(inspect)
    inspect.add_argument("table", nargs="*", help="only these")
    inspect.add_argument("--style", choices=get_args(Style), default="dataclass")
    inspect.add_argument("--schema", help="not the current one")

    new = command("new", "write a small app, with a migration and a test")
    new.add_argument("folder", metavar="DIR", type=Path, help="a new folder, or an empty one")
    new.add_argument("--framework", choices=get_args(Framework), default="fastapi")
    new.add_argument("-e", "--engine", choices=get_args(Database), default="sqlite")
    new.add_argument("-l", "--logging", action="store_true", help="log every query")

    run = command("migrate", "apply the migrations of a folder that are pending")
    _add_url(run)
    _add_folder(run)
    run.add_argument("--to", metavar="N", type=int, help="the number of the last one")
    run.add_argument("--down", action="store_true", help="undo the last one, or all after --to")
    run.add_argument("--dry-run", action="store_true", help="only tell what would be done")

    state = command("status", "tell which migrations of a folder were applied")
    _add_url(state)
    _add_folder(state)
    return parser


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="as postgresql://user:password@host/database")


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the migrations are")


async def _on_database(options: argparse.Namespace) -> int:
    commands = {"inspect": _inspect, "migrate": _migrate, "status": _status}
    async with create_engine(options.url) as db:
        return await commands[options.command](db, options)


async def _inspect(db: Engine, options: argparse.Namespace) -> int:
    found = await tables(db, *options.table, schema=options.schema)
    wanted = [table for table in found if options.table or table.name != TABLE]
    if not wanted:
        raise ConfigurationError("the database has no tables")
    sys.stdout.write(classes_of(wanted, dialect_of(db), options.style))
    return 0


async def _migrate(db: Engine, options: argparse.Namespace) -> int:
    run = rollback if options.down else migrate
    done = await run(db, options.folder, target=options.to, dry_run=options.dry_run)
    verb = ("undo" if options.down else "apply") if options.dry_run else None
    for migration in done:
        said = f"would {verb}" if verb else "undone" if options.down else "applied"
        print(f"{said} {migration}")  # noqa: T201
    if not done:
        print("nothing to do")  # noqa: T201
    return 0


async def _status(db: Engine, options: argparse.Namespace) -> int:
    found = await status(db, options.folder)
    for each in found:
        when = f"{each.applied_at:%Y-%m-%d %H:%M}" if each.applied_at else ""
        print(f"{each.state:<8} {when:<16} {each.name}")  # noqa: T201
    return int(any(each.state in ("edited", "missing") for each in found))


def _new(options: argparse.Namespace) -> int:
    for file in write_app(
        options.folder, options.framework, options.engine, logging=options.logging
    ):
        print(file)  # noqa: T201
    return 0


def _in_one_line(error: BaseException) -> str:
    said = str(error) if type(error).__module__.startswith("aiodbkit.") else repr(error)
    return " ".join("; ".join([said, *getattr(error, "__notes__", [])]).split())
