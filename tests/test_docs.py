"""The pages tell the truth: their examples run, their tables are those of the code, links lead on.

The examples of a page share a namespace, in order, and run in an empty folder on SQLite. One that
needs a server says so in a comment before it, ``<!-- needs: postgres -->`` or ``mysql``; those of
a page share a namespace of their own, and the URL of the page gives way to the tests'. One that
cannot be run, ``<!-- not run: reason -->``, is compiled all the same.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiodbkit
from aiodbkit import errors
from aiodbkit.options import EngineOptions, Isolation, PoolOptions

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACEHOLDERS = {
    "postgres": "postgresql://app:secret@localhost/app",
    "mysql": "mysql://app:secret@localhost/app",
}

_EXAMPLE = re.compile(
    r"(?:^<!-- (?P<mark>needs|not run): (?P<what>.+?) -->\n+)?^```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Example(typing.NamedTuple):
    """One block of Python, and the line of the page that it begins in."""

    page: Path
    line: int
    code: str
    needs: str  # "sqlite" where nothing is said
    runs: bool


def examples_of(page: Path) -> Iterator[Example]:
    text = page.read_text(encoding="utf-8")
    for found in _EXAMPLE.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        needs = found["what"] if found["mark"] == "needs" else "sqlite"
        yield Example(page, line, found["code"], needs, found["mark"] != "not run")


EXAMPLES = [example for page in PAGES for example in examples_of(page)]


def pages_that_need(name: str) -> list[typing.Any]:
    pages = dict.fromkeys(example.page for example in EXAMPLES if example.needs == name)
    return [pytest.param(page, id=page.stem) for page in pages]


def compiled(example: Example, code: str) -> typing.Any:
    """Compile, with await allowed outside of functions; errors tell the page's lines."""
    shifted = "\n" * (example.line - 1) + code
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compile(shifted, str(example.page), "exec", flags=flags, dont_inherit=True)


def run(page: Path, name: str, url: str | None = None) -> None:
    """Run the examples of a page that need ``name``, one after the other."""
    namespace: dict[str, typing.Any] = {"__name__": "example"}
    with asyncio.Runner() as runner:
        try:
            for example in EXAMPLES:
                if (example.page, example.needs, example.runs) == (page, name, True):
                    run_one(example, runner, namespace, PLACEHOLDERS.get(name, ""), url)
        finally:
            for engine in namespace.values():
                if isinstance(engine, aiodbkit.Engine):
                    runner.run(engine.close())


def run_one(example, runner, namespace, placeholder, url):
    code = compiled(example, example.code.replace(placeholder, url) if url else example.code)
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(eval(code, namespace))
    else:
        exec(code, namespace)


@pytest.fixture
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_empty_folder")
@pytest.mark.parametrize("page", pages_that_need("sqlite"))
def test_the_examples_of_a_page_run(page):
    run(page, "sqlite")


@pytest.mark.usefixtures("_empty_folder")
@pytest.mark.parametrize("page", pages_that_need("postgres"))
def test_the_examples_for_postgresql_run(page, postgres_url):
    run(page, "postgres", postgres_url)


@pytest.mark.usefixtures("_empty_folder")
@pytest.mark.parametrize("page", pages_that_need("mysql"))
def test_the_examples_for_mysql_run(page, mysql_url):
    run(page, "mysql", mysql_url)


def test_every_example_is_found_and_is_python():
    fences = sum(page.read_text(encoding="utf-8").count("```python") for page in PAGES)
    assert len(EXAMPLES) == fences
    assert {example.needs for example in EXAMPLES} <= {"sqlite", "postgres", "mysql"}
    for example in EXAMPLES:
        compiled(example, example.code)


# Tables.


def cells(page: str) -> Iterator[list[str]]:
    """Yield the rows of all tables of a page."""
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def default_in(page: str, option: str) -> object:
    for row in cells(page):
        if len(row) > 1 and named(row[0]) == [option]:
            return ast.literal_eval(row[1].strip("`"))
    raise AssertionError(f"{page} has no row for {option}")


@pytest.mark.parametrize(
    ("page", "options"),
    [
        ("pool.md", PoolOptions),
        ("connecting.md", EngineOptions),
        ("transactions.md", aiodbkit.RetryPolicy),
    ],
)
def test_every_option_is_in_a_table_with_its_default(page, options):
    for field in dataclasses.fields(options):
        told = default_in(page, field.name)
        assert (told, type(told)) == (field.default, type(field.default)), field.name


@pytest.mark.parametrize("engine", ["SQLiteEngine", "PostgresEngine", "MySQLEngine"])
def test_every_option_of_a_driver_is_in_a_table(engine):
    told = {name for row in cells("connecting.md") for name in named(row[0])}
    known = getattr(aiodbkit, engine).driver_options()
    # The options of asyncpg.connect() are asyncpg's to tell, those that have a type are ours.
    ours = {name.partition(".")[0] for name, kind in known.items() if kind is not object}
    ours = {"pragmas" if name == "pragma" else name for name in ours}
    assert ours <= told


def test_every_figure_of_the_pool_is_in_a_table():
    told = {name for row in cells("pool.md") for name in named(row[0])}
    assert {field.name for field in dataclasses.fields(aiodbkit.PoolStats)} <= told


@pytest.mark.parametrize("level", typing.get_args(Isolation))
def test_the_isolation_levels_are_those_that_the_backends_take(level):
    (row,) = [row for row in cells("transactions.md") if row[0] == f'`isolation="{level}"`']
    for told, engine in zip(row[1:], ("SQLite", "Postgres", "MySQL"), strict=True):
        driver = getattr(aiodbkit, f"{engine}Engine")(database="x")._driver
        assert (level in driver.capabilities.isolation_levels) == told.startswith("yes")


# Errors.


def sections(page: str) -> dict[str, str]:
    """Return the text below each heading of a page."""
    pieces = re.split(r"^#+ (.+)$", (ROOT / "docs" / page).read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def test_every_error_has_its_section_and_no_other_name_has_one():
    assert set(sections("errors.md")) == {"Errors", *errors.__all__}


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n not in ("Error", "Rollback")])
def test_a_section_says_whether_the_error_is_transient(name):
    found = re.search(r"\*\*Transient:\*\* (yes|no|only)", sections("errors.md")[name])
    assert found, f"{name}: the section does not say it"
    assert (found[1] == "yes") == getattr(errors, name).is_transient


def test_the_tree_of_errors_is_that_of_the_code():
    told = re.findall(r"^[│ ├└─]*─ (\w+)", sections("errors.md")["Errors"], re.MULTILINE)
    assert set(told) == set(errors.__all__) - {"Error", "Rollback"}


# Names.


def slug(heading: str) -> str:
    """Return the anchor that Git hosts make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        path, _, anchor = link.partition("#")
        if path.startswith(("https:", "../aiodbkit/")):  # the wheel's tests have no source beside
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            body = _FENCED.sub("", target.read_text(encoding="utf-8"))
            assert anchor in map(slug, _HEADING.findall(body)), f"{page.name} links to {link}"


def test_every_page_is_listed():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {link.partition("#")[0] for link in _LINK.findall(index)}
    assert listed == {page.name for page in PAGES} - {"README.md", "index.md"}


def test_every_test_that_a_page_names_is_there():
    there = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8")))
    for page in PAGES:
        told = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
        assert not told - there, page.name


def test_every_module_is_in_the_picture_of_the_house():
    picture = sections("architecture.md")["The tree"]
    package = Path(aiodbkit.__file__).parent
    for file in package.rglob("*.py"):
        assert re.search(rf"^ +{re.escape(file.name)} ", picture, re.MULTILINE) or (
            file.name == "__init__.py"
        ), f"{file.relative_to(package)} is not there"
    told = set(re.findall(r"^ +(\w+\.py) ", picture, re.MULTILINE))
    assert told <= {file.name for file in package.rglob("*.py")}
