"""Runs the command line as a user would, in a process of its own, and in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import aiodbkit


@pytest.fixture
def run(tmp_path):
    """``run("status", url, folder)`` returns the finished process."""

    def run_program(*arguments, folder=tmp_path, program=("-m", "aiodbkit"), **variables):
        path = str(Path(aiodbkit.__file__).parent.parent)  # the tested one
        return subprocess.run(
            [sys.executable, *program, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, **variables},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    return run_program


@pytest.fixture
def migrations(tmp_path):
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_users.sql").write_text(
        "create table users (id integer primary key);\n-- down\ndrop table users;\n"
    )
    (folder / "0002_user.sql").write_text(
        "insert into users values (1);\n-- down\ndelete from users;\n"
    )
    return folder
