"""``retry_reads=True``: what only reads is sent again when its connection was lost in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import aiodbkit
from tests.servers.wire import WireProxy

Make = Callable[..., Awaitable[aiodbkit.Engine]]

BACKENDS = ("postgres", "mysql")

READS: dict[str, tuple[Any, Any]] = {
    "fetch_all": (lambda db: db.fetch_all("select 7 as n"), [(7,)]),
    "fetch_one": (lambda db: db.fetch_one("select 7 as n"), (7,)),
    "fetch_val": (lambda db: db.fetch_val("select 7"), 7),
    "fetch_column": (lambda db: db.fetch_column("select 7 as n"), [7]),
}
reads = pytest.mark.parametrize("verb", READS)


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in BACKENDS])
def backend(request: pytest.FixtureRequest) -> str:
    """SQLite has no wire to be cut."""
    name: str = request.param
    return name


@pytest.fixture
async def proxy(url: str, wire_proxy: Callable[[str], Awaitable[WireProxy]]) -> WireProxy:
    return await wire_proxy(url)


@pytest.fixture
async def one(make_engine: Make, proxy: WireProxy) -> aiodbkit.Engine:
    """An engine with a single connection, warm, that reads again."""
    db = await make_engine(proxy.url, max_size=1, acquire_timeout=20, retry_reads=True)
    await db.execute("create table notes (id integer)")
    return db


def cut_in_flight(proxy: WireProxy, text: bytes) -> asyncio.Task[None]:
    """Cut the wire, which is warm, as soon as a client has sent ``text``, before any answer."""

    async def cut() -> None:
        seen = asyncio.ensure_future(proxy.seen(text))
        proxy.hole("down")
        await seen
        proxy.cut()
        proxy.heal()

    return asyncio.ensure_future(cut())


@reads
async def test_a_read_lost_in_flight_is_sent_again_and_nobody_notices(
    verb: str, one: aiodbkit.Engine, proxy: WireProxy
) -> None:
    read, answer = READS[verb]
    cutting = cut_in_flight(proxy, b"select 7")
    await asyncio.sleep(0)
    assert await read(one) == answer
    await cutting
    assert proxy.accepted == 2
    assert one.pool.stats().in_use == 0


@reads
async def test_by_default_it_is_not(
    verb: str, one: aiodbkit.Engine, proxy: WireProxy, make_engine: Make
) -> None:
    db = await make_engine(proxy.url, max_size=1, acquire_timeout=20)
    await db.fetch_val("select 1")
    read, answer = READS[verb]
    cutting = cut_in_flight(proxy, b"select 7")
    await asyncio.sleep(0)
    with pytest.raises(aiodbkit.ConnectionLostError) as caught:
        await read(db)
    await cutting
    assert not caught.value.is_transient
    assert await read(db) == answer


async def test_it_is_sent_once_more_and_no_oftener(
    backend: str, one: aiodbkit.Engine, proxy: WireProxy
) -> None:
    slow = (
        "select 7 from "
        + {
            "postgres": "pg_sleep(0.5)",
            "mysql": "(select sleep(0.5)) as waited",
        }[backend]
    )

    async def cut_twice() -> None:
        for _ in range(2):
            await proxy.seen(b"select 7 from")
            proxy.cut()

    cutting = asyncio.create_task(cut_twice())
    await asyncio.sleep(0)
    with pytest.raises(aiodbkit.ConnectionLostError):
        await one.fetch_val(slow)
    await cutting
    assert proxy.accepted == 2
    assert await one.fetch_val("select 8") == 8


@pytest.mark.parametrize(
    "floor", ["connection", "transaction", "session", "execution_context", "acquire"]
)
async def test_inside_a_block_it_is_not(floor: str, one: aiodbkit.Engine, proxy: WireProxy) -> None:
    async def block() -> None:
        async with getattr(one.pool if floor == "acquire" else one, floor)() as place:
            on = place if floor == "acquire" else one
            await on.fetch_val("select 1")
            cutting = cut_in_flight(proxy, b"select 7")
            await asyncio.sleep(0)
            try:
                await on.fetch_val("select 7")
            finally:
                await cutting

    with pytest.raises(aiodbkit.ConnectionLostError):
        await block()
    assert await one.fetch_val("select 7") == 7


@pytest.mark.parametrize(
    "statement",
    [
        "insert into notes values (7)",
        "update notes set id = 7",
        "delete from notes where id = 7",
        "select id from notes where id = 7 for update",
    ],
)
async def test_what_may_write_is_not(
    statement: str, one: aiodbkit.Engine, proxy: WireProxy
) -> None:
    for verb in (one.fetch_all, one.execute):
        await one.fetch_val("select 1")
        cutting = cut_in_flight(proxy, statement.encode())
        await asyncio.sleep(0)
        with pytest.raises(aiodbkit.ConnectionLostError):
            await verb(statement)
        await cutting
    assert await one.fetch_val("select count(*) from notes") <= 2, "twice asked for, no oftener"
