"""Several processes migrate one empty database at once: each migration is applied exactly once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import aiodbkit
from aiodbkit.migrations import migrate, status

RUNNERS = 4
PROGRAM = """\
import asyncio, sys
import aiodbkit
from aiodbkit.migrations import migrate

async def main(url, folder):
    async with aiodbkit.create_engine(url, min_size=1) as db:
        print("ready", flush=True)
        sys.stdin.readline()
        for migration in await migrate(db, folder):
            print(migration.name, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def start(url, folder):
    """Start a process that migrates as soon as it is told to."""
    started = []

    def start_one():
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, url, str(folder)],
            cwd=Path(aiodbkit.__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


async def test_each_migration_is_applied_by_one_of_several_processes(db, folder, write, start):
    files = ["0001_log.sql", *(f"{number:04}_entry.sql" for number in range(2, 12))]
    write(files[0], "create table log (n integer);")
    for number, name in enumerate(files[1:], 2):
        write(name, f"create table t{number} (n integer);\ninsert into log values ({number});")
    await db.close()
    processes = [start() for _ in range(RUNNERS)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=50) for process in processes]
    assert [process.returncode for process in processes] == [0] * RUNNERS, said
    applied = [name for out, _ in said for name in out.split()]
    assert sorted(applied) == files
    await db.connect()
    assert await db.fetch_column("select n from log order by n") == list(range(2, 12))
    assert {each.state for each in await status(db, folder)} == {"applied"}


async def test_a_runner_waits_for_another_one_only_so_long(make_engine, backend, folder, two):
    if backend == "sqlite":
        pytest.skip("its write lock is taken for each file")
    db, other = await make_engine(), await make_engine()
    name = "aiodbkit.migrations"
    if backend == "mysql":
        name += "." + await db.fetch_val("select database()")
    async with db.advisory_lock(name):
        with pytest.raises(aiodbkit.LockTimeoutError):
            await migrate(other, folder, lock_timeout=0)
    assert len(await migrate(other, folder)) == 2
