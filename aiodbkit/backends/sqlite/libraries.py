"""One SQLite per file: two libraries in one process would break each other's locks.

https://www.sqlite.org/howtocorrupt.html, section 2.2.1
"""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

from aiodbkit.errors import ConfigurationError

__all__ = ["Use", "use_of"]


class Use:
    """A file is open by this library, as long as anybody has this."""

    def __init__(self, library: str) -> None:
        self.library = library


_uses: WeakValueDictionary[str, Use] = WeakValueDictionary()
_lock = threading.Lock()


def use_of(identity: str, shown_as: str, library: str) -> Use:
    """Return the use of a file, to be kept while it is open.

    Raises:
        ConfigurationError: it is open by another library in this process.
    """
    with _lock:
        use = _uses.get(identity)
        if use is None:
            use = _uses[identity] = Use(library)
    other = use.library
    if other == library:
        return use
    del use  # an error that is kept must not keep the file
    raise ConfigurationError(
        f"{shown_as} is open over {other} in this process: through {library}, which has an SQLite "
        "of its own, each would drop the other's locks. Use one driver for it"
    )
