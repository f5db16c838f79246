"""One small app, which each framework's test serves, and what has to be true of all of them.

A test file of a framework has a fixture ``serve``: an async context manager that serves ``shop``
and yields its base URL; and ``asgi`` where the framework makes an ASGI app of it.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec

import httpx
import pytest
import uvicorn

import aiodbkit
from aiodbkit import SessionClosedError

BACKENDS = [
    pytest.param("sqlite_url", marks=pytest.mark.sqlite, id="sqlite"),
    pytest.param("postgres_url", marks=pytest.mark.postgres, id="postgres"),
]
SCHEMA = """
    create table parents (id integer primary key);
    create table things (id integer primary key);
    create table orphans (
        parent integer references parents (id) deferrable initially deferred
    );
"""


class Shop:
    """What the handlers do, whoever calls them: ``status, text = await shop.act(...)``."""

    def __init__(self, db):
        self.db = db
        self.sessions = []
        self.hanging = asyncio.Event()
        self.go_on = asyncio.Event()
        self.meeting = asyncio.Barrier(2)

    async def act(self, action, number, session):
        self.sessions.append(session)
        if action == "count":
            return 200, str(await self.db.fetch_val("select count(*) from things"))
        if action == "nothing":
            return 200, str(self.db.pool.stats().in_use)
        if action == "orphan":  # found out by the commit
            await session.execute("insert into orphans values (:n)", {"n": number})
            return 200, "made"
        await session.execute("insert into things values (:n)", {"n": number})
        match action:
            case "refuse":
                return 409, "no"
            case "fail":
                raise RuntimeError("a handler that fails")
            case "join":  # a verb of the engine sees what the session has not committed
                found = "select count(*) from things where id = :n"
                return 200, str(await self.db.fetch_val(found, {"n": number}))
            case "hang":
                self.hanging.set()
                await self.go_on.wait()
        return 200, "made"

    async def chat(self, text, session):
        """What a WebSocket's handler does with a message; returns what it sends, or None to end."""
        self.sessions[:] = [session]
        match text:
            case "commit":
                await session.commit()
            case "fail":
                raise RuntimeError("a handler that fails")
            case "end":
                return None
            case number:
                await session.execute("insert into things values (:n)", {"n": int(number)})
        return f"{text} done"

    async def count(self):
        return await self.db.fetch_val("select count(*) from things")

    async def see_all_connections_come_back(self):
        """A session that was cut short has ended before the pool has cleaned its connection."""
        while not all(session.is_closed for session in self.sessions):
            await asyncio.sleep(0.01)
        async with AsyncExitStack() as stack:
            for _ in range(self.db.pool.stats().max_size):
                await stack.enter_async_context(self.db.pool.acquire(timeout=20))


@asynccontextmanager
async def served_by_uvicorn(app):
    ws = "wsproto" if find_spec("wsproto") else "none"
    config = uvicorn.Config(app, port=0, lifespan="on", log_config=None, ws=ws)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), task
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


class Behaviour:
    """Inherited by each framework's tests."""

    @pytest.fixture(params=BACKENDS)
    def database_url(self, request):
        return request.getfixturevalue(request.param)

    @pytest.fixture
    async def shop(self, database_url):
        db = aiodbkit.create_engine(database_url, max_size=4)
        await db.execute_script(SCHEMA)
        await db.close()
        await db.connect()
        yield Shop(db)
        await db.close(timeout=2)

    @pytest.fixture
    async def client(self, serve, shop):
        async with serve as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
            yield client
            stats = shop.db.pool.stats()
            assert (stats.in_use, stats.waiting) == (0, 0)

    async def test_a_request_that_succeeds_is_committed_before_its_response(self, client, shop):
        response = await client.post("/make/1")
        assert (response.status_code, response.text) == (200, "made")
        assert await shop.count() == 1

    async def test_an_error_status_rolls_back(self, client, shop):
        assert (await client.post("/refuse/1")).status_code == 409
        assert await shop.count() == 0

    async def test_an_exception_rolls_back(self, client, shop):
        assert (await client.post("/fail/1")).status_code == 500
        assert await shop.count() == 0

    async def test_a_commit_that_fails_is_a_500(self, client, shop):
        response = await client.post("/orphan/1")
        assert response.status_code == 500
        assert "made" not in response.text
        assert await shop.db.fetch_val("select count(*) from orphans") == 0
        assert (await client.post("/make/1")).status_code == 200

    async def test_verbs_of_the_engine_join_the_session(self, client, shop):
        assert (await client.post("/join/1")).text == "1"

    async def test_a_handler_without_statements_takes_no_connection(self, client, shop):
        taken = shop.db.pool.stats().acquired
        assert (await client.post("/nothing/1")).text == "0"
        assert shop.db.pool.stats().acquired == taken

    async def test_a_session_is_refused_after_its_request(self, client, shop):
        await client.post("/make/1")
        (session,) = shop.sessions
        with pytest.raises(SessionClosedError, match="opens one of its own"):
            await session.fetch_val("select 1")

    async def test_requests_at_once_have_sessions_of_their_own(self, client, shop):
        wanted = [f"/{'refuse' if n % 3 == 0 else 'make'}/{n}" for n in range(1, 31)]
        answers = await asyncio.gather(*map(client.post, wanted))
        assert [answer.status_code for answer in answers].count(409) == 10
        assert await shop.count() == 20
        assert len(set(map(id, shop.sessions))) == 30

    async def test_a_client_that_hangs_up_leaks_nothing(self, client, shop):
        request = asyncio.create_task(client.post("/hang/1"))
        await shop.hanging.wait()
        request.cancel()
        await asyncio.wait([request])
        shop.go_on.set()
        await shop.see_all_connections_come_back()
        assert (await client.post("/make/2")).status_code == 200


class ASGIBehaviour(Behaviour):
    """Servers may cancel the task of a request whose client is gone."""

    cancels_by_itself = False  # the framework does it, when it is told of the disconnect

    @pytest.fixture
    def serve(self, asgi):
        return served_by_uvicorn(asgi)

    async def test_a_cancelled_request_rolls_back_and_leaks_nothing(self, asgi, client, shop):
        async def receive():
            if body:
                return body.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            raise AssertionError(message)

        gone = asyncio.Event()
        body = [{"type": "http.request", "body": b"", "more_body": False}]
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/hang/1",
            "raw_path": b"/hang/1", "query_string": b"", "root_path": "",
            "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80), "state": {},
        }  # fmt: skip
        request = asyncio.create_task(asgi(scope, receive, send))
        await shop.hanging.wait()
        gone.set()
        if not self.cancels_by_itself:
            request.cancel()
        await asyncio.wait([request])
        await shop.see_all_connections_come_back()
        assert await shop.count() == 0


class SocketBehaviour:
    """Mixed in where a WebSocket has a session: its handler is at ``/chat``, and calls `chat`."""

    commits_when_the_client_leaves = False  # the handler returns then, instead of being cancelled

    @pytest.fixture
    async def socket(self, client):
        aiohttp = pytest.importorskip("aiohttp")
        pytest.importorskip("wsproto")
        async with (
            aiohttp.ClientSession(str(client.base_url)) as http,
            http.ws_connect("/chat") as socket,
        ):
            yield socket

    async def test_a_message_is_committed_when_the_handler_says_so(self, socket, shop):
        await socket.send_str("1")
        assert await socket.receive_str() == "1 done"
        assert await shop.count() == 0
        await socket.send_str("commit")
        assert await socket.receive_str() == "commit done"
        assert await shop.count() == 1
        assert shop.db.pool.stats().in_use == 0  # nothing is held between messages
        await socket.send_str("end")
        await socket.receive()

    async def test_a_websocket_whose_handler_returns_is_committed(self, socket, shop):
        await socket.send_str("1")
        await socket.receive_str()
        await socket.send_str("end")
        await socket.receive()
        await shop.see_all_connections_come_back()
        assert await shop.count() == 1

    async def test_a_websocket_whose_handler_fails_is_rolled_back(self, socket, shop):
        await socket.send_str("1")
        await socket.receive_str()
        await socket.send_str("fail")
        await socket.receive()
        await shop.see_all_connections_come_back()
        assert await shop.count() == 0

    async def test_a_client_that_leaves_its_websocket_leaks_nothing(self, socket, shop):
        await socket.send_str("1")
        await socket.receive_str()
        await socket.close()
        await shop.see_all_connections_come_back()
        assert await shop.count() == (1 if self.commits_when_the_client_leaves else 0)
