"""One read at a time, for databases inside of this process.

Python's sqlite3 lets go of the interpreter at every row and takes it again for the next. Where other threads want it,
each of these is a change of threads: four lists at once took twice the processor time of four one after the other
(bench/README.md). A read has nothing to wait for there, so that there is nothing to win by more of them at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

# What has taken longer than that waits for something else, such as the identity service; then others go on beside it.
_PATIENCE: Final = 0.5  # seconds


class OneReader:
    """A WSGI application in which the requests that only read have turns. Those that write have some of their own, in
    the store: they share a commit with others, and have to come together for it."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._turn = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return self._app(environ, start_response)
        mine = self._turn.acquire(timeout=_PATIENCE)
        try:
            return self._app(environ, start_response)
        finally:
            if mine:
                self._turn.release()
