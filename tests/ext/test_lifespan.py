"""Lifespans: engines are open while an app runs, around what the app does itself."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

import aiodbkit

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.middleware import Middleware

from aiodbkit.ext.starlette import SessionMiddleware

SQLITE = pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)])


class Recorder:
    """Stands for an engine: writes down when it is opened and closed."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    async def __aenter__(self):
        self.log.append(f"open {self.name}")

    async def __aexit__(self, *_):
        self.log.append(f"close {self.name}")


async def test_engines_are_opened_in_order_around_the_inner_lifespan_and_closed_in_reverse():
    log = []

    @asynccontextmanager
    async def inner(app):
        log.append(f"start {app}")
        yield {"model": 1}
        log.append("stop")

    both = aiodbkit.lifespan(Recorder("a", log), Recorder("b", log), inner=inner)
    async with both("app") as state:
        assert state == {"model": 1}
    assert log == ["open a", "open b", "start app", "stop", "close b", "close a"]


@SQLITE
async def test_an_engine_that_cannot_be_opened_closes_those_before_it(url, tmp_path):
    first = aiodbkit.create_engine(url)
    second = aiodbkit.create_engine(f"sqlite:///{tmp_path / 'missing' / 'app.db'}", min_size=1)
    with pytest.raises(aiodbkit.CannotConnectError):
        async with aiodbkit.lifespan(first, second)(None):
            pytest.fail("it was opened")
    assert not first.is_connected


@SQLITE
async def test_an_app_that_fails_in_its_lifespan_closes_the_engines(url):
    db = aiodbkit.create_engine(url)
    for lifespan in (db.lifespan, aiodbkit.lifespan(db)):
        with pytest.raises(ValueError, match="late"):
            async with lifespan(None):
                assert db.is_connected
                raise ValueError("late")
        assert not db.is_connected


@SQLITE
async def test_the_app_runs_under_the_lifespan_of_its_engine(url):
    db = aiodbkit.create_engine(url)
    incoming = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]
    outgoing = []

    async def receive():
        return incoming.pop()

    async def send(message):
        outgoing.append((message["type"], db.is_connected))

    app = Starlette(middleware=[Middleware(SessionMiddleware, db=db)], lifespan=db.lifespan)
    await app({"type": "lifespan", "app": app, "state": {}}, receive, send)
    assert outgoing == [
        ("lifespan.startup.complete", True),
        ("lifespan.shutdown.complete", False),
    ]


def test_what_is_no_engine_or_no_lifespan_is_refused():
    async def generator(app):
        yield

    with pytest.raises(aiodbkit.ConfigurationError, match="as inner="):
        aiodbkit.lifespan(generator)
    with pytest.raises(aiodbkit.ConfigurationError, match="asynccontextmanager"):
        aiodbkit.lifespan(inner=generator)
    with pytest.raises(aiodbkit.ConfigurationError, match="asynccontextmanager"):
        aiodbkit.lifespan(inner="mine")

    async def startup(app):
        pass

    with pytest.raises(aiodbkit.ConfigurationError, match="asynccontextmanager"):
        aiodbkit.lifespan(inner=startup)


def test_an_inner_lifespan_that_was_called_already_is_refused():
    @asynccontextmanager
    async def mine(app):
        yield

    with pytest.raises(aiodbkit.ConfigurationError, match="give the function itself"):
        aiodbkit.lifespan(inner=mine("app"))


def test_an_engine_as_the_inner_lifespan_is_refused(sqlite_url):
    db = aiodbkit.create_engine(sqlite_url)
    with pytest.raises(aiodbkit.ConfigurationError, match="give the engine before inner="):
        aiodbkit.lifespan(inner=db)


@SQLITE
async def test_lifespans_of_engines_are_lifespans_like_others(url, tmp_path):
    db = aiodbkit.create_engine(url)
    other = aiodbkit.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    async with aiodbkit.lifespan(db, inner=other.lifespan)(None):
        assert db.is_connected
        assert other.is_connected
    assert not db.is_connected
    assert not other.is_connected


@SQLITE
async def test_the_lifespan_of_the_engine_is_that_of_the_app(url):
    db = aiodbkit.create_engine(url)
    app = Starlette(lifespan=db.lifespan)
    async with app.router.lifespan_context(app):
        assert db.is_connected
    assert not db.is_connected


@SQLITE
async def test_an_app_with_a_lifespan_of_its_own_keeps_it(url):
    db = aiodbkit.create_engine(url)

    @asynccontextmanager
    async def own(app):
        assert db.is_connected
        yield {"model": "loaded"}
        assert db.is_connected

    app = Starlette(lifespan=aiodbkit.lifespan(db, inner=own))
    async with app.router.lifespan_context(app) as state:
        assert state == {"model": "loaded"}
    assert not db.is_connected
