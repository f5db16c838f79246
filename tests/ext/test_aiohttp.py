"""aiohttp's server: a session in the request."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

pytest.importorskip("aiohttp")

import httpx
from aiohttp import web

from aiodbkit.ext import aiohttp as dbaiohttp
from tests.ext.one_app import Behaviour


class TestAiohttp(Behaviour):
    @pytest.fixture
    def app(self, shop):
        async def handler(request):
            action, number = request.match_info["action"], int(request.match_info["number"])
            assert request.app[dbaiohttp.DB] is shop.db
            status, text = await shop.act(action, number, request[dbaiohttp.SESSION])
            return web.Response(text=text, status=status)

        app = web.Application()
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
