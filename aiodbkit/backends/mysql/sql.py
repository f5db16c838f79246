"""What a connection must know of a MySQL statement before and after it runs it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from aiodbkit.backends.mysql.literals import Literals, UnfitValueError
from aiodbkit.driver import Params
from aiodbkit.errors import DataError, ProgrammingError
from aiodbkit.sql import Dialect, Expand, Statement, compile_sql

__all__ = ["Traits", "plan", "render", "script"]


_SCRIPT = "script"


class Traits(NamedTuple):
    """What a text does to its session, as far as it tells.

    Attributes:
        sql: the text.
        keyword: its first word.
        is_read: it surely changes nothing.
        touches: it may change what a later borrower would notice.
        replays: what it changes can be had again by running it again.
        moves: it may make another database the current one.
        commits: the name of a statement that commits an open transaction implicitly, or ``""``.
        ends: the name of one that begins or ends a transaction, or ``""``.
        has_results: it may have several results, one after the other.
    """

    sql: str
    keyword: str
    is_read: bool
    touches: bool
    replays: bool
    moves: bool
    commits: str
    ends: str
    has_results: bool

    @property
    def is_script(self) -> bool:
        """Whether these are those of several statements."""
        return self.keyword == _SCRIPT


# Quotes and comments, but not the comments that the server runs.
_COMMENTS = r"--(?=\s|\Z)[^\n]* | \#[^\n]* | /\*(?!M?!).*?\*/"
_HIDDEN = {
    Dialect.MYSQL: re.compile(
        r"""'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | `[^`]*` | """ + _COMMENTS,
        re.VERBOSE | re.DOTALL,
    ),
    Dialect.MYSQL_NO_BACKSLASH: re.compile(
        r"""'[^']*' | "[^"]*" | `[^`]*` | """ + _COMMENTS, re.VERBOSE | re.DOTALL
    ),
}
_START = re.compile(r"(?:[\s(]|/\*M?!\d*)*")
_TOUCHES = re.compile(
    r"""
    (?: set | use | lock | prepare | handler | call | begin\s+not | execute | xa | flush ) \b
    | .*? (?: (?<!@)@(?!@) | \bget_lock\s*\( )
    | (?: create | drop ) \s [^(]*? \b temporary \b
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_MOVES = re.compile(r"(?:use|prepare|execute)\b", re.IGNORECASE)
# https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html
_COMMITS = re.compile(
    r"""
    (?: alter | change | flush | grant | import | install | optimize | rename | repair | reset
        | revoke | truncate | uninstall ) \b \s* \w*
    | (?: lock\s+tables? | set\s+password | (?:start|stop)\s+(?:slave|replica)
        | (?:cache|load)\s+index ) \b
    | (?: analyze | check ) \s+ (?:(?:no_write_to_binlog|local)\s+)? (?:table|view) \b
    | (?: create (?:\s+or\s+replace)? | drop ) \s+ (?!temporary\b|or\s) \w+
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ENDS = re.compile(
    r"""
    begin \b (?!\s+not\b) | start\s+transaction\b | commit\b
    | rollback \b (?! (?:\s+work)? \s+ to \b )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SEVERAL = re.compile(r"(?:call|begin|execute)\b", re.IGNORECASE)
_WORD = re.compile(r"\w*")


def _traits(sql: str, blanked: str, *, is_read: bool) -> Traits:
    text = blanked[_START.match(blanked).end() :]  # type: ignore[union-attr]
    commits, ends = _COMMITS.match(text), _ENDS.match(text)
    keyword = _WORD.match(text)[0].upper()  # type: ignore[index]
    touches = _TOUCHES.match(text) is not None
    return Traits(
        sql=sql,
        keyword=keyword,
        is_read=is_read,
        touches=touches,
        replays=keyword in ("SET", "USE") or not touches,
        moves=_MOVES.match(text) is not None,
        commits=" ".join(commits[0].upper().split()) if commits else "",
        ends=" ".join(ends[0].upper().split()) if ends else "",
        has_results=_SEVERAL.match(text) is not None,
    )


@lru_cache(maxsize=1024)
def plan(sql: str, dialect: Dialect) -> tuple[Statement, Traits]:
    """Read one statement.

    Raises:
        ProgrammingError: it is empty, or more than one, or mixes styles of parameters.
    """
    statement = compile_sql(sql, dialect)
    if statement.count != 1:
        what = "is empty" if not statement.count else f"has {statement.count} statements"
        raise ProgrammingError(
            f"one statement is expected, but the SQL {what}; "
            "execute_script() runs several, without parameters",
            query=sql,
        )
    blanked = _HIDDEN[dialect].sub(" ", sql)
    return statement, _traits(sql, blanked, is_read=statement.is_read)


def script(sql: str, dialect: Dialect) -> tuple[Traits, bytes]:
    """Read several statements; return what all of them do, and the text to send.

    The body of a routine is cut into pieces too, which does no harm: to create one commits.
    """
    pieces = _HIDDEN[dialect].sub(" ", sql).split(";")
    found = [_traits(sql, piece, is_read=False) for piece in pieces if piece.strip()]
    traits = Traits(
        sql=sql,
        keyword=_SCRIPT,
        is_read=False,
        touches=any(one.touches for one in found),
        replays=all(one.replays for one in found),
        moves=any(one.moves for one in found),
        commits=next((one.commits for one in found if one.commits), ""),
        ends=next((one.ends for one in found if one.ends), ""),
        has_results=True,
    )
    return traits, _encoded(sql, sql)


def render(statement: Statement, params: Params, literals: Literals) -> bytes:
    """Return the statement as it is sent, its values written as literals.

    Raises:
        ProgrammingError: the parameters are not those of the statement.
        DataError: a value has no literal; the text names the parameter and the type.
    """
    text, args = statement.bind(params)
    try:
        if args:
            write = literals.write
            text %= tuple([write(arg) for arg in args])
    except UnfitValueError as error:
        raise _unfit(statement, params, literals, error) from None
    return _encoded(text, statement.sql)


def _encoded(text: str, sql: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ProgrammingError(
            "the SQL has a lone surrogate, which is no character", query=sql
        ) from None


def _unfit(
    statement: Statement, params: Params, literals: Literals, error: UnfitValueError
) -> DataError:
    """Return the error for parameters of which one has no literal, by its name or number."""
    given: Any = params or ()
    named = given.items() if hasattr(given, "items") else enumerate(given, 1)
    for name, value in named:
        try:
            for each in value.values if isinstance(value, Expand) else [value]:
                literals.write(each)
        except UnfitValueError as found:
            which = name if isinstance(name, int) else f":{name}"
            return DataError(f"parameter {which}: {found}", query=statement.sql)
    return DataError(str(error), query=statement.sql)
