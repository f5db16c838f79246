"""Our idea of where strings, identifiers and comments end is the server's own.

Statements are made of pieces whose values are known: ``select <piece>, <piece> ...`` with
comments between them. The scanner has to find exactly the parameters among them, and the server
has to answer with exactly the values and the column names.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiodbkit.errors import ProgrammingError
from aiodbkit.sql import Dialect, Statement, expand, split

POSTGRES, SQLITE = Dialect.POSTGRES, Dialect.SQLITE
MYSQL, MYSQL_NO_BACKSLASH = Dialect.MYSQL, Dialect.MYSQL_NO_BACKSLASH

bounded = settings(max_examples=100, deadline=None, derandomize=True)
each_dialect = pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.name.lower())


@dataclass(frozen=True)
class Piece:
    """An expression; a parameter stands in it as ``«name»``, which no other text holds."""

    sql: str
    value: object
    column: str | None = None  # the name it has in the answer, where it was given one


VALUES = {"a": "it's :a", "b_1": "\\", "_É": '"; --', "i": 2, "key": "k"}
NAME = re.compile("«(.*?)»")
HAZARDS = st.text(alphabet="'\"`[]$/*-#\\;:abE%s?@!1é😀 \n", max_size=12)
LINE = HAZARDS.map(lambda text: text.replace("\n", " "))


# Pieces.


def doubled(quote, template="{}"):
    """Strings whose quotes are doubled, and in which nothing else is special."""
    return HAZARDS.map(
        lambda text: Piece(template.format(f"{quote}{text.replace(quote, 2 * quote)}{quote}"), text)
    )


ESCAPES = {"''": "'", r"\'": "'", r"\\": "\\", r"\n": "\n", r"\"": '"', "\n": "\n"}
ESCAPES |= {text: text for text in (":a", "$$", "--", "/*", "*/", "#", ";", "%", "é")}


def escaped(template):
    """Strings in which a backslash escapes, here as the two halves of ``template``."""
    half = st.lists(st.sampled_from(list(ESCAPES)), max_size=6)
    return st.tuples(half, half).map(
        lambda halves: Piece(
            template.format(*map("".join, halves)),
            "".join(ESCAPES[each] for each in halves[0] + halves[1]),
        )
    )


def identifiers(opening, closing):
    """Columns with a quoted name."""
    # MySQL has no emoji in names, nor a space at their end.
    names = HAZARDS.map(lambda text: text.replace("😀", "").strip()).filter(bool)
    if opening == "[":  # there is no way to write a closing bracket in brackets
        names = names.filter(lambda name: "]" not in name)
    return names.map(
        lambda name: Piece(f"1 as {opening}{name.replace(closing, 2 * closing)}{closing}", 1, name)
    )


def dollar_quoted(tag):
    mark = f"${tag}$"
    bodies = HAZARDS.filter(lambda body: (body + mark).find(mark) == len(body))
    return bodies.map(lambda body: Piece(f"{mark}{body}{mark}", body))


def parameters(template):
    return st.sampled_from(["a", "b_1", "_É"]).map(
        lambda name: Piece(template.format(f"«{name}»"), VALUES[name])
    )


FIXED_IN_MYSQL = {
    "2--1": 3,
    "2-- :a\n-1": 1,
    "2--\t:a '\n-1": 1,
    "2--\x01:a\n-1": 1,
    "7 %4": 3,
    "@v:=5": 5,
    "@v :=«i»": 2,
    "_utf8mb4':a'": ":a",
    "/*! 5 + */ 1": 6,
    "/*!99999 :a + */ 1": 1,
    "/*M! length('*/ :a') */": 5,
    "/*! 5 + /* :a */ */ «i»": 7,
}
FIXED = {
    POSTGRES: {
        "'7'::int": 7,
        "B'101'::int": 5,
        r"'\'": "\\",
        r"U&'d\0061t:a'": "dat:a",
        "1 as a$b$c": 1,
        "'a'\n'''b' -- '\n '\\'": "a'b\\",
        "numbers[1:2]": [4, 5],
        "numbers[lo:hi]": [4, 5],
        "numbers[abs(lo):hi]": [4, 5],
        'numbers["lo":hi]': [4, 5],
        "numbers[«i»]": 5,
        "numbers[: «i»]": [4, 5],
        "numbers[lo : «i»]": [4, 5],
        "numbers[«i»:hi]": [5],
        "data->>«key»": "v",
        "data?«key»": True,
        "data ?| array[«key»]": True,
        "make_date(year := 2024, month:=«i», day := 1)::text": "2024-02-01",
        "7 % 4 /* :x /* :y */ ' */": 3,
        "2--1\n-1": 1,
        "2-- :a\r-1": 1,
        "2*/* :a */3": 6,
    },
    SQLITE: {r"'\'": "\\", "7 % 4": 3, "2--1\n-1": 1, "x'3a61'": b":a", "«i»+1": 3, "3/*/ */": 3},
    MYSQL: {r"'\''": "'", r'"\"\\"': '"\\', r"'a' 'b\'' 'c'": "ab'c"} | FIXED_IN_MYSQL,
    MYSQL_NO_BACKSLASH: {r"'\'": "\\", r'"\"': "\\"} | FIXED_IN_MYSQL,
}
PIECES = {
    POSTGRES: [
        doubled("'"),
        doubled("'", "N{}"),
        escaped("E'{}{}'"),
        escaped("e'{}'\n'{}'"),
        escaped("E'{}' -- ' :a\n --':a\n '{}'"),
        identifiers('"', '"'),
        dollar_quoted(""),
        dollar_quoted("tag"),
        dollar_quoted("é_1"),
        parameters("{}::text"),
        parameters("cast({} as text)"),
    ],
    SQLITE: [
        doubled("'"),
        identifiers('"', '"'),
        identifiers("`", "`"),
        identifiers("[", "]"),
        parameters("{}"),
    ],
    MYSQL: [
        escaped("'{}{}'"),
        escaped("'{}' '{}'"),
        doubled('"').filter(lambda piece: "\\" not in piece.sql),
        identifiers("`", "`"),
        parameters("{}"),
    ],
    MYSQL_NO_BACKSLASH: [
        doubled("'"),
        doubled('"'),
        identifiers("`", "`"),
        parameters("{}"),
    ],
}
for dialect, pieces in FIXED.items():
    PIECES[dialect].append(st.sampled_from([Piece(*piece) for piece in pieces.items()]))

FROM = {
    POSTGRES: " from (select 1 as lo, 2 as hi, '{4,5,6}'::int[] as numbers,"
    """ '{"k": "v"}'::jsonb as data) as t"""
}


# Comments.


def without(text, *marks):
    return text.filter(lambda value: not any(mark in value for mark in marks))


LINE_COMMENTS = LINE.map(lambda text: f"-- {text}\n")
FLAT_COMMENTS = without(HAZARDS, "*/").map(lambda text: f"/* {text} */")
NESTED_COMMENTS = st.recursive(
    without(HAZARDS, "*/", "/*").map(lambda text: f"/* {text} */"),
    lambda inner: st.lists(inner, max_size=3).map(lambda all_in: f"/* :x {''.join(all_in)} ' */"),
    max_leaves=5,
)
MYSQL_COMMENTS = st.one_of(LINE_COMMENTS, FLAT_COMMENTS, LINE.map("#{}\n".format))
COMMENTS = {
    POSTGRES: st.one_of(LINE_COMMENTS, NESTED_COMMENTS, LINE.map("--{}\r".format)),
    SQLITE: st.one_of(LINE_COMMENTS, FLAT_COMMENTS, LINE.map("--{}\n".format)),
    MYSQL: MYSQL_COMMENTS,
    MYSQL_NO_BACKSLASH: MYSQL_COMMENTS,
}
ENDS = {SQLITE: "/* :open ' "}


def selects(dialect):
    """Pairs of a SELECT, its parameters in guillemets, and its pieces."""
    space = st.one_of(st.sampled_from(["", " ", "\n"]), COMMENTS[dialect])
    piece = st.tuples(space, st.one_of(PIECES[dialect]), space)
    end = FROM.get(dialect, "") + ENDS.get(dialect, " -- :a")

    def join(parts):
        items = ",".join(f"{before}{piece.sql}{after}" for before, piece, after in parts)
        return f"select {items}{end}", [piece for _, piece, _ in parts]

    return st.lists(piece, min_size=1, max_size=6).map(join)


# What the scanner makes of them.


def parameters_of(sql):
    return {name: VALUES[name] for name in NAME.findall(sql)}


def bound(sql, dialect):
    """Return what `Statement.bind` gives for a text with names in guillemets."""
    return Statement(NAME.sub(r":\1", sql), dialect).bind(parameters_of(sql))


@each_dialect
@bounded
@given(data=st.data())
def test_exactly_the_parameters_are_found_and_the_rest_is_kept(dialect, data):
    sql, _ = data.draw(selects(dialect))
    statement = Statement(NAME.sub(r":\1", sql), dialect)
    assert statement.names == tuple(NAME.findall(sql))
    assert statement.parts == tuple(NAME.split(sql)[::2])
    assert (statement.count, statement.keyword) == (1, "select")
    order = list(dict.fromkeys(statement.names))
    if dialect is POSTGRES:
        assert statement.text == NAME.sub(lambda name: f"${order.index(name[1]) + 1}", sql)
    elif dialect is SQLITE:
        assert statement.text == NAME.sub("?", sql)
    elif order:
        assert statement.text % statement.names == NAME.sub(r"\1", sql)


@each_dialect
@bounded
@given(data=st.data())
def test_a_script_is_cut_between_its_statements_and_nowhere_else(dialect, data):
    drawn = data.draw(st.lists(selects(dialect), max_size=3))
    end = "*/" if dialect in ENDS else "\n"  # of the comment that each of them ends with
    statements = [NAME.sub(r":\1", sql) + end for sql, _ in drawn]
    assert split("; ;".join(statements) + ";", dialect) == [sql.strip() for sql in statements]


@each_dialect
@bounded
@given(sql=st.text(alphabet="'\"`[]$/*-#\\;:abE%s?@!1() \n", max_size=60))
def test_no_text_breaks_the_scanner(dialect, sql):
    with suppress(ProgrammingError):  # two styles in one text
        statement = Statement(sql, dialect)
        assert len(statement.parts) == len(statement.names) + 1


# What the servers answer.


def check(dialect, fetch):
    """Compare the answers of ``fetch``, which returns column names and one row."""

    def compare(sql, pieces):
        columns, row = fetch(*bound(sql, dialect))
        assert list(row) == [piece.value for piece in pieces]
        for column, piece in zip(columns, pieces, strict=True):
            assert piece.column in (None, column)

    for piece in FIXED[dialect].items():
        compare(f"select {piece[0]}{FROM.get(dialect, '')}", [Piece(*piece)])
    bounded(given(selects(dialect))(lambda select: compare(*select)))()


class Postgres:
    """A connection of the bare driver, for tests that are no coroutines: hypothesis calls them."""

    def __init__(self, url):
        self._asyncpg = pytest.importorskip("asyncpg")
        self._runner = asyncio.Runner()
        self._conn = self._runner.run(self._asyncpg.connect(url.replace("+psycopg", "")))

    def fetch(self, text, args):
        statement = self._runner.run(self._conn.prepare(text))
        row = self._runner.run(statement.fetchrow(*args))
        return [column.name for column in statement.get_attributes()], list(row)

    def close(self):
        with self._runner:
            self._runner.run(self._conn.close())


class MySQL:
    """The same, with values as literals that hold under every SQL mode."""

    def __init__(self, url):
        aiomysql = pytest.importorskip("aiomysql")
        parts = urlsplit(url)
        self._runner = asyncio.Runner()
        self._conn = self._runner.run(
            aiomysql.connect(
                host=parts.hostname,
                port=parts.port or 3306,
                user=unquote(parts.username or ""),
                password=unquote(parts.password or ""),
                db=parts.path.lstrip("/"),
                charset="utf8mb4",
            )
        )

    def fetch(self, text, args):
        return self._runner.run(self._fetch(text % tuple(map(_literal, args)) if args else text))

    async def _fetch(self, text):
        async with self._conn.cursor() as cursor:
            await cursor.execute(text)
            return [column[0] for column in cursor.description or ()], await cursor.fetchone()

    def close(self):
        with self._runner:
            self._runner.run(self._conn.ensure_closed())


def _literal(value):
    return str(value) if isinstance(value, int) else f"_utf8mb4 x'{value.encode().hex()}'"


def fetch_sqlite(text, args):
    with closing(sqlite3.connect(":memory:")) as conn, closing(conn.execute(text, args)) as cursor:
        return [column[0] for column in cursor.description], cursor.fetchone()


@pytest.fixture
def postgres(postgres_url):
    with closing(Postgres(postgres_url)) as server:
        yield server


@pytest.fixture
def mysql_server(mysql_url):
    with closing(MySQL(mysql_url)) as server:
        yield server


def test_postgresql_reads_it_the_same_way(postgres):
    check(POSTGRES, postgres.fetch)


def test_sqlite_reads_it_the_same_way():
    check(SQLITE, fetch_sqlite)


def test_mysql_reads_it_the_same_way(mysql_server):
    check(MYSQL, mysql_server.fetch)


NO_BACKSLASH = "set sql_mode = concat(@@sql_mode, ',NO_BACKSLASH_ESCAPES')"


def test_mysql_without_backslash_escapes_reads_it_the_same_way(mysql_server):
    mysql_server.fetch(NO_BACKSLASH, ())
    check(MYSQL_NO_BACKSLASH, mysql_server.fetch)


def test_a_doubled_percent_sign_is_one_for_mysql(mysql_server):
    @bounded
    @given(select=selects(MYSQL))
    def run(select):
        sql, pieces = select
        native = NAME.sub("%s", sql.replace("%", "%%"))
        values = [VALUES[name] for name in NAME.findall(sql)]
        if values:
            _, row = mysql_server.fetch(*Statement(native, MYSQL).bind(values))
            assert list(row) == [piece.value for piece in pieces]

    run()


# Lists.

IN = "select x in (:v), x not in (:v), not x in (:v) from (select {} as x) as t"
TYPES = {
    "postgres": "integer bigint numeric real text varchar(5) char(3) uuid boolean bytea date time "
    "timestamptz interval jsonb inet name oid tsvector int4range",
    "mysql": "signed unsigned char binary date time datetime double decimal(5,2)",
    "sqlite": "integer text blob real numeric",
}


@pytest.fixture
def fetch(request, backend):
    if backend == "sqlite":
        return SQLITE, fetch_sqlite
    if backend == "postgres":
        return POSTGRES, request.getfixturevalue("postgres").fetch
    return MYSQL, request.getfixturevalue("mysql_server").fetch


def test_an_empty_list_matches_nothing_whatever_the_type(backend, fetch):
    dialect, answer = fetch
    for name in TYPES[backend].split():
        statement = Statement(IN.format(f"cast(null as {name})"), dialect)
        _, row = answer(*statement.bind({"v": expand([])}))
        assert (name, *map(bool, row)) == (name, False, True, True)
        assert None not in row


def test_a_list_matches_its_values(fetch):
    dialect, answer = fetch
    _, row = answer(*Statement(IN.format("2"), dialect).bind({"v": expand([1, 2, 3])}))
    assert tuple(map(bool, row)) == (True, False, False)


def test_an_empty_list_binds_as_in_does_on_postgresql(postgres):
    sql = "select true = 1 + 1 in (:v), 1 in (:v) is false, not 1 in (:v)"
    for values, expected in ([], [False, True, True]), ([2], [True, True, True]):
        assert postgres.fetch(*Statement(sql, POSTGRES).bind({"v": expand(values)}))[1] == expected
