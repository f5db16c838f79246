"""Starlette and bare ASGI: what cannot be answered with a success, and what is refused."""

from __future__ import annotations

import asyncio

import anyio
import pytest

import aiodbkit
from tests.ext.asgi import client_of, messages_of, talk

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from aiodbkit.ext.starlette import SessionMiddleware

ADD = "insert into item (name) values ('new')"
COUNT = "select count(*) from item"
pytestmark = pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)])


@pytest.fixture
async def db(make_engine):
    """One connection: a request that wanted two would not end."""
    db = await make_engine(max_size=1, acquire_timeout=5)
    await db.execute("create table item (name varchar(20))")
    return db


def app_of(endpoint, *middleware, **options):
    return Starlette(routes=[Route("/", endpoint)], middleware=list(middleware), **options)


async def answer(send, status, body=b""):
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


# The end of the session that is cut short


class CutOff:
    """An app that cancels its own answer, in the middle of the session's end; then it goes on."""

    def __init__(self, first, then):
        self.first, self.then = first, then
        self.goes_on = asyncio.Event()

    async def __call__(self, scope, receive, send):
        session = scope["state"]["db"]
        await session.execute(ADD)
        with anyio.CancelScope() as answering:

            async def hook():  # runs at the end of the session, and holds it up
                answering.cancel()
                await self.goes_on.wait()

            session.on_commit(hook)
            session.on_rollback(hook)
            await answer(send, self.first)
        assert answering.cancelled_caught
        await answer(send, self.then, b"went on")


@pytest.mark.parametrize(
    ("first", "error"), [(200, aiodbkit.CommitUnknownError), (409, aiodbkit.InterfaceError)]
)
async def test_after_a_commit_that_was_cut_off_no_success_can_be_sent(db, first, error):
    app = CutOff(first, then=200)
    seen = []

    async def before(message):
        seen.append(message)

    with pytest.raises(error, match="cancelled while its session"):
        await messages_of(SessionMiddleware(app, db), "/", before=before)
    app.goes_on.set()
    assert seen == []
    assert await db.fetch_val(COUNT) == (first == 200)


async def test_after_a_commit_that_was_cut_off_an_error_can_be_sent(db):
    app = CutOff(200, then=504)
    messages = await messages_of(SessionMiddleware(app, db), "/")
    app.goes_on.set()
    assert [messages[0]["status"], messages[1]["body"]] == [504, b"went on"]


# The commit that fails, and the hook that does


@pytest.fixture
async def orphans(db):
    """A table whose rows are checked at the commit."""
    await db.execute_script(
        "create table parent (id integer primary key);"
        "create table child (parent integer references parent (id) deferrable initially deferred)"
    )


async def test_a_commit_in_the_endpoint_fails_where_exception_handlers_answer(db, orphans):
    async def conflict(request, error):
        return Response("no such parent", 409)

    async def add(request):
        await request.state.db.execute("insert into child values (1)")
        await request.state.db.commit()
        return Response("done")

    app = app_of(
        add,
        Middleware(SessionMiddleware, db=db),
        exception_handlers={aiodbkit.ForeignKeyViolationError: conflict},
    )
    async with client_of(app) as client:
        response = await client.get("/")
    assert (response.status_code, response.text) == (409, "no such parent")


async def test_a_hook_that_fails_after_the_commit_is_a_500_and_the_commit_stands(db):
    async def add(request):
        def hook():
            raise ValueError("no mail")

        await request.state.db.execute(ADD)
        request.state.db.on_commit(hook)
        return Response("done")

    async with client_of(app_of(add, Middleware(SessionMiddleware, db=db))) as client:
        response = await client.get("/")
    assert (response.status_code, "done" in response.text) == (500, False)
    assert await db.fetch_val(COUNT) == 1


@pytest.mark.parametrize("outermost", [False, True], ids=["inside", "bare"])
async def test_raising_rollback_is_refused_because_there_is_nothing_to_answer(db, outermost):
    async def add(request):
        await request.state.db.execute(ADD)
        raise aiodbkit.Rollback

    async def bare(scope, receive, send):
        await scope["state"]["db"].execute(ADD)
        raise aiodbkit.Rollback

    inside = app_of(add, Middleware(SessionMiddleware, db=db))
    with pytest.raises(aiodbkit.InterfaceError, match="set_rollback_only"):
        await messages_of(SessionMiddleware(bare, db) if outermost else inside, "/")
    assert await db.fetch_val(COUNT) == 0


async def test_raising_rollback_in_a_websocket_rolls_back(db):
    async def chat(socket):
        await socket.accept()
        await socket.state.db.execute(ADD)
        raise aiodbkit.Rollback

    routes = [WebSocketRoute("/", chat)]
    await talk(Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, db=db)]), "/")
    assert await db.fetch_val(COUNT) == 0


# Two engines under one name


async def test_a_second_engine_under_the_same_name_is_refused(db, tmp_path, make_engine):
    other = await make_engine(f"sqlite:///{tmp_path / 'other.db'}")

    async def nothing(request):
        pytest.fail("the endpoint ran")

    app = app_of(
        nothing, Middleware(SessionMiddleware, db=db), Middleware(SessionMiddleware, db=other)
    )
    with pytest.raises(aiodbkit.ConfigurationError, match=r"request\.state\.db .* attribute="):
        await messages_of(app, "/")
    assert db.pool.stats().in_use == 0


async def test_the_same_engine_twice_is_one_transaction(db):
    async def add(request):
        await request.state.db.execute(ADD)
        return Response()

    app = app_of(add, Middleware(SessionMiddleware, db=db), Middleware(SessionMiddleware, db=db))
    await messages_of(app, "/")
    assert await db.fetch_val(COUNT) == 1


# A task of its own for the endpoint


async def pass_on(request, call_next):
    return await call_next(request)


async def test_a_child_task_is_free_while_the_session_holds_nothing(db):
    async def add(request):
        async with db.transaction():  # the task's own: the middleware's session knows nothing of it
            await db.execute(ADD)
        async with db.session() as session:
            await session.execute(ADD)
        return Response(status_code=400)

    app = app_of(
        add, Middleware(SessionMiddleware, db=db), Middleware(BaseHTTPMiddleware, dispatch=pass_on)
    )
    messages = await messages_of(app, "/")
    assert messages[0]["status"] == 400
    assert await db.fetch_val(COUNT) == 2


# Refusals


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attribute": "my db"}, "'my db' cannot be a name"),
        ({"attribute": None}, "None cannot be a name"),
        ({"attribute": "class"}, "'class' is a keyword"),
        ({"commit_on": 200}, "commit_on= takes a plain function"),
        ({"commit_on": answer}, "commit_on= takes a plain function"),
        ({"child_tasks": "inherit"}, "child_tasks must be one of"),
        ({"isolation": "strict"}, "isolation"),
    ],
)
def test_an_option_that_cannot_be_is_refused_when_the_app_is_built(backend, options, said):
    db = aiodbkit.create_engine("sqlite://")
    with pytest.raises(aiodbkit.ConfigurationError, match=said):
        SessionMiddleware(app_of(None), db, **options)


def test_what_is_no_engine_is_refused_when_the_app_is_built(backend):
    for wrong in ("sqlite://", type(aiodbkit.create_engine("sqlite://"))):
        with pytest.raises(aiodbkit.ConfigurationError, match="is none"):
            SessionMiddleware(app_of(None), wrong)
