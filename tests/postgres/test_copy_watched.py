"""What is told of COPY: to listeners, in the log, to who counts."""

from __future__ import annotations

import logging

import pytest

import aiodbkit
from aiodbkit.testing import count_queries

pytestmark = pytest.mark.usefixtures("asyncpg_only")


class Ear:
    """Keeps what it is told."""

    def __init__(self):
        self.events = []

    def on_query(self, event):
        self.events.append(event)

    @property
    def told(self):
        return [(event.verb, event.sql, event.rows) for event in self.events]


@pytest.fixture
async def db(postgres_engine):
    db = await postgres_engine(log_params=True, slow_query=0.0)
    await db.execute("create table notes (id integer)")
    return db


@pytest.fixture
def ear(db):
    listener = Ear()
    db.add_listener(listener)
    return listener


async def test_listeners_are_told_once_of_each_copy(db, ear):
    await db.copy_in("notes", b"1\n2\n", format="text")
    await db.copy_out("notes", to=lambda _: None)
    query = "select id from notes where id > :id"
    await db.copy_out(query, {"id": 1}, to=lambda _: None)
    verbs, texts, rows = zip(*ear.told, strict=True)
    assert verbs == ("copy_in", "copy_out", "copy_out")
    assert texts[0].startswith('COPY "notes"')
    assert texts[1:] == ("copy_out: notes", f"copy_out: {query}")
    assert rows == (2, 2, 1)
    assert {event.params for event in ear.events} == {None}
    assert all(event.duration > 0 for event in ear.events)


async def test_a_copy_that_is_read_in_a_block_is_told_when_it_has_ended(db, ear):
    async with db.transaction():
        await db.execute("insert into notes values (1)")
        async with db.copy_out("notes") as chunks:
            assert b"".join([chunk async for chunk in chunks]) == b"1\n"
    assert ear.told[1:] == [("copy_out", "copy_out: notes", 1)]
    assert ear.events[1].in_transaction


async def test_rows_that_are_copied_in_are_told_as_an_insert_many(db, ear):
    await db.copy_in("notes", [{"id": 1}])
    assert ear.told == [("insert_many", "insert_many: notes", 1)]


async def test_a_copy_that_fails_is_told_with_its_error(db, ear):
    with pytest.raises(aiodbkit.DataError) as caught:
        await db.copy_in("notes", b"x\n", format="text")
    (event,) = ear.events
    assert (event.verb, event.rows, event.error) == ("copy_in", -1, caught.value)


async def test_a_slow_copy_is_logged(db, caplog):
    with caplog.at_level(logging.WARNING, "aiodbkit.query"):
        await db.copy_in("notes", b"1\n", format="text")
        await db.copy_out("notes", to=lambda _: None)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("slow query: ")
    assert 'COPY "notes"' in first
    assert "copy_out: notes" in second


async def test_copies_are_counted(db):
    with count_queries(db, exactly=2) as counted:
        await db.copy_in("notes", b"1\n", format="text")
        await db.copy_out("notes", to=lambda _: None)
    assert counted.statements[1] == "copy_out: notes"
