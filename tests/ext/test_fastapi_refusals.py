"""FastAPI: what is refused when an app is built, before there is a request."""

# FastAPI reads the annotations of endpoints that are made inside tests, so they are no strings.

import inspect
from typing import Annotated

import pytest

import aiodbkit
from aiodbkit import Session

fastapi = pytest.importorskip("fastapi")

from fastapi import Depends, FastAPI  # noqa: E402

from aiodbkit.ext import fastapi as dbfastapi  # noqa: E402
from tests.ext.asgi import messages_of  # noqa: E402

HAS_SCOPES = "scope" in inspect.signature(Depends).parameters


@pytest.mark.skipif(not HAS_SCOPES, reason="this FastAPI has no scopes")
def test_a_generator_on_top_needs_the_scope_of_the_session():
    tx = Annotated[Session, dbfastapi.session(aiodbkit.create_engine("sqlite://"))]

    async def repository(session: tx):
        yield session

    with pytest.raises(Exception, match='cannot depend on dependencies with scope "function"'):
        FastAPI().post("/")(endpoint_with(Annotated[Session, Depends(repository)]))
    FastAPI().post("/")(endpoint_with(Annotated[Session, Depends(repository, scope="function")]))


def endpoint_with(dependency):
    async def endpoint(repository: dependency):
        return None

    return endpoint


@pytest.mark.parametrize("version", ["0.105.0", "0.118.0", "0.120.4"])
def test_versions_that_would_commit_too_late_are_refused(monkeypatch, version):
    class Unscoped:
        def __init__(self, dependency=None, *, use_cache=True):
            pytest.fail("it was wired")

    monkeypatch.setattr(fastapi, "__version__", version)
    monkeypatch.setattr(fastapi.params, "Depends", Unscoped)
    db = aiodbkit.create_engine("sqlite://")
    for make in (dbfastapi.session, dbfastapi.connection):
        with pytest.raises(aiodbkit.ConfigurationError, match=f"FastAPI {version} .* 0.121"):
            make(db)


def test_what_is_no_engine_is_refused():
    with pytest.raises(aiodbkit.ConfigurationError, match="'sqlite://' is none"):
        dbfastapi.session("sqlite://")
    with pytest.raises(aiodbkit.ConfigurationError, match="'sqlite://' is none"):
        dbfastapi.connection("sqlite://")
    engine_class = type(aiodbkit.create_engine("sqlite://"))
    with pytest.raises(aiodbkit.ConfigurationError, match="SQLiteEngine.* is none"):
        dbfastapi.session(engine_class)


def test_an_isolation_that_is_none_is_refused_when_the_app_is_built():
    db = aiodbkit.create_engine("sqlite://")
    with pytest.raises(aiodbkit.ConfigurationError, match="isolation"):
        dbfastapi.session(db, isolation="strict")


def test_child_tasks_that_are_none_are_refused_when_the_app_is_built():
    db = aiodbkit.create_engine("sqlite://")
    with pytest.raises(aiodbkit.ConfigurationError, match="child_tasks must be one of"):
        dbfastapi.session(db, child_tasks="inherit")


# In a request


async def test_a_session_with_other_options_inside_is_refused(sqlite_engine):
    db = await sqlite_engine()
    app = FastAPI()

    @app.get("/")
    async def add(
        session: Annotated[Session, dbfastapi.session(db)],
        other: Annotated[Session, dbfastapi.session(db, isolation="serializable")],
    ):
        await other.execute("select 1")

    with pytest.raises(aiodbkit.TransactionScopeError, match=r"isolation.* outermost"):
        await messages_of(app, "/")
