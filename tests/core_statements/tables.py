"""The tables of these tests: one for everyday statements, one with a column of each type."""

from __future__ import annotations

import enum
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    Time,
    TypeDecorator,
    Uuid,
)

metadata = MetaData()


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Shouted(TypeDecorator):
    """Small letters in the database, capitals in the program."""

    impl = String(50)
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value.lower()

    def process_result_value(self, value, dialect):
        return None if value is None else value.upper()


class Enveloped(TypeDecorator):
    """JSON inside of JSON: both sides of the implementation's own processors are seen."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return {"letter": value}

    def process_result_value(self, value, dialect):
        return value["letter"]


people = Table(
    "people",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(50), nullable=False, unique=True),
    Column("team", Integer, index=True),
    Column("color", Enum(Color, name="color")),
)

pets = Table(
    "pets",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner", ForeignKey("people.id")),
    Column("name", String(50), comment="what it listens to"),
)

defaulted = Table(
    "defaulted",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(50)),
    Column("fixed", Integer, default=7),
    Column(
        "made",
        String(60),
        default=lambda context: f"made for {context.get_current_parameters()['name']}",
    ),
    Column("changed", Integer, default=0, onupdate=lambda: 99),
    Column("server", Integer, server_default="5"),
)

kinds = Table(
    "kinds",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("whole", BigInteger),
    Column("ratio", Float(53)),
    Column("price", Numeric(10, 2)),
    Column("as_float", Numeric(10, 2, asdecimal=False)),
    Column("title", Text),
    Column("raw", LargeBinary),
    Column("done", Boolean),
    Column("born", Date),
    Column("at", DateTime),
    Column("clock", Time),
    Column("took", Interval),
    Column("key", Uuid),
    Column("key_text", Uuid(as_uuid=False)),
    Column("color", Enum(Color, name="color")),
    Column("mood", Enum("good", "bad", name="mood")),
    Column("doc", JSON),
    Column("shouted", Shouted),
    Column("enveloped", Enveloped),
)

VALUES = {
    "whole": 2**40,
    "ratio": 1.5,
    "price": Decimal("12.50"),
    "as_float": 2.25,
    "title": "a :name, 100 %s and a ? in text",
    "raw": b"\x00\xff",
    "done": True,
    "born": date(2024, 2, 29),
    "at": datetime(2024, 7, 1, 12, 30),
    "clock": time(23, 59, 58),
    "took": timedelta(hours=30),
    "key": UUID(int=5),
    "key_text": str(UUID(int=6)),
    "color": Color.GREEN,
    "mood": "bad",
    "doc": {"a": [1, None, "x"]},
    "shouted": "LOUD",
    "enveloped": [1],
}
