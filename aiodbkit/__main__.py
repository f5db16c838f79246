"""``python -m aiodbkit``: the same as ``aiodbkit`` at the command line."""

from __future__ import annotations

import sys

from aiodbkit.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
