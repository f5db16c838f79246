"""The plan of the house, kept: floors, no cycles, a complete face, a light import."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import aiodbkit

PACKAGE = Path(aiodbkit.__file__).parent
TESTS = Path(__file__).parent
LINES = 500

# A module imports from its own floor and those below. A package's entry holds for all in it,
# a longer name goes before a shorter one.
FLOORS = {
    "aiodbkit.errors": 0,
    "aiodbkit._text": 1,
    "aiodbkit.events": 1,
    "aiodbkit.inserting": 1,
    "aiodbkit.into": 1,
    "aiodbkit.options": 1,
    "aiodbkit.rows": 1,
    "aiodbkit.sql": 1,
    "aiodbkit.turns": 1,
    "aiodbkit.url": 1,
    "aiodbkit.wire": 1,
    "aiodbkit.driver": 2,
    "aiodbkit.querylog": 2,
    "aiodbkit.configuration": 3,
    "aiodbkit.core_statements": 3,
    "aiodbkit.retry": 3,
    "aiodbkit.pool": 4,
    "aiodbkit.blocks": 5,
    "aiodbkit.connection": 5,
    "aiodbkit.lasting": 5,
    "aiodbkit.persistent": 5,
    "aiodbkit.observation": 5,
    "aiodbkit.hooks": 5,
    "aiodbkit.scope": 5,
    "aiodbkit.shared": 5,
    "aiodbkit.stream": 5,
    "aiodbkit.transaction": 5,
    "aiodbkit.verbs": 5,
    "aiodbkit.watched": 5,
    "aiodbkit.engine": 6,
    "aiodbkit.engine_pool": 6,
    "aiodbkit.loopthread": 6,
    "aiodbkit.portal": 6,
    "aiodbkit.session": 6,
    "aiodbkit.sync": 6,
    "aiodbkit.backends": 7,
    "aiodbkit.inspection": 7,
    "aiodbkit.lifespan": 7,
    "aiodbkit.proxy": 7,
    "aiodbkit.factory": 8,
    "aiodbkit.migrations": 8,
    "aiodbkit.replicas": 8,
    "aiodbkit": 9,
    "aiodbkit.cli": 9,
    "aiodbkit.__main__": 10,
    "aiodbkit.ext": 10,
    "aiodbkit.testing": 10,
}

DRIVERS = {"aiomysql", "aiosqlite", "apsw", "asyncmy", "asyncpg", "psycopg", "pymysql", "sqlite3"}
FRAMEWORKS = {"attr", "attrs", "msgspec", "pydantic", "pytest", "sqlalchemy"} | {
    path.stem for path in (PACKAGE / "ext").glob("[a-z]*.py")
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def floor_of(module: str) -> int | None:
    """Return the floor of the longest entry that holds ``module``; the face holds only itself."""
    if module == "aiodbkit":
        return FLOORS[module]
    parents = [name for name in FLOORS if name != "aiodbkit"]
    holding = [name for name in parents if f"{module}.".startswith(f"{name}.")]
    return FLOORS[max(holding, key=len)] if holding else None


class Imports(ast.NodeVisitor):
    """Collects what a module imports when it runs, in functions too.

    Imports for type checkers only may point upwards: they make no cycle.
    """

    def __init__(self, module: str, *, is_package: bool) -> None:
        self.found: set[str] = set()
        self._package = module if is_package else module.rpartition(".")[0]

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            node = ast.If(test=node.test, body=node.orelse, orelse=[])
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {known(alias.name) for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parts = self._package.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
        self.found |= {known(f"{base}.{alias.name}") for alias in node.names}


def known(name: str) -> str:
    """Return the module of ours that holds ``name``, or its first part."""
    candidate = name
    while candidate:
        if candidate in MODULES:
            return candidate
        candidate = candidate.rpartition(".")[0]
    return name.partition(".")[0]


def imports_of(module: str) -> set[str]:
    path = MODULES[module]
    visitor = Imports(module, is_package=path.name == "__init__.py")
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return visitor.found - {module}


def public_names(module: types.ModuleType) -> Iterator[str]:
    """Yield the names of ours in a module that look public."""
    for name, value in vars(module).items():
        origin = getattr(value, "__module__", None) or ""
        if not name.startswith("_") and origin.startswith("aiodbkit"):
            yield name


def in_a_fresh_interpreter(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_floor_in_the_table(module):
    assert floor_of(module) is not None, f"give {module} a floor in FLOORS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward_only(module):
    upward = {
        f"{imported} (floor {floor_of(imported)})"
        for imported in imports_of(module) & MODULES.keys()
        if (floor_of(imported) or 0) > (floor_of(module) or 0)
    }
    assert not upward, f"{module} (floor {floor_of(module)}) imports upwards"


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imports_of(module) & MODULES.keys() for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " <- ".join(error.args[1]))


@pytest.mark.parametrize("name", sorted(aiodbkit.__all__))
def test_each_name_of_the_face_is_there(name):
    assert getattr(aiodbkit, name) is not None


def test_the_face_lists_all_its_names_once_and_in_order():
    listed = [name for name in aiodbkit.__all__ if not name.startswith("__")]
    assert listed == sorted(set(listed))
    assert set(public_names(aiodbkit)) <= set(listed)


def test_every_error_is_on_the_face():
    errors = importlib.import_module("aiodbkit.errors")
    assert set(errors.__all__) <= set(aiodbkit.__all__)


@pytest.mark.parametrize("module", [name for name in MODULES if "._" not in name])
def test_a_module_says_what_is_public_in_it(module):
    code = ast.parse(MODULES[module].read_text(encoding="utf-8")).body[1:]  # the docstring
    assigned = [ast.unparse(node.targets[0]) for node in code if isinstance(node, ast.Assign)]
    assert "__all__" in assigned or not code


def test_importing_the_face_loads_no_driver_and_no_framework():
    loaded = in_a_fresh_interpreter("import sys, json, aiodbkit; print(json.dumps([*sys.modules]))")
    packages = {name.partition(".")[0] for name in json.loads(loaded)}
    assert "aiodbkit" in packages
    assert not packages & (DRIVERS | FRAMEWORKS)


def test_the_import_time_is_reported(record_property, capsys):
    code = (
        "from time import perf_counter as now; begun = now(); import aiodbkit; print(now() - begun)"
    )
    milliseconds = min(float(in_a_fresh_interpreter(code)) for _ in range(5)) * 1000
    record_property("import_milliseconds", round(milliseconds, 1))
    with capsys.disabled():
        print(f"\nimport aiodbkit: {milliseconds:.1f} ms more than bare Python")


@pytest.mark.parametrize(
    "path",
    [*MODULES.values(), *sorted(TESTS.rglob("*.py"))],
    ids=lambda path: "/".join(path.parts[-3:]),
)
def test_a_file_stays_readable(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LINES, f"{path} has {lines} lines: split it"
