"""Litestar: a session as a dependency."""

from __future__ import annotations

import pytest

pytest.importorskip("litestar")

from litestar import Litestar, Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from aiodbkit import Session
from aiodbkit.ext.litestar import SessionPlugin
from tests.ext.one_app import ASGIBehaviour


class TestLitestar(ASGIBehaviour):
    @pytest.fixture
    def asgi(self, shop):
        @post("/{action:str}/{number:int}", media_type="text/plain")
        async def handler(
            action: FromPath[str], number: FromPath[int], db: NamedDependency[Session]
        ) -> Response[str]:
            status, text = await shop.act(action, number, db)
            return Response(text, status_code=status)

        return Litestar([handler], plugins=[SessionPlugin(shop.db)], logging_config=None)

    async def test_the_engine_lives_as_long_as_the_app(self, shop, client):
        assert shop.db.is_connected
