"""One class of each kind that ``into=`` takes, all with the same fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, NotRequired, TypedDict

import attrs
import msgspec
import pydantic
import pydantic.dataclasses

from aiodbkit.rows import converter

COLUMNS = ("id", "name", "team")
VALUES = (1, "Ann", 7)


def build(into: Any, **values: Any) -> Any:
    return converter(into, tuple(values))(tuple(values.values()))


@dataclass
class Plain:
    id: int
    name: str
    team: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    team: int | None = None
    id: int
    name: str


@dataclass
class Mixed:
    id: int
    team: int | None = None
    name: str = field(default="", kw_only=True)


class Named(NamedTuple):
    id: int
    name: str
    team: int | None = None


@attrs.define
class Attrs:
    id: int
    name: str
    team: int | None = None


@attrs.frozen(kw_only=True)
class FrozenAttrs:
    id: int
    name: str
    team: int | None = None


class Struct(msgspec.Struct):
    id: int
    name: str
    team: int | None = None


class FrozenStruct(msgspec.Struct, frozen=True, kw_only=True):
    team: int | None = None
    id: int
    name: str


class ArrayStruct(msgspec.Struct, array_like=True):
    id: int
    name: str
    team: int | None = None


class Model(pydantic.BaseModel):
    id: int
    name: str
    team: int | None = None


class StrictModel(Model):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


@pydantic.dataclasses.dataclass
class PydanticDataclass:
    id: int
    name: str
    team: int | None = None


class Checked(TypedDict):
    id: int
    name: str
    team: NotRequired[int | None]


COMPILED = [Plain, Frozen, Mixed, Named, Attrs, FrozenAttrs, ArrayStruct]
VALIDATING = [Struct, FrozenStruct, Model, StrictModel, PydanticDataclass]
CLASSES = COMPILED + VALIDATING
