"""A folder for migrations, and who writes them."""

from __future__ import annotations

import textwrap

import pytest


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "migrations"
    place.mkdir()
    return place


@pytest.fixture
def write(folder):
    """``write("0001_users.sql", "create table ...")``."""

    def write_file(name, text):
        (folder / name).write_text(textwrap.dedent(text))

    return write_file


@pytest.fixture
def two(write):
    """A table and its first row."""
    write(
        "0001_create_users.sql",
        """\
        create table users (id integer primary key, name varchar(50) not null);
        create index users_name on users (name);
        -- down
        drop table users;
        """,
    )
    write(
        "0002_first_user.py",
        """\
        async def up(db):
            await db.execute("insert into users values (:id, :name)", {"id": 1, "name": "Ann"})


        async def down(db):
            await db.execute("delete from users where id = 1")
        """,
    )
