"""The ledger service through HTTP, on every backend: in this process, and under uvicorn."""

from __future__ import annotations

import asyncio
import csv
import re
import socket
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

import aiodbkit

SERVICE = Path(__file__).parent.parent.parent / "examples" / "03_fastapi_service" / "main.py"


def client_of(service):
    transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://ledger")


@pytest.fixture
async def service(load_service, url):
    async with load_service(url) as service:
        yield service


@pytest.fixture
async def client(service):
    async with client_of(service) as client:
        yield client


async def opened(client, name, balance):
    response = await client.post("/accounts", json={"name": name, "balance": balance})
    assert response.status_code == 201, response.text
    return response.json()["id"]


def transfer(sender, recipient, amount, key):
    return {"sender": sender, "recipient": recipient, "amount": amount, "request_key": key}


async def balances(client):
    accounts = (await client.get("/accounts")).json()["accounts"]
    return {account["name"]: account["balance"] for account in accounts}


async def made(client):
    return (await client.get("/transfers?limit=100")).json()["transfers"]


async def test_an_account_is_there_once_it_was_opened(client):
    response = await client.post("/accounts", json={"name": "Ada", "balance": 100})
    assert response.status_code == 201
    page = (await client.get("/accounts")).json()
    assert page == {"accounts": [response.json()], "next": None}


async def test_a_name_is_taken_once(client):
    await opened(client, "Ada", 100)
    response = await client.post("/accounts", json={"name": "Ada", "balance": 5})
    assert response.status_code == 409
    assert response.json() == {"detail": "There is an account named Ada already."}
    assert await balances(client) == {"Ada": 100}


@pytest.mark.parametrize("name", ["", "=1+1", "-1", "@x", "a" * 61, "a\nb"])
async def test_a_name_that_could_be_a_formula_or_break_a_line_is_refused(client, name):
    response = await client.post("/accounts", json={"name": name})
    assert response.status_code == 422
    assert await balances(client) == {}


async def test_spaces_around_a_name_make_no_other_name(client):
    await opened(client, " Ada", 100)
    response = await client.post("/accounts", json={"name": "Ada ", "balance": 5})
    assert response.status_code == 409
    assert await balances(client) == {"Ada": 100}


async def test_names_are_told_apart_alike_on_every_backend(client):
    for name in ("Ada", "ADA", "\u00c1da"):
        await opened(client, name, 5)
    assert await balances(client) == {"Ada": 5, "ADA": 5, "\u00c1da": 5}


async def test_a_transfer_moves_money(client):
    ada, grace = await opened(client, "Ada", 100), await opened(client, "Grace", 0)
    response = await client.post("/transfers", json=transfer(ada, grace, 30, "key-00001"))
    assert response.status_code == 201
    assert await balances(client) == {"Ada": 70, "Grace": 30}
    assert await made(client) == [response.json()]
    assert response.json()["made_at"].endswith("Z")


async def test_a_repeated_request_moves_it_once_and_is_answered_again(client):
    ada, grace = await opened(client, "Ada", 100), await opened(client, "Grace", 0)
    wanted = transfer(ada, grace, 100, "key-00001")  # all of it: a repeat finds nothing left
    first = await client.post("/transfers", json=wanted)
    again = await client.post("/transfers", json=wanted)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert await balances(client) == {"Ada": 0, "Grace": 100}


async def test_repeats_side_by_side_move_it_once(client):
    ada, grace = await opened(client, "Ada", 100), await opened(client, "Grace", 0)
    wanted = transfer(ada, grace, 60, "key-00001")
    answers = await asyncio.gather(*(client.post("/transfers", json=wanted) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.text for answer in answers}) == 1
    assert await balances(client) == {"Ada": 40, "Grace": 60}


async def test_a_key_is_for_one_transfer(client):
    ada, grace = await opened(client, "Ada", 100), await opened(client, "Grace", 0)
    await client.post("/transfers", json=transfer(ada, grace, 30, "key-00001"))
    response = await client.post("/transfers", json=transfer(ada, grace, 31, "key-00001"))
    assert response.status_code == 422
    assert response.json() == {"detail": "This request key was used for another transfer."}
    assert await balances(client) == {"Ada": 70, "Grace": 30}


async def test_keys_that_differ_in_case_alone_are_two_keys(client):
    ada, grace = await opened(client, "Ada", 100), await opened(client, "Grace", 0)
    for key in ("KEY-00001", "key-00001", "k\u00e9y-00001"):
        response = await client.post("/transfers", json=transfer(ada, grace, 30, key))
        assert response.status_code == 201
    assert await balances(client) == {"Ada": 10, "Grace": 90}


async def test_money_that_is_not_there_does_not_move(client):
    ada, grace = await opened(client, "Ada", 100), await opened(client, "Grace", 0)
    response = await client.post("/transfers", json=transfer(ada, grace, 101, "key-00001"))
    assert response.status_code == 409
    assert response.json() == {"detail": "There is not enough money in that account."}
    assert await balances(client) == {"Ada": 100, "Grace": 0}
    assert await made(client) == []


async def test_nothing_moves_to_an_account_that_is_not_there(client):
    ada = await opened(client, "Ada", 100)
    response = await client.post("/transfers", json=transfer(ada, ada + 7, 30, "key-00001"))
    assert response.status_code == 404
    assert response.json() == {"detail": f"There is no account {ada + 7}."}
    assert await balances(client) == {"Ada": 100}


@pytest.mark.parametrize(
    ("sender", "recipient", "amount", "key"),
    [(1, 1, 5, "key-00001"), (1, 2, 0, "key-00001"), (1, 2, -5, "key-00001"), (1, 2, 5, "short")],
)
async def test_a_transfer_that_makes_no_sense_is_refused(client, sender, recipient, amount, key):
    response = await client.post("/transfers", json=transfer(sender, recipient, amount, key))
    assert response.status_code == 422


@pytest.mark.parametrize(
    "amount",
    ["NaN", "Infinity", "-Infinity", "1e400", "1.5", "true", '"5"', "null", "[1]", "1" * 25],
)
async def test_an_amount_that_is_no_whole_number_of_cents_is_refused_and_said(client, amount):
    ada, grace = await opened(client, "Ada", 100), await opened(client, "Grace", 0)
    wanted = f'"sender": {ada}, "recipient": {grace}, "amount": {amount}'
    text = f'{{{wanted}, "request_key": "key-00001"}}'
    response = await post_json(client, "/transfers", text)
    assert response.status_code == 422
    (wrong,) = response.json()["detail"]
    assert wrong["loc"] == ["body", "amount"]
    assert "Input should be" in wrong["msg"]
    assert await balances(client) == {"Ada": 100, "Grace": 0}


async def test_half_a_character_in_a_name_is_refused(client):
    response = await post_json(client, "/accounts", r'{"name": "Ada \ud800"}')
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "name"]


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "null", '{"sender": ', "9" * 5000])
async def test_what_is_no_transfer_is_refused(client, text):
    response = await post_json(client, "/transfers", text)
    assert response.status_code in (400, 422)
    assert "detail" in response.json()


async def post_json(client, path, text):
    return await client.post(path, content=text, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    "path",
    [
        "/accounts?limit=0",
        "/accounts?limit=101",
        "/accounts?after=-1",
        f"/accounts?after={2**63}",
        "/transfers?limit=0",
        "/transfers?limit=101",
        "/transfers?before=0",
        f"/transfers?before={2**63}",
        "/transfers?before=NaN",
    ],
)
async def test_a_page_out_of_bounds_is_refused(client, path):
    assert (await client.get(path)).status_code == 422


@pytest.mark.parametrize("path", [f"/accounts?after={2**63 - 1}", "/transfers?before=1"])
async def test_a_page_beyond_the_last_is_empty(client, path):
    await opened(client, "Ada", 100)
    page = (await client.get(path)).json()
    assert page.pop("next") is None
    assert list(page.values()) == [[]]


async def test_transfers_in_circles_keep_the_total(client):
    ids = [await opened(client, f"account {n}", 1000) for n in range(4)]
    wanted = [
        transfer(ids[n % 4], ids[(n + 1 + n % 3) % 4], 7, f"circle-{n:04}") for n in range(60)
    ]
    answers = await asyncio.gather(*(client.post("/transfers", json=each) for each in wanted))
    assert {answer.status_code for answer in answers} == {201}
    assert len(await made(client)) == 60
    assert sum((await balances(client)).values()) == 4000


async def test_the_same_money_is_spent_once_however_many_ask_for_it_at_once(client):
    ids = [await opened(client, f"account {n}", 100) for n in range(3)]
    wanted = [transfer(ids[0], ids[1 + n % 2], 40, f"spend-{n:05}") for n in range(20)]
    # The other way round beside them, so that they meet on the same rows.
    wanted += [transfer(ids[1], ids[2], 100, f"other-{n:05}") for n in range(5)]
    wanted += [transfer(ids[2], ids[1], 10, f"third-{n:05}") for n in range(5)]
    answers = await asyncio.gather(*(client.post("/transfers", json=each) for each in wanted))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert sum(answer.status_code == 201 for answer in answers[:20]) == 2
    left = await balances(client)
    assert left["account 0"] == 20
    assert min(left.values()) >= 0
    assert sum(left.values()) == 300


async def test_accounts_come_page_by_page(client):
    for n in range(5):
        await opened(client, f"account {n}", n)
    names, after = [], 0
    while after is not None:
        page = (await client.get(f"/accounts?limit=2&after={after}")).json()
        names.append([account["name"] for account in page["accounts"]])
        after = page["next"]
    assert names == [["account 0", "account 1"], ["account 2", "account 3"], ["account 4"]]


async def test_a_transfer_made_meanwhile_does_not_shift_the_pages(client):
    ada, grace = await opened(client, "Ada", 100), await opened(client, "Grace", 0)
    for n in range(5):
        await client.post("/transfers", json=transfer(ada, grace, n + 1, f"key-{n:05}"))
    first = (await client.get("/transfers?limit=2")).json()
    await client.post("/transfers", json=transfer(ada, grace, 50, "key-meanwhile"))
    second = (await client.get(f"/transfers?limit=3&before={first['next']}")).json()
    assert [each["amount"] for each in first["transfers"]] == [5, 4]
    assert [each["amount"] for each in second["transfers"]] == [3, 2, 1]
    assert second["next"] is None


async def test_the_export_has_every_transfer(client, service):
    ada, grace = await opened(client, "Ada, the first", 1200), await opened(client, "Grace", 0)
    for n in range(1200):  # more than one batch of a cursor
        await service.db.execute(
            "insert into ledger_transfer (request_key, sender, recipient, amount, made_at) "
            "values (:request_key, :sender, :recipient, :amount, current_timestamp)",
            transfer(ada, grace, 1, f"key-{n:05}"),
        )
    response = await client.get("/transfers.csv")
    head, *lines = csv.reader(response.text.splitlines())
    assert head == ["id", "made_at", "sender", "recipient", "cents"]
    assert len(lines) == 1200
    assert lines[0][2:] == ["Ada, the first", "Grace", "1"]
    assert service.db.pool.stats().in_use == 0


async def test_a_database_that_is_too_busy_is_a_503_and_then_it_serves_again(load_service, url):
    small = f"{url}{'&' if '?' in url else '?'}max_size=1&acquire_timeout=0.05"
    async with load_service(small) as service, client_of(service) as client:
        async with service.db.pool.acquire():
            response = await client.post("/accounts", json={"name": "Ada", "balance": 5})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert await balances(client) == {}
        await opened(client, "Ada", 5)


async def test_its_connection_is_back_as_soon_as_an_export_has_ended_midway(client, service):
    from starlette.requests import ClientDisconnect

    ada, grace = await opened(client, "Ada", 100), await opened(client, "Grace", 0)
    for n in range(5):
        await client.post("/transfers", json=transfer(ada, grace, 1, f"key-{n:05}"))
    scope = {"type": "http", "method": "GET", "path": "/transfers.csv", "query_string": b""}
    scope |= {"headers": [], "asgi": {"version": "3.0", "spec_version": "2.4"}}
    in_use = []

    async def send(message):
        in_use.append(service.db.pool.stats().in_use)
        if len(in_use) == 4:  # the response's start, the titles and one transfer were taken
            raise OSError

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    # The error is kept: it holds on to the stream, as a log or a debugger might.
    with pytest.raises(ClientDisconnect) as _kept:
        await service.app(scope, receive, send)
    assert in_use[-1] == 1
    assert service.db.pool.stats().in_use == 0


async def test_several_start_at_once_on_an_empty_database(load_service, url):
    async with load_service(f"{url}{'&' if '?' in url else '?'}min_size=8") as service:

        async def start():
            async with service.tables(service.app), client_of(service) as client:
                return await balances(client)

        for _ in range(5):  # each is a race
            for table in ("ledger_transfer", "ledger_account"):
                await service.db.execute(f"drop table {table}")
            assert await asyncio.gather(*(start() for _ in range(8))) == [{}] * 8


async def test_it_starts_again_on_tables_that_are_there(client, service):
    await opened(client, "Ada", 100)
    async with service.tables(service.app):
        assert await balances(client) == {"Ada": 100}


def test_the_program_serves_and_prints_its_address(start_service, url):
    with start_service(url) as address, httpx.Client(base_url=address) as client:
        page = client.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "<h1>Ledger</h1>" in page.text
        opened = client.post("/accounts", json={"name": "Ada", "balance": 5})
        assert opened.status_code == 201
        assert client.get("/accounts").json()["accounts"] == [opened.json()]
        assert len(client.get("/transfers.csv").text.splitlines()) == 1


def test_the_first_command_of_the_readme_starts_it():
    root = SERVICE.parent.parent.parent
    first = re.search(r"^```sh\n(.+)\n```", (root / "README.md").read_text("utf-8"), re.MULTILINE)
    create, install, start = first[1].split(" && ")
    assert create == "python3 -m venv .venv"
    assert install == ".venv/bin/pip install '.[examples]'"
    assert start == f".venv/bin/python {SERVICE.relative_to(root).as_posix()}"
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    assert "examples" in project["optional-dependencies"]


def test_sqlite_needs_no_driver_of_a_server(start_service, sqlite_url, tmp_path):
    for name in ("asyncpg", "aiomysql"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})")
    with start_service(sqlite_url, tmp_path) as address:
        assert httpx.get(f"{address}/accounts").json() == {"accounts": [], "next": None}


def test_a_client_that_hangs_up_midway_leaves_no_connection_behind(start_service, url):
    small = f"{url}{'&' if '?' in url else '?'}max_size=1&acquire_timeout=5"
    with start_service(small) as address, httpx.Client(base_url=address) as client:
        asyncio.run(fill(url, 40_000))
        place = urlsplit(address)
        for _ in range(3):
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.connect((place.hostname, place.port))
                slow.sendall(b"GET /transfers.csv HTTP/1.1\r\nHost: ledger\r\n\r\n")
                assert slow.recv(12) == b"HTTP/1.1 200"
        assert len(client.get("/transfers").json()["transfers"]) == 20


async def fill(url, count):
    """Make an export that no buffers between a server and its client have room for."""
    async with aiodbkit.create_engine(url) as db:
        names = ["Ada".ljust(60, "a"), "Grace".ljust(60, "e")]
        accounts = [(name, 5) for name in names]
        await db.insert_many("ledger_account", accounts, columns=["name", "balance"])
        ids = await db.fetch_column("select id from ledger_account order by id")
        now = datetime.now(UTC)
        transfers = [transfer(*ids, 1, f"key-{n:05}") | {"made_at": now} for n in range(count)]
        await db.insert_many("ledger_transfer", transfers)
