"""Full-text search by FTS5: an index, its upkeep, and searches whose text may be anything.

https://www.sqlite.org/fts5.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from aiodbkit.backends.sqlite.names import quoted_name
from aiodbkit.errors import ProgrammingError
from aiodbkit.options import count
from aiodbkit.rows import Row
from aiodbkit.verbs import Verbs

__all__ = ["FullText", "fts_query"]

# -"a phrase", -word, word*
_TERM = re.compile(r'(?P<minus>-?)(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))(?P<star>\*?)')
_OF_FTS5 = re.compile(r"\busing\s+\W?fts5\b", re.IGNORECASE)
_RESERVED = frozenset(("rank", "rowid"))
_MOST_TOKENS = 64


def fts_query(text: str) -> str:
    """Return what people type into a search box as a query of FTS5; ``""`` matches nothing.

    All words have to be found; ``"words in quotes"`` side by side, ``begin*`` by their beginning,
    ``-word`` not at all. Whatever else the text holds is searched for, and is never an operator.

    Raises:
        ProgrammingError: it is no text.
    """
    if not isinstance(text, str):
        raise ProgrammingError(f"a search is for a text, not for {type(text).__name__}")
    # Each once, as FTS5 takes its time for each.
    wanted: dict[str, None] = {}
    unwanted: dict[str, None] = {}
    for is_minus, term in _terms(text):
        (unwanted if is_minus else wanted)[term] = None
    if not wanted:
        return ""
    query = f"({' '.join(wanted)})"
    return f"{query} NOT ({' OR '.join(unwanted)})" if unwanted else query


def _terms(text: str) -> Iterator[tuple[bool, str]]:
    # SQLite reads up to a NUL, and takes no lone surrogate.
    plain = text.replace("\0", " ").encode("utf-8", "replace").decode()
    for found in _TERM.finditer(plain):
        words = found["phrase"] if found["word"] is None else found["word"]
        has_star = bool(found["star"]) or (found["word"] or "").endswith("*")
        words = words.rstrip("*") if found["word"] else words
        if words.strip():
            yield bool(found["minus"]), _phrase(words) + ("*" if has_star else "")


def _phrase(words: str) -> str:
    return '"' + words.replace('"', '""') + '"'


def _weight(given: object) -> str:
    if not isinstance(given, int | float) or not math.isfinite(given):
        raise ProgrammingError(f"search(): weights are numbers, not {given!r}")
    return repr(float(given))


def _marks(given: Sequence[str] | None) -> tuple[str, str]:
    match given:
        case None:
            return "", ""
        case (str(start), str(stop)):
            return start, stop
    raise ProgrammingError(
        f"search(): highlight is two texts, what goes before a match and after it, not {given!r}"
    )


class FullText:
    """An FTS5 index: ``notes = db.fts("note_index", ["title", "body"], content="note")``.

    Args:
        db: an engine, a connection or a session.
        table: the name of the index.
        columns: that are searched.
        content: a table that has these columns, whose rows the index follows by triggers; without
            it the index holds the text itself, and is written to as a table.
        content_rowid: the table's integer primary key.
        tokenize: as FTS5 has it: ``"porter unicode61"`` finds "runs" by "running".
        prefix: lengths for which ``begin*`` is indexed: ``(2, 3)``.
    """

    def __init__(
        self,
        db: Verbs,
        table: str,
        columns: Sequence[str],
        *,
        content: str | None = None,
        content_rowid: str = "rowid",
        tokenize: str | None = None,
        prefix: Sequence[int] = (),
    ) -> None:
        columns = columns if isinstance(columns, str) else tuple(columns)
        if isinstance(columns, str) or not columns:
            raise ProgrammingError(f"fts(): columns must be names, at least one, not {columns!r}")
        if taken := _RESERVED.intersection(map(str.lower, columns)):
            raise ProgrammingError(f"fts(): FTS5 has {min(taken)!r} for itself: rename the column")
        self._db = db
        self._name = table
        self._table = quoted_name(table)
        self._columns = columns
        self._content = content
        self._rowid = quoted_name(content_rowid)
        self._options = list(self._options_of(content_rowid, tokenize, prefix))

    def _options_of(
        self, content_rowid: str, tokenize: str | None, prefix: Sequence[int]
    ) -> Iterator[str]:
        given = {"content": self._content, "tokenize": tokenize}
        if self._content is not None:
            given["content_rowid"] = content_rowid
        if prefix:
            given["prefix"] = " ".join(str(int(length)) for length in prefix)
        for name, value in given.items():
            if value is not None:
                quoted = value.replace("'", "''")
                yield f"{name}='{quoted}'"

    # The index

    async def create(self) -> None:
        """Create the index, and fill it with what ``content`` has, unless it is there.

        In one transaction: the open one, or its own.

        Raises:
            ProgrammingError: the name is that of something else; or there is no such content.
        """
        known = "select sql from sqlite_master where type = 'table' and name = :name collate nocase"
        made = await self._db.fetch_val(known, {"name": self._name})
        if made:
            if not _OF_FTS5.search(made):
                raise ProgrammingError(f"{self._name!r} is a table already, and no FTS5 index")
            return
        await self._db.execute_script(";\n".join(self._script()))

    def _script(self) -> Iterator[str]:
        columns = [*map(quoted_name, self._columns), *self._options]
        yield f"create virtual table if not exists {self._table} using fts5({', '.join(columns)})"
        if self._content is None:
            return
        source = quoted_name(self._content)
        for event, what in self._triggers().items():
            trigger = quoted_name(f"{self._name}_after_{event}")
            yield (
                f"create trigger if not exists {trigger} after {event} on {source} begin {what} end"
            )
        yield self._command("rebuild")

    def _triggers(self) -> dict[str, str]:
        names = ", ".join(map(quoted_name, self._columns))
        new = ", ".join(f"new.{quoted_name(name)}" for name in self._columns)
        old = new.replace("new.", "old.")
        add = f"insert into {self._table} (rowid, {names}) values (new.{self._rowid}, {new});"  # noqa: S608
        remove = (
            f"insert into {self._table} ({self._table}, rowid, {names}) "  # noqa: S608
            f"values ('delete', old.{self._rowid}, {old});"
        )
        return {"insert": add, "delete": remove, "update": f"{remove} {add}"}

    async def drop(self) -> None:
        """Drop the index and its triggers; the content stays."""
        triggers = (quoted_name(f"{self._name}_after_{event}") for event in self._triggers())
        statements = [f"drop trigger if exists {trigger}" for trigger in triggers]
        await self._db.execute_script(
            ";\n".join([*statements, f"drop table if exists {self._table}"])
        )

    async def rebuild(self) -> None:
        """Make the index anew from ``content``, after changes that met no triggers."""
        await self._db.execute_script(self._command("rebuild"))

    async def optimize(self) -> None:
        """Merge the index into one piece, which is searched fastest."""
        await self._db.execute_script(self._command("optimize"))

    def _command(self, word: str) -> str:
        return f"insert into {self._table} ({self._table}) values ('{word}')"  # noqa: S608

    # Searching

    async def search(
        self,
        text: str,
        *,
        limit: int = 20,
        offset: int = 0,
        weights: Sequence[float] | None = None,
        highlight: tuple[str, str] | None = None,
        snippet: int | None = None,
        timeout: float | None = None,
    ) -> list[Row]:
        """Return the rows that match, the best first: ``rowid``, the columns, ``rank``.

        ``rank`` is FTS5's bm25: the lower, the better.

        Args:
            text: as it was typed, see `fts_query`.
            weights: how much each column counts, in their order.
            highlight: what goes before and after each match in the columns and the snippet. The
                text around is not escaped: for HTML, use marks that it cannot hold, escape it,
                and replace them.
            snippet: length, in words, of a further column ``snippet``: the best piece of the row.

        Raises:
            ProgrammingError: figures that cannot be; or there is no such index.
        """
        count("limit", limit, least=0)
        count("offset", offset, least=0)
        query = fts_query(text)
        if not query:
            return []
        start, stop = _marks(highlight)
        params = {"query": query, "limit": limit, "offset": offset}
        if highlight is not None or snippet is not None:
            params |= {"start": start, "stop": stop}
        rank = self._rank(weights)
        what = ", ".join(self._shown(snippet, is_marked=highlight is not None))
        sql = (
            f"select rowid, {what}, {rank} as rank from {self._table} "  # noqa: S608
            f"where {self._table} match :query order by {rank} limit :limit offset :offset"
        )
        return await self._db.fetch_all(sql, params, timeout=timeout)

    def _rank(self, weights: Sequence[float] | None) -> str:
        if weights is None:
            return f"bm25({self._table})"
        if len(weights) != len(self._columns):
            raise ProgrammingError(
                f"search(): {len(weights)} weights for the {len(self._columns)} columns of "
                f"{self._name!r}: give one for each"
            )
        return f"bm25({self._table}, {', '.join(map(_weight, weights))})"

    def _shown(self, snippet: int | None, *, is_marked: bool) -> Iterator[str]:
        for number, name in enumerate(map(quoted_name, self._columns)):
            marked = f"highlight({self._table}, {number}, :start, :stop) as {name}"
            yield marked if is_marked else name
        if snippet is None:
            return
        if type(snippet) is not int or not 1 <= snippet <= _MOST_TOKENS:
            raise ProgrammingError(
                f"search(): snippet must be 1 to {_MOST_TOKENS} words, not {snippet!r}"
            )
        if "snippet" in map(str.lower, self._columns):
            raise ProgrammingError("search(): the index has a column 'snippet' of its own")
        yield f"snippet({self._table}, -1, :start, :stop, '…', {snippet}) as snippet"
