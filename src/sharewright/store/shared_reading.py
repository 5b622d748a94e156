"""Several threads' readings of one kind in one: one statement for all of them, however many rows they ask for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class _Reading(Generic[Key, Found]):
    def __init__(self) -> None:
        self.keys: dict[Key, None] = {}
        self.outcome: Future[Mapping[Key, Found]] = Future()


class SharedReading(Generic[Key, Found]):
    """What ``read`` finds by keys: each caller gets the answer of a reading that began after his call did. Those who
    come while one is going on share the next."""

    def __init__(self, read: Callable[[Sequence[Key]], Mapping[Key, Found]]) -> None:
        self._read = read
        self._reading = threading.Lock()
        self._lock = threading.Lock()
        self._next: _Reading[Key, Found] | None = None  # for which somebody waits for the one before

    def get(self, key: Key) -> Found | None:
        """None when it finds nothing. Raises what ``read`` raises."""
        with self._lock:
            mine = self._next
            leads = mine is None
            if mine is None:
                mine = self._next = _Reading()
            mine.keys[key] = None
        if leads:
            with self._reading:
                with self._lock:
                    self._next = None
                try:
                    mine.outcome.set_result(self._read(list(mine.keys)))
                except BaseException as error:
                    mine.outcome.set_exception(error)
                    raise
        return mine.outcome.result().get(key)
