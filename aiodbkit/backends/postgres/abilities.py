"""What an engine of PostgreSQL asks of its driver, beyond `DriverConnection`.

Each method refuses until a driver has it: what a driver cannot do is told, never left out.
"""

# ruff: noqa: ARG002 - what refuses looks at no argument

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from aiodbkit.driver import DriverConnection, Params
from aiodbkit.errors import NotSupportedError

__all__ = ["Codec", "PostgresDriverConnection"]


class Codec(NamedTuple):
    """How values of one type of the database become Python's and back.

    Attributes:
        name, schema: of the type; without a schema it is looked for in the search path.
        kind: ``"hstore"``, ``"text"``, ``"binary"``: what the two functions speak of;
            ``"composite"``: a tuple of the attributes' values.
        encode: what a value becomes; for a composite with the attributes' names as well.
        decode: what it is made of.
        is_optional: a database that does not have the type is left as it is.
    """

    name: str
    schema: str | None
    kind: str
    encode: Callable[..., Any]
    decode: Callable[..., Any]
    is_optional: bool


class PostgresDriverConnection(DriverConnection):
    """A connection of one of PostgreSQL's drivers."""

    __slots__ = ()

    async def send(self, sql: str, timeout: float | None) -> None:
        """Run statements of the engine's own, without parameters, as one transaction.

        They leave nothing in the session that the engine does not undo itself.
        """
        await self.execute_script(sql, timeout)

    async def set_codecs(self, codecs: Sequence[Codec]) -> None:
        """Let values of these types come and go as they say. Called once, when it is new.

        Raises:
            ConfigurationError: the database has no such type, or one of another kind.
        """
        if codecs:
            self._refuse("register_type()")

    async def listen(
        self,
        channels: Sequence[str],
        receive: Callable[[str, str, int], None],
        lost: Callable[[], None],
    ) -> None:
        """Listen on channels for as long as the connection lives.

        When it returns the server has begun to listen: from then on no notification is lost.

        Args:
            receive: called in the event loop with channel, payload and the notifier's process
                id; possibly before this returns.
            lost: called in the event loop when the connection has ended.
        """
        self._refuse("listen()")

    async def copy_in(
        self, statement: str, source: AsyncIterator[bytes], timeout: float | None
    ) -> int:
        """Run a COPY ... FROM STDIN with the bytes of ``source``; return the number of rows.

        All or none: an error, of ``source`` too, or a cancellation leaves no row. An error of
        ``source`` is raised as it is.
        """
        self._refuse("copy_in() of bytes")

    async def copy_out(
        self,
        statement: Callable[[str], str],
        query: str,
        params: Params,
        sink: Callable[[bytes], Awaitable[None]],
        timeout: float | None,
    ) -> int:
        """Run a COPY ... TO STDOUT, hand its bytes to ``sink``; return the number of rows.

        Args:
            statement: makes the COPY statement of the query.
            query: with the parameters' places, which are given as literals: COPY takes none.
        """
        self._refuse("copy_out()")

    def _refuse(self, what: str) -> NoReturn:
        driver = type(self.raw).__module__.partition(".")[0]
        raise NotSupportedError(f"{what} is not there with {driver}: use driver='asyncpg'")
