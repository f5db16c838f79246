"""An app under a real server: two hundred clients at once over a pool of five."""

# FastAPI reads the annotations of endpoints that are made inside tests, so they are no strings.

import asyncio
import socket
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

import pytest

import aiodbkit
from aiodbkit import Session

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")

from fastapi import FastAPI  # noqa: E402
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: E402

try:
    from aiodbkit.ext import fastapi as dbfastapi
    from aiodbkit.ext.starlette import StreamingResponse

    dbfastapi.session(aiodbkit.create_engine("sqlite://"))
except aiodbkit.ConfigurationError as refusal:
    pytest.skip(str(refusal), allow_module_level=True)

pytestmark = pytest.mark.load

CLIENTS = 200
POOL = 5
HANG = 30.0
"""Seconds after which something hangs: a guard, nothing that works comes near it."""


class Server(uvicorn.Server):
    """Says when it listens, and leaves the signals to pytest."""

    def __init__(self, app):
        super().__init__(uvicorn.Config(app, http="h11", ws="none", lifespan="on", log_config=None))
        self.listens = asyncio.Event()

    @contextmanager
    def capture_signals(self):
        yield

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.listens.set()


@asynccontextmanager
async def served(app):
    """Serve the app on a free port; yield the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=CLIENTS) as listener:
        server = Server(app)
        async with asyncio.timeout(HANG), asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve([listener]))
            await server.listens.wait()
            try:
                yield listener.getsockname()[1]
            finally:
                server.should_exit = True


@pytest.fixture
async def db(postgres_url):
    db = aiodbkit.create_engine(postgres_url, max_size=POOL, acquire_timeout=HANG)
    async with aiodbkit.create_engine(postgres_url) as setup:
        await setup.execute("create table work (id integer not null)")  # a double could be stored
    yield db
    await db.close(timeout=2)


async def until(condition):
    """Let the loop run until something has happened that nobody announces."""
    while not condition():
        await asyncio.sleep(0.005)


async def is_whole(db):
    """Wait until the pool has all its connections back, then use each of them at once."""
    pool = db.pool
    await until(lambda: pool.stats().in_use == 0)
    all_have_one = asyncio.Barrier(POOL)

    async def use():
        async with db.connection() as connection:
            assert not connection.in_transaction
            await all_have_one.wait()  # broken if a slot were lost
            return await connection.fetch_val("select pg_backend_pid()")

    processes = await asyncio.gather(*[use() for _ in range(POOL)])
    assert len(set(processes)) == POOL
    stats = pool.stats()
    assert (stats.in_use, stats.waiting, stats.timeouts) == (0, 0, 0)
    assert stats.size == stats.idle == POOL


async def test_two_hundred_clients_over_a_pool_of_five_are_all_answered(db):
    tx = Annotated[Session, dbfastapi.session(db)]
    app = FastAPI(lifespan=db.lifespan)
    most = Counter()

    @app.post("/{number}")
    async def add(number: int, session: tx):
        await session.execute("insert into work values (:n)", {"n": number})
        stats = db.pool.stats()
        most["waiting"] = max(most["waiting"], stats.waiting)
        most["size"] = max(most["size"], stats.size)
        return await session.fetch_val("select :n + 0 from pg_sleep(0.002)", {"n": number})

    all_ready = asyncio.Barrier(CLIENTS)
    answers = Counter()

    async def client(http, number):
        await all_ready.wait()
        for n in range(number, 3 * CLIENTS, CLIENTS):
            response = await http.post(f"/{n}")
            answers[response.status_code, response.text == str(n)] += 1

    async with served(app) as port:
        limits = httpx.Limits(max_connections=None)
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, limits=limits, timeout=HANG) as http:
            await asyncio.gather(*[client(http, number) for number in range(CLIENTS)])
        assert answers == {(200, True): 3 * CLIENTS}
        assert sorted(await db.fetch_column("select id from work")) == [*range(3 * CLIENTS)]
        assert most["waiting"] > CLIENTS / 2  # they did come at once
        assert most["size"] <= POOL
        await is_whole(db)
    assert not db.is_connected


async def pass_on(request, call_next):
    return await call_next(request)


@pytest.mark.parametrize("behind", [False, True], ids=["plain", "behind BaseHTTPMiddleware"])
async def test_clients_that_hang_up_midway_leak_nothing(db, behind):
    tx = Annotated[Session, dbfastapi.session(db)]
    app = FastAPI(lifespan=db.lifespan)
    if behind:
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    begun = Counter()

    @app.get("/jobs/{number}")
    async def work(number: int, session: tx):
        begun["work"] += 1
        await session.execute("insert into work values (:n)", {"n": number})
        await session.fetch_val("select 1 from pg_sleep(0.01)")
        await session.execute("insert into work values (:n)", {"n": number})

    @app.get("/stream/{number}")
    async def stream(number: int):
        begun["stream"] += 1

        async def rows():
            async with (
                db.session(read_only=True) as session,
                session.iterate("select generate_series(1, 1000000) as n") as found,
            ):
                async for row in found:
                    yield f"{row.n}\n" * 100

        return StreamingResponse(rows())

    async def hang_up(port, path, *, after):
        _, writer = found = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        await after(found[0])
        writer.transport.abort()

    async def answered(reader):
        await reader.readexactly(1000)

    async def all_begun(_):
        await until(lambda: begun["work"] == CLIENTS / 2)

    async with served(app) as port:
        await asyncio.gather(
            *[hang_up(port, f"/jobs/{n}", after=all_begun) for n in range(CLIENTS // 2)],
            *[hang_up(port, f"/stream/{n}", after=answered) for n in range(CLIENTS // 2)],
        )
        assert begun == {"work": CLIENTS // 2, "stream": CLIENTS // 2}
        await until(lambda: db.pool.stats().in_use == 0 and db.pool.stats().waiting == 0)
        times = Counter(await db.fetch_column("select id from work"))
        assert set(times.values()) <= {2}  # both rows or none
        async with httpx.AsyncClient() as http:
            response = await http.get(f"http://127.0.0.1:{port}/jobs/{CLIENTS}")
        assert response.status_code == 200
        await is_whole(db)
