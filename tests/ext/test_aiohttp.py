"""aiohttp's server: a session in the request."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

pytest.importorskip("aiohttp")

import httpx
from aiohttp import web

import aiodbkit
from aiodbkit.ext import aiohttp as dbaiohttp
from tests.ext.one_app import Behaviour, SocketBehaviour


class TestAiohttp(SocketBehaviour, Behaviour):
    commits_when_the_client_leaves = True

    @pytest.fixture
    def app(self, shop):
        async def handler(request):
            action, number = request.match_info["action"], int(request.match_info["number"])
            assert request.app[dbaiohttp.DB] is shop.db
            status, text = await shop.act(action, number, request[dbaiohttp.SESSION])
            return web.Response(text=text, status=status)

        async def chat(request):
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                answer = await shop.chat(message.data, request[dbaiohttp.SESSION])
                if answer is None:
                    break
                await socket.send_str(answer)
            return socket

        app = web.Application()
        app.router.add_get("/chat", chat)
        dbaiohttp.setup(app, shop.db)
        app.router.add_post("/{action}/{number}", handler)
        return app

    @pytest.fixture
    def serve(self, app):
        @asynccontextmanager
        async def serving():
            # As with servers that cancel a handler whose client is gone.
            runner = web.AppRunner(app, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
            await runner.cleanup()

        return serving()

    @pytest.fixture
    def add(self, app):
        """Add a handler, before the app is served."""
        return app.router.add_post

    async def test_a_redirect_that_is_raised_commits_and_a_refusal_rolls_back(
        self, add, shop, serve, request
    ):
        async def leave(request):
            await request[dbaiohttp.SESSION].execute("insert into things values (1)")
            raise web.HTTPFound("/elsewhere")

        async def refuse(request):
            await request[dbaiohttp.SESSION].execute("insert into things values (2)")
            raise web.HTTPForbidden

        add("/leave", leave)
        add("/refuse", refuse)
        async with serve as url, httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/leave")).status_code == 302
            assert (await client.post("/refuse")).status_code == 403
            assert await shop.db.fetch_column("select id from things") == [1]

    async def test_a_stream_commits_what_came_before_its_headers(self, add, shop, serve):
        async def stream(request):
            await request[dbaiohttp.SESSION].execute("insert into things values (1)")
            response = web.StreamResponse()
            await response.prepare(request)
            assert not request[dbaiohttp.SESSION].in_transaction
            await response.write(b"begun")
            return response

        async def orphans(request):
            await request[dbaiohttp.SESSION].execute("insert into orphans values (1)")
            await web.StreamResponse().prepare(request)

        add("/stream", stream)
        add("/orphans", orphans)
        async with serve as url, httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/stream")).text == "begun"
            assert await shop.count() == 1
            assert (await client.post("/orphans")).status_code == 500

    async def test_a_stream_of_what_is_to_be_rolled_back_is_sent_and_rolled_back(
        self, add, shop, serve
    ):
        async def rehearse(request):
            session = request[dbaiohttp.SESSION]
            await session.execute("insert into things values (1)")
            session.set_rollback_only()
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"begun")
            return response

        add("/rehearse", rehearse)
        async with serve as url, httpx.AsyncClient(base_url=url) as client:
            answer = await client.post("/rehearse")
            assert (answer.status_code, answer.text) == (200, "begun")
            assert await shop.count() == 0


def test_what_is_no_engine_is_refused_when_the_app_is_made():
    with pytest.raises(aiodbkit.ConfigurationError, match="'sqlite://' is none"):
        dbaiohttp.setup(web.Application(), "sqlite://")


def test_a_second_engine_needs_keys_of_its_own():
    app = web.Application()
    dbaiohttp.setup(app, aiodbkit.create_engine("sqlite://"))
    with pytest.raises(aiodbkit.ConfigurationError, match="session_key= of its own"):
        dbaiohttp.setup(app, aiodbkit.create_engine("sqlite://"))
