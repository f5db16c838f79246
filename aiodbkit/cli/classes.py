"""Python classes for tables: the types are those that a column's values come back as."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from aiodbkit.inspection import Column, Table
from aiodbkit.sql import Dialect

__all__ = ["Style", "classes_of", "python_type"]

Style = Literal["dataclass", "pydantic", "msgspec", "typeddict"]

# By the first words of the declared type; the first that fits. See the table in docs/values.md.
_SQLITE = (
    (r"bool", "bool"),
    (r"(decimal|numeric)\b", "Decimal"),
    (r"date\b", "date"),
    (r"time\b", "time"),
    (r"(datetime|timestamp|timestamptz)\b", "datetime"),
    (r"uuid\b", "UUID"),
    (r"jsonb?\b", "Any"),
    (r".*int", "int"),
    (r".*(char|clob|text)", "str"),
    (r".*blob", "bytes"),
    (r".*(real|floa|doub)", "float"),
)
_POSTGRES = (
    (r"(smallint|integer|bigint|oid)$", "int"),
    (r"(real|double precision)$", "float"),
    (r"numeric", "Decimal"),
    (r'(text|character|name|citext|"char"|bpchar|xml)', "str"),
    (r"bytea$", "bytes"),
    (r"boolean$", "bool"),
    (r"date$", "date"),
    (r"timestamp", "datetime"),
    (r"time\b", "time"),
    (r"interval", "timedelta"),
    (r"uuid$", "UUID"),
)
_MYSQL = (
    (r"tinyint\(1\)", "bool"),
    (r"((tiny|small|medium|big)?int|year|bit)\b", "int"),
    (r"(float|double)", "float"),
    (r"decimal", "Decimal"),
    (r"(.*(char|text)|enum|uuid|inet)", "str"),
    (r".*(blob|binary)", "bytes"),
    (r"date\b", "date"),
    (r"(datetime|timestamp)", "datetime"),
    (r"time\b", "time"),
)
_TYPES = {Dialect.SQLITE: _SQLITE, Dialect.POSTGRES: _POSTGRES, Dialect.MYSQL: _MYSQL}

_ORIGINS = {
    "Any": "typing",
    "BaseModel": "pydantic",
    "Decimal": "decimal",
    "Field": "pydantic",
    "Struct": "msgspec",
    "TypedDict": "typing",
    "UUID": "uuid",
    "dataclass": "dataclasses",
    "date": "datetime",
    "datetime": "datetime",
    "field": "msgspec",
    "time": "datetime",
    "timedelta": "datetime",
}
_OTHERS = ("msgspec", "pydantic")  # not of the standard library
_HEADS = {
    "dataclass": "@dataclass\nclass {}:",
    "pydantic": "class {}(BaseModel):",
    "msgspec": "class {}(Struct):",
    "typeddict": "class {}(TypedDict):",
}
_BASES = {
    "dataclass": "dataclass",
    "pydantic": "BaseModel",
    "msgspec": "Struct",
    "typeddict": "TypedDict",
}
# What a field would hide of pydantic's own.
_OF_PYDANTIC = re.compile(
    r"model_|_|(construct|copy|dict|from_orm|json|parse_(file|obj|raw)|schema|schema_json"
    r"|update_forward_refs|validate)$"
)


def python_type(declared: str, dialect: Dialect) -> str:
    """Return the name of the type that a column's values come back as, ``"Any"`` if unknown."""
    text = declared.lower()
    if dialect is Dialect.POSTGRES and text.endswith("[]"):
        return f"list[{python_type(declared.removesuffix('[]'), dialect)}]"
    for pattern, name in _TYPES[dialect]:
        if re.match(pattern, text):
            return name
    return "Any"


def classes_of(tables: Sequence[Table], dialect: Dialect, style: Style) -> str:
    """Return the source of a module with a class for each table, for ``into=``."""
    used = {_BASES[style]}
    names = _unique((_class_name(table.name) for table in tables), taken=_ORIGINS)
    pairs = list(zip(names, tables, strict=True))
    classes = [_class(name, table, dialect, style, used) for name, table in pairs]
    head = '"""The tables of a database, a class for each, as `aiodbkit inspect` found them."""'
    future = "from __future__ import annotations"
    return "\n\n".join([head, future, _imports(used)]) + "\n\n\n" + "\n\n\n".join(classes) + "\n"


def _imports(used: Iterable[str]) -> str:
    modules: dict[str, list[str]] = {}
    for name in sorted(used, key=lambda name: (name.lower(), name)):
        modules.setdefault(_ORIGINS[name], []).append(name)
    lines = {module: f"from {module} import {', '.join(of)}" for module, of in modules.items()}
    standard = [lines[module] for module in sorted(lines) if module not in _OTHERS]
    others = [lines[module] for module in sorted(lines) if module in _OTHERS]
    return "\n\n".join("\n".join(block) for block in (standard, others) if block)


def _class(name: str, table: Table, dialect: Dialect, style: Style, used: set[str]) -> str:
    types = [_annotation(column, dialect, used) for column in table.columns]
    columns = [column.name for column in table.columns]
    if style == "typeddict" and not all(map(_is_name, columns)):
        fields = (
            f"        {column!r}: {kind}," for column, kind in zip(columns, types, strict=True)
        )
        return "\n".join(
            [f"{name} = TypedDict(", f"    {name!r},", "    {", *fields, "    },", ")"]
        )
    lines = [_HEADS[style].format(name), f'    """The table {_plain(table.name)}."""']
    if columns:
        lines.append("")
    safe = _unique(_field_name(column, style) for column in columns)
    for attribute, column, kind in zip(safe, columns, types, strict=True):
        lines.append(f"    {attribute}: {kind}{_called(attribute, column, style, used)}")
    return "\n".join(lines)


def _annotation(column: Column, dialect: Dialect, used: set[str]) -> str:
    kind = python_type(column.type, dialect)
    used.update(name for name in re.findall(r"\w+", kind) if name in _ORIGINS)
    return f"{kind} | None" if column.nullable and kind != "Any" else kind


def _called(attribute: str, column: str, style: Style, used: set[str]) -> str:
    """Return what tells that the column of a field is called otherwise."""
    if attribute == column:
        return ""
    if style == "pydantic":
        used.add("Field")
        return f" = Field(alias={column!r})"
    if style == "msgspec":
        used.add("field")
        return f" = field(name={column!r})"
    return f"  # select it AS {attribute}: {_plain(column)}"


def _field_name(column: str, style: Style) -> str:
    name = re.sub(r"\W", "_", column)
    if not name.isidentifier():  # it begins with a digit, or is empty
        name = f"c_{name}"
    if style == "pydantic" and _OF_PYDANTIC.match(name):
        name = f"{name.lstrip('_')}_"
    return name if _is_name(name) else f"{name}_"


def _class_name(table: str) -> str:
    words = re.split(r"[\W_]+", table)
    name = "".join(word[:1].upper() + word[1:] for word in words)
    return name if _is_name(name) else f"Table{name}"


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _unique(names: Iterable[str], taken: Iterable[str] = ()) -> Iterator[str]:
    used = set(taken)
    for name in names:
        number, chosen = 2, name
        while chosen in used:
            number, chosen = number + 1, f"{name}_{number}"
        used.add(chosen)
        yield chosen


def _plain(name: str) -> str:
    """Return a name as it can stand in a docstring or a comment."""
    return re.sub(r'["\\\s]+', " ", name)
