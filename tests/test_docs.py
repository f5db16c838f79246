"""The pages tell the truth: their examples run, their tables are those of the code, links lead on.

The examples of a page share a namespace, in order, and run in an empty folder on SQLite. One that
needs a server says so in a comment before it, ``<!-- needs: postgres -->`` or ``mysql``; those of
a page share a namespace of their own, and the URL of the page gives way to the tests'. So do those
of another library, ``<!-- needs: peewee -->``, which are run where it is installed. One that
cannot be run, ``<!-- not run: reason -->``, is compiled all the same. One before a text that
begins with ``aiodbkit.errors.`` has to end in that error, with that message; "…" is any text.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import importlib
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
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACEHOLDERS = {
    "postgres": "postgresql://app:secret@localhost/app",
    "mysql": "mysql://app:secret@localhost/app",
    "asyncpg": "postgresql://app:secret@localhost/app",
}

# Other libraries, which a page shows beside ours.
OTHERS = ("apsw", "asyncpg", "databases", "peewee", "sqlalchemy")

_EXAMPLE = re.compile(
    r"(?:^<!-- (?P<mark>needs|not run): (?P<what>.+?) -->\n+)?^```python\n(?P<code>.*?)^```$"
    r"(?:\n+^```text\n(?P<error>aiodbkit\.errors\..*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')
_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Example(typing.NamedTuple):
    """One block of Python, and the line of the page that it begins in."""

    page: Path
    line: int
    code: str
    needs: str  # "sqlite" where nothing is said
    runs: bool
    error: str | None  # what it ends in


def examples_of(page: Path) -> Iterator[Example]:
    text = page.read_text(encoding="utf-8")
    for found in _EXAMPLE.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        needs = found["what"] if found["mark"] == "needs" else "sqlite"
        yield Example(page, line, found["code"], needs, found["mark"] != "not run", found["error"])


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
                    placeholder = PLACEHOLDERS.get(name, "")
                    code = example.code.replace(placeholder, url) if url else example.code
                    run_one(example, compiled(example, code), runner, namespace)
        finally:
            for engine in namespace.values():
                if isinstance(engine, aiodbkit.Engine):
                    runner.run(engine.close())


def run_one(example, code, runner, namespace):
    with ends_in(example):
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(eval(code, namespace))
        else:
            exec(code, namespace)


@contextlib.contextmanager
def ends_in(example):
    """The error that the page tells, and no other, comes out of the block."""
    if example.error is None:
        yield
        return
    where = f"{example.page.name}:{example.line}"
    try:
        yield
    except aiodbkit.Error as error:
        shown = f"{type(error).__module__}.{type(error).__name__}: {error}"
        assert is_told(shown, example.error), f"{where} ends in {shown}"
    else:
        pytest.fail(f"{where} raises nothing")


def is_told(shown: str, told: str) -> bool:
    """Whether the lines of a page say what is shown, however they are wrapped."""
    pieces = (" ".join(told.split())).split("…")
    return re.fullmatch(".*".join(map(re.escape, pieces)), " ".join(shown.split())) is not None


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


@pytest.mark.filterwarnings("default")  # their warnings are not ours to mend
@pytest.mark.usefixtures("_empty_folder")
@pytest.mark.parametrize("library", OTHERS)
def test_the_examples_of_another_library_run(library, request):
    pytest.importorskip(library)
    url = request.getfixturevalue("postgres_url") if library in PLACEHOLDERS else None
    (page,) = pages_that_need(library)
    run(page.values[0], library, url)


def test_every_example_is_found_and_is_python():
    fences = sum(page.read_text(encoding="utf-8").count("```python") for page in PAGES)
    assert len(EXAMPLES) == fences
    assert {example.needs for example in EXAMPLES} <= {"sqlite", *PLACEHOLDERS, *OTHERS}
    for example in EXAMPLES:
        compiled(example, example.code)


# Tables.


def cells(page: str) -> Iterator[list[str]]:
    """Yield the rows of all tables of a page."""
    return rows_of((ROOT / "docs" / page).read_text(encoding="utf-8"))


def rows_of(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
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
    known = getattr(aiodbkit, engine)(database="x").driver_options()
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


WITH_A_PAGE = [name for name in errors.__all__ if name not in ("Error", "Rollback")]


def page_of(name: str) -> str:
    """Return where the page of an error is: errors/pool-timeout.md for PoolTimeoutError."""
    words = re.findall("[A-Z][a-z]+", name.removesuffix("Error"))
    return f"errors/{'-'.join(words).lower()}.md"


def test_every_error_has_a_page_that_the_overview_links_to_and_no_other_page_is_there():
    folder = ROOT / "docs" / "errors"
    told = {f"errors/{page.name}" for page in folder.iterdir()}
    assert told == {page_of(name) for name in WITH_A_PAGE}
    links = {row[0] for row in cells("errors.md") if "](errors/" in row[0]}
    assert links == {
        f'<a id="{name.lower()}"></a>[{name}]({page_of(name)})' for name in WITH_A_PAGE
    }


@pytest.mark.parametrize("name", WITH_A_PAGE)
def test_the_page_of_an_error_says_what_causes_it_and_what_helps(name):
    page = sections(page_of(name))
    assert name in page
    rows = [row for row in rows_of(page["Causes and cures"]) if not set(row[0]) <= {"-"}]
    assert rows[0] == ["cause", "cure"]
    assert len(rows) > 1
    for row in rows:
        assert len(row) == 2
        assert all(row)
    assert page["Afterwards"].strip()


@pytest.mark.parametrize("name", WITH_A_PAGE)
def test_the_page_of_an_error_names_its_bases_and_shows_its_message(name):
    page = sections(page_of(name))
    for base in getattr(errors, name).__bases__:
        if base.__module__ == "builtins":
            assert f"`{base.__name__}`" in page[name]
        elif base not in (errors.Error, errors.DatabaseError):
            assert f"[{base.__name__}]({Path(page_of(base.__name__)).name})" in page[name]
    if name != "SessionClosedError":  # nothing raises it yet
        assert f"```text\naiodbkit.errors.{name}: " in page["What it looks like"]


@pytest.mark.parametrize("name", WITH_A_PAGE)
def test_the_page_of_an_error_says_whether_it_is_transient(name):
    found = re.search(r"\*\*Transient:\*\* (yes|no|only)", sections(page_of(name))["Afterwards"])
    assert found, f"{name}: the page does not say it"
    assert (found[1] == "yes") == getattr(errors, name).is_transient
    (row,) = [row for row in cells("errors.md") if f"[{name}](" in row[0]]
    assert row[2].startswith(found[1])


def codes_of(backend: str) -> dict[str, set[str]]:
    """Return the codes that a backend turns into each class, by the class's name."""
    pytest.importorskip(
        {"postgres": "asyncpg", "mysql": "aiomysql", "sqlite": "aiosqlite"}[backend]
    )
    name = "sqlstates" if backend == "postgres" else "errors"
    module = importlib.import_module(f"aiodbkit.backends.{backend}.{name}")
    codes: dict[str, set[str]] = {}
    for table in ("_BY_STATE", "_BY_NUMBER", "_BY_CODE", "_BY_PRIMARY"):
        for code, kind in getattr(module, table, {}).items():
            codes.setdefault(kind.__name__, set()).add(str(code))
    return codes


@pytest.mark.parametrize(
    ("backend", "told_as"),
    [("postgres", "PostgreSQL"), ("mysql", "MySQL, MariaDB"), ("sqlite", "SQLite")],
)
def test_the_pages_of_the_errors_have_the_codes_of_the_backends(backend, told_as):
    codes = codes_of(backend)
    assert codes
    for name in WITH_A_PAGE:
        rows = rows_of(sections(page_of(name)).get("Codes", ""))
        told = {code for row in rows if row[0] == told_as for code in named(row[1])}
        # 57014 is in no table: it has a rule of its own.
        assert told - {"57014"} == codes.get(name, set()), name


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
            there = {*map(slug, _HEADING.findall(body)), *_ANCHOR.findall(body)}
            assert anchor in there, f"{page.name} links to {link}"


def test_every_page_is_listed():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {link.partition("#")[0] for link in _LINK.findall(index)}
    # Those of a folder of their own are listed by its overview.
    there = {page.name for page in PAGES if page.parent.name != "errors"}
    assert listed == there - {"README.md", "index.md"}


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
