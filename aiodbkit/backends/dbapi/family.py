"""What is known of a database behind a DB-API 2.0 module, beyond what PEP 249 promises.

Where a database is recognised, its connections are put into autocommit, and BEGIN and COMMIT are
sent as SQL: a statement outside of a transaction then costs one round trip. Where it is not, the
transaction that PEP 249 has the module begin is used, and ended after each such statement.

All methods that take ``raw`` run on the connection's thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, get_args

from aiodbkit.driver import Capabilities
from aiodbkit.errors import InternalError, NotSupportedError, ProgrammingError
from aiodbkit.options import Isolation, TransactionOptions
from aiodbkit.sql import Dialect

__all__ = ["Begin", "Family", "family_of"]

_LEGACY_TRANSACTION_CONTROL = -1  # of sqlite3: isolation_level counts
_IN_TRANSACTION, _IN_FAILED_TRANSACTION = 2, 3  # of libpq
_SERVER_STATUS_IN_TRANS = 1
# https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html
_COMMITS = re.compile(
    r"""(?ix) \s* (?:
    (?: alter | rename | truncate | grant | revoke | flush | optimize | repair | install ) \b
    | lock\s+tables? \b
    | (?: create (?:\s+or\s+replace)? | drop ) \s+ (?!temporary\b|or\s) \w+ )"""
)


class Begin(NamedTuple):
    """How a transaction begins, and what is to be run when it has ended."""

    statements: Sequence[str]
    afterwards: Sequence[str] = ()


class Family:
    """A database of which nothing is known."""

    dialect: ClassVar[Dialect] = Dialect.SQLITE  # nothing but the quotes of the standard, and []
    is_implicit: ClassVar[bool] = True  # the module begins transactions by itself
    capabilities: ClassVar[Capabilities] = Capabilities(
        isolation_levels=frozenset(),
        cursor_needs_transaction=True,
        rows_affected_of_many=False,
        deferred_constraints=False,
    )
    quote_character: ClassVar[str] = '"'
    # Statements that cannot run inside a transaction, or end one: their scripts run as they stand.
    loose_words: ClassVar[frozenset[str]] = frozenset()
    undoes_scripts: ClassVar[bool] = True

    def set_up(self, raw: Any) -> None:
        """Put a new connection into the mode that is relied on."""
        if isinstance(getattr(raw, "autocommit", None), bool) and raw.autocommit:
            raw.autocommit = False

    def in_transaction(self, raw: Any) -> bool | None:  # noqa: ARG002
        """Whether a transaction is open; None where the module does not tell."""
        return None

    def stopper(self, raw: Any) -> Callable[[], Any] | None:
        """Return what ends a running statement from another thread, by its documentation."""
        found = getattr(raw, "cancel", None)
        return found if callable(found) else None

    def begin(self, options: TransactionOptions) -> Begin:
        """Return how to begin.

        Raises:
            NotSupportedError: that cannot be had.
        """
        for name in ("isolation", "read_only", "deferrable", "mode"):
            if getattr(options, name):
                raise NotSupportedError(
                    f"{name}={getattr(options, name)!r}: DBAPIEngine does not know the database "
                    "behind this module, and how to ask it for that"
                )
        return Begin(())

    def refuse_commit(self, cursor: Any) -> None:
        """Raise for a COMMIT that was answered, but not by a commit."""

    def ping(self, raw: Any) -> None:
        """Make a round trip."""
        _run(raw, "select 1")

    def after_error(self, raw: Any) -> None:
        """Find out what an error in a transaction has left of it."""

    def commits(self, blanked: str) -> str:  # noqa: ARG002
        """Return the name of a statement that would commit the open transaction, or ``""``."""
        return ""

    def quote(self, identifier: str) -> str:
        """Return one identifier quoted."""
        if "\0" in identifier:
            raise ProgrammingError("a name cannot have a NUL character")
        mark = self.quote_character
        return mark + identifier.replace(mark, 2 * mark) + mark


class SQLite(Family):
    """SQLite, through the standard library's module or one like it."""

    is_implicit = False
    capabilities = Capabilities(
        isolation_levels=frozenset({"serializable"}),
        lock_modes=True,
        ddl_is_transactional=True,
        concurrent_writers=False,
    )
    loose_words = frozenset(("pragma", "vacuum", "attach", "detach"))

    def set_up(self, raw: Any) -> None:
        if getattr(raw, "autocommit", _LEGACY_TRANSACTION_CONTROL) == _LEGACY_TRANSACTION_CONTROL:
            raw.isolation_level = None
        else:
            raw.autocommit = True

    def in_transaction(self, raw: Any) -> bool | None:
        return bool(raw.in_transaction)

    def stopper(self, raw: Any) -> Callable[[], Any] | None:
        return raw.interrupt  # type: ignore[no-any-return]

    def begin(self, options: TransactionOptions) -> Begin:
        if options.isolation not in (None, "serializable"):
            raise NotSupportedError(
                f"isolation={options.isolation!r}: SQLite's transactions are always serializable"
            )
        if options.deferrable:
            raise NotSupportedError("deferrable=True is PostgreSQL's: SQLite's readers never wait")
        mode = options.mode or ("deferred" if options.read_only else "immediate")
        if options.read_only:
            return Begin(
                ("PRAGMA query_only = 1", f"BEGIN {mode.upper()}"), ("PRAGMA query_only = 0",)
            )
        return Begin((f"BEGIN {mode.upper()}",))


class Postgres(Family):
    """PostgreSQL, through psycopg2, psycopg or pg8000."""

    dialect = Dialect.POSTGRES
    is_implicit = False
    capabilities = Capabilities(
        isolation_levels=frozenset(get_args(Isolation)),
        deferrable=True,
        cursor_needs_transaction=True,
        error_aborts_transaction=True,
        ddl_is_transactional=True,
        rows_affected_of_many=False,
        last_insert_id=False,
    )
    loose_words = frozenset(("vacuum", "reindex", "cluster"))

    def set_up(self, raw: Any) -> None:
        raw.rollback()  # it refuses to change its mode inside a transaction
        raw.autocommit = True

    def in_transaction(self, raw: Any) -> bool | None:
        status = getattr(getattr(raw, "info", None), "transaction_status", None)
        if status is None:
            return None
        return int(status) in (_IN_TRANSACTION, _IN_FAILED_TRANSACTION)

    def begin(self, options: TransactionOptions) -> Begin:
        if options.mode is not None:
            raise NotSupportedError(f"mode={options.mode!r} is for SQLite: PostgreSQL locks rows")
        words = ["BEGIN"]
        if options.isolation is not None:
            words.append(f"ISOLATION LEVEL {options.isolation.upper()}")
        words += ["READ ONLY"] * options.read_only + ["DEFERRABLE"] * options.deferrable
        return Begin((" ".join(words),))

    def refuse_commit(self, cursor: Any) -> None:
        if getattr(cursor, "statusmessage", None) == "ROLLBACK":
            raise InternalError(
                "PostgreSQL answered COMMIT with ROLLBACK: nothing was committed, because an "
                "earlier statement of the transaction had failed and its error was swallowed; let "
                "it leave the block, or run what may fail in a nested transaction (a savepoint)",
                query="COMMIT",
            )


class MySQL(Family):
    """MySQL or MariaDB, through PyMySQL, mysqlclient, MySQL's or MariaDB's connector."""

    dialect = Dialect.MYSQL
    is_implicit = False
    capabilities = Capabilities(
        isolation_levels=frozenset(get_args(Isolation)),
        returning=False,
        deferred_constraints=False,
    )
    quote_character = "`"
    undoes_scripts = False  # whatever defines something commits

    def set_up(self, raw: Any) -> None:
        if callable(raw.autocommit):
            raw.autocommit(True)  # noqa: FBT003 - as they have it
        else:
            raw.autocommit = True

    def in_transaction(self, raw: Any) -> bool | None:
        status = getattr(raw, "server_status", None)
        if isinstance(status, int):
            return bool(status & _SERVER_STATUS_IN_TRANS)
        told = getattr(raw, "in_transaction", None)
        return told if isinstance(told, bool) else None

    def stopper(self, raw: Any) -> Callable[[], Any] | None:  # noqa: ARG002
        return None  # it would take a KILL through another connection

    def begin(self, options: TransactionOptions) -> Begin:
        if options.deferrable or options.mode is not None:
            name = "deferrable" if options.deferrable else "mode"
            raise NotSupportedError(f"MySQL has no transaction option {name}")
        statements: list[str] = []
        if options.isolation is not None:
            statements.append(f"SET TRANSACTION ISOLATION LEVEL {options.isolation.upper()}")
        statements.append("START TRANSACTION READ ONLY" if options.read_only else "BEGIN")
        return Begin(statements)

    def ping(self, raw: Any) -> None:
        try:
            raw.ping(reconnect=False)  # another session would be a silent surprise
        except TypeError:
            raw.ping()

    def after_error(self, raw: Any) -> None:
        _run(raw, "do 0")  # its answer tells of the transaction, an error does not

    def commits(self, blanked: str) -> str:
        found = _COMMITS.match(blanked)
        return " ".join(found[0].upper().split()) if found else ""


_FAMILIES = {"sqlite": SQLite(), "postgres": Postgres(), "mysql": MySQL()}
_UNKNOWN = Family()


def family_of(database: str) -> Family:
    """Return what is known of a database; ``""`` is one of which nothing is."""
    return _FAMILIES.get(database, _UNKNOWN)


def _run(raw: Any, sql: str) -> None:
    cursor = raw.cursor()
    try:
        cursor.execute(sql)
        if cursor.description is not None:
            cursor.fetchall()
    finally:
        cursor.close()
