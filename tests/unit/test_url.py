"""URLs: what they mean, what is said of wrong ones, and that no password is ever shown."""

from __future__ import annotations

import copy
import pickle
import traceback
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any, Literal, Optional
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiodbkit.errors import ConfigurationError
from aiodbkit.url import URL, convert_option, parse_url

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
SECRET = "hunter2/@:#?%&= ,[]"


def encode(text: str) -> str:
    return quote(text, safe="")


def refusal(text: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "postgresql://app:pw@db:5432/shop",
            URL("postgresql", "app", "pw", "db", 5432, (("db", 5432),), "shop"),
        ),
        ("mysql://db", URL("mysql", host="db", hosts=(("db", None),))),
        ("mysql://db/", URL("mysql", host="db", hosts=(("db", None),))),
        ("mysql:///shop", URL("mysql", database="shop")),
        ("mysql://", URL("mysql")),
        ("mysql://:3307/shop", URL("mysql", port=3307, database="shop")),
        ("mysql://app@/shop", URL("mysql", "app", database="shop")),
        ("mysql://:pw@/shop", URL("mysql", None, "pw", database="shop")),
        ("mysql://app:@/shop", URL("mysql", "app", "", database="shop")),
        ("mysql://a:b:c@/shop", URL("mysql", "a", "b:c", database="shop")),
        (
            "PostgreSQL+AsyncPG://DB/Shop",
            URL("postgresql+asyncpg", host="DB", hosts=(("DB", None),), database="Shop"),
        ),
        (
            "postgresql://[::1]:5433/shop",
            URL("postgresql", host="::1", port=5433, hosts=(("::1", 5433),), database="shop"),
        ),
        (
            "postgresql://[fe80::1%25e0]",
            URL("postgresql", host="fe80::1%e0", hosts=(("fe80::1%e0", None),)),
        ),
        (
            "postgresql://a:1,b,[::2]:3/shop",
            URL(
                "postgresql",
                host="a",
                port=1,
                hosts=(("a", 1), ("b", None), ("::2", 3)),
                database="shop",
            ),
        ),
        (
            "postgresql://app@%2Frun%2Fpostgresql/shop",
            URL(
                "postgresql",
                "app",
                host="/run/postgresql",
                hosts=(("/run/postgresql", None),),
                database="shop",
            ),
        ),
        (
            "postgresql:///shop?host=/run/postgresql&options=-c%20a%3Db",
            URL(
                "postgresql",
                database="shop",
                query={"host": "/run/postgresql", "options": "-c a=b"},
            ),
        ),
        ("mysql:///?unix_socket=/x.sock&", URL("mysql", query={"unix_socket": "/x.sock"})),
        ("mysql://?zone=+02:00&empty=", URL("mysql", query={"zone": "+02:00", "empty": ""})),
        ("mysql://db/a%2Fb", URL("mysql", host="db", hosts=(("db", None),), database="a/b")),
    ],
)
def test_the_parts_of_a_url(text: str, expected: URL) -> None:
    assert parse_url(text) == expected


@pytest.mark.parametrize(
    ("text", "database", "query"),
    [
        ("sqlite://", ":memory:", {}),
        ("sqlite:///:memory:", ":memory:", {}),
        ("sqlite://?cache_size=5", ":memory:", {"cache_size": "5"}),
        ("sqlite:///app.db", "app.db", {}),
        (
            "sqlite:///folder/app.db?timeout=5&mode=ro",
            "folder/app.db",
            {"timeout": "5", "mode": "ro"},
        ),
        ("sqlite:////var/app.db", "/var/app.db", {}),
        ("sqlite+aiosqlite:////var/app.db", "/var/app.db", {}),
        ("sqlite:///C:/data/app.db", "C:/data/app.db", {}),
        ("sqlite:///my app@home.db", "my app@home.db", {}),
        ("sqlite:///a%20b%23c%3Fd.db", "a b#c?d.db", {}),
    ],
)
def test_the_path_of_a_sqlite_url(text: str, database: str, query: dict[str, str]) -> None:
    url = parse_url(text)
    assert (url.database, url.query) == (database, query)
    assert (url.host, url.hosts, url.user, url.password) == (None, (), None, None)


@pytest.mark.parametrize("text", ["sqlite://app.db", "sqlite://:memory:", "sqlite://folder/app.db"])
def test_two_slashes_in_a_sqlite_url_are_explained(text: str) -> None:
    message = refusal(text)
    for word in (
        "third slash",
        "sqlite:///file.db is relative",
        "sqlite:////folder/file.db absolute",
    ):
        assert word in message


def test_a_sqlite_url_without_a_file_name_is_not_silently_in_memory() -> None:
    assert "no file name" in refusal("sqlite:///")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "mysql://db:99999/shop",
            "port 99999 is not between 1 and 65535. The URL was mysql://db:99999/shop",
        ),
        ("mysql://db:0/shop", "port 0 is not between"),
        ("mysql://db:abc/shop", "the port is not a number"),
        ("mysql://db:/shop", "the port is not a number"),
        ("mysql://db:-1/shop", "the port is not a number"),
        ("mysql://db:٣/shop", "the port is not a number"),
        ("mysql://app:pw@db:5o32/shop", "the port 5o32 is not a number"),
        ("mysql://[::1/shop", "brackets"),
        ("mysql://::1]/shop", "brackets"),
        ("mysql://[nonsense]/shop", "brackets"),
        ("mysql://[::1]x/shop", "brackets"),
        ("mysql://::1/shop", "an IPv6 address is written [::1]:5432"),
        ("mysql://a,,b/shop", "one of the 3 hosts is empty"),
        ("mysql://a,:5/shop", "one of the 2 hosts is empty"),
        ("mysql://a,/shop", "one of the 2 hosts is empty"),
        ("mysql://d b/shop", "a space in the host or before it"),
        ("mysql://db/my shop", "a space after the host"),
        ("mysql://db/shop?a=b c", "a space after the host"),
        (" mysql://db/shop", "begins or ends with white space"),
        ("mysql://db/shop\n", "begins or ends with white space"),
        ("mysql://db/sh\nop", "control character"),
        ("mysql://db/a/b", "'/' in the database name: write %2F"),
        ("mysql://db/shop#part", "'#' that is not written %23"),
        ("mysql://db/sh@op", "'@' that does not stand before the host is written %40"),
        ("mysql://db/100%", "the database has a '%' without two hexadecimal digits: write %25"),
        ("mysql://db/%ff", "the database is percent-encoded as something else than UTF-8"),
        ("mysql://db/%00", "the database is percent-encoded"),
        ("mysql://d%zzb/shop", "the host has a '%'"),
        ("mysql://db/shop?a=%", "the option 'a' has a '%'"),
        ("mysql://db/shop?a=1&b", "option 2 after the '?' is not written name=value"),
        ("mysql://db/shop?=1", "option 1 after the '?' is not written name=value"),
        ("mysql://db/shop?a=1&a=2", "the option 'a' is given twice"),
    ],
)
def test_a_malformed_url_is_refused_by_the_part_that_is_wrong(text: str, said: str) -> None:
    message = refusal(text)
    assert said in message
    assert "white space" in said or "scheme://user:password@host:port/database" in message


@pytest.mark.parametrize(
    "text",
    ["hunter2", "db/shop", "app:hunter2@db/shop", "host=db password=hunter2", "mysql:/hunter2@db",
     "//app:hunter2@db", "1x://app:hunter2@db", "my_sql://app:hunter2@db", "://app:hunter2@db"],
)  # fmt: skip
def test_without_a_scheme_the_form_is_told_and_nothing_shown(text: str) -> None:
    message = refusal(text)
    assert "does not begin with a scheme" in message
    assert "scheme://user:password@host:port/database" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "not NoneType: is the environment variable set?"),
        ("", "empty: is the environment variable set?"),
        ("  ", "empty"),
        (Path("app.db"), 'not a path: f"sqlite:///{path}"'),
        (b"mysql://app:hunter2@db", "not bytes"),
        (5, "not int"),
    ],
)
def test_what_is_no_text_is_refused(text: Any, said: str) -> None:
    message = refusal(text)
    assert said in message
    assert "hunter2" not in message


UNENCODED = ["@", "/", "#", "?", "%", " ", "@/", "/@", "/?#@", "?x=", "@b?c=d&", "://", "@b/"]


@pytest.mark.parametrize("middle", UNENCODED)
@pytest.mark.parametrize(
    "rest", ["db/shop", "db:5432/shop?a=b", "db:x/shop", "[::1]/shop", "", "a,b"]
)
def test_a_password_that_was_not_encoded_is_told_so_and_not_shown(middle: str, rest: str) -> None:
    message = refusal(f"postgresql://app:zebra{middle}quagga@{rest}")
    assert "The URL was postgresql://***" in message
    assert "zebra" not in message
    assert "quagga" not in message
    assert "percent-encode" in message or "write %25" in message


def test_every_refusal_of_a_url_with_a_good_password_hides_it() -> None:
    for bad in (
        "db:99999/x",
        "db:x/x",
        "[::1/x",
        "a,,b",
        "db/a/b",
        "db/x?y",
        "db/%zz",
        "d b",
        "db/x#y",
    ):
        message = refusal(f"postgresql://app:hunter2@{bad}")
        assert "hunter2" not in message
        assert "postgresql://***" in message


@pytest.mark.parametrize("password", ["hunter2", "12345hunter2", "987654321"])
@pytest.mark.parametrize("rest", ["", "/shop", "?a=b", ",b"])
def test_a_password_whose_host_was_forgotten_is_not_shown(password: str, rest: str) -> None:
    message = refusal(f"mysql://app:{password}{rest}")
    assert "The URL was mysql://app:***" in message
    assert password not in message


def test_a_secret_option_is_shown_nowhere() -> None:
    for bad in (
        "db:x/shop?password=hunter2",
        "db/shop?password=hun@ter2",
        "db/shop?password=hunter2&x",
    ):
        message = refusal(f"mysql://{bad}")
        assert "ter2" not in message


def test_the_traceback_of_an_undecodable_password_does_not_show_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url("mysql://app:hunter2%ff@db")
    assert "hunter2" not in str(caught.value)
    assert "UnicodeDecodeError" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://app:pw@db:5432/shop", "postgresql://app:***@db:5432/shop"),
        ("postgresql://app@db/shop", "postgresql://app@db/shop"),
        ("mysql://db", "mysql://db"),
        ("mysql://:3307/shop", "mysql://:3307/shop"),
        ("mysql://[::1]:5/a%2Fb", "mysql://[::1]:5/a%2Fb"),
        ("mysql://a:1,b/shop?x=/y", "mysql://a:1,b/shop?x=/y"),
        ("sqlite://", "sqlite:///:memory:"),
        ("sqlite:////var/a b.db", "sqlite:////var/a%20b.db"),
        ("mysql:///s?password=a&PASSWD=b&sslpassword=c&api_key=d&auth_token=e&x=y",
         "mysql:///s?password=***&PASSWD=***&sslpassword=***&api_key=***&auth_token=***&x=y"),
    ],
)  # fmt: skip
def test_str_and_repr_show_the_url_without_secrets(text: str, shown: str) -> None:
    url = parse_url(text)
    assert str(url) == f"{url}" == shown
    assert repr(url) == f"URL({shown!r})"


def test_a_url_is_a_frozen_value() -> None:
    url = parse_url("mysql://app:pw@db/shop?a=b")
    with pytest.raises(FrozenInstanceError):
        url.host = "other"  # type: ignore[misc]
    assert hash(url) == hash(parse_url("mysql://app:pw@db/shop?a=b"))
    assert pickle.loads(pickle.dumps(url)) == copy.deepcopy(url) == url
    assert replace(url, database="other").password == "pw"


@given(user=TEXT, password=TEXT, database=TEXT, name=TEXT, value=TEXT)
@example(user=SECRET, password=SECRET, database=SECRET, name=SECRET, value=SECRET)
def test_encoded_parts_come_back_and_the_password_is_never_shown(
    user: str, password: str, database: str, name: str, value: str
) -> None:
    name = f"o{name}"
    url = parse_url(
        f"postgresql://{encode(user)}:{encode(password)}@db:5432/{encode(database)}"
        f"?{encode(name)}={encode(value)}"
    )
    assert (url.user, url.password, url.database) == (user or None, password, database or None)
    assert (url.host, url.port, url.query) == ("db", 5432, {name: value})
    assert str(url) == str(replace(url, password="else"))
    assert repr(url) == repr(replace(url, password="else"))
    if url.query and "***" not in str(url).partition("?")[2]:
        assert replace(parse_url(str(url)), password=password) == url


@given(TEXT)
@example(SECRET)
def test_encoded_sqlite_paths_come_back(path: str) -> None:
    path = f"p{path}"
    assert parse_url(f"sqlite:///{encode(path)}").database == path
    assert parse_url(str(parse_url(f"sqlite:///{encode(path)}"))).database == path


@given(
    st.from_regex(r"[!-~ ]*secret[!-~ ]*", fullmatch=True),
    st.sampled_from(["db/x", "db:5/x?a=b", "db:x", ""]),
)
def test_no_message_shows_a_raw_password(password: str, rest: str) -> None:
    text = f"postgresql://app:{password}@{rest}"
    try:
        shown = repr(parse_url(text))
    except ConfigurationError as error:
        shown = str(error)
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("text", "wanted", "value"),
    [
        ("true", bool, True),
        ("Yes", bool, True),
        ("on", bool, True),
        ("1", bool, True),
        ("FALSE", bool, False),
        ("no", bool, False),
        ("off", bool, False),
        ("0", bool, False),
        ("5", int, 5),
        ("-5", int, -5),
        ("2.5", float, 2.5),
        ("2", float, 2.0),
        ("none", str, "none"),
        ("x", str, "x"),
        ("x", object, "x"),
        ("x", Any, "x"),
        ("", float | None, None),
        ("None", Optional[float], None),  # noqa: UP045 - written so in older code
        ("2.5", float | None, 2.5),
        ("true", bool | str, True),
        ("require", bool | str, "require"),
        ("idle", Literal["never", "idle"], "idle"),
        ("none", Literal["a"] | None, None),
    ],
)
def test_an_options_text_becomes_the_type_wanted(text: str, wanted: Any, value: Any) -> None:
    converted = convert_option("x", text, wanted)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("text", "wanted", "said"),
    [
        ("maybe", bool, "true or false"),
        ("", bool, "true or false"),
        ("five", int, "a whole number"),
        ("2.5", int, "a whole number"),
        ("none", int, "a whole number"),
        ("fast", float, "a number"),
        ("fast", float | None, "a number or none"),
        ("sometimes", Literal["never", "idle"], "one of never, idle"),
        ("{}", dict[str, str], "pass it as a keyword argument"),
    ],
)
def test_an_option_of_another_type_is_refused_by_name(text: str, wanted: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        convert_option("max_size", text, wanted)
    assert "'max_size'" in str(caught.value)
    assert repr(text) in str(caught.value)
    assert said in str(caught.value)


def test_a_secret_options_text_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match=r"'ssl_password_days' in the URL is \*\*\*"):
        convert_option("ssl_password_days", "hunter2", int)
