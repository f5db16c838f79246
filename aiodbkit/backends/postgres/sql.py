"""What a connection must know of a PostgreSQL statement before it sends it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from aiodbkit.driver import Params
from aiodbkit.errors import NotSupportedError, ProgrammingError
from aiodbkit.options import TransactionOptions
from aiodbkit.sql import Dialect, Expand, Statement, blank, compile_sql

__all__ = [
    "RESET",
    "Plan",
    "argument_names",
    "begin_statement",
    "keeps_in_session",
    "plan",
    "refuse_unsendable",
    "script_control",
    "with_values",
]

# What outlives a statement and its transaction. PREPAREd statements of the user are dropped one by
# one: DEALLOCATE ALL and DISCARD ALL would take asyncpg's own with them.
RESET = """\
SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *;
SELECT pg_advisory_unlock_all(); DISCARD SEQUENCES; DISCARD TEMP;
DO $$ DECLARE statement text; BEGIN
FOR statement IN SELECT name FROM pg_prepared_statements WHERE from_sql LOOP
EXECUTE format('DEALLOCATE %I', statement); END LOOP; END $$"""

_SESSION_KEYWORDS = ("call", "discard", "do", "listen", "load", "prepare", "reset", "set")
_FOR_THE_TRANSACTION = re.compile(r"\s*set\s+(?:local|transaction|constraints)\b", re.IGNORECASE)
_SESSION_STATE = re.compile(
    r"""\bset_config\s*\((?![^()]*,\s*true\s*\))
    | \bpg_(?:try_)?advisory_lock(?:_shared)?\s*\(
    | \b(?:create|into)\s+(?:(?:local|global|or\s+replace)\s+)*temp(?:orary)?\b
    | \bpg_temp\b | \bwith\s+hold\b""",
    re.IGNORECASE | re.VERBOSE,
)
_FORBIDDEN = {
    re.compile(rf"(?:\A|;)\s*{pattern}\b", re.IGNORECASE): reason
    for pattern, reason in {
        r"set\s+(?:session\s+|local\s+)?(?:client_encoding|names)": "the driver reads and "
        "writes UTF-8 only and would misread other text in silence: convert in SQL, "
        "e.g. convert_to()",
        r"(?:discard|deallocate(?:\s+prepare)?)\s+all": "this would drop the driver's own "
        "prepared statements: a connection that is given back is reset without it",
        r"copy\b[^;]*\b(?:from\s+stdin|to\s+stdout)": "COPY would wait for a stream of data that "
        "the driver does not send or return here: copy_in() and copy_out() do, and insert_many() "
        "copies rows in",
    }.items()
}
_UTF8 = re.compile(r"\s*(?:=|\bto\b)?\s*['\"]?(?:utf-?8|unicode|default)\b", re.IGNORECASE)
_CONTROL = re.compile(
    r"""(?:\A|;)\s*
    ( begin | start\s+transaction | commit | end | abort | prepare\s+transaction
    | rollback (?!\s+(?:work\s+|transaction\s+)?to\b) )\b""",
    re.IGNORECASE | re.VERBOSE,
)
_PLACE = re.compile(r"(?<![\w$])\$(\d+)")
# The one routine's body that is not quoted.
_ATOMIC_BODY = re.compile(
    r"\bbegin\s+atomic\b(?:\bcase\b.*?\bend\b|.)*?\bend\b", re.IGNORECASE | re.DOTALL
)


class Plan(NamedTuple):
    """A statement and its traits.

    Attributes:
        special: it touches or ends something; otherwise neither has to be asked.
        touches: it may leave something behind in the session.
        ends: its name, if it begins or ends a transaction, else ``""``.
    """

    statement: Statement
    special: bool
    touches: bool
    ends: str


@lru_cache(maxsize=1024)
def plan(sql: str) -> Plan:
    """Look at one statement, once; refuse what cannot be sent as it stands."""
    statement = compile_sql(sql, Dialect.POSTGRES)
    refuse_unsendable(sql)
    if statement.count != 1:
        cure = "execute_script() takes several" if statement.count else "it is empty"
        raise ProgrammingError(
            f"one statement is expected here, and the SQL has {statement.count}: {cure}", query=sql
        )
    blanked = blank(sql, Dialect.POSTGRES)
    _refuse_forbidden(blanked, sql)
    touches, ends = _touches(statement.keyword, blanked), _control(blanked)
    return Plan(statement, touches or bool(ends), touches, ends)


@lru_cache(maxsize=256)
def script_control(script: str) -> str | None:
    """Return the first word that begins or ends a transaction, ``""`` where there is none.

    None is for a script without statements.
    """
    refuse_unsendable(script)
    blanked = blank(script, Dialect.POSTGRES)
    _refuse_forbidden(blanked, script)
    return _control(blanked) if blanked.strip(" \t\r\n;") else None


def refuse_unsendable(sql: str) -> None:
    """Raise `ProgrammingError` for characters over which asyncpg would close the connection."""
    if "\0" in sql:
        raise ProgrammingError(
            "the SQL has a NUL character, and PostgreSQL would read no further", query=sql
        )
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise ProgrammingError(
            "the SQL has a lone surrogate, which is no character", query=sql
        ) from None


def _control(blanked: str) -> str:
    found = _CONTROL.search(_ATOMIC_BODY.sub("", blanked))
    return " ".join(found[1].upper().split()) if found else ""


def _refuse_forbidden(blanked: str, sql: str) -> None:
    for pattern, reason in _FORBIDDEN.items():
        found = pattern.search(blanked)
        if found and not _UTF8.match(sql, found.end()):
            raise ProgrammingError(reason, query=sql)


def keeps_in_session(script: str) -> bool:
    """Whether it surely leaves something in the session; what DO and CALL do is not known."""
    blanked = blank(script, Dialect.POSTGRES)
    for piece in blanked.split(";"):
        keyword = (piece.split(None, 1) or [""])[0].lower()
        if keyword not in ("do", "call", "reset", "discard") and _touches(keyword, piece):
            return True
    return False


def _touches(keyword: str, blanked: str) -> bool:
    """Whether the session may be other than before; rather once too often than once too few."""
    if keyword == "set" and _FOR_THE_TRANSACTION.match(blanked):
        return False
    return keyword in _SESSION_KEYWORDS or _SESSION_STATE.search(blanked) is not None


def argument_names(statement: Statement, params: Params) -> list[str]:
    """Return what the caller calls each of the driver's arguments: ``:name`` or ``$1``."""
    if isinstance(params, Mapping):
        given = [(f":{name}", params[name]) for name in dict.fromkeys(statement.names)]
    else:
        given = [(f"${number}", value) for number, value in enumerate(params or (), start=1)]
    names: list[str] = []
    for name, value in given:
        names += [name] * (len(value.values) if isinstance(value, Expand) else 1)
    return names


def with_values(text: str, literals: Sequence[str]) -> str:
    """Return a bound statement with ``literals`` in the places of ``$1``, ``$2`` and so on."""
    pieces, done = list[str](), 0
    for found in _PLACE.finditer(blank(text, Dialect.POSTGRES)):
        pieces += text[done : found.start()], literals[int(found[1]) - 1]
        done = found.end()
    return "".join(pieces) + text[done:]


def begin_statement(options: TransactionOptions) -> str:
    """Return the BEGIN for ``options``."""
    if options.mode is not None:
        raise NotSupportedError(
            f"mode={options.mode!r} is for SQLite: PostgreSQL locks rows, as they are written or "
            "by SELECT ... FOR UPDATE"
        )
    words = ["BEGIN"]
    if options.isolation is not None:
        words.append(f"ISOLATION LEVEL {options.isolation.upper()}")
    if options.read_only:
        words.append("READ ONLY")
    if options.deferrable:
        words.append("DEFERRABLE")
    return " ".join(words)
