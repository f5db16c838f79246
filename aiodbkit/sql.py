r"""SQL text: parameters, lists, how many statements, read or write. One scan per text, cached.

What is quoted or commented out is blanked first, the way the server's own lexer sees it;
parameters, statements and keywords are looked for in the rest.

- PostgreSQL: ``'...'`` with plain backslashes (``standard_conforming_strings`` on), ``U&`` ``B``
  ``X`` ``N`` before it or not; ``E'...'`` with escapes, also continued on the next line; ``"..."``;
  ``$$...$$`` and ``$tag$...$tag$``, but ``a$b`` is one identifier; ``--`` to ``\n`` or ``\r``;
  ``/*...*/`` nested. https://www.postgresql.org/docs/current/sql-syntax-lexical.html
- MySQL, MariaDB: ``'...'`` and ``"..."``, with escapes or (NO_BACKSLASH_ESCAPES) without;
  backticks; ``#`` to ``\n``; ``--`` the same, before a blank, a control character or the end only;
  ``/*...*/`` not nested. ``/*!...*/`` has no parameters, but may hold statements and is no
  read. https://dev.mysql.com/doc/refman/8.4/en/language-structure.html
- SQLite: ``'...'``, ``"..."``, backticks, ``[...]``, ``--`` to ``\n``, ``/*...*/`` not nested, to
  the end if need be. https://www.sqlite.org/lang_keywords.html and ``lang_comment.html``

``:name`` (a letter or underscore, then letters, digits, underscores) is a parameter, unless the
colon follows a word character, quote, ``)``, ``]``, ``$``, backslash or colon. So ``x::int``,
``a := 1``, ``a[1:2]``, ``a[lo:hi]`` and a label ``l:loop`` are text, and ``a[:i]`` has a parameter.
A space decides what is unclear: ``a[1 : :i]`` ends at a parameter, ``a[lo : hi]`` has none; and
``cast(x as t)`` is never mistaken. There is no escape character.

The driver's positional style goes with a sequence: ``$1`` on PostgreSQL, ``?`` and ``?1`` on
SQLite, ``%s`` on MySQL (before a word character that is the modulo operator). One text has one
style. In a MySQL text with ``%s`` each ``%%`` is one ``%``, in strings too, as its drivers have it;
in other texts ``%`` means nothing. SQLite's ``@name`` and ``$name`` are left alone, and so is
the ``$1`` of PREPARE, CREATE FUNCTION and CREATE PROCEDURE: it belongs to what they define.

`expand` makes one parameter as many as it has values: ``id in (:ids)`` with
``{"ids": expand([1, 2])}``. Alone in the parentheses of ``in`` or ``not in`` the list may be empty:
``in`` is false then and ``not in`` true, for NULL too. PostgreSQL then gets
``x operator(=) any ('{}')`` (``<> all``), which takes the type of ``x``, any but an array, and
binds as ``in`` does; a subquery's NULL would be text. MySQL gets ``in (select null from dual
where false)``, SQLite ``in ()``. PostgreSQL's ``= any(:ids)`` with a plain list needs no `expand`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any, TypeAlias, final

from aiodbkit._text import listed, near
from aiodbkit.errors import ProgrammingError

__all__ = ["Dialect", "Expand", "Statement", "blank", "compile_sql", "expand", "split"]

_Params: TypeAlias = Mapping[str, Any] | Sequence[Any] | None
_Args: TypeAlias = tuple[Any, ...]
_Lengths: TypeAlias = tuple[int | None, ...]  # of each argument; None: a value, not a list
_TEXT = (str, bytes, bytearray, memoryview)  # sequences that nobody means as one


class Dialect(Enum):
    """How SQL is read; the value shows the placeholders of its driver."""

    POSTGRES = "$1, $2"
    SQLITE = "?"
    MYSQL = "%s"
    MYSQL_NO_BACKSLASH = "%s, without escapes"

    __hash__ = object.__hash__  # Enum's own is Python code, on the way of every query

    @property
    def is_mysql(self) -> bool:
        """Whether this is MySQL or MariaDB."""
        return self in (Dialect.MYSQL, Dialect.MYSQL_NO_BACKSLASH)


@final
class Expand:
    """The values of one parameter that becomes several; made by `expand`."""

    __slots__ = ("values",)

    def __init__(self, values: Iterable[Any]) -> None:
        if isinstance(values, _TEXT) or not hasattr(values, "__iter__"):
            raise ProgrammingError(f"expand() takes a list of values, not {_type(values)}")
        self.values: _Args = tuple(values)

    def __repr__(self) -> str:
        return f"<expand of {len(self.values)} values>"


def expand(values: Iterable[Any]) -> Expand:
    """Let one parameter stand for a list: ``in (:ids)`` with ``{"ids": expand([1, 2])}``.

    Any iterable serves, and is read at once. An empty one matches nothing.

    Raises:
        ProgrammingError: ``values`` is no iterable, or is text or bytes.
    """
    return Expand(values)


# Blanking. Offsets stay as they are, so that what is found can be cut from the SQL itself.

_WORD = r"A-Za-z0-9_\x80-\U0010ffff"
_ESCAPED = r"{0}(?:[^{0}\\]+|\\.|\\\Z|{0}{0})*+{0}?"
_STRING = _ESCAPED.format("'")
_COMMENT = r"/\*.*?(?:\*/|\Z)"
_NEXT_LINE = r"[ \t\f\v]*(?:--[^\n\r]*)?[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*"
_POSTGRES = rf"""
    (?P<nested> /\*)
  | (?P<comment> --[^\n\r]*)
  | (?P<quoted> [eE]{_STRING}(?:{_NEXT_LINE}{_STRING})* | '[^']*'? | "[^"]*"?
      | \$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][{_WORD}]*)?)\$.*?(?:\$(?P=tag)\$|\Z))
  | (?P<word> \d\w* | \$\d+ | [{_WORD}][{_WORD}$]*)
"""
_SQLITE = rf"""
    (?P<comment> --[^\n]* | {_COMMENT})
  | (?P<quoted> '[^']*'? | "[^"]*"? | `[^`]*`? | \[[^\]]*\]?)
"""
_MYSQL = rf"""
    (?P<code> /\*M?!(?:{_COMMENT}|STRINGS|`[^`]*`|.)*?(?:\*/|\Z))
  | (?P<comment> --(?=[\x00-\x20\x7f]|\Z)[^\n]* | \#[^\n]* | {_COMMENT})
  | (?P<quoted> STRINGS | `[^`]*`?)
"""


_LEXERS = {
    Dialect.POSTGRES: _POSTGRES,
    Dialect.SQLITE: _SQLITE,
    Dialect.MYSQL: _MYSQL.replace("STRINGS", _STRING + "|" + _ESCAPED.format('"')),
    Dialect.MYSQL_NO_BACKSLASH: _MYSQL.replace("STRINGS", """'[^']*'?|"[^"]*"?"""),
}


@cache  # compiled with the first statement: importing aiodbkit is not to wait for it
def _lexer(dialect: Dialect) -> re.Pattern[str]:
    return re.compile(_LEXERS[dialect], re.VERBOSE | re.DOTALL)


_COMMENT_EDGE = re.compile(r"/\*|\*/")
_CODE = "\x01"  # what the server may run, or not


def blank(sql: str, dialect: Dialect) -> str:
    """Return ``sql``, equally long, with spaces for comments and quotes for what is quoted."""
    search, pieces, done = _lexer(dialect).search, list[str](), 0
    while token := search(sql, done):
        start, end, kind = *token.span(), token.lastgroup
        if kind == "nested":
            end = _end_of_nested_comment(sql, end)
        pieces += sql[done:start], _blanked(kind, sql[start:end])
        done = end
    return "".join(pieces) + sql[done:]


def _blanked(kind: str | None, text: str) -> str:
    if kind == "word":
        return text
    if kind == "code":
        return re.sub("[^;]", _CODE, text)
    return ("'" if kind == "quoted" else " ") * len(text)


def _end_of_nested_comment(sql: str, start: int) -> int:
    depth = 1
    for edge in _COMMENT_EDGE.finditer(sql, start):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    return len(sql)


# Places of parameters.


@dataclass(frozen=True, slots=True)
class _Slot:
    start: int
    end: int
    name: str
    arg: int  # the place of its value among the driver's arguments
    opening: int  # where `in (` begins and `)` ends, if the parameter is alone between them
    closing: int
    negated: bool


_PERCENT = r"%(?:(?P<number>)s(?!\w)|%)"
_NATIVE = {
    Dialect.POSTGRES: rf"(?<![{_WORD}$])\$(?P<number>[1-9][0-9]*)",
    Dialect.SQLITE: r"\?(?!0)(?P<number>[0-9]*)",
}
_HOLES = {Dialect.POSTGRES: "${}", Dialect.SQLITE: "?"}


@cache
def _slots(dialect: Dialect) -> re.Pattern[str]:
    return re.compile(
        r"(?P<opening>(?i:\b(?P<negated>not\s+)?in\s*\(\s*))?"
        rf"(?P<slot>(?<![\w)\]$\\:']):(?P<name>[^\W\d]\w*)|{_NATIVE.get(dialect, _PERCENT)})"
        r"(?=(?P<closing>\s*\))?)"
    )


_OWN_NUMBERS = re.compile(r"(?i)\s*(?:prepare|create\s[^;]*?\b(?:function|procedure))\b")


def _find_slots(sql: str, blanked: str, dialect: Dialect) -> list[_Slot]:
    found = [match for match in _slots(dialect).finditer(blanked) if match["slot"] != "%%"]
    if dialect is Dialect.POSTGRES and _OWN_NUMBERS.match(blanked):
        found = [match for match in found if match["name"]]
    names = [match["name"] for match in found if match["name"]]
    if names and len(names) < len(found):
        native = next(match["slot"] for match in found if not match["name"])
        message = f"the SQL has named parameters (:{names[0]}) and positional ones ({native})"
        hint = ", and for the modulo operator a space after %" if dialect.is_mysql else ""
        raise ProgrammingError(f"{message}: use one style{hint}", query=sql)
    args = _places(names, dialect) if names else _numbers(found)
    return [_slot(match, arg) for match, arg in zip(found, args, strict=True)]


def _places(names: list[str], dialect: Dialect) -> Iterable[int]:
    """PostgreSQL has one number per name, the others take a value for each place."""
    unique = list(dict.fromkeys(names))
    return map(unique.index, names) if dialect is Dialect.POSTGRES else range(len(names))


def _numbers(found: list[re.Match[str]]) -> Iterable[int]:
    """SQLite's rule, which fits the others too: no number means one more than the highest."""
    highest = 0
    for match in found:
        number = int(match["number"] or highest + 1)
        highest = max(highest, number)
        yield number - 1


def _slot(match: re.Match[str], arg: int) -> _Slot:
    start, end = match.span("slot")
    alone = match["opening"] and match["closing"]
    opening, closing = (match.start(), match.end("closing")) if alone else (start, end)
    return _Slot(start, end, match["name"] or "", arg, opening, closing, bool(match["negated"]))


# Statements: how many there are, and whether one only reads.

_FIRST_WORD = re.compile(r"[\s(;]*([^\W\d]\w*)")
_STEP = re.compile(
    r"(?i)[();]|\bend\s+(?:if|loop|while|repeat|for)\b|\b(?:begin|case|end(?:\s+case)?)\b"
)
_DEPTH = {"begin": 1, "case": 1, "end": -1, "end case": -1}
_ROUTINE = re.compile(
    r"(?is)\s*(?:create|alter)\b.*\b(?:trigger|procedure|function|event|package)\b"
)
_BLOCK = re.compile(r"(?i)\s*begin\s+not\s+atomic\b")
_READS = ("select", "with", "values", "table", "show", "explain", "describe", "desc")
_ANALYZE = re.compile(r"(?i)\banaly[sz]e\b")
_WRITES = re.compile(
    r"""(?ix) := | \b(?: (?: into | update | delete | merge )\b | (?:insert|replace)\b (?!\s*\()
        | (?:for|key|in)\s+share\b | next\s+value\s+for\b
        | (?: nextval | setval | set_config | pg_notify | pg_(?:try_)?advisory_\w+ | lo_\w+
            | pg_(?:cancel|terminate)_backend | get_lock | release_(?:all_)?locks? ) \s*\( )"""
)


def _spans(blanked: str) -> list[tuple[int, int]]:
    """Find the statements: cut at each ``;`` outside of parentheses and of a routine's body."""
    spans, start, parens, blocks = list[tuple[int, int]](), 0, 0, 0
    for step in _STEP.finditer(blanked):
        word = " ".join(step[0].lower().split())
        if word == ";" and not parens and not blocks:
            spans.append((start, step.start()))
            start = step.end()
        elif word in ("(", ")"):
            parens = max(parens + (1 if word == "(" else -1), 0)
        elif blocks:
            blocks += _DEPTH.get(word, 0)
        elif word == "begin":
            routine = _ROUTINE.match(blanked, start, step.start())
            blocks = 1 if routine or _BLOCK.match(blanked, start) else 0
    spans.append((start, len(blanked)))
    return [(start, end) for start, end in spans if blanked[start:end].strip()]


def split(sql: str, dialect: Dialect) -> list[str]:
    """Return the statements of a script, without the ``;`` between them and without empty ones."""
    return [sql[start:end].strip() for start, end in _spans(blank(sql, dialect))]


def _only_reads(keyword: str, blanked: str) -> bool:
    """Whether the text surely changes nothing.

    A function may write all the same; by convention a SELECT that calls one reads, but for
    the servers' own functions that are known to change something.
    """
    text = blanked.rstrip("; \t\r\n")
    if keyword not in _READS or ";" in text or _CODE in text:
        return False
    if keyword in ("explain", "describe", "desc"):
        return not _ANALYZE.search(text)
    return keyword == "show" or not _WRITES.search(text)


class Statement:
    """What is known of one SQL text; made by `compile_sql`.

    Attributes:
        sql: the text as it was given.
        text: the same with the driver's placeholders. On MySQL, if it has any, a format for
            ``text % literals``: each other ``%`` is doubled.
        parts: the SQL between the parameters, one more than ``names``; nothing in it is doubled.
        names: the parameter of each place, in order; ``""`` for a positional one.
        positional: how many values the driver's own placeholders take; 0 with named ones.
        count: how many statements; empty ones do not count, a routine's body is part of its own.
        keyword: the first word, lower case; ``""`` when there is none.
        is_read: whether it surely changes nothing.
    """

    def __init__(self, sql: str, dialect: Dialect) -> None:
        if not isinstance(sql, str):
            raise ProgrammingError(f"SQL is a str, not {_type(sql)}")
        blanked = blank(sql, dialect)
        first = _FIRST_WORD.match(blanked)
        self.sql, self.dialect = sql, dialect
        self.keyword = first[1].lower() if first else ""
        self.count = len(_spans(blanked))
        self.is_read = _only_reads(self.keyword, blanked)
        self._slots = _find_slots(sql, blanked, dialect)
        self.names = tuple(slot.name for slot in self._slots)
        self._known = tuple(dict.fromkeys(filter(None, self.names)))
        highest = max((slot.arg + 1 for slot in self._slots), default=0)
        self.positional = 0 if self._known else highest
        self.parts = self._cut()
        rewritten = self._known or (self._slots and dialect.is_mysql)
        self.text = self._write((None,) * highest) if rewritten else sql
        keys = self._known if dialect is Dialect.POSTGRES else self.names
        self._take = _taker(keys if self._known else ())
        self._width = -1 if self.positional else len(self._known)  # of a mapping that fits

    def bind(self, params: _Params) -> tuple[str, Sequence[Any]]:
        """Return the text for the driver and the arguments in its order.

        On MySQL the text is final, nothing in it doubled, if no arguments come with it.

        Raises:
            ProgrammingError: names missing or unused, the wrong number of values, a mapping for
                positional placeholders or the reverse, or neither. It never tells a value.
        """
        args = self._args(params)
        if Expand in map(type, args):
            return self._expand(args)
        return self.text, args

    def bind_many(self, rows: Iterable[_Params]) -> tuple[str, list[Sequence[Any]]]:
        """Return the text for the driver and the arguments of each row.

        Raises:
            ProgrammingError: as `bind`, with the row's index; or a row has an `expand`.
        """
        if isinstance(rows, (Mapping, *_TEXT)) or not hasattr(rows, "__iter__"):
            raise self._error(f"rows come as a list of parameter sets, not {_type(rows)}")
        return self.text, [self._row(index, row) for index, row in enumerate(rows)]

    def _row(self, index: int, row: _Params) -> _Args:
        try:
            args = self._args(row)
        except ProgrammingError as error:
            raise self._error(f"row {index}: {error}") from None
        if Expand in map(type, args):
            raise self._error(f"row {index}: expand() needs an execute for each row, not for many")
        return args

    def _args(self, params: _Params) -> _Args:
        if type(params) is dict and len(params) == self._width:
            try:
                return self._take(params)
            except KeyError:
                pass  # told in full below
        elif type(params) is tuple or type(params) is list:
            return self._from_sequence(params)
        elif params is None and not self._slots:
            return ()
        return self._checked(() if params is None else params)

    def _checked(self, params: object) -> _Args:
        if isinstance(params, Mapping):
            return self._from_mapping(params)
        if isinstance(params, Sequence) and not isinstance(params, _TEXT):
            return self._from_sequence(params)
        raise self._error(
            f"parameters come as a mapping (for :name) or a sequence (for {self.dialect.value}), "
            f"not {_type(params)}; one value alone is [value]"
        )

    def _from_mapping(self, params: Mapping[str, Any]) -> _Args:
        if self.positional:
            style = f"positional parameters ({self.dialect.value})"
            raise self._error(f"the SQL has {style}: give a sequence, not {_type(params)}")
        # `in` first: a defaultdict must not fill in for what is missing.
        missing = [name for name in self._known if name not in params]
        unused = [key for key in params if key not in self._known]
        if missing or unused:
            raise self._mismatch(missing, unused)
        return self._take(params)

    def _from_sequence(self, params: Sequence[Any]) -> _Args:
        if self._known and not params:
            raise self._mismatch(self._known, ())
        if self._known:
            style = f"named parameters ({_named(self._known)})"
            raise self._error(f"the SQL has {style}: give a mapping, not {_type(params)}")
        if len(params) != self.positional:
            takes = f"{self.positional} positional parameters ({self.dialect.value})"
            raise self._error(f"the SQL takes {takes}, {len(params)} were given")
        return tuple(params)

    def _mismatch(self, missing: Iterable[str], unused: Iterable[str]) -> ProgrammingError:
        told = [f"missing parameters: {_named(missing)}"] if missing else []
        if unused:
            keys = [f"{key!r}{near(str(key), self._known)}" for key in unused]
            told.append(f"unused parameters: {listed(keys)}")
        told.append(f"the SQL's own: {_named(self._known)}")
        return self._error("; ".join(told))

    def _error(self, message: str) -> ProgrammingError:
        return ProgrammingError(message, query=self.sql)

    def _cut(self) -> tuple[str, ...]:
        starts = [0, *(slot.end for slot in self._slots)]
        ends = [*(slot.start for slot in self._slots), len(self.sql)]
        parts = [self.sql[start:end] for start, end in zip(starts, ends, strict=True)]
        if self.positional and self.dialect.is_mysql:
            parts = [part.replace("%%", "%") for part in parts]
        return tuple(parts)

    def _write(self, lengths: _Lengths) -> str:
        """Put the placeholders between the parts: as many for each argument as its length."""
        ends = list(accumulate(1 if length is None else length for length in lengths))
        pieces, holes = list(self.parts), list[str]()
        hole = _HOLES.get(self.dialect, "%s")
        for place, slot in enumerate(self._slots):
            end, length = ends[slot.arg], lengths[slot.arg]
            if length == 0:
                holes.append(self._write_empty(place, pieces))
            else:
                numbers = range(end - (length or 1) + 1, end + 1)
                holes.append(", ".join(map(hole.format, numbers)))
        if self.dialect.is_mysql and "%s" in "".join(holes):
            pieces = [piece.replace("%", "%%") for piece in pieces]
        return "".join(chain.from_iterable(zip(pieces, [*holes, ""], strict=True)))

    def _write_empty(self, place: int, pieces: list[str]) -> str:
        slot = self._slots[place]
        if slot.opening == slot.start:
            raise self._error(
                f"expand() of no values (parameter {slot.name or place + 1}) can only stand in "
                f"in (...) or not in (...), alone in the parentheses"
            )
        if self.dialect is not Dialect.POSTGRES:
            return "select null from dual where false" if self.dialect.is_mysql else ""
        # IN gives way to an operator: the pieces lose what belonged to it.
        pieces[place] = pieces[place][: slot.opening - slot.start]
        pieces[place + 1] = pieces[place + 1][slot.closing - slot.end :]
        return "operator(<>) all ('{}')" if slot.negated else "operator(=) any ('{}')"

    def _expand(self, args: _Args) -> tuple[str, _Args]:
        lengths = tuple(len(arg.values) if type(arg) is Expand else None for arg in args)
        text = _write_expanded(self, lengths)
        if self.dialect is not Dialect.POSTGRES:
            args = tuple(args[slot.arg] for slot in self._slots)
        values = (arg.values if type(arg) is Expand else (arg,) for arg in args)
        return text, tuple(chain.from_iterable(values))


_write_expanded = lru_cache(maxsize=256)(Statement._write)


def _taker(keys: tuple[str, ...]) -> Callable[[Any], _Args]:
    """Return what takes the values of ``keys`` out of a dict, as a tuple: the hot path."""
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda params: tuple([params[key] for key in keys])


def _type(value: object) -> str:
    return type(value).__name__


def _named(names: Iterable[str]) -> str:
    return listed(f":{name}" for name in names)


@lru_cache(maxsize=1024)
def compile_sql(sql: str, dialect: Dialect) -> Statement:
    """Return what is known of ``sql``, cached.

    Raises:
        ProgrammingError: the text has both named and positional parameters.
    """
    return Statement(sql, dialect)
