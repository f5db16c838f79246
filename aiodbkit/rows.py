"""`Row`, and the shapes the verbs return: rows, one value, one column, objects.

A `Row` class is made once for each tuple of column names, and a converter once for each type and
its columns; after that a row costs one constructor call.
"""

from __future__ import annotations

from collections import _tuplegetter  # type: ignore[attr-defined]  # namedtuple's own, in C
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex, TypeVar, overload

from aiodbkit._text import listed, near
from aiodbkit.errors import InterfaceError, MissingColumnError, ProgrammingError
from aiodbkit.into import constructor, display_name, signature

__all__ = [
    "Row",
    "column_values",
    "converter",
    "first_row",
    "make_rows",
    "row_class",
    "value",
]

T = TypeVar("T")
Values = Sequence[Any]

# dict(row) and its like stand on these; such a column is reached by row["keys"].
_METHODS = frozenset({"keys", "values", "items", "get"})

_item = tuple.__getitem__


class Row(tuple[Any, ...]):
    """One row: an immutable tuple of the values that also knows the names of its columns.

    ``row[0]``, ``row["id"]`` and ``row.id`` are the same value; a slice is a plain tuple.
    Iterating, ``len``, ``in``, ``==`` and ``hash`` are those of the tuple of the values;
    ``dict(row)`` goes by name.

    A column that is called like a method of this class (``keys``, ``values``, ``items``, ``get``)
    is reached by ``row["keys"]`` only; ``count`` and ``index`` are columns or nothing. Where two
    columns have one name, the name gives the first; position, iteration, ``keys()``, ``values()``
    and ``items()`` have them all.
    """

    __slots__ = ()

    __row_columns__: ClassVar[tuple[str, ...]] = ()
    __row_index__: ClassVar[Mapping[str, int]] = {}

    # tuple's methods would hide a missing column; without a getter `__getattr__` is asked.
    count: Any = property()
    index: Any = property()

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> Any: ...
    @overload
    def __getitem__(self, key: slice, /) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, key: str, /) -> Any: ...
    def __getitem__(self, key: Any, /) -> Any:
        if isinstance(key, str):
            try:
                key = self.__row_index__[key]
            except KeyError:
                raise KeyError(_missing(self, key)) from None
        return _item(self, key)

    def __getattr__(self, name: str) -> Any:
        # Without name= the traceback would add a "did you mean" of its own.
        raise AttributeError(_missing(self, name), name=None, obj=None)

    if not TYPE_CHECKING:  # a checker that saw these would let assignments pass

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(f"a Row is immutable: {name!r} cannot be set", name=None, obj=None)

        def __delattr__(self, name: str) -> None:
            raise AttributeError(f"a Row is immutable: {name!r} stays", name=None, obj=None)

    def keys(self) -> tuple[str, ...]:
        """Return the names of the columns, in order."""
        return self.__row_columns__

    def values(self) -> tuple[Any, ...]:
        """Return the values as a plain tuple."""
        return tuple(self)

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Return pairs of name and value."""
        return tuple(zip(self.__row_columns__, self, strict=True))

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a column, or ``default`` where there is no such column."""
        position = self.__row_index__.get(name)
        return default if position is None else _item(self, position)

    def __repr__(self) -> str:
        pairs = zip(self.__row_columns__, self, strict=True)
        return f"Row({', '.join(f'{_label(name)}={value!r}' for name, value in pairs)})"

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.__row_columns__, tuple(self))


def _missing(row: Row, name: str) -> str:
    columns = row.__row_columns__
    hint = "" if _is_dunder(name) else near(name, columns)
    return f"no column {name!r}{hint}; the row has {listed(columns)}"


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _label(name: str) -> str:
    return name if name.isidentifier() else repr(name)


def _restore(columns: tuple[str, ...], values: Values) -> Row:
    return row_class(columns)(values)


@lru_cache(maxsize=512)
def row_class(columns: tuple[str, ...]) -> type[Row]:
    """Return the class of the rows with these columns; call it with a row's values."""
    # Backwards, so that the first of two columns of one name is the one that stays.
    index = {columns[i]: i for i in reversed(range(len(columns)))}
    getters = {
        name: _tuplegetter(position, f"Column {name!r}.")
        for name, position in index.items()
        if name not in _METHODS and not _is_dunder(name)
    }
    own = {
        "__slots__": (),
        "__module__": Row.__module__,
        "__doc__": Row.__doc__,
        "__row_columns__": columns,
        "__row_index__": index,
    }
    return type("Row", (Row,), getters | own)


def make_rows(columns: Sequence[str], rows: Sequence[Values]) -> list[Row]:
    """Return all rows as `Row`."""
    return list(map(row_class(tuple(columns)), rows)) if rows else []


def first_row(columns: Sequence[str], rows: Sequence[Values]) -> Row | None:
    """Return the first row as `Row`, None where there is none."""
    return row_class(tuple(columns))(rows[0]) if rows else None


def value(columns: Sequence[str], rows: Sequence[Values], column: int | str = 0) -> Any:
    """Return one column's value in the first row, None where there is no row.

    Raises:
        MissingColumnError: there is no such column.
    """
    if rows and columns and column == 0:  # the way of nearly every query
        return rows[0][0]
    if rows:
        return rows[0][_position(columns, column)]
    if columns:
        _position(columns, column)
    return None


def column_values(
    columns: Sequence[str], rows: Sequence[Values], column: int | str = 0
) -> list[Any]:
    """Return one column's values.

    Raises:
        MissingColumnError: there is no such column.
    """
    if not rows and not columns:
        return []
    return list(map(itemgetter(_position(columns, column)), rows))


def _position(columns: Sequence[str], column: int | str) -> int:
    if isinstance(column, int):
        if -len(columns) <= column < len(columns):
            return column
        message = f"no column at position {column}; there are {len(columns)}: {listed(columns)}"
        raise MissingColumnError(message)
    if not isinstance(column, str):
        raise ProgrammingError(f"column is a name or a position, not {type(column).__name__}")
    if column in columns:
        return columns.index(column)
    hint = near(column, columns)
    raise MissingColumnError(
        f"no column {column!r}{hint}; there are {listed(columns)}", column=column
    )


def converter(into: Callable[..., T], columns: Sequence[str]) -> Callable[[Values], T]:
    """Return a function that makes one ``into`` of a row's values; by name, never by position.

    A dataclass, a NamedTuple, a TypedDict, an attrs class or a msgspec Struct takes every column
    (an ``InitVar`` is a field like others) and needs one for every field without a default.
    attrs aliases and msgspec's ``rename`` are known beside the field's own name. A msgspec Struct
    is made by ``msgspec.convert(strict=False)`` (``array_like`` ones by their constructor), a
    pydantic model by ``model_validate``, so that both check and convert the values; which
    aliases and extra columns a pydantic model takes is its own affair. The others take the values
    as they come. Anything else that is callable is called with the `Row`, and its errors are let
    through.

    Raises:
        InterfaceError: ``into`` cannot be called with a row.
        ProgrammingError: columns and fields do not match. pydantic models say so at the first row.
        DataError: from the function returned: the type refuses a value. Its text never has
            the value; ``__cause__``, the type's own error, may.
    """
    names = tuple(columns)
    shape = into if isinstance(into, type) else getattr(into, "__origin__", None)
    if not isinstance(shape, type):
        # Cheap to prepare, and a cache would keep alive what a function closes over.
        return _call(into, names)
    try:
        hash(into)
    except TypeError:
        return _compile(into, shape, names)
    made: Callable[[Values], T] = _compile_once(into, shape, names)
    return made


def _compile(into: Any, shape: type, columns: tuple[str, ...]) -> Callable[[Values], Any]:
    return constructor(into, shape, columns) or _call(shape, columns)


_compile_once = lru_cache(maxsize=512)(_compile)


def _call(into: Any, columns: tuple[str, ...]) -> Callable[[Values], Any]:
    row = row_class(columns)
    if into is Row:
        return row
    if into is dict and len(set(columns)) == len(columns):
        pairs = partial(zip, columns)  # half the cost of asking a Row for each of its names
        return lambda values: dict(pairs(values))
    _require_one_argument(into)
    return lambda values: into(row(values))


def _require_one_argument(into: Any) -> None:
    if not callable(into):
        kind = type(into).__name__
        raise InterfaceError(f"into= takes a class or a function of the row, not {kind}")
    if not isinstance(into, type):
        return  # a function's own error is clear, and its signature costs microseconds each call
    try:
        signature(into).bind(None)
    except TypeError:
        raise InterfaceError(
            f"{display_name(into)} cannot be called with one argument, the row: make it a "
            f"dataclass, or pass into=lambda row: {display_name(into)}(...)"
        ) from None
    except ValueError:
        return  # some built-in types have no signature
