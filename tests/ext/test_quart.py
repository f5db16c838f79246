"""Quart: a session in ``g``."""

from __future__ import annotations

import pytest

pytest.importorskip("quart")

from quart import Quart, g

from aiodbkit.ext import quart as dbquart
from tests.ext.one_app import ASGIBehaviour


class TestQuart(ASGIBehaviour):
    cancels_by_itself = True

    @pytest.fixture
    def asgi(self, shop):
        app = Quart("app")
        dbquart.init_app(app, shop.db)

        @app.post("/<action>/<int:number>")
        async def handler(action, number):
            status, text = await shop.act(action, number, g.db)
            return text, status

        return app
