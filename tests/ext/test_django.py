"""Django's async views: a session in the request."""

from __future__ import annotations

import types

import pytest

pytest.importorskip("django")

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path

if not settings.configured:
    import django

    settings.configure(
        ALLOWED_HOSTS=["*"], ROOT_URLCONF=types.ModuleType("urls"), LOGGING_CONFIG=None
    )
    django.setup(set_prefix=False)

import aiodbkit
from aiodbkit.ext.django import SessionMiddleware, with_lifespan, with_session
from tests.ext.one_app import ASGIBehaviour


def urls(view):
    module = types.ModuleType("urls")
    module.urlpatterns = [path("<str:action>/<int:number>", view)]
    return module


class TestDjangoMiddleware(ASGIBehaviour):
    cancels_by_itself = True

    @pytest.fixture
    def asgi(self, shop):
        async def view(request, action, number):
            status, text = await shop.act(action, number, request.db)
            return HttpResponse(text, status=status)

        with override_settings(
            MIDDLEWARE=["aiodbkit.ext.django.SessionMiddleware"],
            AIODBKIT_ENGINE=shop.db,
            ROOT_URLCONF=urls(view),
        ):
            yield with_lifespan(ASGIHandler(), shop.db)


class TestDjangoDecorator(ASGIBehaviour):
    cancels_by_itself = True

    @pytest.fixture
    def asgi(self, shop):
        @with_session(shop.db)
        async def view(request, action, number):
            status, text = await shop.act(action, number, request.db)
            return HttpResponse(text, status=status)

        with override_settings(MIDDLEWARE=[], ROOT_URLCONF=urls(view)):
            yield with_lifespan(ASGIHandler(), shop.db)


def test_a_sync_view_is_refused():
    with pytest.raises(TypeError, match="portal"):
        with_session(aiodbkit.create_engine("sqlite://"))(lambda _request: None)


def test_a_middleware_without_an_engine_says_which_setting_it_needs():
    with pytest.raises(ImproperlyConfigured, match="AIODBKIT_ENGINE"):
        SessionMiddleware(None)


def test_what_is_no_engine_is_refused_when_the_app_is_made():
    with pytest.raises(aiodbkit.ConfigurationError, match="'sqlite://' is none"):
        with_session("sqlite://")
    with pytest.raises(aiodbkit.ConfigurationError, match="'sqlite://' is none"):
        with_lifespan(ASGIHandler(), "sqlite://")
