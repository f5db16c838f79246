"""A small app to begin with: notes in a table, a migration that makes it, a test."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from aiodbkit.errors import ConfigurationError

__all__ = ["Database", "Framework", "write_app"]

Framework = Literal["fastapi", "starlette", "none"]
Database = Literal["sqlite", "postgresql", "mysql"]

_URLS = {
    "sqlite": ("sqlite:///app.db", "sqlite://"),
    "postgresql": ("postgresql://localhost/app", "postgresql://localhost/app_test"),
    "mysql": ("mysql://root@localhost/app", "mysql://root@localhost/app_test"),
}
_KEYS = {
    "sqlite": "integer primary key",
    "postgresql": "integer generated always as identity primary key",
    "mysql": "integer auto_increment primary key",
}
_EXTRAS = {"sqlite": [], "postgresql": ["postgres"], "mysql": ["mysql"]}
_PACKAGES = {"fastapi": ["uvicorn", "httpx"], "starlette": ["uvicorn", "httpx"], "none": []}

_LOGGING = """\
logging.basicConfig(level=logging.INFO)
logging.getLogger("aiodbkit.query").setLevel(logging.DEBUG)  # every query, with its time

"""
_MIGRATION = """\
create table notes (
    id {key},
    body varchar(1000) not null
);

-- down

drop table notes;
"""
_SET_UP = """\
MIGRATIONS = Path(__file__).parent / "migrations"

db = aiodbkit.create_engine(os.environ.get("DATABASE_URL", "{url}"))
"""

_FASTAPI = '''\
"""Notes, as a web service: `uvicorn app:app --reload`, then http://127.0.0.1:8000/docs."""

{imports}
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import aiodbkit
from aiodbkit import Session
from aiodbkit.ext import fastapi as dbfastapi
from aiodbkit.migrations import migrate
from fastapi import FastAPI
from pydantic import BaseModel

{logging}{set_up}
# What an endpoint is given: a session, which is committed before the response is sent.
Tx = Annotated[Session, dbfastapi.session(db)]
Read = Annotated[Session, dbfastapi.session(db, read_only=True)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with db:
        await migrate(db, MIGRATIONS)
        yield


app = FastAPI(lifespan=lifespan)


class NewNote(BaseModel):
    body: str


class Note(NewNote):
    id: int


@app.get("/notes")
async def list_notes(session: Read) -> list[Note]:
    return await session.fetch_all("select id, body from notes order by id", into=Note)


@app.post("/notes", status_code=201)
async def add_note(note: NewNote, session: Tx) -> NewNote:
    await session.execute("insert into notes (body) values (:body)", {{"body": note.body}})
    return note
'''

_STARLETTE = '''\
"""Notes, as a web service: `uvicorn app:app --reload`, then http://127.0.0.1:8000/notes."""

{imports}
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiodbkit
from aiodbkit.ext.starlette import SessionMiddleware
from aiodbkit.migrations import migrate
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

{logging}{set_up}

@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with db:
        await migrate(db, MIGRATIONS)
        yield


async def list_notes(request: Request) -> JSONResponse:
    notes = await request.state.db.fetch_all("select id, body from notes order by id")
    return JSONResponse([dict(note) for note in notes])


async def add_note(request: Request) -> JSONResponse:
    note = {{"body": str((await request.json())["body"])}}
    await request.state.db.execute("insert into notes (body) values (:body)", note)
    return JSONResponse(note, status_code=201)


# request.state.db is a session, which is committed before the response is sent.
app = Starlette(
    routes=[
        Route("/notes", list_notes, methods=["GET"]),
        Route("/notes", add_note, methods=["POST"]),
    ],
    middleware=[Middleware(SessionMiddleware, db=db)],
    lifespan=lifespan,
)
'''

_NONE = '''\
"""Notes: `python app.py "a note"` keeps one more, and prints them all."""

import asyncio
{imports}
import sys
from dataclasses import dataclass
from pathlib import Path

import aiodbkit
from aiodbkit.migrations import migrate

{logging}{set_up}

@dataclass
class Note:
    id: int
    body: str


async def list_notes() -> list[Note]:
    return await db.fetch_all("select id, body from notes order by id", into=Note)


async def add_note(body: str) -> None:
    await db.execute("insert into notes (body) values (:body)", {{"body": body}})


async def main(bodies: list[str]) -> list[Note]:
    async with db:
        await migrate(db, MIGRATIONS)
        async with db.transaction():
            for body in bodies:
                await add_note(body)
        return await list_notes()


if __name__ == "__main__":
    for note in asyncio.run(main(sys.argv[1:])):
        print(note.id, note.body)
'''

_TEST_HEAD = '''\
"""The tests of the app: `pytest`, on the database of TEST_DATABASE_URL."""

{imports}

# Before the app reads it: tests write into a database of their own.
os.environ["DATABASE_URL"] = os.environ.get("TEST_DATABASE_URL", "{url}")

'''
_WEB_TEST = """\
from app import app  # noqa: E402


def test_a_note_that_was_added_is_listed():
    body = f"note {uuid.uuid4()}"
    with TestClient(app) as client:
        assert client.post("/notes", json={"body": body}).status_code == 201
        assert body in [note["body"] for note in client.get("/notes").json()]
"""
_PLAIN_TEST = """\
from app import main  # noqa: E402


def test_a_note_that_was_added_is_listed():
    body = f"note {uuid.uuid4()}"
    assert body in [note.body for note in asyncio.run(main([body]))]
"""

_APPS = {"fastapi": _FASTAPI, "starlette": _STARLETTE, "none": _NONE}
_TEST_IMPORTS = {
    "fastapi": "import os\nimport uuid\n\nfrom fastapi.testclient import TestClient",
    "starlette": "import os\nimport uuid\n\nfrom starlette.testclient import TestClient",
    "none": "import asyncio\nimport os\nimport uuid",
}


def write_app(
    folder: Path, framework: Framework, database: Database, *, logging: bool = False
) -> list[Path]:
    """Write the files of an app; return their paths.

    Raises:
        ConfigurationError: the folder has files in it, or cannot be written.
    """
    files = _files(framework, database, logging=logging)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigurationError(f"{folder} is not empty: give a new folder")
        (folder / "migrations").mkdir()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror}") from error
    return [folder / name for name in files]


def _files(framework: Framework, database: Database, *, logging: bool) -> dict[str, str]:
    url, test_url = _URLS[database]
    app = _APPS[framework].format(
        imports="import logging\nimport os" if logging else "import os",
        logging=_LOGGING if logging else "",
        set_up=_SET_UP.format(url=url),
    )
    test = _TEST_HEAD.format(imports=_TEST_IMPORTS[framework], url=test_url)
    test += _PLAIN_TEST if framework == "none" else _WEB_TEST
    extras = ",".join([*_EXTRAS[database], *([] if framework == "none" else [framework])])
    packages = [f"aiodbkit[{extras}]" if extras else "aiodbkit", *_PACKAGES[framework], "pytest"]
    return {
        "app.py": app,
        "migrations/0001_create_notes.sql": _MIGRATION.format(key=_KEYS[database]),
        "test_app.py": test,
        "requirements.txt": "\n".join(packages) + "\n",
    }
