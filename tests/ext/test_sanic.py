"""Sanic: a session in ``request.ctx``."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("sanic")

from sanic import Sanic
from sanic.response import text

from aiodbkit.ext import sanic as dbsanic
from tests.ext.one_app import ASGIBehaviour

_names = itertools.count()


class TestSanic(ASGIBehaviour):
    @pytest.fixture
    def asgi(self, shop):
        app = Sanic(f"app_{next(_names)}", configure_logging=False)
        app.config.MOTD = app.config.TOUCHUP = False  # made for one app per process
        dbsanic.setup(app, shop.db)

        @app.post("/<action>/<number:int>")
        async def handler(request, action, number):
            status, body = await shop.act(action, number, request.ctx.db)
            return text(body, status=status)

        return app
