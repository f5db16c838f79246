"""create_all and drop_all: what is created, what is left alone, and two at a time."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import (
    DDL,
    CheckConstraint,
    Column,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Sequence,
    String,
    Table,
    event,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable, DropTable

from aiodbkit import Error, NotSupportedError, ProgrammingError
from tests.core_statements.tables import metadata, people


def fresh():
    made = MetaData()
    teams = Table(
        "teams",
        made,
        Column("id", Integer, primary_key=True),
        Column("share", String(9), CheckConstraint("share like '%100%%'")),
    )
    Table(
        "players",
        made,
        Column("id", Integer, primary_key=True),
        Column("team", ForeignKey(teams.c.id)),
        Column("kind", Enum("striker", "keeper", name="player_kind")),
        Index("players_by_team", "team"),
        comment="who plays",
    )
    return made


async def test_tables_come_and_go_and_both_may_be_called_again(make_engine):
    db, made = await make_engine(), fresh()
    teams, players = made.tables["teams"], made.tables["players"]
    for _ in range(2):
        await db.create_all(made)
    await db.execute(insert(teams).values(id=1, share="of 100%"))
    await db.execute(insert(players).values(team=1, kind="keeper"))
    await db.create_all(made)
    assert await db.fetch_one(select(players.c.team, players.c.kind)) == (1, "keeper")
    for _ in range(2):
        await db.drop_all(made)
    with pytest.raises(ProgrammingError):
        await db.fetch_all(select(players))
    await db.create_all(made)
    assert await db.fetch_val(select(func.count()).select_from(players)) == 0


async def test_only_the_tables_that_are_named(make_engine):
    db, made = await make_engine(), fresh()
    await db.create_all(made, tables=[made.tables["teams"]])
    assert await db.fetch_all(select(made.tables["teams"])) == []
    with pytest.raises(ProgrammingError):
        await db.fetch_all(select(made.tables["players"]))
    await db.create_all(made)
    assert await db.fetch_all(select(made.tables["players"])) == []
    await db.drop_all(made, tables=[made.tables["players"]])
    assert await db.fetch_all(select(made.tables["teams"])) == []


async def test_without_checkfirst_what_is_there_is_an_error(make_engine):
    db, made = await make_engine(), fresh()
    await db.create_all(made, checkfirst=False)
    with pytest.raises(ProgrammingError, match="exists"):
        await db.create_all(made, checkfirst=False)


async def test_many_at_once_create_the_tables_once(make_engine):
    engines = [await make_engine() for _ in range(4)]
    await asyncio.gather(*(engine.create_all(fresh()) for engine in engines))
    assert await engines[0].fetch_all(select(fresh().tables["players"])) == []
    await asyncio.gather(*(engine.drop_all(fresh()) for engine in engines))


async def test_it_is_undone_with_its_transaction(make_engine, can):
    db, made = await make_engine(), fresh()
    if not can.ddl_is_transactional:
        async with db.transaction():
            with pytest.raises(NotSupportedError, match="MySQL's DDL would commit it"):
                await db.create_all(made)
        async with db.session() as session:
            with pytest.raises(NotSupportedError, match="MySQL's DDL would commit it"):
                await session.create_all(made)
        return
    async with db.transaction(force_rollback=True):
        await db.create_all(made)
        assert await db.fetch_all(select(made.tables["teams"])) == []
    async with db.session() as session:
        await session.create_all(made)
        session.set_rollback_only()
    async with db.connection() as connection:
        with pytest.raises(Error):
            await connection.fetch_all(select(made.tables["teams"]))


async def test_a_failure_midway_leaves_no_tables_where_ddl_has_transactions(make_engine, can):
    db, made = await make_engine(), fresh()
    event.listen(made, "after_create", DDL("create nonsense"))
    with pytest.raises(ProgrammingError):
        await db.create_all(made)
    if can.ddl_is_transactional:
        with pytest.raises(ProgrammingError):
            await db.fetch_all(select(made.tables["teams"]))
    await db.drop_all(made)
    await db.create_all(fresh())  # and nobody holds the lock


async def test_on_a_connection(make_engine):
    db, made = await make_engine(), fresh()
    async with db.connection() as connection:
        await connection.create_all(made)
        assert await connection.fetch_all(select(made.tables["teams"])) == []
    async with db.connection(shared=True) as connection:
        with pytest.raises(NotSupportedError, match="shared connection"):
            await connection.create_all(made)


async def test_listeners_of_the_tables_run(make_engine):
    db, made = await make_engine(), fresh()
    event.listen(made.tables["teams"], "after_create", DDL("insert into teams (id) values (9)"))
    await db.create_all(made)
    assert await db.fetch_val(text("select id from teams")) == 9


async def test_ddl_elements_are_statements(make_engine):
    db, made = await make_engine(), fresh()
    teams = made.tables["teams"]
    await db.execute(CreateTable(teams))
    await db.execute(CreateTable(teams, if_not_exists=True))
    await db.execute(CreateIndex(Index("teams_by_share", teams.c.share)))
    await db.execute(insert(teams).values(id=1))
    await db.execute(DropTable(teams))
    with pytest.raises(ProgrammingError):
        await db.fetch_all(select(teams))
    with pytest.raises(ProgrammingError, match="DDL takes no parameters"):
        await db.execute(CreateTable(teams), {"a": 1})


async def test_schemas_types_sequences_and_comments_of_postgresql(postgres_engine):
    db, made = await postgres_engine(), MetaData(schema="made_here")
    mood = postgresql.ENUM("good", "bad", name="mood", metadata=made)
    Sequence("counter", metadata=made, start=7)
    table = Table(
        "moods",
        made,
        Column("id", Integer, primary_key=True),
        Column("mood", mood, comment="how it is"),
        comment="moods",
    )
    for _ in range(2):
        await db.create_all(made)
    assert await db.fetch_val("select nextval('made_here.counter')") == 7
    await db.execute(insert(table).values(mood="bad"))
    assert await db.insert_many(table, [{"mood": "good"}]) == 1
    assert await db.fetch_column(select(table.c.mood).order_by(table.c.id)) == ["bad", "good"]
    assert await db.fetch_val("select obj_description('made_here.moods'::regclass)") == "moods"
    moved = select(table.c.mood).execution_options(schema_translate_map={"made_here": "elsewhere"})
    with pytest.raises(ProgrammingError, match=r"elsewhere\.moods"):
        await db.fetch_all(moved)
    for _ in range(2):
        await db.drop_all(made)
    assert await db.fetch_val("select to_regtype('made_here.mood')") is None
    assert await db.fetch_val("select to_regclass('made_here.counter')") is None
    await db.execute("drop schema made_here")


async def test_what_is_no_metadata_is_refused(db):
    with pytest.raises(ProgrammingError, match="take a MetaData of SQLAlchemy, not Table"):
        await db.create_all(people)
    with pytest.raises(ProgrammingError, match="take a MetaData of SQLAlchemy, not str"):
        await db.drop_all("people")
    await db.drop_all(metadata)
