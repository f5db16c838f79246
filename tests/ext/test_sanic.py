"""Sanic: a session in ``request.ctx``."""

from __future__ import annotations

import itertools
import socket
from contextlib import asynccontextmanager

import httpx
import pytest

pytest.importorskip("sanic")

from sanic import Sanic
from sanic.response import text

import aiodbkit
from aiodbkit.ext import sanic as dbsanic
from tests.ext.one_app import ASGIBehaviour, Behaviour

_names = itertools.count()


def make_app(shop):
    app = Sanic(f"app_{next(_names)}", configure_logging=False)
    app.config.MOTD = app.config.TOUCHUP = False  # made for one app per process
    dbsanic.setup(app, shop.db)

    @app.post("/<action>/<number:int>")
    async def handler(request, action, number):
        status, body = await shop.act(action, number, request.ctx.db)
        return text(body, status=status)

    @app.websocket("/chat")
    async def chat(request, ws):
        async for message in ws:
            async with shop.db.session() as session:
                await ws.send(await shop.chat(message, session))

    return app


@asynccontextmanager
async def served_by_sanic(app):
    """Its own server: one task for all requests of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = await app.create_server(sock=listening, return_asyncio_server=True)
        await server.startup()
        await server.before_start()
        await server.after_start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        await server.before_stop()
        await server.close()
        await server.after_stop()


class TestSanic(ASGIBehaviour):
    @pytest.fixture
    def asgi(self, shop):
        return make_app(shop)


class TestSanicsOwnServer(Behaviour):
    @pytest.fixture
    def app(self, shop):
        return make_app(shop)

    @pytest.fixture
    def serve(self, app):
        return served_by_sanic(app)

    async def test_the_engine_lives_as_long_as_the_server(self, serve, shop):
        async with serve:
            assert shop.db.is_connected
        assert not shop.db.is_connected

    async def test_requests_of_one_connection_have_sessions_of_their_own(self, client, shop):
        for number in range(1, 4):
            assert (await client.post(f"/make/{number}")).status_code == 200
            assert (await client.post(f"/fail/{number}")).status_code == 500
            assert (await client.post("/nowhere")).status_code == 404
            assert shop.db.pool.stats().in_use == 0
        assert await shop.count() == 3

    @pytest.mark.parametrize("does", ["answers", "fails"])
    async def test_middleware_that_ends_the_chain_loses_no_write(self, app, serve, shop, does):
        @app.on_response
        async def last(request, response):
            if does == "fails":
                raise RuntimeError("a middleware that fails")
            return text("other")

        async with serve as url, httpx.AsyncClient(base_url=url) as client:
            for path in ("/make/1", "/nowhere", "/make/2"):
                assert (await client.post(path)).status_code in (200, 404)
            assert shop.db.pool.stats().in_use == 0
            assert await shop.db.fetch_column("select id from things order by id") == [1, 2]

    async def test_a_websocket_opens_sessions_of_its_own(self, client, shop):
        aiohttp = pytest.importorskip("aiohttp")
        async with (
            aiohttp.ClientSession(str(client.base_url)) as http,
            http.ws_connect("/chat") as ws,
        ):
            await ws.send_str("1")
            assert await ws.receive_str() == "1 done"
            await ws.send_str("2")
            assert await ws.receive_str() == "2 done"
            assert 1 in await shop.db.fetch_column("select id from things")


def test_what_is_no_engine_is_refused_when_the_app_is_made():
    with pytest.raises(aiodbkit.ConfigurationError, match="'sqlite://' is none"):
        dbsanic.setup(Sanic(f"app_{next(_names)}", configure_logging=False), "sqlite://")
