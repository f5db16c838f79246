"""FastAPI: streams and background tasks run after the endpoint's session has ended."""

# FastAPI reads the annotations of endpoints that are made inside tests, so they are no strings.

from typing import Annotated

import pytest

import aiodbkit
from aiodbkit import Session
from tests.ext.asgi import client_of, messages_of

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import BackgroundTasks, Depends, FastAPI  # noqa: E402
from fastapi.responses import StreamingResponse  # noqa: E402

try:
    from aiodbkit.ext import fastapi as dbfastapi

    dbfastapi.session(aiodbkit.create_engine("sqlite://"))
except aiodbkit.ConfigurationError as refusal:
    pytest.skip(str(refusal), allow_module_level=True)

ADD = "insert into item (name) values ('new')"
COUNT = "select count(*) from item"
SQLITE = pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)])


@pytest.fixture
async def db(make_engine):
    """One connection: a request that wanted two would not end."""
    db = await make_engine(max_size=1, acquire_timeout=5)
    await db.execute("create table item (name varchar(20))")
    return db


@pytest.fixture
def tx(db):
    return Annotated[Session, dbfastapi.session(db)]


async def post(app, path="/"):
    async with client_of(app) as client:
        return await client.post(path)


def only_error(error):
    """Return what is inside the groups that some versions of Starlette put around it."""
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    return error


@SQLITE
async def test_a_stream_that_uses_the_ended_session_is_told_so(db, tx):
    app = FastAPI()

    @app.post("/")
    async def stream(session: tx):
        async def rows():
            yield "first "
            yield str(await session.fetch_val(COUNT))

        return StreamingResponse(rows())

    with pytest.raises((aiodbkit.SessionClosedError, ExceptionGroup)) as caught:
        await messages_of(app, "/", "POST")
    error = only_error(caught.value)
    assert isinstance(error, aiodbkit.SessionClosedError)
    assert "a streaming response, opens one of its own" in str(error)


@SQLITE
async def test_a_stream_with_a_session_of_its_own_reads_to_its_end(db, tx):
    app = FastAPI()

    @app.post("/")
    async def stream(session: tx):
        await session.execute(ADD)

        async def rows():
            async with db.session(read_only=True) as own:
                async for row in own.iterate("select name from item"):
                    yield row.name

        return StreamingResponse(rows())

    assert (await post(app)).text == "new"
    assert db.pool.stats().in_use == 0


@SQLITE
async def test_a_background_task_that_uses_the_ended_session_is_told_so(db, tx):
    app = FastAPI()
    errors = []

    @app.post("/")
    async def add(session: tx, tasks: BackgroundTasks):
        async def later():
            async with db.session() as own:
                await own.execute(ADD)
            try:
                await session.execute(ADD)
            except aiodbkit.SessionClosedError as error:
                errors.append(str(error))

        tasks.add_task(later)

    assert (await post(app)).status_code == 200
    assert len(errors) == 1
    assert "as a background task" in errors[0]
    assert await db.fetch_val(COUNT) == 1


# Endpoints that yield: newer versions make a stream of them


@SQLITE
async def test_an_endpoint_that_yields_is_told_that_its_session_has_ended(db, tx):
    pytest.importorskip("fastapi.sse", reason="this FastAPI has no endpoints that yield")
    app = FastAPI()

    @app.post("/")
    async def lines(session: tx):
        yield await session.fetch_val(COUNT)

    with pytest.raises((aiodbkit.SessionClosedError, ExceptionGroup)) as caught:
        await messages_of(app, "/", "POST")
    assert isinstance(only_error(caught.value), aiodbkit.SessionClosedError)


@pytest.fixture
def user(tx):
    async def user(session: tx):
        await session.execute(ADD)

    return Annotated[None, Depends(user)]


@pytest.mark.parametrize("opens_own", [True, False], ids=["a session", "verbs"])
async def test_server_sent_events_read_beside_the_end_of_the_endpoint_s_session(
    db, user, opens_own
):
    sse = pytest.importorskip("fastapi.sse", reason="this FastAPI has no server-sent events")
    app = FastAPI()

    @app.post("/", response_class=sse.EventSourceResponse)
    async def events(who: user):  # FastAPI starts its task while the session is being committed
        if not opens_own:
            yield await db.fetch_val(COUNT)
            return
        async with db.session(read_only=True) as own:
            yield await own.fetch_val(COUNT)

    assert (await post(app)).text == "data: 1\n\n"
    assert db.pool.stats().in_use == 0


async def test_server_sent_events_that_go_on_using_the_ended_session_are_told_so(db, tx):
    sse = pytest.importorskip("fastapi.sse", reason="this FastAPI has no server-sent events")
    app = FastAPI()

    async def adds(session: tx):
        await session.execute(ADD)
        return session

    @app.post("/", response_class=sse.EventSourceResponse)
    async def events(session: Annotated[Session, Depends(adds)]):
        for _ in range(3):  # the first may still be in time for the commit
            yield await session.fetch_val(COUNT)

    with pytest.raises(ExceptionGroup) as caught:
        await messages_of(app, "/", "POST")
    assert isinstance(only_error(caught.value), aiodbkit.SessionClosedError)
    assert await db.fetch_val(COUNT) == 1
    assert db.pool.stats().in_use == 0
