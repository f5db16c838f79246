"""What a user adds to SQL: functions, aggregates, window functions, collations."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias
from weakref import WeakSet

__all__ = ["Definition", "Definitions", "Kind", "Missing", "define"]

Kind: TypeAlias = Literal["function", "aggregate", "window function", "collation"]

_MOST_ARGUMENTS = 127  # https://www.sqlite.org/limits.html
_METHODS = {
    "aggregate": ("step", "finalize"),
    "window function": ("step", "inverse", "value", "finalize"),
}


class Definition(NamedTuple):
    """One function for one number of arguments, or a collation.

    Attributes:
        arguments: how many; -1 is any number.
        call: the function, or the class with the methods ``step`` and ``finalize``.
        deterministic: the same arguments always give the same result.
    """

    kind: Kind
    name: str
    arguments: int
    call: Callable[..., Any]
    deterministic: bool = False

    def __str__(self) -> str:
        return (
            f"collation {self.name}" if self.kind == "collation" else f"{self.kind} {self.name}()"
        )


class Missing:
    """What one connection has not been given yet.

    The event loop appends, the connection's thread takes; no connection runs SQL before it has
    taken all.
    """

    __slots__ = ("__weakref__", "queue")

    def __init__(self, definitions: Iterator[Definition]) -> None:
        self.queue = deque(definitions)


class Definitions:
    """All that was defined on an engine, and its connections, which are to get it."""

    def __init__(self) -> None:
        self._latest: dict[tuple[bool, str, int], Definition] = {}
        self._connections: WeakSet[Missing] = WeakSet()

    def add(self, definition: Definition) -> None:
        """Give it to every connection, at its next use; it takes the place of one of its name."""
        key = (definition.kind == "collation", _folded(definition.name), definition.arguments)
        self._latest[key] = definition
        for missing in list(self._connections):
            missing.queue.append(definition)

    def for_connection(self) -> Missing:
        """Return what a new connection has to be given, now and as long as it is kept."""
        missing = Missing(iter(list(self._latest.values())))
        self._connections.add(missing)
        return missing


def _folded(name: str) -> str:
    """Return a name as SQLite compares it, which folds the case of ASCII only."""
    return name.encode().lower().decode()


def define(
    kind: Kind,
    call: Any,
    name: str | None,
    arguments: int | None = None,
    *,
    deterministic: bool = False,
) -> Iterator[Definition]:
    """Yield the definitions that one decorator makes: one for each number of arguments.

    Raises:
        TypeError: it cannot be called by SQLite: it is async, or lacks a method.
        ValueError: a name or a number of arguments that cannot be.
    """
    if not callable(call):
        raise TypeError(f"{_a(kind)} is something that can be called, not {call!r}")
    name = _checked_name(kind, getattr(call, "__name__", None) if name is None else name)
    methods = [_method(kind, call, each) for each in _METHODS.get(kind, ())] or [call]
    for method in methods:
        _refuse_async(kind, name, method)
    if kind == "collation":
        yield Definition(kind, name, 2, call)
        return
    if arguments is None:
        has_self = kind in _METHODS and _takes_self(call, "step")
        numbers: Sequence[int] = _numbers(kind, name, methods[0], has_self=has_self)
    else:
        numbers = (arguments,)
    for number in numbers:
        if type(number) is not int or not -1 <= number <= _MOST_ARGUMENTS:
            raise ValueError(
                f"{kind} {name}(): arguments={number!r}: SQLite's functions take 0 to "
                f"{_MOST_ARGUMENTS} arguments, or any number of them, which is -1"
            )
        yield Definition(kind, name, number, call, deterministic)


def _checked_name(kind: Kind, name: object) -> str:
    if not isinstance(name, str) or not name or "\0" in name or len(name.encode()) > 255:
        raise ValueError(
            f"{_a(kind)} needs a name of 1 to 255 bytes, not {name!r}: give it as the first "
            "argument"
        )
    if name == "<lambda>":
        raise ValueError(f"{_a(kind)} that is a lambda needs a name: give it as the first argument")
    return name


def _a(kind: Kind) -> str:
    return f"an {kind}" if kind == "aggregate" else f"a {kind}"


def _takes_self(cls: Any, name: str) -> bool:
    return not isinstance(inspect.getattr_static(cls, name), staticmethod | classmethod)


def _method(kind: Kind, cls: Any, name: str) -> Any:
    if not inspect.isclass(cls):
        raise TypeError(
            f"{_a(kind)} is a class with the methods {', '.join(_METHODS[kind])}, of which SQLite "
            f"makes an object for each group of rows; {cls!r} is none"
        )
    method = getattr(cls, name, None)
    if not callable(method):
        raise TypeError(f"{kind} {cls.__name__}: the method {name}() is missing")
    return method


def _refuse_async(kind: Kind, name: str, call: Any) -> None:
    inner = getattr(call, "__call__", None)  # noqa: B004 - of an object that is called
    if any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
        for each in (call, inner)
    ):
        raise TypeError(
            f"{kind} {name}: async functions cannot be used in SQL. SQLite calls it in the middle "
            "of a statement, on the connection's thread, where no event loop runs: make it a "
            "plain function, and await what it needs before the statement"
        )


def _numbers(kind: Kind, name: str, call: Any, *, has_self: bool) -> range:
    """Read from a signature how many arguments there may be."""
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):
        raise TypeError(
            f"{kind} {name}(): its signature cannot be read: say how many arguments it takes, "
            "arguments=..., -1 for any number"
        ) from None
    needed = [
        each for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty
    ]
    if needed:
        raise TypeError(f"{kind} {name}(): SQL has no name for its argument {needed[0].name!r}")
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return range(-1, 0)
    parameters = parameters[int(has_self) :]
    positional = [
        each
        for each in parameters
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    least = sum(each.default is each.empty for each in positional)
    return range(least, len(positional) + 1)
