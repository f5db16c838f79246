"""A ledger: accounts, transfers between them, and a page to click on.

Runs on a SQLite file in the current folder with nothing configured, and unchanged on PostgreSQL,
MySQL and MariaDB (it needs FastAPI and uvicorn: `pip install 'aiodbkit[examples]'`):

    python examples/03_fastapi_service/main.py
    DATABASE_URL=postgresql://app:secret@localhost/app python examples/03_fastapi_service/main.py

It listens on 127.0.0.1:8000, or on the port that PORT says.

Amounts are whole cents, so that no rounding loses one. Nobody signs in: put it on no network.
"""

import csv
import io
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field, StringConstraints

import aiodbkit
from aiodbkit import RetryPolicy, Session
from aiodbkit.ext import fastapi as dbfastapi
from aiodbkit.ext.starlette import StreamingResponse

logger = logging.getLogger("ledger")

db = aiodbkit.create_engine(os.environ.get("DATABASE_URL", "sqlite:///ledger.db"))

# What a request is given. Its session takes a connection with its first statement, and is
# committed before the response is sent: nobody is told of something that was not kept.
Tx = Annotated[Session, dbfastapi.session(db)]
Read = Annotated[Session, dbfastapi.session(db, read_only=True)]

# The database keeps the rules, so that no mistake in the code below can break them: a name is
# there once, no balance falls below zero, a request's key makes one transfer.
ACCOUNTS = """
create table if not exists ledger_account (
    id {id} primary key,
    name varchar(60) {exact} not null unique,
    balance bigint not null check (balance >= 0)
)
"""
TRANSFERS = """
create table if not exists ledger_transfer (
    id {id} primary key,
    request_key varchar(80) {exact} not null unique,
    sender bigint not null,
    recipient bigint not null,
    amount bigint not null check (amount > 0),
    made_at {instant} not null,
    foreign key (sender) references ledger_account (id),
    foreign key (recipient) references ledger_account (id)
)
"""
# The words that the databases spell differently, by the class of the engine. MySQL takes "Key" and
# "key" for the same, if it is not told to be exact: the second transfer would never be made.
TYPES = {
    "SQLiteEngine": {"id": "integer", "instant": "timestamptz", "exact": ""},
    "PostgresEngine": {
        "id": "bigint generated always as identity",
        "instant": "timestamptz",
        "exact": "",
    },
    "MySQLEngine": {
        "id": "bigint auto_increment",
        "instant": "timestamp(6)",
        "exact": "collate utf8mb4_bin",
    },
}

# A sum of many still fits into a bigint, and into JSON. Strict: true is not one cent.
Cents = Annotated[int, Field(strict=True, le=10**14)]
LARGEST = 2**63 - 1  # of a bigint
Id = Annotated[int, Field(ge=1, le=LARGEST)]
Limit = Annotated[int, Query(ge=1, le=100)]
# It begins with a letter or a digit: a spreadsheet takes "=..." in an export for a formula.
Name = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=60, pattern=r"^[^\W_][\w .,'&-]*$")
]


class NewAccount(BaseModel):
    name: Name
    balance: Annotated[Cents, Field(ge=0)] = 0


class Account(BaseModel):
    id: int
    name: str
    balance: int


class NewTransfer(BaseModel):
    sender: Id
    recipient: Id
    amount: Annotated[Cents, Field(gt=0)]
    request_key: Annotated[str, Field(min_length=8, max_length=80, pattern=r"^[\w-]+$")]


class Transfer(BaseModel):
    id: int
    sender: int
    recipient: int
    amount: int
    made_at: datetime


class Accounts(BaseModel):
    accounts: list[Account]
    next: int | None  # give it as after= for the next page


class Transfers(BaseModel):
    transfers: list[Transfer]
    next: int | None  # give it as before= for the next page


# Where several processes start at once, PostgreSQL refuses all but one of those that create a
# table, "if not exists" or not. Those that look again find it there.
@aiodbkit.retry(max_retries=4, on=(aiodbkit.IntegrityError, aiodbkit.ProgrammingError))
async def create_tables() -> None:
    for table in (ACCOUNTS, TRANSFERS):
        await db.execute(table.format(**TYPES[type(db).__name__]))


@asynccontextmanager
async def tables(_app: FastAPI) -> AsyncIterator[None]:
    """Create the tables where they are missing, before the first request."""
    await create_tables()
    yield


app = FastAPI(title="Ledger", lifespan=aiodbkit.lifespan(db, inner=tables))


# Accounts


@app.post("/accounts", status_code=201)
async def open_account(new: NewAccount, tx: Tx) -> Account:
    try:
        await tx.execute(
            "insert into ledger_account (name, balance) values (:name, :balance)", new.model_dump()
        )
    except aiodbkit.UniqueViolationError:
        raise HTTPException(409, f"There is an account named {new.name} already.") from None
    account = await tx.fetch_one(
        "select id, name, balance from ledger_account where name = :name",
        {"name": new.name},
        into=Account,
    )
    assert account is not None
    return account


@app.get("/accounts")
async def list_accounts(
    read: Read, after: Annotated[int, Query(ge=0, le=LARGEST)] = 0, limit: Limit = 100
) -> Accounts:
    accounts = await read.fetch_all(
        "select id, name, balance from ledger_account where id > :after order by id limit :limit",
        {"after": after, "limit": limit + 1},  # one more than asked for tells that there are more
        into=Account,
    )
    more = len(accounts) > limit
    return Accounts(accounts=accounts[:limit], next=accounts[limit - 1].id if more else None)


# Transfers


@db.transaction(retry=RetryPolicy(max_retries=5))
async def move(new: NewTransfer) -> Transfer:
    """Move the money, all or nothing: as a whole again after a deadlock or a failover."""
    # Lower id first: two transfers between the same accounts never wait for each other.
    for account, change in sorted([(new.sender, -new.amount), (new.recipient, new.amount)]):
        done = await db.execute(
            "update ledger_account set balance = balance + :change where id = :id",
            {"id": account, "change": change},
        )
        if done.rows_affected == 0:
            raise HTTPException(404, f"There is no account {account}.")
    await db.execute(
        "insert into ledger_transfer (request_key, sender, recipient, amount, made_at) "
        "values (:request_key, :sender, :recipient, :amount, :made_at)",
        new.model_dump() | {"made_at": datetime.now(UTC)},
    )
    transfer = await made_with(new.request_key)
    assert transfer is not None
    return transfer


async def made_with(request_key: str) -> Transfer | None:
    return await db.fetch_one(
        "select id, sender, recipient, amount, made_at from ledger_transfer "
        "where request_key = :request_key",
        {"request_key": request_key},
        into=Transfer,
    )


@app.post("/transfers", status_code=201)
async def make_transfer(new: NewTransfer, response: Response) -> Transfer:
    """Transfer once, however often the request is sent: a key that was used is answered again."""
    if new.sender == new.recipient:
        raise HTTPException(422, "Sender and recipient are the same account.")
    try:
        return await move(new)
    except aiodbkit.IntegrityError as error:
        # The key is there already. Or the money is not, which a repeat may find as well, if it
        # was the first request that took the last of it.
        earlier = await made_with(new.request_key)
        if earlier is None:
            if not isinstance(error, aiodbkit.CheckViolationError):
                raise
            raise HTTPException(409, "There is not enough money in that account.") from None
    asked = (new.sender, new.recipient, new.amount)
    if (earlier.sender, earlier.recipient, earlier.amount) != asked:
        raise HTTPException(422, "This request key was used for another transfer.")
    response.status_code = 200
    return earlier


@app.get("/transfers")
async def list_transfers(
    read: Read, before: Annotated[int, Query(ge=1, le=LARGEST)] = LARGEST, limit: Limit = 20
) -> Transfers:
    """List the newest first. By key, not by offset: new ones do not shift the pages."""
    transfers = await read.fetch_all(
        "select id, sender, recipient, amount, made_at from ledger_transfer "
        "where id < :before order by id desc limit :limit",
        {"before": before, "limit": limit + 1},
        into=Transfer,
    )
    more = len(transfers) > limit
    return Transfers(transfers=transfers[:limit], next=transfers[limit - 1].id if more else None)


@app.get("/transfers.csv")
async def export_transfers() -> StreamingResponse:
    return StreamingResponse(
        csv_lines(),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="transfers.csv"'},
    )


async def csv_lines() -> AsyncIterator[str]:
    """Yield the whole ledger, a few rows in memory at a time.

    A response is streamed after its endpoint has returned, and with it the request's session: so
    this reads on a connection of its own. aiodbkit's StreamingResponse gives it back when the
    client hangs up, too; FastAPI's leaves that to the garbage collector.
    """
    yield csv_line(["id", "made_at", "sender", "recipient", "cents"])
    async with db.iterate(
        "select t.id, t.made_at, s.name as sender, r.name as recipient, t.amount "
        "from ledger_transfer t "
        "join ledger_account s on s.id = t.sender "
        "join ledger_account r on r.id = t.recipient "
        "order by t.id"
    ) as rows:
        async for row in rows:
            yield csv_line(row)


def csv_line(values: Any) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()


# The rest


@app.exception_handler(aiodbkit.OperationalError)
async def try_again(_request: Request, error: aiodbkit.OperationalError) -> JSONResponse:
    """Tell of a database that is away or too busy. A request with a key may be sent again."""
    logger.error("%s: %s", type(error).__name__, error)
    detail = "The database cannot answer now. Try again in a moment."
    return JSONResponse({"detail": detail}, status_code=503, headers={"Retry-After": "1"})


@app.exception_handler(RequestValidationError)
async def refuse(_request: Request, error: RequestValidationError) -> JSONResponse:
    """Tell what is wrong without repeating it, as FastAPI does: NaN cannot be told in JSON."""
    detail = [{key: each[key] for key in ("type", "loc", "msg")} for each in error.errors()]
    return JSONResponse({"detail": detail}, status_code=422)


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))


if __name__ == "__main__":
    # It prints the address.
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
