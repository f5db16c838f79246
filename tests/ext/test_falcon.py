"""Falcon: a session in ``req.context``."""

from __future__ import annotations

import pytest

pytest.importorskip("falcon")

import falcon.asgi

import aiodbkit
from aiodbkit.ext.falcon import SessionMiddleware
from tests.ext.one_app import ASGIBehaviour


class Things:
    def __init__(self, shop):
        self._shop = shop

    async def on_post(self, req, resp, action, number):
        resp.status, resp.text = await self._shop.act(action, number, req.context.db)


class TestFalcon(ASGIBehaviour):
    @pytest.fixture
    def asgi(self, shop):
        app = falcon.asgi.App(middleware=[SessionMiddleware(shop.db)])
        app.add_route("/{action}/{number:int}", Things(shop))
        return app


def test_what_is_no_engine_is_refused_when_the_app_is_made():
    with pytest.raises(aiodbkit.ConfigurationError, match="'sqlite://' is none"):
        SessionMiddleware("sqlite://")
