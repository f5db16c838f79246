"""What ``into=`` makes of a row: constructors for known kinds of classes, compiled once.

Columns find their fields by name, never by position; what can be checked without a row is checked
before the first one. pydantic, msgspec and attrs are never imported here: a class of theirs
proves that they are loaded.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from aiodbkit._text import listed, near
from aiodbkit.errors import DataError, ProgrammingError

__all__ = ["constructor", "display_name", "signature"]

Columns = tuple[str, ...]
Maker = Callable[[Sequence[Any]], Any]

# What a type's own error calls a place: (the field, its column).
Places = Mapping[str, tuple[str, str]]


def constructor(into: Any, shape: type, columns: Columns) -> Maker | None:
    """Return a function from a row's values to ``into``, None for a class of no known kind.

    ``shape`` is the class itself where ``into`` is a generic alias of it.

    Raises:
        ProgrammingError: columns and fields do not match.
    """
    if hasattr(shape, "__struct_fields__"):
        return _struct(into, shape, columns)
    if hasattr(shape, "model_validate"):
        return _model(shape, columns)
    if hasattr(shape, "__required_keys__"):
        return _typed_dict(shape, columns)
    if hasattr(shape, "__dataclass_fields__") or hasattr(shape, "__attrs_attrs__"):
        return _plain(shape, columns)
    if issubclass(shape, tuple) and hasattr(shape, "_fields"):
        return _plain(shape, columns)
    return None


def _plain(into: Any, columns: Columns) -> Maker:
    """Dataclass, NamedTuple, attrs: whatever parameters the constructor has."""
    fields = {
        p.name: p
        for p in signature(into).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    own_names = {a.name: a.alias for a in getattr(into, "__attrs_attrs__", ()) if a.alias in fields}
    required = [name for name, p in fields.items() if p.default is p.empty]
    taken = _match(into, columns, own_names | {name: name for name in fields}, required)
    positional = [name for name, p in fields.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if hasattr(into, "__pydantic_validator__"):  # its errors call positional arguments by number
        positional = []
    make = _call_with(into, taken, positional[: len(taken)])
    return _guard(into, make, {field: (field, columns[i]) for i, field in enumerate(taken)})


def _call_with(into: Any, taken: list[str], leading: list[str]) -> Maker:
    if taken == leading:
        return lambda values: into(*values)
    if sorted(taken) == sorted(leading):
        pick = itemgetter(*map(taken.index, leading))
        return lambda values: into(*pick(values))
    pairs = _pairs(taken)
    return lambda values: into(**dict(pairs(values)))


def _struct(into: Any, shape: Any, columns: Columns) -> Maker:
    """msgspec: converts and checks; not strict, as backends differ in what they return."""
    if shape.__struct_config__.array_like:  # msgspec.convert wants an array for these
        return _plain(shape, columns)
    msgspec = sys.modules["msgspec"]
    fields = msgspec.structs.fields(shape)
    own_names = {field.name: field.encode_name for field in fields}
    renamed = {field.encode_name: field.encode_name for field in fields}
    required = [field.encode_name for field in fields if field.required]
    taken = _match(shape, columns, own_names | renamed, required)
    pairs, convert = _pairs(taken), msgspec.convert
    real_names = {encoded: name for name, encoded in own_names.items()}
    places = {field: (real_names[field], columns[i]) for i, field in enumerate(taken)}
    return _guard(shape, lambda values: convert(dict(pairs(values)), into, strict=False), places)


def _model(into: Any, columns: Columns) -> Maker:
    """pydantic: aliases, extra columns and missing ones are the model's own affair."""
    _match(into, columns, {column: column for column in columns}, ())
    pairs, validate = _pairs(columns), into.model_validate
    fields = getattr(into, "model_fields", {})
    aliases = {str(field.validation_alias): name for name, field in fields.items()}
    places = {column: (aliases.get(column, column), column) for column in columns}
    return _guard(into, lambda values: validate(dict(pairs(values))), places)


def _typed_dict(into: Any, columns: Columns) -> Maker:
    required = into.__required_keys__ - _marked(into, "NotRequired") | _marked(into, "Required")
    names = {name: name for name in into.__required_keys__ | into.__optional_keys__}
    _match(into, columns, names, sorted(required))
    pairs = _pairs(columns)
    return lambda values: dict(pairs(values))


def _marked(into: Any, mark: str) -> set[str]:
    """Find the marks that ``from __future__ import annotations`` hides from the class itself."""
    try:
        hints = into.__annotations__
    except NameError:  # evaluated late, and a name is known to type checkers only
        return set()
    texts = {name: getattr(hint, "__forward_arg__", "") for name, hint in hints.items()}
    return {name for name, text in texts.items() if re.match(rf"(\w+\.)?{mark}\[", text)}


def _pairs(names: Sequence[str]) -> Callable[[Sequence[Any]], Iterable[tuple[str, Any]]]:
    # zip(strict=True) would cost 150 ns a row; a driver's rows are as long as its columns.
    return partial(zip, names)


def signature(into: Any) -> inspect.Signature:
    """Return the signature; names that only type checkers know do no harm."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format  # noqa: PLC0415 - new in that version

        return inspect.signature(into, annotation_format=Format.FORWARDREF)
    return inspect.signature(into)


def display_name(into: Any) -> str:
    """Return what messages call it."""
    return getattr(into, "__name__", None) or repr(into)


def _match(
    into: Any, columns: Columns, names: Mapping[str, str], required: Iterable[str]
) -> list[str]:
    """Return the field of each column.

    Raises:
        ProgrammingError: a column without a field, a field without a column, two for one.
    """
    fields = [names.get(column) for column in columns]
    unknown = [column for column in columns if column not in names]
    missing = [field for field in required if field not in fields]
    double = [c for i, c in enumerate(columns) if c in names and names[c] in fields[:i]]
    if not (unknown or missing or double):
        return [names[column] for column in columns]
    problems = [
        *(f"column {name!r} has no field{near(name, names)}" for name in unknown),
        *(f"field {name!r} has no column and no default{near(name, columns)}" for name in missing),
        *(f"column {name!r} is the second one for its field" for name in double),
    ]
    raise ProgrammingError(
        f"{display_name(into)} does not fit the columns {listed(columns)}: {'; '.join(problems)}. "
        f"Select what the fields are called, with AS where the table calls it otherwise",
        column=(unknown + missing + double)[0],
    )


def _guard(into: Any, make: Maker, places: Places) -> Maker:
    def build(values: Sequence[Any]) -> Any:
        try:
            return make(values)
        except Exception as error:
            raise _refusal(into, error, places) from error

    return build


def _refusal(into: Any, error: Exception, places: Places) -> DataError | ProgrammingError:
    blamed = [(places.get(place, (place, None)), reason) for place, reason in _blame(error)]
    what = [_complaint(f, c, reason) for (f, c), reason in blamed] or [type(error).__name__]
    unfit = any(reason in _UNFIT for _, reason in blamed)
    columns = listed(column for _, column in places.values())
    return (ProgrammingError if unfit else DataError)(
        f"{display_name(into)} refuses a row: {'; '.join(what)}. The columns are {columns}",
        column=next((column or field for (field, column), _ in blamed), None),
    )


# pydantic's words for a misfit of columns and fields rather than of a value
_UNFIT = frozenset({"missing", "extra_forbidden"})


def _complaint(field: str, column: str | None, reason: str) -> str:
    if reason == "extra_forbidden":
        return f"column {column!r} has no field"
    if column is None:
        return f"field {field!r} has no column ({reason})"
    return f"field {field!r} does not take the value of column {column!r} ({reason})"


def _blame(error: Any) -> Iterator[tuple[str, str]]:
    """Yield places and reasons. A reason is a kind of mistake: whole messages may quote values."""
    if _is_instance(error, "pydantic_core", "ValidationError"):
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            if item["loc"]:
                inside = " inside" if len(item["loc"]) > 1 else ""
                yield str(item["loc"][0]), item["type"] + inside
    elif _is_instance(error, "msgspec", "ValidationError"):
        place = re.search(r"`\$\.([^`.\[]+)", str(error))
        reason = re.match(r"Expected `[^`]*`, got `[^`]*`", str(error))
        if place:
            yield place[1], reason[0] if reason else "invalid"
    else:
        for argument in error.args:
            if _is_instance(argument, "attr", "Attribute"):
                yield argument.alias, type(error).__name__


def _is_instance(thing: Any, module: str, name: str) -> bool:
    return module in sys.modules and isinstance(thing, getattr(sys.modules[module], name))
