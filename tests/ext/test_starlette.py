"""Starlette and bare ASGI: the middleware holds the response back until its session has ended."""

from __future__ import annotations

import asyncio

import pytest

import aiodbkit
from tests.ext.asgi import client_of, messages_of, talk

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from aiodbkit.ext.starlette import SessionMiddleware
from aiodbkit.ext.starlette import StreamingResponse as ClosingStreamingResponse

ADD = "insert into item (name) values ('new')"
COUNT = "select count(*) from item"
SQLITE = pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)])
DEFERS = pytest.mark.parametrize(
    "backend",
    [
        pytest.param("sqlite", marks=pytest.mark.sqlite),
        pytest.param("postgres", marks=pytest.mark.postgres),
    ],
)


@pytest.fixture
async def db(make_engine):
    """One connection: a request that wanted two would not end."""
    db = await make_engine(max_size=1, acquire_timeout=5)
    await db.execute("create table item (name varchar(20))")
    return db


@pytest.fixture
async def witness(make_engine, db):
    """Another engine on the same database: sees what has been committed."""
    return await make_engine()


@pytest.fixture
async def orphans(db):
    """A table whose rows are checked at the commit."""
    await db.execute_script(
        "create table parent (id integer primary key);"
        "create table child (parent integer references parent (id) deferrable initially deferred)"
    )


def app_of(endpoint, *middleware, **options):
    return Starlette(
        routes=[Route("/", endpoint, methods=["GET", "POST"])],
        middleware=list(middleware),
        **options,
    )


async def post(app):
    async with client_of(app) as client:
        return await client.post("/")


# The commit and the response


async def test_the_commit_is_seen_by_others_before_the_response_starts(db, witness):
    async def add(request):
        await request.state.db.execute(ADD)
        return JSONResponse(await witness.fetch_val(COUNT))

    seen = []

    async def before(message):
        seen.append((message["type"], await witness.fetch_val(COUNT), db.pool.stats().in_use))

    messages = await messages_of(
        app_of(add, Middleware(SessionMiddleware, db=db)), "/", "POST", before
    )
    assert messages[1]["body"] == b"0"
    assert seen == [("http.response.start", 1, 0), ("http.response.body", 1, 0)]


@SQLITE
@pytest.mark.parametrize(
    ("status", "kept"), [(200, 1), (201, 1), (303, 1), (400, 0), (409, 0), (500, 0)]
)
async def test_success_and_redirection_commit_and_errors_roll_back(db, status, kept):
    async def add(request):
        await request.state.db.execute(ADD)
        return Response(status_code=status)

    assert (await post(app_of(add, Middleware(SessionMiddleware, db=db)))).status_code == status
    assert await db.fetch_val(COUNT) == kept


@SQLITE
async def test_which_statuses_commit_can_be_told(db):
    async def add(request):
        await request.state.db.execute(ADD)
        return RedirectResponse("/elsewhere")

    middleware = Middleware(SessionMiddleware, db=db, commit_on=lambda status: status < 300)
    await post(app_of(add, middleware))
    assert await db.fetch_val(COUNT) == 0


@SQLITE
@pytest.mark.parametrize(("error", "status"), [(HTTPException(404), 404), (ValueError(), 500)])
async def test_an_exception_rolls_back(db, error, status):
    async def add(request):
        await request.state.db.execute(ADD)
        raise error

    assert (await post(app_of(add, Middleware(SessionMiddleware, db=db)))).status_code == status
    assert await db.fetch_val(COUNT) == 0


@DEFERS
@pytest.mark.parametrize("outermost", [False, True], ids=["inside", "around the app"])
async def test_a_commit_that_fails_is_a_500(db, orphans, outermost):
    async def add(request):
        await request.state.db.execute(ADD)
        await request.state.db.execute("insert into child values (1)")
        return Response("done")

    if outermost:
        app = SessionMiddleware(app_of(add), db)
    else:
        app = app_of(add, Middleware(SessionMiddleware, db=db))
    response = await post(app)
    assert response.status_code == 500
    assert "done" not in response.text
    assert await db.fetch_val(COUNT) == 0


async def bare(send, status, body):
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


@DEFERS
async def test_an_app_that_swallows_the_failure_of_the_commit_has_sent_nothing(db, orphans):
    async def app(scope, receive, send):
        await scope["state"]["db"].execute("insert into child values (1)")
        for _ in range(2):
            try:
                await bare(send, 200, b"done")
            except aiodbkit.ForeignKeyViolationError:
                with pytest.raises(aiodbkit.ForeignKeyViolationError):
                    await send({"type": "http.response.body", "body": b"done"})

    seen = []

    async def before(message):
        seen.append(message)

    with pytest.raises(aiodbkit.ForeignKeyViolationError):
        await messages_of(SessionMiddleware(app, db), "/", "POST", before)
    assert seen == []


@DEFERS
async def test_an_app_may_answer_the_failure_of_the_commit_with_an_error(db, orphans):
    async def app(scope, receive, send):
        await scope["state"]["db"].execute("insert into child values (1)")
        try:
            await bare(send, 200, b"done")
        except aiodbkit.ForeignKeyViolationError:
            await bare(send, 409, b"no such parent")

    response = await post(SessionMiddleware(app, db))
    assert (response.status_code, response.text) == (409, "no such parent")


@SQLITE
async def test_an_app_that_answers_nothing_is_rolled_back(db):
    async def app(scope, receive, send):
        await scope["state"]["db"].execute(ADD)

    await messages_of(SessionMiddleware(app, db), "/", "POST")
    assert await db.fetch_val(COUNT) == 0


# The session


@SQLITE
async def test_a_request_that_runs_nothing_takes_no_connection(db):
    async def nothing(request):
        return JSONResponse(request.state.db.in_transaction)

    before = db.pool.stats().acquired
    assert (await post(app_of(nothing, Middleware(SessionMiddleware, db=db)))).json() is False
    assert db.pool.stats().acquired == before


@SQLITE
async def test_verbs_on_the_engine_run_in_the_session(db):
    async def add(request):
        await db.execute(ADD)
        return Response(status_code=400)

    await post(app_of(add, Middleware(SessionMiddleware, db=db)))
    assert await db.fetch_val(COUNT) == 0


@SQLITE
async def test_a_child_task_behind_base_http_middleware_uses_the_session_by_name(db, witness):
    async def pass_on(request, call_next):
        return await call_next(request)

    async def add(request):
        await request.state.db.execute(ADD)
        with pytest.raises(aiodbkit.TransactionScopeError, match="child_tasks"):
            await db.execute(ADD)
        return Response()

    seen = []

    async def before(message):
        seen.append((message["type"], await witness.fetch_val(COUNT)))

    app = app_of(
        add, Middleware(SessionMiddleware, db=db), Middleware(BaseHTTPMiddleware, dispatch=pass_on)
    )
    await messages_of(app, "/", "POST", before)
    assert seen[0] == ("http.response.start", 1)


@SQLITE
async def test_a_session_that_is_shared_takes_in_the_verbs_of_child_tasks(db):
    async def pass_on(request, call_next):
        return await call_next(request)

    async def add(request):
        await db.execute(ADD)
        return Response(status_code=400)

    app = app_of(
        add,
        Middleware(SessionMiddleware, db=db, child_tasks="share"),
        Middleware(BaseHTTPMiddleware, dispatch=pass_on),
    )
    assert (await post(app)).status_code == 400
    assert await db.fetch_val(COUNT) == 0


@SQLITE
async def test_several_engines_have_a_session_each(db, tmp_path, make_engine):
    other = await make_engine(f"sqlite:///{tmp_path / 'other.db'}")
    await other.execute("create table item (name text)")

    async def add(request):
        await request.state.db.execute(ADD)
        await request.state.archive.execute(ADD)
        return Response(status_code=int(request.query_params["status"]))

    app = app_of(
        add,
        Middleware(SessionMiddleware, db=db),
        Middleware(SessionMiddleware, db=other, attribute="archive"),
    )
    async with client_of(app) as client:
        await client.post("/?status=400")
        assert [await db.fetch_val(COUNT), await other.fetch_val(COUNT)] == [0, 0]
        await client.post("/?status=200")
        assert [await db.fetch_val(COUNT), await other.fetch_val(COUNT)] == [1, 1]


async def test_a_read_only_session_refuses_writes(db):
    async def add(request):
        await request.state.db.execute(ADD)

    app = app_of(add, Middleware(SessionMiddleware, db=db, read_only=True))
    with pytest.raises(aiodbkit.ReadOnlyError):
        await messages_of(app, "/", "POST")


# What outlives the start of the response


@SQLITE
async def test_a_stream_has_its_commit_before_its_first_byte(db, witness):
    async def stream(request):
        await request.state.db.execute(ADD)

        async def rows():
            async with db.session(read_only=True, child_tasks="own") as own:
                yield str(await own.fetch_val(COUNT))

        return StreamingResponse(rows())

    seen = []

    async def before(message):
        seen.append((message["type"], await witness.fetch_val(COUNT)))

    app = app_of(stream, Middleware(SessionMiddleware, db=db))
    messages = await messages_of(app, "/", before=before)
    assert seen[0] == ("http.response.start", 1)
    assert messages[1]["body"] == b"1"
    assert db.pool.stats().in_use == 0


@SQLITE
async def test_a_background_task_that_uses_the_ended_session_is_told_so(db):
    async def add(request):
        async def later():
            await request.state.db.execute(ADD)

        return Response(background=BackgroundTask(later))

    with pytest.raises(aiodbkit.SessionClosedError, match="opens one of its own"):
        await messages_of(app_of(add, Middleware(SessionMiddleware, db=db)), "/")
    assert await db.fetch_val(COUNT) == 0


@SQLITE
async def test_a_stream_whose_client_hangs_up_is_closed(db):
    await db.insert_many("item", [(str(n),) for n in range(10)], columns=["name"])
    hangs_up = asyncio.Event()

    async def rows():
        async with (
            db.session(read_only=True) as session,
            session.iterate("select name from item", batch_size=1) as found,
        ):
            async for row in found:
                yield row.name

    stream = rows()  # held here, so that no collector closes it

    async def app(scope, receive, send):
        async def receive_end():
            await hangs_up.wait()
            return {"type": "http.disconnect"}

        async def send_some(message):
            if message["type"] == "http.response.body":
                hangs_up.set()
                await asyncio.Event().wait()

        await ClosingStreamingResponse(stream)(scope, receive_end, send_some)

    await messages_of(app, "/")
    assert stream.ag_frame is None
    assert await db.fetch_val(COUNT) == 10  # over the only connection there is


async def test_a_request_cancelled_midway_leaves_nothing(db):
    reached = asyncio.Event()

    async def add(request):
        await request.state.db.execute(ADD)
        reached.set()
        await asyncio.Event().wait()

    app = app_of(add, Middleware(SessionMiddleware, db=db))
    request = asyncio.create_task(messages_of(app, "/", "POST"))
    await reached.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert await db.fetch_val(COUNT) == 0  # over the only connection there is
    assert db.pool.stats().in_use == 0


# WebSockets


def socket_app(endpoint, db):
    routes = [WebSocketRoute("/", endpoint)]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, db=db)])


@SQLITE
@pytest.mark.parametrize(("code", "kept"), [(1000, 1), (1011, 0)])
async def test_a_websocket_is_committed_before_a_normal_close(db, witness, code, kept):
    async def chat(socket):
        await socket.accept()
        await socket.state.db.execute(ADD)
        await socket.close(code)

    seen = []

    async def before(message):
        seen.append((message["type"], await witness.fetch_val(COUNT)))

    await talk(socket_app(chat, db), "/", before=before)
    assert seen == [("websocket.accept", 0), ("websocket.close", kept)]
    assert await db.fetch_val(COUNT) == kept


@SQLITE
async def test_a_websocket_that_is_refused_is_rolled_back(db):
    async def refuse(socket):
        await socket.state.db.execute(ADD)
        await socket.close()

    await talk(socket_app(refuse, db), "/")
    assert await db.fetch_val(COUNT) == 0


@SQLITE
async def test_a_websocket_whose_client_leaves_is_committed_when_its_endpoint_returns(db):
    async def chat(socket):
        await socket.accept()
        try:
            while True:
                text = await socket.receive_text()
                await socket.state.db.execute(
                    "insert into item (name) values (:text)", {"text": text}
                )
        except WebSocketDisconnect:
            pass

    await talk(socket_app(chat, db), "/", ["a", "b"])
    assert await db.fetch_column("select name from item order by name") == ["a", "b"]


@SQLITE
async def test_a_websocket_whose_endpoint_raises_is_rolled_back(db):
    async def chat(socket):
        await socket.accept()
        await socket.state.db.execute(ADD)
        await socket.receive_text()

    with pytest.raises(WebSocketDisconnect):
        await talk(socket_app(chat, db), "/")
    assert await db.fetch_val(COUNT) == 0
