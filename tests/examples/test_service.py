"""The ledger service through HTTP, on every backend: in this process, and under uvicorn."""

from __future__ import annotations

import asyncio
import csv
import re
import tomllib
from pathlib import Path

import httpx
import pytest

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


async def test_transfers_in_circles_keep_the_total(client):
    ids = [await opened(client, f"account {n}", 1000) for n in range(4)]
    wanted = [
        transfer(ids[n % 4], ids[(n + 1 + n % 3) % 4], 7, f"circle-{n:04}") for n in range(60)
    ]
    answers = await asyncio.gather(*(client.post("/transfers", json=each) for each in wanted))
    assert {answer.status_code for answer in answers} == {201}
    assert len(await made(client)) == 60
    assert sum((await balances(client)).values()) == 4000


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
        ids = [
            client.post("/accounts", json={"name": name, "balance": 5}).json()["id"]
            for name in ("Ada", "Grace")
        ]
        client.post("/transfers", json=transfer(*ids, 1, "key-00001")).raise_for_status()
        for _ in range(3):
            with client.stream("GET", "/transfers.csv") as response:
                next(response.iter_raw())
        assert len(client.get("/transfers").json()["transfers"]) == 1
