"""COPY for users: rows, files and streams in; files, callables and streams out."""

from __future__ import annotations

import asyncio
import io

import anyio
import pytest

import aiodbkit
from tests.postgres.support import until_true

pytestmark = pytest.mark.usefixtures("asyncpg_only")

CSV = b'id,body\n1,one\n2,"t,w""o"\n3,\n'
ROWS = [(1, "one"), (2, 't,w"o'), (3, None)]
ENDLESS = "select generate_series(1, 1000000000), repeat('x', 1000)"


@pytest.fixture
async def db(postgres_engine):
    db = await postgres_engine()
    await db.execute("create table notes (id integer primary key, body text)")
    return db


async def content(db):
    return [tuple(row) for row in await db.fetch_all("select id, body from notes order by id")]


async def bytes_of(*chunks):
    for chunk in chunks:
        yield chunk


async def rows_of(*rows):
    for row in rows:
        yield row


# In.


async def test_rows_of_every_kind_go_in(db):
    columns = ["id", "body"]
    assert await db.copy_in("notes", ROWS[:1], columns=columns) == 1
    assert await db.copy_in("notes", rows_of(ROWS[1]), columns=columns) == 1
    assert await db.copy_in("notes", [{"body": None, "id": 3}]) == 1
    assert await content(db) == ROWS


@pytest.mark.parametrize("kind", ["bytes", "str", "path", "file", "text file", "anyio", "stream"])
async def test_bytes_of_every_kind_go_in(db, tmp_path, kind):
    path = tmp_path / "notes.csv"
    path.write_bytes(CSV)
    given = {
        "bytes": lambda: CSV,
        "str": lambda: str(path),
        "path": lambda: path,
        "file": lambda: io.BytesIO(CSV),
        "text file": lambda: io.StringIO(CSV.decode()),
        "anyio": lambda: anyio.wrap_file(io.BytesIO(CSV)),
        "stream": lambda: bytes_of(CSV[:9], CSV[9:]),
    }[kind]
    how = {"format": "csv"} if kind == "stream" else {}
    assert await db.copy_in("notes", given(), header=True, **how) == 3
    assert await content(db) == ROWS


async def test_the_options_of_copy_are_understood(db):
    text = b"1;~a;b~\n2;\\N\n"
    done = await db.copy_in("notes", text, delimiter=";", quote="~", null="\\N")
    assert done == 2
    assert await content(db) == [(1, "a;b"), (2, None)]
    await db.copy_in("notes", b"7\tx\n", format="text", columns=["id", "body"])
    await db.copy_in("copy notes (body, id) from stdin (format csv)", b"y,8\n")
    assert await db.fetch_column("select body from notes where id > 2 order by id") == ["x", "y"]


async def test_binary_comes_back_as_it_went_out(db):
    await db.copy_in("notes", CSV, header=True)
    image = io.BytesIO()
    assert await db.copy_out("notes", to=image, format="binary") == 3
    await db.execute("delete from notes")
    assert await db.copy_in("notes", image.getvalue(), format="binary") == 3
    assert await content(db) == ROWS


async def test_progress_is_told_in_bytes_or_rows(db):
    told = []
    await db.copy_in("notes", bytes_of(b"1,a\n", b"2,b\n"), format="csv", progress=told.append)
    assert told == [4, 8]

    async def tell(done):
        await asyncio.sleep(0)
        told.append(done)

    rows = ((number, "x") for number in range(10, 2510))
    await db.copy_in("notes", rows, columns=["id", "body"], progress=tell)
    assert told[2:] == [1000, 2000, 2500]


async def test_a_line_that_does_not_fit_leaves_no_row(db):
    with pytest.raises(aiodbkit.DataError):
        await db.copy_in("notes", b"1,a\nx,b\n")
    assert await content(db) == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"1,a\nx,secret\n", r"\(COPY notes, line 2, column id\)"),
        (b"1,a\n2\n", r"\(COPY notes, line 2\)"),
        (b"1,secret\n1,b\n", r"\(COPY notes, line 2\)"),
        (b"1,\xff\n", r"invalid byte sequence.*0xff \(COPY notes, line 1"),
        (b"1,a\n2,secret\0\n", r"NUL.*\(COPY notes, line 2"),
    ],
)
async def test_an_error_names_the_line_and_not_what_stands_there(db, data, told):
    with pytest.raises(aiodbkit.DatabaseError, match=told) as caught:
        await db.copy_in("notes", data)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("where", ["outside", "transaction"])
async def test_an_error_of_the_source_passes_and_leaves_no_row(db, where):
    async def breaks():
        yield b"1,a\n"
        raise ZeroDivisionError

    if where == "outside":
        with pytest.raises(ZeroDivisionError):
            await db.copy_in("notes", breaks(), format="csv")
    else:
        async with db.transaction():
            await db.execute("insert into notes values (5, 'kept')")
            with pytest.raises(ZeroDivisionError):
                await db.copy_in("notes", breaks(), format="csv")
            await db.execute("insert into notes values (6, 'kept')")
    assert [row[0] for row in await content(db)] == ([] if where == "outside" else [5, 6])


async def test_it_runs_in_the_transaction_of_its_task(db):
    async with db.transaction(force_rollback=True):
        await db.copy_in("notes", b"1,a\n")
        assert await content(db) == [(1, "a")]
    assert await content(db) == []


async def test_cancelled_midway_nothing_remains(db):
    sent = asyncio.Event()

    async def stalls():
        yield b"1,a\n" * 1
        sent.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(db.copy_in("notes", stalls(), format="csv"))
    await sent.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert await content(db) == []
    assert db.pool.stats().in_use == 0


async def test_a_source_that_takes_too_long_meets_the_timeout(db):
    async def stalls():
        yield b"1,a\n"
        await asyncio.Event().wait()

    with pytest.raises(aiodbkit.QueryTimeoutError):
        await db.copy_in("notes", stalls(), format="csv", timeout=0.05)
    assert await content(db) == []


async def test_wrong_calls_in_are_told(db):
    with pytest.raises(aiodbkit.ConfigurationError, match="format"):
        await db.copy_in("notes", b"", format="json")
    with pytest.raises(aiodbkit.ProgrammingError, match="columns"):
        await db.copy_in("notes", b"", columns="id")
    with pytest.raises(aiodbkit.ProgrammingError, match="bytes are expected"):
        await db.copy_in("notes", [(1, "a")], format="csv")
    with pytest.raises(aiodbkit.ProgrammingError, match="no other option"):
        await db.copy_in("notes", b"", format="binary", header=True)
    with pytest.raises(FileNotFoundError):
        await db.copy_in("notes", "nowhere.csv")
    with pytest.raises(aiodbkit.InterfaceError, match="deferred"):
        await aiodbkit.PostgresEngine(None).copy_in("notes", b"1,a\n")
    with pytest.raises(aiodbkit.ProgrammingError):
        await db.copy_in('no"tes; drop', b"1,a\n")


# Out.


async def test_a_table_goes_to_targets_of_every_kind(db, tmp_path):
    await db.copy_in("notes", CSV, header=True)
    path, file, async_file, chunks = tmp_path / "a.csv", io.BytesIO(), io.BytesIO(), []

    async def take(chunk):
        await asyncio.sleep(0)
        chunks.append(chunk)

    for to in (path, file, anyio.wrap_file(async_file), take):
        assert await db.copy_out("notes", to=to, header=True) == 3
    async with db.copy_out("public.notes", header=True) as stream:
        streamed = b"".join([chunk async for chunk in stream])
    assert path.read_bytes() == file.getvalue() == async_file.getvalue() == CSV
    assert b"".join(chunks) == streamed == CSV
    assert stream.rows == 3


async def test_the_parameters_of_a_query_are_values_and_nothing_else(db):
    evil = "'); drop table notes; -- $1 \\"
    got = []
    rows = await db.copy_out(
        "select :evil::text, ':evil $1', :n::int, :ids::int[], :none::text -- :x '",
        {"evil": evil, "n": -7, "ids": [1, 2], "none": None},
        to=got.append,
        format="text",
    )
    escaped = evil.replace("\\", "\\\\")
    assert b"".join(got).decode() == f"{escaped}\t:evil $1\t-7\t{{1,2}}\t\\N\n"
    assert rows == 1
    await content(db)
    got.clear()
    await db.copy_out("select $1::int + $2::int", [1, 2], to=got.append)
    assert got == [b"3\n"]


async def test_a_file_is_there_when_it_is_complete(db, tmp_path):
    path = tmp_path / "big.csv"
    path.write_text("as it was")

    def fails(done):
        assert path.read_text() == "as it was"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await db.copy_out(ENDLESS, to=path, progress=fails)
    assert [each.name for each in tmp_path.iterdir()] == ["big.csv"]
    assert path.read_text() == "as it was"
    path.chmod(0o600)
    await db.copy_out("select 1", to=path)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("1\n", 0o600)


async def test_cancelled_midway_no_file_remains_and_the_server_stops(db, tmp_path):
    some = asyncio.Event()
    task = asyncio.create_task(
        db.copy_out(ENDLESS, to=tmp_path / "big.csv", progress=lambda _: some.set())
    )
    await some.wait()
    task.cancel()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    while list(tmp_path.iterdir()):
        await asyncio.sleep(0.01)
    await until_true(
        db, "select not exists (select from pg_stat_activity where query ilike 'copy%' "
        "and state = 'active' and pid <> pg_backend_pid())",
    )  # fmt: skip


async def test_a_stream_that_is_left_early_stops_the_server_and_gives_the_connection_back(
    postgres_engine,
):
    db = await postgres_engine(max_size=1)
    for _ in range(3):
        async with db.copy_out(ENDLESS) as chunks:
            assert await anext(chunks)
        assert await db.fetch_val("select 1") == 1
    assert db.pool.stats().opened == 1


async def test_a_stream_runs_in_the_transaction_of_its_task(db):
    async with db.transaction():
        await db.execute("insert into notes values (1, 'mine')")
        async with db.copy_out("notes") as chunks:
            assert [chunk async for chunk in chunks] == [b"1,mine\n"]
        async with db.copy_out(ENDLESS) as chunks:
            await anext(chunks)
        await db.execute("insert into notes values (2, 'mine')")
    assert len(await content(db)) == 2


async def test_an_error_of_the_server_reaches_the_reader_of_a_stream(db):
    async with db.copy_out("select 1 / (3 - n) from generate_series(1, 5) n") as chunks:
        with pytest.raises(aiodbkit.DataError):
            async for _ in chunks:
                pass
    assert await db.fetch_val("select 1") == 1


async def test_a_statement_in_the_middle_of_a_stream_of_its_transaction_is_refused(db):
    async with db.transaction(), db.copy_out(ENDLESS) as chunks:
        await anext(chunks)
        with pytest.raises(aiodbkit.InterfaceError, match="busy"):
            await db.fetch_val("select 1")


async def test_a_query_that_takes_too_long_meets_the_timeout(db):
    with pytest.raises(aiodbkit.QueryTimeoutError):
        await db.copy_out("select pg_sleep(60)", to=[].append, timeout=0.05)


async def test_wrong_calls_out_are_told(db):
    with pytest.raises(aiodbkit.ProgrammingError, match="takes a path"):
        await db.copy_out("notes", to=7)
    with pytest.raises(aiodbkit.ProgrammingError, match="format"):
        db.copy_out("notes", format="xml")
    with pytest.raises(aiodbkit.InterfaceError, match="is a block"):
        await anext(db.copy_out("notes"))
    stream = db.copy_out("notes")
    async with stream:
        pass
    with pytest.raises(aiodbkit.InterfaceError):
        await stream.__aenter__()
    with pytest.raises(aiodbkit.ProgrammingError, match=":id"):
        await db.copy_out("select :id::int", {"other": 1}, to=[].append)


async def test_a_second_statement_is_refused_before_anything_is_sent(db):
    await db.copy_in("notes", b"1,a\n")
    for sql in (
        "copy notes to stdout; drop table notes",
        "select 1; drop table notes",
        "select 1) to stdout; drop table notes; copy (select 1",
    ):
        with pytest.raises(aiodbkit.ProgrammingError, match="one statement"):
            await db.copy_out(sql, to=[].append)
    with pytest.raises(aiodbkit.ProgrammingError, match="one statement"):
        await db.copy_in("copy notes from stdin; drop table notes", b"2\tb\n")
    assert await content(db) == [(1, "a")]
    assert db.pool.stats().closed == 0


async def test_wrong_parameters_and_targets_are_told(db):
    for sql, params, told in (
        ("select :id::int", None, ":id"),
        ("select :id::int", {"id": 1, "other": 2}, "other"),
        ("notes", {"id": 1}, "not with a table"),
        ("copy (select :id::int) to stdout", {"id": 1}, "whole COPY"),
    ):
        with pytest.raises(aiodbkit.ProgrammingError, match=told):
            await db.copy_out(sql, params, to=[].append)
    whole = "copy notes to stdout"
    with pytest.raises(aiodbkit.ProgrammingError, match=r"header=, null= .* whole COPY"):
        await db.copy_out(whole, to=[].append, header=True, null="-")
    whole = "copy notes from stdin"
    for given in ({"columns": ["id"]}, {"delimiter": ";"}):
        with pytest.raises(aiodbkit.ProgrammingError, match="whole COPY"):
            await db.copy_in(whole, b"1\ta\n", **given)
    with pytest.raises(aiodbkit.ProgrammingError, match="a str, not object"):
        await db.copy_in(object(), b"1\ta\n")
    with pytest.raises(aiodbkit.ProgrammingError, match="open it with 'wb'"):
        await db.copy_out("notes", to=io.StringIO())
    with pytest.raises(aiodbkit.ProgrammingError, match="a str, not object"):
        db.copy_out(object())


# Cancelled anywhere.


async def cancelled_after(steps, work):
    task = asyncio.create_task(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("is_in_transaction", [False, True])
async def test_cancelled_at_any_step_a_copy_leaves_the_engine_as_it_was(
    postgres_engine, db, tmp_path, is_in_transaction
):
    db = await postgres_engine(max_size=1)

    async def run(way):
        if is_in_transaction:
            async with db.transaction(force_rollback=True):
                await way()
        else:
            await way()

    async def stream():
        async with db.copy_out(ENDLESS) as chunks:
            async for _ in chunks:
                await asyncio.sleep(0)

    ways = (
        lambda: db.copy_out(ENDLESS, to=tmp_path / "x"),
        lambda: db.copy_out("select :n::int", {"n": 1}, to=tmp_path / "x"),
        lambda: db.copy_in("notes", "nowhere"),
        stream,
    )
    for way in ways:
        for steps in range(0, 40, 3):
            await cancelled_after(steps, run(way))
            assert await db.fetch_val("select count(*) from notes") == 0
    while any(each.name.endswith(".part") for each in tmp_path.iterdir()):
        await asyncio.sleep(0.01)
    assert db.pool.stats().in_use == 0


async def test_cancelled_at_any_step_copy_in_leaves_no_part_of_its_rows(db):
    async def endless():
        number = 0
        while True:
            number += 1
            yield f"{number},x\n".encode()
            await asyncio.sleep(0)

    for steps in range(0, 60, 3):
        await cancelled_after(steps, db.copy_in("notes", endless(), format="csv"))
        assert await content(db) == []


async def test_a_stream_left_by_a_cancelled_scope_is_waited_for(postgres_engine):
    db = await postgres_engine(max_size=1)
    for _ in range(10):
        with anyio.CancelScope() as scope:
            async with db.copy_out(ENDLESS) as chunks:
                await anext(chunks)
                scope.cancel()
                await anext(chunks)
        # The same task takes the only connection when the server has stopped: no deadlock.
        assert await db.fetch_val("select 1") == 1


async def test_in_a_sandbox_a_copy_is_part_of_its_transaction(db):
    from aiodbkit.testing import sandbox

    async with sandbox(db):
        await db.copy_in("notes", b"1,a\n")
        async with db.advisory_lock("job", timeout=1):
            assert await content(db) == [(1, "a")]
        assert await db.copy_out("notes", to=[].append) == 1
        await db.explain("delete from notes", analyze=True)
        assert await content(db) == [(1, "a")]
    assert await content(db) == []
