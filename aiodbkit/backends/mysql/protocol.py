"""The few numbers of MySQL's protocol that aiodbkit needs, whichever the driver.

https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = ["MULTI_STATEMENTS_OFF", "MULTI_STATEMENTS_ON", "Client", "Command", "Status", "Type"]


class Client(IntFlag):
    """What a client can do, told at connecting."""

    FOUND_ROWS = 2
    SSL = 1 << 11
    MULTI_STATEMENTS = 1 << 16


class Command(IntEnum):
    """Commands that are sent past the drivers' methods."""

    QUERY = 0x03
    SET_OPTION = 0x1B
    RESET_CONNECTION = 0x1F


MULTI_STATEMENTS_ON = b"\x00\x00"
MULTI_STATEMENTS_OFF = b"\x01\x00"


class Status(IntFlag):
    """What the server tells of a session with each answer."""

    IN_TRANSACTION = 1
    AUTOCOMMIT = 2
    MORE_RESULTS = 8
    NO_BACKSLASH_ESCAPES = 512


class Type(IntEnum):
    """Types of columns."""

    DECIMAL = 0
    TINY = 1
    SHORT = 2
    LONG = 3
    FLOAT = 4
    DOUBLE = 5
    TIMESTAMP = 7
    LONGLONG = 8
    INT24 = 9
    DATE = 10
    TIME = 11
    DATETIME = 12
    YEAR = 13
    BIT = 16
    JSON = 245
    NEWDECIMAL = 246
