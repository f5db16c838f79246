"""The clock of the tests."""

from __future__ import annotations

import asyncio
import time

import pytest

from aiodbkit.pool import core
from tests.virtual_time import NothingLeft, run_in_virtual_time


def test_hours_pass_at_once_and_to_the_second():
    async def main():
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(asyncio.sleep(7200), asyncio.sleep(3600))
        assert core.monotonic() == loop.time()
        return loop.time() - began

    assert run_in_virtual_time(main) == pytest.approx(7200, abs=1e-6)
    assert core.monotonic is time.monotonic


def test_waiting_for_what_cannot_happen_fails_instead_of_hanging():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(NothingLeft, match="main"):
        run_in_virtual_time(main)
