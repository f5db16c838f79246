"""Is a backend as the others? A suite of tests for the authors of backends.

    from aiodbkit.testing.conformance import ConformanceSuite

    class TestFoo(ConformanceSuite):
        def create_engine(self, **options):
            return FooEngine("foo://localhost/test", **options)

pytest and unittest find its tests, which are plain functions that run an event loop each; no
plugin is needed. What a backend cannot do stands in its `Capabilities`, and is tested to be
refused. `docs/backends-of-your-own.md` builds a backend with it.
"""

from __future__ import annotations

from aiodbkit.testing.conformance.connections import ConnectionCases
from aiodbkit.testing.conformance.statements import StatementCases
from aiodbkit.testing.conformance.transactions import TransactionCases
from aiodbkit.testing.conformance.upkeep import UpkeepCases

__all__ = ["ConformanceSuite"]


class ConformanceSuite(StatementCases, TransactionCases, ConnectionCases, UpkeepCases):
    """Derive a class from it, give it `create_engine`, and let pytest or unittest find it.

    The attributes below say how the SQL of the database differs from the common one; see `Suite`.
    """
