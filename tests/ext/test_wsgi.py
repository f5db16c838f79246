"""Flask and Bottle under real threads: the portal behind a WSGI server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

import aiodbkit

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


@pytest.mark.parametrize("make_app", [flask_app, bottle_app])
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
