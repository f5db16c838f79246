"""Litestar: a session as a dependency."""

from __future__ import annotations

import pytest

pytest.importorskip("litestar")

from litestar import Litestar, Response, WebSocket, post, websocket
from litestar.di import NamedDependency
from litestar.params import FromPath

import aiodbkit
from aiodbkit import Session
from aiodbkit.ext.litestar import SessionPlugin
from tests.ext.one_app import ASGIBehaviour, SocketBehaviour


class TestLitestar(SocketBehaviour, ASGIBehaviour):
    @pytest.fixture
    def asgi(self, shop):
        @post("/{action:str}/{number:int}", media_type="text/plain")
        async def handler(
            action: FromPath[str], number: FromPath[int], db: NamedDependency[Session]
        ) -> Response[str]:
            status, text = await shop.act(action, number, db)
            return Response(text, status_code=status)

        @websocket("/chat")
        async def chat(socket: WebSocket, db: NamedDependency[Session]) -> None:
            await socket.accept()
            while (answer := await shop.chat(await socket.receive_text(), db)) is not None:
                await socket.send_text(answer)
            await socket.close()

        return Litestar([handler, chat], plugins=[SessionPlugin(shop.db)], logging_config=None)

    async def test_the_engine_lives_as_long_as_the_app(self, shop, client):
        assert shop.db.is_connected


def test_what_is_no_engine_is_refused_when_the_plugin_is_made():
    with pytest.raises(aiodbkit.ConfigurationError, match="'sqlite://' is none"):
        SessionPlugin("sqlite://")


def test_two_engines_of_one_name_are_refused():
    engines = [aiodbkit.create_engine("sqlite://") for _ in range(2)]
    with pytest.raises(aiodbkit.ConfigurationError, match="dependency 'db'.*name= of its own"):
        Litestar([], plugins=[SessionPlugin(db) for db in engines])
    Litestar([], plugins=[SessionPlugin(engines[0]), SessionPlugin(engines[1], name="archive")])
