"""``new`` writes an app that runs, and whose test passes."""

from __future__ import annotations

import pytest

FRAMEWORKS = ["fastapi", "starlette", "none"]
ENGINES = {"sqlite": "sqlite", "postgres": "postgresql", "mysql": "mysql"}
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio")


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_the_test_of_a_new_app_passes(url, backend, run, tmp_path, framework):
    done = run("new", "app", "--framework", framework, "-e", ENGINES[backend])
    assert (done.returncode, done.stderr) == (0, "")
    app = tmp_path / "app"
    assert [app / line.removeprefix("app/") for line in done.stdout.split()] == [
        app / name
        for name in (
            "app.py",
            "migrations/0001_create_notes.sql",
            "test_app.py",
            "requirements.txt",
        )
    ]
    tested = run(program=PYTEST, folder=app, TEST_DATABASE_URL=url)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "1 passed" in tested.stdout


def test_the_test_of_a_new_app_on_sqlite_needs_nothing_to_be_set(run, tmp_path):
    assert run("new", "app", "--framework", "none").returncode == 0
    tested = run(program=PYTEST, folder=tmp_path / "app")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert not (tmp_path / "app" / "app.db").exists()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_app_with_logging_tells_its_queries(run, tmp_path, framework):
    assert run("new", "app", "--framework", framework, "-l").returncode == 0
    tested = run(program=(*PYTEST, "-o", "log_cli=true"), folder=tmp_path / "app")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "insert into notes" in tested.stdout


def test_a_plain_app_runs_as_a_program(run, tmp_path):
    assert run("new", "app", "--framework", "none").returncode == 0
    for number in (1, 2):
        done = run("app.py", "hello", program=(), folder=tmp_path / "app")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == f"{number} hello"


def test_a_folder_with_files_in_it_is_left_alone(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    done = run("new", tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"aiodbkit: {tmp_path} is not empty: give a new folder\n"
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_that_is_a_file_is_an_error(run, tmp_path):
    (tmp_path / "file").write_text("")
    done = run("new", "file")
    assert done.returncode == 1
    assert done.stderr == "aiodbkit: file cannot be written: File exists\n"
