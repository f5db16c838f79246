"""Sessions with other settings than usual, and names and figures at their limits."""

from __future__ import annotations

import logging

import pytest

import aiodbkit
from aiodbkit.backends.mysql.locks import lock_name


async def test_texts_with_quotes_have_the_collation_that_other_texts_have(mysql_engine):
    db = await mysql_engine(init_command="set collation_connection = utf8mb4_unicode_ci")
    assert await db.fetch_val("select :a = :b", {"a": "it's", "b": "IT'S"}) == 1
    assert await db.fetch_val("select :a = :b", {"a": "it's", "b": "its"}) == 0
    texts = "select v from (select 'x' as v) as t where v in (:a, :b)"
    assert await db.fetch_val(texts, {"a": "it's", "b": "x"}) == "x"


@pytest.mark.parametrize("mode", ["ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "PIPES_AS_CONCAT"])
async def test_quotes_stay_within_their_text_under_every_mode(mode, mysql_engine):
    db = await mysql_engine(sql_mode=mode)
    for text in ("'", "''", "' or 1 = 1 -- ", "'\\", "\\'", "é'", "\"'`", "'" * 1000):
        row = await db.fetch_one("select :t, length(:t), 'it''s :t', 1-:n", {"t": text, "n": -5})
        assert tuple(row) == (text, len(text.encode()), "it's :t", 6)


@pytest.mark.parametrize("charset", ["gbk", "sjis", "big5", "latin1"])
async def test_quotes_stay_within_their_text_in_every_character_set(charset, mysql_engine):
    db = await mysql_engine(init_command=f"set names {charset}")
    for text in (
        "it's",
        "é'",
        "\N{SNOWMAN}' or 1 = 1 -- ",
        "\udcbf'".encode("utf-8", "replace").decode(),
    ):
        assert await db.fetch_val("select 1 = 2 and :t = :t as v", {"t": text}) == 0


@pytest.mark.parametrize("name", ["\N{FOX FACE}" * 48, "\N{FOX FACE}" * 49, "é" * 64, "é" * 65])
async def test_a_lock_may_have_any_name(name, mysql_engine):
    db = await mysql_engine()
    async with db.advisory_lock(name) as lock:
        assert (lock.key == name) == (len(name.encode()) <= 192 and len(name) <= 64)
        holder = "select is_used_lock(:key) = connection_id()"
        assert await db.fetch_val(holder, {"key": lock_name(name)}) == 1


@pytest.mark.parametrize("name", ["\ud800", "\ud800" * 70])
async def test_a_lock_whose_name_is_no_text_is_refused(name, mysql_engine):
    db = await mysql_engine()
    with pytest.raises(aiodbkit.InterfaceError, match="lone surrogate"):
        db.advisory_lock(name)


async def test_more_warnings_than_the_server_counts_are_counted_as_far_as_it_does(
    mysql_engine, caplog
):
    db = await mysql_engine()
    caplog.set_level(logging.WARNING, logger="aiodbkit.mysql")
    await db.execute("create table n (d varchar(5))")
    await db.insert_many("n", [{"d": f"{number}x"} for number in range(300)])
    casts = "select count(cast(a.d as integer)) from n a join n b where a.d + 0 < 300"
    assert await db.fetch_val(casts) == 90_000
    assert caplog.messages[-1].startswith("65535 warnings: ")


async def test_a_file_whose_path_has_a_quote_is_refused_and_not_another_one_sent(
    mysql_engine, tmp_path
):
    db = await mysql_engine(local_infile=True)
    (tmp_path / "a").write_text("1\n")
    load = "load data local infile :path into table t"
    with pytest.raises(aiodbkit.ProgrammingError, match="no quote"):
        await db.execute(load, {"path": f"{tmp_path}/a'b.csv"})


async def test_a_lock_that_was_released_by_sql_is_told_as_such(mysql_engine):
    db = await mysql_engine()
    with pytest.raises(aiodbkit.ConnectionLostError, match="by an SQL statement that released it"):
        async with db.advisory_lock("job"):
            await db.fetch_val("select release_lock('job')")


async def test_a_file_without_an_end_is_stopped_by_the_timeout(mysql_engine):
    db = await mysql_engine(local_infile=True)
    await db.execute("create table endless (v longtext)")
    load = "load data local infile '/dev/zero' into table endless"
    with pytest.raises(aiodbkit.QueryTimeoutError, match=r"timeout=0\.1 s"):
        await db.execute(load, timeout=0.1)
    assert await db.fetch_val("select count(*) from endless") == 0
