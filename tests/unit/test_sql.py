"""SQL text: what is a parameter and what is text, lists, errors, and what a text is known to do."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, deque
from types import MappingProxyType

import pytest

from aiodbkit.errors import ProgrammingError
from aiodbkit.sql import Dialect, compile_sql, expand

POSTGRES, SQLITE = Dialect.POSTGRES, Dialect.SQLITE
MYSQL, MYSQL_NO_BACKSLASH = Dialect.MYSQL, Dialect.MYSQL_NO_BACKSLASH
BOTH_MYSQL = (MYSQL, MYSQL_NO_BACKSLASH)
SECRET = "s3cret"

each_dialect = pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.name.lower())


def names(sql, dialect):
    return " ".join(compile_sql(sql, dialect).names)


def failure(call, *args):
    with pytest.raises(ProgrammingError) as caught:
        call(*args)
    return caught.value


# What is a parameter: SQL, and the names found in it.

EVERYWHERE = {
    ":a": "a",
    "select :a,:b ,:a": "a b a",
    "x=:a and y>=:b": "a b",
    "-:a*:b/:c||:d<:e": "a b c d e",
    "select (:_x1), :X, :été": "_x1 X été",
    "select\n\t:a\r\n": "a",
    "select :a::int": "a",
    "f(x := :a)": "a",
    "": "",
    "select :1, :": "",
    "select x::int, x :: int, '1'::text, f(1)::int": "",
    "f(a := 1, b:=2)": "",
    "select 'a'':b', ':a' ':b', ''':c'''": "",
    'select ":a", "x"":b"': "",
    "select 1 -- ':a\n, :b -- ' :c": "b",
    "select /* :a */:b /* ' */, :c /* ' */": "b c",
    "select '--', :a, '/*', :b": "a b",
    "select /*/ :a */ :b, /**/:c/***/": "b c",
    "select 'open :a": "",
    "select 1 /* open :a": "",
    "label:begin": "",
    r"select \:a": "",
    "select :a:b": "a",
}
IN_POSTGRES = {
    "a[:i]": "i",
    "a[1:2], a[lo:hi], a[f(x):hi], a[b[1]:hi]": "",
    'a["lo":hi]': "",
    "a[:i:j], a[1 : :k], a[lo : hi]": "i k",
    r"'\', :a, '": "a",
    r"E'\', :a, '": "",
    r"e'\\', :a": "a",
    r"E'\'' , :a": "a",
    "E'x'':a' , :b": "b",
    "E'a'\n'\\':b', :c": "c",
    "E'a' -- :x\n -- ':y\n  '\\':b', :c": "c",
    r"E'a' '\', :b": "b",
    r"name'\', :a": "a",
    r"U&'\', :a, U&':b', b':c', X':d', n':e'": "a",
    'U&":a", :b': "b",
    "/* /* */ :a */ :b": "b",
    "/* /* /* */ */ :a": "",
    "/*/* :a */*/:b": "b",
    "-- :a\r:b": "b",
    "--:a\n:b": "b",
    "# :a, `:b`": "a b",
    "$$ :a $$ :b": "b",
    "$$ ' $$, :a, $$ ' $$": "a",
    "$t$ :a $$ :b $T$ :c $t$ :d": "d",
    "$é_1$ :a $é_1$ :b": "b",
    "$$ :a $t$ $$ :b": "b",
    "a$b$ :a, é$b$ :b, $t :c $t": "a b c",
    "a$b$ :a $b$ :b": "a",
    "$$ open :a": "",
    "$t$ open :a $$": "",
    "data->:a, data->>:b, data#>:c, x@>:d, x<@:e": "a b c d e",
    "data?:a, data ?| :b, data?&:c, x @? ':d'": "a b c",
    "x ~:a, @:b, |/:c, !!:d": "a b c d",
    "interval '1:00', time '10:20:30'": "",
}
IN_SQLITE = {
    r"'\', :a, '": "a",
    "[:a], :b, [x'], :c, a[:d]": "b c",
    "`:a`, :b, `'`, :c, `x``:d`": "b c",
    "--:a\n:b": "b",
    "-- :a\r:b": "",
    "/* /* */ :a /* */": "a",
    "$$ :a $$, @n, $n, #n, x'00'": "a",
}
IN_MYSQL = {
    "`:a`, :b, `'`, :c, `x``:d`": "b c",
    "# :a ' \n:b #:c": "b",
    "1--:a": "a",
    "--\t:a\n:b": "b",
    "--\x01:a": "",
    "-- :a\r:b": "",
    "'a' -- :b\n, ':c' --\n, :d --": "d",
    "/* /* */ :a /* */": "a",
    "@a:=1, @b := :c, @d:=:e": "c e",
    '"it\'s :a", :b, "x"":c"': "b",
    "_utf8mb4':a', n':b', x'00', :c": "c",
    "$$ :a $$": "a",
    "/*! :a */ :b, /*!40101 '*/ :c' */ :d": "b d",
    "/*M!100100 /* x */ :a */ :b, /*+ :c */ :d": "b d",
    "date_format(x, '%s:%i'), :a": "a",
}
ESCAPED = {r"'\', :a, '": "", r"'\\', :a": "a", r"'\'', :a, '": "a", r'"\", :a, "': "", "'\\": ""}
PLAIN = {r"'\', :a, '": "a", r"'\\', :a": "a", r"'\'', :a, '": "", r'"\", :a, "': "a", "'\\": ""}
RULES = {
    POSTGRES: IN_POSTGRES,
    SQLITE: IN_SQLITE,
    MYSQL: IN_MYSQL | ESCAPED,
    MYSQL_NO_BACKSLASH: IN_MYSQL | PLAIN,
}


@each_dialect
@pytest.mark.parametrize(("sql", "found"), EVERYWHERE.items())
def test_names_are_found_where_the_server_sees_no_text(sql, found, dialect):
    assert names(sql, dialect) == found


@pytest.mark.parametrize(
    ("dialect", "sql", "found"),
    [(dialect, *row) for dialect, table in RULES.items() for row in table.items()],
)
def test_names_are_found_by_the_rules_of_each_server(dialect, sql, found):
    assert names(sql, dialect) == found


# What is sent.


@each_dialect
def test_names_become_the_placeholders_of_the_driver(dialect):
    statement = compile_sql("select :a, :b, :a", dialect)
    assert statement.text == {POSTGRES: "select $1, $2, $1", SQLITE: "select ?, ?, ?"}.get(
        dialect, "select %s, %s, %s"
    )
    args = (1, 2) if dialect is POSTGRES else (1, 2, 1)
    assert statement.bind({"b": 2, "a": 1}) == (statement.text, args)
    assert statement.parts == ("select ", ", ", ", ", "")
    assert (statement.names, statement.positional) == (("a", "b", "a"), 0)


@pytest.mark.parametrize(
    ("dialect", "sql", "count", "places"),
    [
        (POSTGRES, "select $1, $2", 2, 2),
        (POSTGRES, "select $2, $10, $2", 10, 3),
        (POSTGRES, "select a$1, '$2', \"$3\", $$ $4 $$, 1::int, x ? 'y', '%s' -- $5", 0, 0),
        (SQLITE, "select ?, ?, '?', \"?\", `?`, [?], $1, @a, %s -- ?", 2, 2),
        (SQLITE, "select ?2, ?, ?1", 3, 3),
        (MYSQL, "select %s, '%s', \"%s\", `%s`, %s -- %s", 2, 2),
        (MYSQL, "select 5 %size, 5 %S, 5 % s, %%s, ?, %%%s", 1, 1),
    ],
)
def test_the_drivers_own_placeholders_are_counted(dialect, sql, count, places):
    statement = compile_sql(sql, dialect)
    assert (statement.positional, statement.names) == (count, ("",) * places)
    values = tuple(range(count))
    for params in (values, list(values), deque(values), range(count)):
        assert statement.bind(params)[1] == values
    assert dialect is MYSQL or statement.bind(values)[0] == sql


def test_the_numbers_of_a_definition_belong_to_the_server():
    for sql in (
        "prepare p (int) as select $1",
        "create function f(int) returns int language sql return $1",
        "create or replace procedure p(int) begin atomic insert into t values ($1); end",
    ):
        assert compile_sql(sql, POSTGRES).bind(None) == (sql, ())
    assert compile_sql("create table t as select $1", POSTGRES).positional == 1


PERCENT = "select '%', '%%', 10 % 3, x like '%s' or y = "


@pytest.mark.parametrize("dialect", BOTH_MYSQL)
def test_a_percent_sign_is_a_doubled_one_beside_mysqls_placeholder_only(dialect):
    for params in (None, {}, (), []):
        assert compile_sql(PERCENT, dialect).bind(params) == (PERCENT, ())
    for sql, params, meant in (
        (PERCENT + ":v", {"v": 7}, PERCENT),
        (PERCENT + "%s", [7], PERCENT.replace("%%", "%")),
    ):
        statement = compile_sql(sql, dialect)
        text, args = statement.bind(params)
        assert text % args == meant + "7"
        assert statement.parts == (meant, "")


@each_dialect
def test_sql_without_parameters_is_sent_as_it_is(dialect):
    sql = "select ':a', '%%' -- %s ? $1"
    for params in (None, {}, (), [], OrderedDict()):
        assert compile_sql(sql, dialect).bind(params) == (sql, ())


def test_a_text_is_looked_at_once():
    assert compile_sql("select :once", SQLITE) is compile_sql("select " + ":once", SQLITE)


# Mappings of every kind.


@each_dialect
@pytest.mark.parametrize(
    "make",
    [
        dict,
        OrderedDict,
        UserDict,
        lambda **items: MappingProxyType(items),
        lambda **items: defaultdict(int, items),
    ],
)
def test_any_mapping_gives_names(make, dialect):
    statement = compile_sql("select :a, :b", dialect)
    assert statement.bind(make(a=1, b=2))[1] == (1, 2)
    assert compile_sql("select :a", dialect).bind(make(a=1))[1] == (1,)
    assert "missing parameters: :b" in str(failure(statement.bind, make(a=1)))
    assert "unused parameters: 'c'" in str(failure(statement.bind, make(a=1, b=2, c=3)))


# Errors: names, numbers, types and the cure; never a value.

NATIVE = {POSTGRES: "$1, $2", SQLITE: "?, ?", MYSQL: "%s, %s", MYSQL_NO_BACKSLASH: "%s, %s"}
NAMED_MISUSE = [
    ({"user": SECRET}, "missing parameters: :team; the SQL's own: :team, :user"),
    (None, "missing parameters: :team, :user"),
    ({}, "missing parameters: :team, :user"),
    ((), "missing parameters: :team, :user"),
    (
        {"user": SECRET, "tem": SECRET},
        "missing parameters: :team; unused parameters: 'tem' (did you mean 'team'?)",
    ),
    ({"user": SECRET, "team": 1, "x": SECRET}, "unused parameters: 'x'; the SQL's own: :team"),
    ({"user": SECRET, "team": 1, 3: SECRET}, "unused parameters: 3; "),
    ([SECRET], "named parameters (:team, :user): give a mapping, not list"),
    ((SECRET, SECRET), "give a mapping, not tuple"),
    (SECRET, "not str; one value alone is [value]"),
    (SECRET.encode(), "not bytes;"),
    (7, "not int;"),
    ({SECRET}, "not set;"),
    (iter([SECRET]), "not list_iterator;"),
    (expand([SECRET]), "not Expand;"),
]
NATIVE_MISUSE = [
    (None, "takes 2 positional parameters ({}), 0 were given"),
    ([SECRET], "takes 2 positional parameters ({}), 1 were given"),
    ((1, 2, SECRET), "takes 2 positional parameters ({}), 3 were given"),
    ({"a": SECRET}, "positional parameters ({}): give a sequence, not dict"),
    ({}, "positional parameters ({}): give a sequence, not dict"),
]
NO_PARAMETERS = [
    ({"x": SECRET}, "unused parameters: 'x'; the SQL's own: none"),
    ([SECRET], "takes 0 positional parameters"),
]


@each_dialect
@pytest.mark.parametrize(
    ("style", "params", "message"),
    [("named", *row) for row in NAMED_MISUSE]
    + [("native", *row) for row in NATIVE_MISUSE]
    + [("none", *row) for row in NO_PARAMETERS],
)
def test_wrong_parameters_are_told_without_their_values(style, params, message, dialect):
    sql = {"named": "select :team, :user", "native": NATIVE[dialect], "none": "select 1"}[style]
    error = failure(compile_sql(sql, dialect).bind, params)
    assert message.format(dialect.value) in str(error)
    assert SECRET not in str(error)
    assert error.query == sql


@each_dialect
def test_two_styles_in_one_text_are_refused(dialect):
    sql = f"{NATIVE[dialect]}, :name"
    error = failure(compile_sql, sql, dialect)
    assert "named parameters (:name) and positional ones" in str(error)
    assert ("modulo operator" in str(error)) == dialect.is_mysql
    assert error.query == sql


def test_sql_that_is_no_text_is_refused():
    assert "SQL is a str, not bytes" in str(failure(compile_sql, b"select 1", SQLITE))


# Lists.


LIST = "x in (:ids) and y = :y or z in (:ids)"


@pytest.mark.parametrize(
    ("dialect", "sql", "text", "args"),
    [
        (POSTGRES, LIST, "x in ($1, $2) and y = $3 or z in ($1, $2)", "129"),
        (SQLITE, LIST, "x in (?, ?) and y = ? or z in (?, ?)", "12912"),
        (MYSQL, LIST, "x in (%s, %s) and y = %s or z in (%s, %s)", "12912"),
        (POSTGRES, "x in ($2) and y = $1 or z = $3", "x in ($2, $3) and y = $1 or z = $4", "9128"),
        (SQLITE, "x in (?2) and y = ?1 or z = ?", "x in (?, ?) and y = ? or z = ?", "1298"),
        (MYSQL, "'%%' > %s and x in (%s) or %s", "'%%' > %s and x in (%s, %s) or %s", "9128"),
    ],
)
def test_a_list_becomes_as_many_placeholders(dialect, sql, text, args):
    ids = expand(["1", "2"])
    params = {"y": "9", "ids": ids} if sql is LIST else ["9", ids, "8"]
    assert compile_sql(sql, dialect).bind(params) == (text, tuple(args))


EMPTY = {
    POSTGRES: ("x operator(=) any ('{}')", "x operator(<>) all ('{}')"),
    SQLITE: ("x in ()", "x not in ()"),
}
MYSQL_EMPTY = [f"x {word} (select null from dual where false)" for word in ("in", "not in")]


@each_dialect
def test_an_empty_list_is_written_so_that_it_matches_nothing(dialect):
    none = {"ids": expand([])}
    for sql, text in zip(
        ("x in (:ids)", "x not in (:ids)"), EMPTY.get(dialect, MYSQL_EMPTY), strict=True
    ):
        assert compile_sql(sql, dialect).bind(none) == (text, ())
    assert compile_sql("x NOT\n IN(:ids), y", dialect).bind(none)[0].endswith("), y")


def test_an_empty_list_takes_all_of_in_with_it_on_postgresql():
    none = "operator(=) any ('{}')"
    for sql, text in {
        "a /* in ( */ in /* c */ ( :v /* ) */ ) or b": f"a /* in ( */ {none} or b",
        "a in (:v)and not b in(:v)": f"a {none}and not b {none}",
    }.items():
        assert compile_sql(sql, POSTGRES).bind({"v": expand([])}) == (text, ())


@each_dialect
def test_an_empty_list_is_refused_where_it_has_no_meaning(dialect):
    for sql in ("f(:v)", "x in (1, :v)", "x in (:v, 1)", "x = -- in (\n:v )", "y.min(:v)"):
        error = failure(compile_sql(sql, dialect).bind, {"v": expand([])})
        assert "no values (parameter v)" in str(error)
        assert error.query == sql
        assert compile_sql(sql, dialect).bind({"v": expand([1])})[1] == (1,)


def test_mysql_text_is_final_when_an_empty_list_leaves_no_arguments():
    statement = compile_sql("x like '5%' and y in (:v)", MYSQL)
    assert statement.bind({"v": expand([])})[0].startswith("x like '5%' ")
    assert statement.bind({"v": expand([1])})[0].startswith("x like '5%%' ")


@pytest.mark.parametrize(
    "values", [[1, 2], (1, 2), {1: 0, 2: 0}, iter([1, 2]), range(1, 3), {1, 2}]
)
def test_expand_takes_any_iterable_and_does_not_show_it(values):
    given_values = expand(values)
    assert sorted(given_values.values) == [1, 2]
    assert repr(given_values) == "<expand of 2 values>"


@pytest.mark.parametrize("value", ["ab", b"ab", bytearray(b"ab"), memoryview(b"ab"), 7, None])
def test_expand_refuses_what_is_no_list(value):
    assert type(value).__name__ in str(failure(expand, value))


# Many rows.


@each_dialect
def test_many_rows_are_bound_in_the_drivers_order(dialect):
    statement = compile_sql("insert into t values (:b, :a)", dialect)
    rows = statement.bind_many(iter([{"a": 1, "b": 2}, OrderedDict(b=4, a=3)]))
    assert rows == (statement.text, [(2, 1), (4, 3)])
    native = compile_sql(f"insert into t values ({NATIVE[dialect]})", dialect)
    assert native.bind_many([(1, 2), [3, 4]]) == (native.text, [(1, 2), (3, 4)])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": 1}, "row 1: missing parameters: :b"),
        ({"a": 1, "b": 2, "c": 3}, "row 1: unused parameters: 'c'"),
        ((1, 2), "row 1: the SQL has named parameters"),
        (None, "row 1: missing parameters: :a, :b"),
        ("ab", "row 1: parameters come as"),
        ({"a": 1, "b": expand([1])}, "row 1: expand()"),
    ],
)
def test_a_wrong_row_of_many_is_named_by_its_index(row, message):
    statement = compile_sql("insert into t values (:a, :b)", SQLITE)
    error = failure(statement.bind_many, [{"a": 1, "b": 2}, row])
    assert str(error).startswith(message)
    assert error.query == statement.sql


@pytest.mark.parametrize("rows", [{"a": 1}, "ab", b"ab", 7])
def test_rows_that_are_no_list_of_rows_are_refused(rows):
    statement = compile_sql("insert into t values (:a)", SQLITE)
    assert f"not {type(rows).__name__}" in str(failure(statement.bind_many, rows))


# What a text is known to do.

COUNTS = {
    " ;; ; -- only ; this": 0,
    ";select 1; -- done;\n": 1,
    "select ';', \";\" -- ;\n /* ; */": 1,
    "begin; insert into t values (1); end; select 1": 4,
    "create trigger t after insert on x begin update a set b = 1; delete from c; end": 1,
    "create trigger t after insert on x begin select case when 1 then 2 end; end; select 1;": 2,
    "create rule r as on insert to t do also (insert into a values (1); notify b)": 1,
    "select 1); select 2": 2,
    "create table begin_end (a int); select 1": 2,
    "create procedure p() begin if x then begin select 1; end; end if; select 2; end": 1,
    "create procedure p() begin l: loop leave l; end loop; end; select 1": 2,
    "create procedure p() begin case x when 1 then a; end case; end; select 1;;": 2,
    "create function f() returns int begin declare x int; return x; end; select 1": 2,
    "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO BEGIN SELECT 1; END": 1,
    "begin not atomic select 1; select 2; end": 1,
    "create function f() returns int begin atomic select 1; select 2; end": 1,
}
KEYWORDS = {
    "  -- c\n /* c */ SELECT 1": "select",
    "((select 1) union select 2)": "select",
    ";insert into t values (1)": "insert",
    "with x as (select 1) select * from x": "with",
    "": "",
    "'select'": "",
    "123": "",
}
READS = """
select :a; -- ; | SELECT a, updated_at, 'for update', "insert" FROM t | (select 1) union (select 2)
select replace(a, 'x', 'y'), insert (a, 1, 2, 'z') from t | select share, key from t for_update
with x as (select 1) select * from x | values (1), (2) | table t | show search_path | describe t
explain select 1 | explain insert into t values (1) | explain query plan delete from t
"""
WRITES = """
 | insert into t values (1) | update t set a = 1 | delete from t | replace into t values (1) | begin
commit | create table t (a int) | drop table t | truncate t | call p() | do $$ begin end $$ | vacuum
copy t from stdin | lock table t | set x = 1 | pragma journal_mode = wal | pragma table_info(t)
merge into t using s on a = b when matched then delete | select * into u from t | select 1 into @x
select 1 INTO OUTFILE 'x' | select * from t for update | select * from t FOR  NO KEY UPDATE
select * from t for share | select * from t for key share | select * from t lock in share mode
select @a := 1 | select nextval('s') | select next value for s | select setval ('s', 1), 2
select pg_advisory_lock(1) | select pg_try_advisory_xact_lock(1) | select get_lock('a', 1)
select set_config('a', 'b', false) | with x as (insert into t values (1) returning a) select 1
with x as (delete from t returning a) select * from x | with x as (select 1) update t set a = 1
with x as (select 1) insert into t select * from x | explain analyze select 1 | select 1; select 2
explain (analyze, buffers) insert into t values (1) | EXPLAIN ANALYSE select 1 | select (1; delete
"""


@each_dialect
@pytest.mark.parametrize(("sql", "count"), COUNTS.items())
def test_statements_are_counted(sql, count, dialect):
    assert compile_sql(sql, dialect).count == count


def test_comments_that_run_and_bodies_are_counted_as_the_server_does():
    assert compile_sql("/*!40101 set names utf8 */;", MYSQL).count == 1
    assert compile_sql("select 1 /*! ; drop table t */", MYSQL).count == 2
    assert compile_sql("do $$ begin; end; $$; select 1", POSTGRES).count == 2


@each_dialect
@pytest.mark.parametrize(("sql", "keyword"), KEYWORDS.items())
def test_the_keyword_is_the_first_word(sql, keyword, dialect):
    assert compile_sql(sql, dialect).keyword == keyword


def split(table):
    return [sql.strip() for line in table.strip("\n").splitlines() for sql in line.split("|")]


@each_dialect
def test_only_what_surely_changes_nothing_is_a_read(dialect):
    assert [sql for sql in split(READS) if not compile_sql(sql, dialect).is_read] == []
    assert [sql for sql in split(WRITES) if compile_sql(sql, dialect).is_read] == []


def test_a_comment_that_mysql_may_run_is_no_read():
    for sql in ("select 1 /*! for update */", "/*!50000 select 1 */", "select /*M! 1 */ 2"):
        assert not compile_sql(sql, MYSQL).is_read
    assert compile_sql("select 1 /* for update */", MYSQL).is_read
