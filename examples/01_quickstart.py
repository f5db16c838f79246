"""aiodbkit in one file: a small library of books.

Runs on SQLite in memory with nothing configured, and unchanged on PostgreSQL, MySQL and MariaDB:

    python examples/01_quickstart.py
    DATABASE_URL=postgresql://app:secret@localhost/app python examples/01_quickstart.py
    DATABASE_URL=mysql://app:secret@localhost/app python examples/01_quickstart.py
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

import aiodbkit

db = aiodbkit.create_engine(os.environ.get("DATABASE_URL", "sqlite://"))


@dataclass
class Book:
    id: int
    title: str
    copies: int


async def set_up() -> None:
    await db.execute("drop table if exists quickstart_book")
    await db.execute(
        "create table quickstart_book ("
        "  id integer primary key,"
        "  title varchar(100) not null unique,"
        "  copies integer not null check (copies >= 0)"
        ")"
    )
    await db.insert_many(
        "quickstart_book",
        [
            {"id": 1, "title": "The Left Hand of Darkness", "copies": 3},
            {"id": 2, "title": "Solaris", "copies": 1},
            {"id": 3, "title": "Roadside Picnic", "copies": 0},
        ],
    )


async def lend(book_id: int) -> Book:
    """Take one copy off the shelf. The transaction makes both statements one step."""
    async with db.transaction():
        await db.execute(
            "update quickstart_book set copies = copies - 1 where id = :id", {"id": book_id}
        )
        book = await db.fetch_one(
            "select id, title, copies from quickstart_book where id = :id",
            {"id": book_id},
            into=Book,
        )
    assert book is not None
    return book


async def main() -> None:
    async with db:
        await set_up()

        book = await lend(1)
        print(f"lent {book.title!r}, {book.copies} left")

        try:
            await lend(3)
        except aiodbkit.CheckViolationError:
            print("no copy of book 3 to lend: rolled back")

        # Queries side by side: each takes a connection of its own from the pool.
        lent = await asyncio.gather(lend(1), lend(2))
        print("lent side by side:", ", ".join(book.title for book in lent))

        wanted = aiodbkit.expand([1, 2, 3])
        async for row in db.iterate(
            "select title, copies from quickstart_book where id in (:ids) order by title",
            {"ids": wanted},
        ):
            print(f"  {row.title:<28} {row['copies']}")

        total = await db.fetch_val("select sum(copies) from quickstart_book")
        print(f"{total} copies left on the shelf")
        await db.execute("drop table quickstart_book")


if __name__ == "__main__":
    asyncio.run(main())
