"""MySQL and MariaDB: a column's definition is sent anew as a whole, and keeps all it had."""

from __future__ import annotations

from aiodbkit.migrations import add_not_null, drop_not_null

COLUMNS = """\
id int primary key,
a varchar(10) default 'not null' comment 'is null, not null',
j json,
c int check (c is not null or c > 0),
d timestamp null default null"""


async def shown(db):
    return await db.fetch_val("show create table t", column=1)


async def test_null_in_comments_defaults_and_checks_is_left_alone(mysql_engine):
    db = await mysql_engine()
    await db.execute(f"create table t ({COLUMNS})")
    before = await shown(db)
    for column in "ajcd":
        await add_not_null(db, "t", column)
    text = await shown(db)
    assert text.count("NOT NULL") == 5
    assert "DEFAULT 'not null' COMMENT 'is null, not null'" in text
    for column in "ajcd":
        await drop_not_null(db, "t", column)
    assert await shown(db) == before
