"""Tornado: a session for a handler's methods."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

pytest.importorskip("tornado")

from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

import aiodbkit
from aiodbkit.ext import tornado as dbtornado
from aiodbkit.ext.tornado import SessionMixin
from tests.ext.one_app import Behaviour


class Things(SessionMixin, RequestHandler):
    def initialize(self, shop):
        self.shop = shop

    async def post(self, action, number):
        status, text = await self.shop.act(action, int(number), self.db)
        self.set_status(status)
        self.write(text)


class Finishing(Things):
    """Methods that send their response by themselves."""

    async def put(self, action, number):
        sql = "insert into orphans values (1)" if action == "orphan" else None
        await self.db.execute(sql or "insert into things values (1)")
        match action:
            case "redirect" | "orphan":
                self.redirect("/elsewhere")
            case "error":
                self.send_error(403)
            case "flush":
                self.write("begun")
                await self.flush()


class TestTornado(Behaviour):
    @pytest.fixture
    def serve(self, shop):
        app = Application(
            [
                (r"/finish/(\w+)/(\d+)", Finishing, {"shop": shop}),
                (r"/(\w+)/(\d+)", Things, {"shop": shop}),
            ],
            log_function=lambda _handler: None,
        )
        dbtornado.setup(app, shop.db)

        @asynccontextmanager
        async def serving():
            socket, port = bind_unused_port()
            server = HTTPServer(app)
            server.add_socket(socket)
            async with shop.db:
                yield f"http://127.0.0.1:{port}"
                server.stop()
                await server.close_all_connections()

        return serving()

    async def test_a_redirect_leaves_after_the_commit(self, client, shop):
        assert (await client.put("/finish/redirect/1")).status_code == 302
        assert await shop.count() == 1

    async def test_a_redirect_whose_commit_fails_is_a_500(self, client, shop):
        assert (await client.put("/finish/orphan/1")).status_code == 500

    async def test_send_error_rolls_back(self, client, shop):
        assert (await client.put("/finish/error/1")).status_code == 403
        assert await shop.count() == 0

    async def test_a_flush_before_the_commit_is_refused(self, client, shop, caplog):
        assert (await client.put("/finish/flush/1")).status_code == 500
        assert "await self.db.commit()" in caplog.text
        assert await shop.count() == 0


def test_what_is_no_engine_is_refused_when_the_app_is_made():
    with pytest.raises(aiodbkit.ConfigurationError, match="'sqlite://' is none"):
        dbtornado.setup(Application([]), "sqlite://")
