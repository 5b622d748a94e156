"""One reading for all who ask at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Found = TypeVar("Found")


class SharedReading(Generic[Found]):
    """What ``read`` returns: each caller gets the answer of a reading that began after his call did. Those who come
    while one is going on share the next."""

    def __init__(self, read: Callable[[], Found]) -> None:
        self._read = read
        self._reading = threading.Lock()
        self._lock = threading.Lock()
        self._next: Future[Found] | None = None  # for which somebody waits for the one before

    def get(self) -> Found:
        """Raises what ``read`` raises."""
        with self._lock:
            mine = self._next
            leads = mine is None
            if mine is None:
                mine = self._next = Future()
        if leads:
            with self._reading:
                with self._lock:
                    self._next = None
                try:
                    mine.set_result(self._read())
                except BaseException as error:
                    mine.set_exception(error)
                    raise
        return mine.result()
