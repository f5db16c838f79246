"""What the query log shows of SQL: one line, nothing that a terminal obeys, no password."""

from __future__ import annotations

import logging

import pytest

import aiodbkit


@pytest.fixture
async def log(caplog):
    """Return a function that runs SQL, which may fail, and returns what is logged of it."""
    async with aiodbkit.create_engine("sqlite://") as db:

        async def logged(sql):
            caplog.clear()
            with caplog.at_level(logging.DEBUG, logger="aiodbkit.query"):
                try:
                    await db.execute(sql)
                except aiodbkit.Error:
                    pass
            [record] = caplog.records
            return record.getMessage()

        yield logged


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\u2028b", "a\x85b", "a\vb"])
async def test_a_statement_is_one_line(log, text):
    assert "select 'a b'" in await log(f"select '{text}'")


@pytest.mark.parametrize("control", ["\x1b[2J", "\x07", "\x08", "\u202e", "\u200b"])
async def test_a_terminal_has_nothing_to_obey(log, control):
    line = await log(f"select '{control}'")
    assert line.isprintable()
    assert ascii(control)[1:-1] in line


@pytest.mark.parametrize(
    "sql",
    [
        "alter user app identified by 'SECRET'",
        "ALTER USER app IDENTIFIED BY 'it''s SECRET' REQUIRE SSL",
        r"alter user app identified by 'it\'s SECRET'",
        'alter user app identified by "SECRET"',
        "create user app@'%' identified with caching_sha2_password by 'SECRET'",
        "create user app identified via unix_socket or ed25519 using password('SECRET')",
        "create user app identified by password '*SECRET'",
        "set password for app = password('SECRET')",
        "set password = 'SECRET'",
        "alter role app with login password 'SECRET' valid until 'infinity'",
        "alter role app encrypted password E'SECRET'",
        "alter role app password $$SECRET$$",
        "alter role app password $x$SECRET",
        "alter role app\npassword\n'SECRET",
    ],
)
async def test_no_password_is_shown(log, sql):
    line = await log(sql)
    assert "SECRET" not in line
    assert "'***'" in line


@pytest.mark.parametrize(
    "sql",
    [
        "select password from users where name = 'bob'",
        "select 'password', 'x'",
        "insert into users (name, password) values ('a', 'b')",
    ],
)
async def test_what_is_no_password_is_shown_as_it_is(log, sql):
    assert sql in await log(sql)
