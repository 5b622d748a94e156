"""One reading answers all who asked before it began."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sharewright.store.shared_reading import SharedReading

WAIT = 30.0


class Source:
    """Each reading has a number, and waits to be let through."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.number = 0

    def read(self) -> int:
        self.number += 1
        mine = self.number
        self.begun.release()
        assert self.let.acquire(timeout=WAIT)
        if mine == 3:
            raise ValueError("away")
        return mine


def waiting(shared: SharedReading[int]) -> int:
    """How many wait for the next reading."""
    return 0 if shared._next is None else len(shared._next._condition._waiters)  # type: ignore[attr-defined]


def test_those_who_come_during_a_reading_share_the_next() -> None:
    source = Source()
    shared = SharedReading(source.read)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(shared.get)
        assert source.begun.acquire(timeout=WAIT)
        second = [threads.submit(shared.get) for _ in range(4)]
        while waiting(shared) < 3:  # the fourth is to read for them
            time.sleep(0.005)
        source.let.release()
        assert first.result(WAIT) == 1
        assert source.begun.acquire(timeout=WAIT)
        late = threads.submit(shared.get)  # after the second reading has begun
        source.let.release()
        answers = {future.result(WAIT) for future in second}
        source.let.release(3)
        with pytest.raises(ValueError, match="away"):
            late.result(WAIT)
        assert shared.get() == 4
    assert answers == {2}
