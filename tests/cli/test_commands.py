"""``migrate`` and ``status``; arguments, exit codes, and errors in one line without secrets."""

from __future__ import annotations

import re

import pytest

import aiodbkit
from aiodbkit.cli import main


async def test_migrations_are_applied_told_and_undone(db, url, run, migrations):
    done = run("migrate", url, migrations, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "would apply 0001_users.sql\nwould apply 0002_user.sql\n"
    assert run("migrate", url, migrations, "--to", 1).stdout == "applied 0001_users.sql\n"
    done = run("status", url, migrations)
    assert done.returncode == 0
    first, second = done.stdout.splitlines()
    assert re.fullmatch(r"applied  \d{4}-\d\d-\d\d \d\d:\d\d 0001_users.sql", first)
    assert re.fullmatch(r"pending +0002_user.sql", second)
    assert run("migrate", url, migrations).stdout == "applied 0002_user.sql\n"
    assert run("migrate", url, migrations).stdout == "nothing to do\n"
    assert await db.fetch_val("select count(*) from users") == 1
    assert run("migrate", url, migrations, "--down").stdout == "undone 0002_user.sql\n"
    done = run("migrate", url, migrations, "--down", "--to", 0, "--dry-run")
    assert done.stdout == "would undo 0001_users.sql\n"


def test_an_edited_file_is_told_by_status_and_refused_by_migrate(sqlite_url, run, migrations):
    run("migrate", sqlite_url, migrations)
    (migrations / "0001_users.sql").write_text("create table users (id text);")
    done = run("status", sqlite_url, migrations)
    assert (done.returncode, done.stdout.split()[0]) == (1, "edited")
    done = run("migrate", sqlite_url, migrations)
    assert done.returncode == 1
    assert done.stderr.startswith("aiodbkit: migrations: 0001_users.sql was edited after it")


def test_an_error_is_one_line_with_the_file_and_the_statement(sqlite_url, run, migrations):
    (migrations / "0003_wrong.sql").write_text("select 1;\ninsert into nowhere values (1);")
    done = run("migrate", sqlite_url, migrations)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "nowhere" in line
    assert "in statement 2 of 2 of 0003_wrong.sql: it is rolled back" in line
    assert "before it, 0001_users.sql, 0002_user.sql succeeded" in line


def test_an_error_of_a_function_is_one_line_too_and_a_traceback_when_asked(
    sqlite_url, run, migrations
):
    (migrations / "0003_wrong.py").write_text("async def up(db):\n    raise ValueError('so')\n")
    done = run("migrate", sqlite_url, migrations)
    (line,) = done.stderr.splitlines()
    assert line == "aiodbkit: ValueError('so'); in up() of 0003_wrong.py: it is rolled back"
    done = run("migrate", sqlite_url, migrations, "--traceback")
    assert done.returncode == 1
    assert '0003_wrong.py", line 2, in up' in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cret@127.0.0.1:1/app",
        "mysql://user:s3cret@127.0.0.1:1/app",
        "postgresql://user:s3cret@[/app",
        "postgresql://user:s3cret@host/app?no_such_option=1",
        "nodb://user:s3cret@host/app",
    ],
)
def test_a_password_is_never_shown(run, migrations, url):
    for command in (("status", url, migrations), ("inspect", url)):
        done = run(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1
        assert "s3cret" not in done.stderr


def test_a_folder_that_is_not_there_is_an_error(sqlite_url, run, tmp_path):
    done = run("migrate", sqlite_url, tmp_path / "nowhere")
    assert done.returncode == 1
    assert done.stderr.endswith("nowhere' is no folder\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["explode"], ["migrate", "sqlite://"], ["migrate", "sqlite://", ".", "--to", "x"]],
)
def test_wrong_arguments_exit_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert "usage: aiodbkit" in capsys.readouterr().err


def test_the_function_behind_the_entry_point_returns_the_exit_code(sqlite_url, capsys):
    assert main(["inspect", sqlite_url]) == 1
    assert capsys.readouterr().err == "aiodbkit: the database has no tables\n"


def test_the_version_is_told(run):
    assert run("--version").stdout == f"aiodbkit {aiodbkit.__version__}\n"
