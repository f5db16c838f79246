"""Quart: a session in ``g``."""

from __future__ import annotations

import pytest

pytest.importorskip("quart")

from quart import Quart, g, websocket

import aiodbkit
from aiodbkit.ext import quart as dbquart
from tests.ext.one_app import ASGIBehaviour, SocketBehaviour


class TestQuart(SocketBehaviour, ASGIBehaviour):
    cancels_by_itself = True

    @pytest.fixture
    def asgi(self, shop):
        app = Quart("app")
        dbquart.init_app(app, shop.db)

        @app.post("/<action>/<int:number>")
        async def handler(action, number):
            status, text = await shop.act(action, number, g.db)
            return text, status

        @app.websocket("/chat")
        async def chat():
            while (answer := await shop.chat(await websocket.receive(), g.db)) is not None:
                await websocket.send(answer)

        return app


def test_what_is_no_engine_is_refused_when_the_app_is_made():
    with pytest.raises(aiodbkit.ConfigurationError, match="'sqlite://' is none"):
        dbquart.init_app(Quart("app"), "sqlite://")
