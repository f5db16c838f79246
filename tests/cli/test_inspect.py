"""``inspect`` prints classes that import, and that rows of their tables fit into."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import typing
from datetime import UTC, date, datetime, time
from decimal import Decimal
from uuid import UUID

import pytest

from aiodbkit.cli import main
from tests.contract.dialects import DIALECTS

STYLES = ["dataclass", "pydantic", "msgspec", "typeddict"]
VALUES = {
    "int": 7,
    "bigint": 2**40,
    "float": 1.5,
    "str": "text",
    "bytes": b"\0x",
    "bool": True,
    "decimal": Decimal("1.2500000000"),
    "date": date(2024, 2, 29),
    "time": time(12, 30),
    "naive": datetime(2024, 2, 29, 12),
    "aware": datetime(2024, 2, 29, 12, tzinfo=UTC),
    "uuid": UUID(int=5),
    "json": {"a": [1]},
}


@pytest.fixture
def inspect(url, capsys, tmp_path):
    """``inspect("--style", "pydantic")`` returns the printed module, imported."""
    imported = []

    def run(*arguments):
        assert main(["inspect", url, *arguments]) == 0
        name = f"printed_{len(imported)}_{tmp_path.name}"
        file = tmp_path / f"{name}.py"
        file.write_text(capsys.readouterr().out)
        spec = importlib.util.spec_from_file_location(name, file)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        imported.append(name)
        spec.loader.exec_module(module)
        return module

    yield run
    for name in imported:
        del sys.modules[name]


@pytest.fixture
async def table(db, backend):
    """A table with a column of each type, in which each may be NULL or not."""
    types = DIALECTS[backend].types
    columns = [f"v_{kind} {declared} not null" for kind, declared in types.items()]
    columns += [f"n_{kind} {declared} null" for kind, declared in types.items()]
    await db.execute(f"create table every_type ({', '.join(columns)})")
    given = {f"v_{kind}": VALUES[kind] for kind in types}
    await db.insert_many("every_type", [given])
    return [*given, *(f"n_{kind}" for kind in types)]


@pytest.mark.parametrize("style", STYLES)
async def test_the_class_takes_the_rows_of_its_table(db, inspect, table, style):
    module = await asyncio.to_thread(inspect, "--style", style)
    row = await db.fetch_one("select * from every_type", into=module.EveryType)
    values = row if style == "typeddict" else {name: getattr(row, name) for name in table}
    for kind, value in VALUES.items():
        found = values[f"v_{kind}"]
        if not isinstance(found, str):  # what MySQL and MariaDB return as text
            assert found == value
        assert values[f"n_{kind}"] is None


async def test_the_types_are_those_of_the_values_that_come_back(db, inspect, table):
    module = await asyncio.to_thread(inspect)
    row = await db.fetch_one("select * from every_type", into=module.EveryType)
    for name, hint in typing.get_type_hints(module.EveryType).items():
        if hint is not typing.Any:
            assert isinstance(getattr(row, name), hint), name


@pytest.mark.parametrize("style", STYLES)
async def test_odd_names_of_tables_and_columns_become_names_of_python(db, inspect, backend, style):
    quote = DIALECTS[backend].quote
    names = ["order id", "class", "2nd", "_id", "json", "model_name", "date"]
    columns = ", ".join(f"{quote}{name}{quote} integer not null" for name in names)
    await db.execute(f"create table {quote}odd table{quote} ({columns})")
    await db.execute("create table decimal_ (id integer)")
    await db.insert_many("odd table", [dict.fromkeys(names, 3)])
    module = await asyncio.to_thread(inspect, "--style", style, "odd table", "decimal_")
    select = f"select * from {quote}odd table{quote}"
    if style == "dataclass":  # which has no names but its own
        taken = {"order id": "order_id", "class": "class_", "2nd": "c_2nd"}
        selected = (f"{quote}{name}{quote} as {taken.get(name, name)}" for name in names)
        select = f"select {', '.join(selected)} from {quote}odd table{quote}"
    row = await db.fetch_one(select, into=module.OddTable)
    if style == "typeddict":
        assert row == dict.fromkeys(names, 3)
    else:
        assert (row.order_id, row.class_, row.c_2nd, row.date) == (3, 3, 3, 3)
    assert hasattr(module, "Decimal_2")  # beside decimal.Decimal


async def test_only_the_named_tables_are_printed(db, inspect, run, url):
    await db.execute("create table one (id integer)")
    await db.execute("create table two (id integer)")
    module = await asyncio.to_thread(inspect, "two")
    assert hasattr(module, "Two")
    assert not hasattr(module, "One")
    done = run("inspect", url, "twoo")
    assert done.returncode == 1
    assert done.stderr.startswith("aiodbkit: there is no table 'twoo' (did you mean 'two'?)")


async def test_the_table_of_migrations_is_left_out(db, inspect, run, url, migrations):
    assert run("migrate", url, migrations).returncode == 0
    module = await asyncio.to_thread(inspect)
    assert not hasattr(module, "AiodbkitMigrations")
    assert hasattr(module, "Users")
