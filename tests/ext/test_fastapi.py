"""FastAPI: what a dependency's session does has been committed when the response begins."""

# FastAPI reads the annotations of endpoints that are made inside tests, so they are no strings.

import asyncio
import gc
from typing import Annotated

import anyio.from_thread
import pytest

import aiodbkit
from aiodbkit import Connection, Session
from tests.ext.asgi import client_of, messages_of, talk

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import Depends, FastAPI, HTTPException, WebSocket  # noqa: E402
from fastapi.responses import JSONResponse  # noqa: E402
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: E402

try:
    from aiodbkit.ext import fastapi as dbfastapi

    dbfastapi.session(aiodbkit.create_engine("sqlite://"))
except aiodbkit.ConfigurationError as refusal:
    # The tests run with the oldest and the newest FastAPI that is supported; one between is not.
    pytest.skip(str(refusal), allow_module_level=True)

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

# Starlette 0.32 leaves a stream of its own unclosed behind BaseHTTPMiddleware.
OLD_STARLETTE = pytest.mark.filterwarnings("ignore:Unclosed <MemoryObjectReceiveStream")


@pytest.fixture(params=[False, True], ids=["plain", "behind BaseHTTPMiddleware"])
def behind(request):
    yield request.param
    gc.collect()  # so that the warnings of a test come in it


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
def tx(db):
    return Annotated[Session, dbfastapi.session(db)]


async def post(app, path="/"):
    async with client_of(app) as client:
        return await client.post(path)


# The commit and the response


async def test_the_commit_is_seen_by_others_before_the_response_starts(db, tx, witness):
    app = FastAPI()

    @app.post("/")
    async def add(session: tx):
        await session.execute(ADD)
        return await witness.fetch_val(COUNT)

    seen = []

    async def before(message):
        seen.append((message["type"], await witness.fetch_val(COUNT), db.pool.stats().in_use))

    messages = await messages_of(app, "/", "POST", before)
    assert messages[1]["body"] == b"0"
    assert seen == [("http.response.start", 1, 0), ("http.response.body", 1, 0)]


async def test_an_exception_rolls_back_and_is_a_500(db, tx):
    app = FastAPI()

    @app.post("/")
    async def add(session: tx):
        await session.execute(ADD)
        raise ValueError

    assert (await post(app)).status_code == 500
    assert await db.fetch_val(COUNT) == 0


async def test_an_http_exception_rolls_back_and_keeps_its_status(db, tx):
    app = FastAPI()

    @app.post("/")
    async def add(session: tx):
        await session.execute(ADD)
        raise HTTPException(409)

    assert (await post(app)).status_code == 409
    assert await db.fetch_val(COUNT) == 0


@pytest.fixture
async def orphans(db):
    """A table whose rows are checked at the commit."""
    await db.execute_script(
        "create table parent (id integer primary key);"
        "create table child (parent integer references parent (id) deferrable initially deferred)"
    )


@DEFERS
@OLD_STARLETTE
async def test_a_commit_that_fails_is_a_500(db, tx, orphans, behind):
    app = FastAPI()
    if behind:
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)

    @app.post("/")
    async def add(session: tx):
        await session.execute(ADD)
        await session.execute("insert into child values (1)")
        return "done"

    assert (await post(app)).status_code == 500
    assert await db.fetch_val(COUNT) == 0


@DEFERS
async def test_a_commit_that_fails_can_be_answered_by_an_exception_handler(db, tx, orphans):
    app = FastAPI()

    @app.exception_handler(aiodbkit.ForeignKeyViolationError)
    async def conflict(request, error):
        return JSONResponse("no such parent", 409)

    @app.post("/")
    async def add(session: tx):
        await session.execute("insert into child values (1)")
        return "done"

    response = await post(app)
    assert (response.status_code, response.json()) == (409, "no such parent")


@SQLITE
async def test_a_response_with_an_error_status_commits_unless_told_otherwise(db, tx):
    app = FastAPI()

    @app.post("/{keep}")
    async def add(keep: bool, session: tx):
        await session.execute(ADD)
        if not keep:
            session.set_rollback_only()
        return JSONResponse("conflict", 409)

    assert (await post(app, "/true")).status_code == 409
    assert await db.fetch_val(COUNT) == 1
    assert (await post(app, "/false")).status_code == 409
    assert await db.fetch_val(COUNT) == 1


@SQLITE
async def test_raising_rollback_is_refused_because_there_is_nothing_to_answer(db, tx):
    app = FastAPI()

    @app.post("/")
    async def add(session: tx):
        await session.execute(ADD)
        raise aiodbkit.Rollback

    with pytest.raises(aiodbkit.InterfaceError, match="set_rollback_only"):
        await messages_of(app, "/", "POST")
    assert await db.fetch_val(COUNT) == 0


@SQLITE
async def test_a_hook_that_fails_after_the_commit_is_a_500_and_the_commit_stands(db, tx):
    app = FastAPI()

    @app.post("/")
    async def add(session: tx):
        def hook():
            raise ValueError("no mail")

        await session.execute(ADD)
        session.on_commit(hook)

    assert (await post(app)).status_code == 500
    with pytest.raises(ValueError, match="no mail") as caught:
        await messages_of(app, "/", "POST")
    assert caught.value.__notes__ == ["raised by a hook after the transaction: committed"]
    assert await db.fetch_val(COUNT) == 2


# One session for the request


@SQLITE
async def test_sub_dependencies_share_the_session(db, tx):
    app = FastAPI()

    async def same(session: Annotated[Session, dbfastapi.session(db)]):
        await session.execute(ADD)
        return session

    @app.post("/")
    async def add(first: tx, second: Annotated[Session, Depends(same)]):
        await first.execute(ADD)
        return first is second

    assert (await post(app)).json() is True
    assert await db.fetch_val(COUNT) == 2


@SQLITE
@pytest.mark.parametrize("whole_app", [False, True])
async def test_a_session_around_routes_takes_in_verbs_on_the_engine(db, whole_app):
    session = dbfastapi.session(db)
    app = FastAPI(dependencies=[session] if whole_app else [])

    @app.post("/{status}", dependencies=[] if whole_app else [session])
    async def add(status: int):
        await db.execute(ADD)
        if status != 200:
            raise HTTPException(status)

    assert (await post(app, "/400")).status_code == 400
    assert await db.fetch_val(COUNT) == 0
    assert (await post(app, "/200")).status_code == 200
    assert await db.fetch_val(COUNT) == 1


@SQLITE
async def test_verbs_on_the_engine_run_in_the_session(db, tx):
    app = FastAPI()

    @app.post("/")
    async def add(session: tx):
        await db.execute(ADD)
        raise HTTPException(400)

    assert (await post(app)).status_code == 400
    assert await db.fetch_val(COUNT) == 0


@SQLITE
async def test_a_session_that_is_not_used_takes_no_connection(db, tx):
    app = FastAPI()

    @app.post("/")
    async def nothing(session: tx):
        return db.pool.stats().acquired

    before = db.pool.stats().acquired
    assert (await post(app)).json() == before
    assert db.pool.stats().acquired == before


async def test_a_read_only_session_refuses_writes(db):
    read = Annotated[Session, dbfastapi.session(db, read_only=True)]
    app = FastAPI()

    @app.post("/")
    async def add(session: read):
        count = await session.fetch_val(COUNT)
        with pytest.raises(aiodbkit.ReadOnlyError):
            await session.execute(ADD)
        session.set_rollback_only()
        return count

    assert (await post(app)).json() == 0


@SQLITE
async def test_a_reader_runs_inside_a_writer_of_the_same_request(db, tx):
    read = Annotated[Session, dbfastapi.session(db, read_only=True)]
    app = FastAPI()

    @app.post("/")
    async def add(session: tx, reader: read):
        await session.execute(ADD)
        return await reader.fetch_val(COUNT)

    assert (await post(app)).json() == 1
    assert await db.fetch_val(COUNT) == 1


@SQLITE
async def test_a_writer_inside_a_reader_is_refused_with_the_cure(db, tx):
    read = Annotated[Session, dbfastapi.session(db, read_only=True)]
    app = FastAPI()

    @app.post("/")
    async def add(reader: read, session: tx):
        pytest.fail("the endpoint ran")

    with pytest.raises(aiodbkit.TransactionScopeError, match="name it first"):
        await messages_of(app, "/", "POST")


async def test_a_connection_is_given_back_before_the_response(db):
    conn = Annotated[Connection, dbfastapi.connection(db)]
    app = FastAPI()

    @app.post("/")
    async def add(first: conn, second: Annotated[Connection, dbfastapi.connection(db)]):
        await first.execute(ADD)
        return [first is second, db.current_connection() is first, db.pool.stats().in_use]

    seen = []

    async def before(message):
        seen.append(db.pool.stats().in_use)

    messages = await messages_of(app, "/", "POST", before)
    assert messages[1]["body"] == b"[true,true,1]"
    assert seen == [0, 0]
    assert await db.fetch_val(COUNT) == 1


@SQLITE
@pytest.mark.parametrize("first", ["session", "connection"])
async def test_a_session_and_a_connection_of_a_request_are_on_one_connection(db, tx, first):
    conn = Annotated[Connection, dbfastapi.connection(db)]
    app = FastAPI()

    if first == "session":

        @app.post("/")
        async def add(session: tx, connection: conn):
            await session.execute(ADD)
            return await connection.fetch_val(COUNT)
    else:

        @app.post("/")
        async def add(connection: conn, session: tx):
            await session.execute(ADD)
            return await connection.fetch_val(COUNT)

    assert (await post(app)).json() == 1
    assert [await db.fetch_val(COUNT), db.pool.stats().in_use] == [1, 0]


@SQLITE
async def test_several_engines_commit_and_roll_back_together(db, tx, tmp_path, make_engine):
    other = await make_engine(f"sqlite:///{tmp_path / 'other.db'}")
    await other.execute("create table item (name text)")
    app = FastAPI()

    @app.post("/{fails}")
    async def add(fails: bool, a: tx, b: Annotated[Session, dbfastapi.session(other)]):
        await a.execute(ADD)
        await b.execute(ADD)
        if fails:
            raise HTTPException(400)

    await post(app, "/true")
    assert [await db.fetch_val(COUNT), await other.fetch_val(COUNT)] == [0, 0]
    await post(app, "/false")
    assert [await db.fetch_val(COUNT), await other.fetch_val(COUNT)] == [1, 1]


@SQLITE
async def test_an_override_takes_the_place_of_the_session(db, tx, tmp_path, make_engine):
    other = await make_engine(f"sqlite:///{tmp_path / 'other.db'}")
    await other.execute("create table item (name text)")
    app = FastAPI()

    @app.post("/")
    async def add(session: tx):
        await session.execute(ADD)

    async def instead():
        async with other.session() as session:
            yield session

    app.dependency_overrides[dbfastapi.session(db).dependency] = instead
    assert (await post(app)).status_code == 200
    assert [await db.fetch_val(COUNT), await other.fetch_val(COUNT)] == [0, 1]


# Other ways in


@OLD_STARLETTE
async def test_a_request_cancelled_midway_leaves_nothing(db, tx, behind):
    app = FastAPI()
    if behind:
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    reached = asyncio.Event()

    @app.post("/")
    async def add(session: tx):
        await session.execute(ADD)
        reached.set()
        await asyncio.Event().wait()

    request = asyncio.create_task(messages_of(app, "/", "POST"))
    await reached.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert await db.fetch_val(COUNT) == 0  # over the only connection there is
    assert db.pool.stats().in_use == 0


async def pass_on(request, call_next):
    return await call_next(request)


@SQLITE
async def test_behind_base_http_middleware_the_commit_still_comes_first(db, tx, witness):
    app = FastAPI()
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)

    @app.post("/")
    async def add(session: tx):
        await session.execute(ADD)
        await db.execute(ADD)  # in the session, as it is the same task

    seen = []

    async def before(message):
        seen.append((message["type"], await witness.fetch_val(COUNT)))

    await messages_of(app, "/", "POST", before)
    assert seen[0] == ("http.response.start", 2)


@SQLITE
async def test_a_plain_function_uses_the_session_through_the_event_loop(db, tx):
    app = FastAPI()

    @app.post("/")
    def add(session: tx):
        anyio.from_thread.run(session.execute, ADD)
        with pytest.raises(aiodbkit.TransactionScopeError, match="child_tasks"):
            anyio.from_thread.run(db.execute, ADD)
        return anyio.from_thread.run(session.fetch_val, COUNT)

    assert (await post(app)).json() == 1
    assert await db.fetch_val(COUNT) == 1


@SQLITE
async def test_a_websocket_has_a_session_until_its_endpoint_returns(db, tx, witness):
    app = FastAPI()
    counts = []

    @app.websocket("/")
    async def chat(socket: WebSocket, session: tx):
        await socket.accept()
        await session.execute(ADD)
        counts.append(await witness.fetch_val(COUNT))

    await talk(app, "/")
    assert [*counts, await witness.fetch_val(COUNT)] == [0, 1]


@SQLITE
async def test_a_websocket_that_disconnects_keeps_only_what_was_committed(db, tx):
    app = FastAPI()

    @app.websocket("/")
    async def chat(socket: WebSocket, session: tx):
        await socket.accept()
        while True:
            text = await socket.receive_text()
            await session.execute("insert into item (name) values (:text)", {"text": text})
            if text == "keep":
                await session.commit()

    with pytest.raises(fastapi.WebSocketDisconnect):
        await talk(app, "/", ["keep", "lose"])
    assert await db.fetch_column("select name from item") == ["keep"]
