"""Statements of SQLAlchemy go where their text would go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select

import aiodbkit
from tests.replicas.support import elsewhere
from tests.servers.mariadb import MariaDBServer

metadata = MetaData()
members = Table(
    "members_here",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(20)),
)
WHICH = select(members.c.name).order_by(members.c.id)


async def _routes(primary: str, replica: str) -> None:
    for url, name in ((primary, "p"), (replica, "r")):
        async with aiodbkit.create_engine(url) as engine:
            await engine.create_all(metadata)
            await engine.execute(insert(members).values(name=name))
    async with aiodbkit.ReplicatedEngine(primary, [replica]) as db:

        async def read_twice() -> list[Any]:
            return [await db.fetch_val(WHICH), await db.fetch_val(WHICH)]

        async def in_session() -> Any:
            async with db.session(read_only=True) as session:
                return await session.fetch_val(WHICH)

        async def streamed() -> Any:
            return [row.name async for row in db.iterate(WHICH)]

        async def written() -> Any:
            await db.execute(insert(members).values(name="again"))
            return await db.fetch_column(WHICH)

        async def written_fast() -> Any:
            await db.insert_many(members, [{"name": "more"}])
            return await db.fetch_val(select(func.count()).select_from(members))

        # Twice: what is asked of a server before its first statement is no write.
        assert await elsewhere(read_twice()) == ["r", "r"]
        assert await elsewhere(in_session()) == "r"
        assert await elsewhere(streamed()) == ["r"]
        assert await elsewhere(written()) == ["p", "again"]
        assert await elsewhere(written_fast()) == 3
        assert await elsewhere(read_twice()) == ["r", "r"]
        await elsewhere(db.drop_all(metadata))
        assert await elsewhere(db.fetch_val(WHICH)) == "r"


async def test_files_of_sqlite(tmp_path: Path):
    await _routes(f"sqlite:///{tmp_path / 'p.db'}", f"sqlite:///{tmp_path / 'r.db'}")


@pytest.mark.mysql
async def test_two_servers_of_mariadb(private_mysql: MariaDBServer, mysql_url: str):
    await _routes(mysql_url, private_mysql.url)
