"""The service of ``examples/03_fastapi_service``, in this process and as a program of its own."""

from __future__ import annotations

import importlib.util
import os
import queue
import re
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

import aiodbkit

SERVICE = Path(__file__).parent.parent.parent / "examples" / "03_fastapi_service" / "main.py"


@pytest.fixture
def load_service(monkeypatch):
    """Return a context manager that yields the service's module, on a database, and started."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")

    @asynccontextmanager
    async def loaded(url):
        monkeypatch.setenv("DATABASE_URL", url)
        spec = importlib.util.spec_from_file_location("ledger_service", SERVICE)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        async with module.app.router.lifespan_context(module.app):
            yield module

    return loaded


@pytest.fixture
def start_service():
    """Return a context manager that starts the program on a database and yields its address."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    return _started


@contextmanager
def _started(url, *folders):
    """``folders`` are searched for modules before all others."""
    tested = Path(aiodbkit.__file__).parent.parent
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "PORT": "0",  # any that is free
        "PYTHONPATH": os.pathsep.join(map(str, (*folders, tested))),
    }
    process = subprocess.Popen(
        [sys.executable, SERVICE],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process.stderr, lines))  # else the pipe fills up
    reader.start()
    try:
        yield _address_in(lines)
    finally:
        process.terminate()
        process.wait(20)
        reader.join(20)
        process.stderr.close()
    assert not (told := [line for line in lines.queue if "Traceback" in line]), told


def _read(stream, lines):
    for line in stream:
        lines.put(line)


def _address_in(lines):
    seen = ""
    while True:
        try:
            seen += (line := lines.get(timeout=20))
        except queue.Empty:
            pytest.fail(f"the service told no address: {seen}")
        if found := re.search(r"running on (http://\S+)", line):
            return found[1]
