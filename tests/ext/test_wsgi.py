"""Flask, Bottle and Pyramid under real threads: the portal behind a WSGI server."""

from __future__ import annotations

import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

import aiodbkit
from tests.test_docs import ROOT, examples_of

BACKENDS = [
    pytest.param("sqlite_url", marks=pytest.mark.sqlite, id="sqlite"),
    pytest.param("postgres_url", marks=pytest.mark.postgres, id="postgres"),
]


@pytest.fixture(params=BACKENDS)
def db(request):
    return aiodbkit.create_engine(request.getfixturevalue(request.param), max_size=5)


class Threading(ThreadingMixIn, WSGIServer):
    request_queue_size = 64
    daemon_threads = False  # closing the server waits for them


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


@contextmanager
def served(app):
    server = make_server("127.0.0.1", 0, app, Threading, Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def post(port, path):
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def transfer(sync_db, number):
    """Move one from the first account to the second, in the thread's own transaction."""
    with sync_db.transaction():
        sync_db.execute("update accounts set amount = amount - 1 where id = 1")
        sync_db.execute("insert into log values (:n)", {"n": number})
        if number % 5 == 0:
            raise ValueError("every fifth fails after its first writes")
        sync_db.execute("update accounts set amount = amount + 1 where id = 2")


def flask_app(sync_db):
    flask = pytest.importorskip("flask")
    app = flask.Flask("app")

    @app.post("/transfer/<int:number>")
    def handler(number):
        transfer(sync_db, number)
        return str(sync_db.fetch_val("select count(*) from log where n = :n", {"n": number}))

    app.register_error_handler(ValueError, lambda error: (str(error), 500))
    return app


def bottle_app(sync_db):
    bottle = pytest.importorskip("bottle")
    app = bottle.Bottle()

    @app.post("/transfer/<number:int>")
    def handler(number):
        try:
            transfer(sync_db, number)
        except ValueError as error:
            raise bottle.HTTPError(500, str(error)) from None
        return str(sync_db.fetch_val("select count(*) from log where n = :n", {"n": number}))

    return app


def pyramid_app(sync_db):
    config = pytest.importorskip("pyramid.config")
    response = pytest.importorskip("pyramid.response")

    def handler(request):
        number = int(request.matchdict["number"])
        transfer(sync_db, number)
        found = sync_db.fetch_val("select count(*) from log where n = :n", {"n": number})
        return response.Response(str(found))

    with config.Configurator() as configurator:
        configurator.add_route("transfer", "/transfer/{number}")
        configurator.add_view(handler, route_name="transfer", request_method="POST")
        configurator.add_exception_view(
            lambda error, _request: response.Response(str(error), status=500), context=ValueError
        )
        return configurator.make_wsgi_app()


# Pyramid's WebOb imports what Python 3.13 has no more, and another package brings there.
pyramid_warns = pytest.mark.filterwarnings("ignore:'cgi' is deprecated")


@pyramid_warns
@pytest.mark.parametrize("make_app", [flask_app, bottle_app, pyramid_app])
def test_fifty_requests_at_once_have_transactions_of_their_own(db, make_app):
    with db.portal() as sync_db:
        sync_db.execute_script(
            "create table accounts (id integer primary key, amount integer);"
            "create table log (n integer);"
            "insert into accounts values (1, 0), (2, 0)"
        )
        with served(make_app(sync_db)) as port, ThreadPoolExecutor(50) as clients:
            paths = [f"/transfer/{number}" for number in range(1, 51)]
            answers = list(clients.map(post, [port] * 50, paths))
        assert [status for status, _ in answers].count(500) == 10
        assert [text for status, text in answers if status == 200] == ["1"] * 40
        assert sync_db.fetch_column("select amount from accounts order by id") == [-40, 40]
        assert sync_db.fetch_val("select count(*) from log") == 40
        stats = db.pool.stats()
        assert (stats.in_use, stats.waiting) == (0, 0)
        assert stats.size <= 5


@pyramid_warns
def test_the_pyramid_app_of_the_docs_commits_before_its_response(db, monkeypatch):
    pytest.importorskip("pyramid")
    (code,) = [e.code for e in examples_of(ROOT / "docs" / "wsgi.md") if "pyramid" in e.code]
    shop = types.ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", shop)
    with db.portal() as sync_db:
        sync_db.execute("create table users (name text)")
        shop.sync_db = sync_db
        exec(code, shop.__dict__)
        with served(shop.app) as port:
            assert post(port, "/users/Ada") == (200, '{"created": "Ada"}')
            assert sync_db.fetch_column("select name from users") == ["Ada"]
            assert post(port, "/users/refused")[0] == 409
            assert post(port, "/nowhere")[0] == 404
        assert sync_db.fetch_column("select name from users") == ["Ada"]
        assert db.pool.stats().in_use == 0
