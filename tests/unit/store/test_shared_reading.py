"""One reading answers all who asked before it began, each for his key."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, text

from sharewright.store.database import Store
from sharewright.store.shared_reading import SharedReading

WAIT = 30.0


class Source:
    """Each reading has a number, and waits to be let through. It finds its number for each key, and nothing for
    "none"."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.number = 0
        self.asked: list[Sequence[str]] = []

    def read(self, keys: Sequence[str]) -> dict[str, int]:
        self.number += 1
        mine = self.number
        self.asked.append(sorted(keys))
        self.begun.release()
        assert self.let.acquire(timeout=WAIT)
        if mine == 3:
            raise ValueError("away")
        return {key: mine for key in keys if key != "none"}


def waiting(shared: SharedReading[str, int]) -> int:
    """How many wait for the next reading."""
    return 0 if shared._next is None else len(shared._next.outcome._condition._waiters)  # type: ignore[attr-defined]


def test_those_who_come_during_a_reading_share_the_next() -> None:
    source = Source()
    shared = SharedReading(source.read)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(shared.get, "a")
        assert source.begun.acquire(timeout=WAIT)
        second = [threads.submit(shared.get, key) for key in ("a", "b", "b", "none")]
        while waiting(shared) < 3:  # the fourth is to read for them
            time.sleep(0.005)
        source.let.release()
        assert first.result(WAIT) == 1
        assert source.begun.acquire(timeout=WAIT)
        late = threads.submit(shared.get, "a")  # after the second reading has begun
        source.let.release()
        answers = [future.result(WAIT) for future in second]
        source.let.release(3)
        with pytest.raises(ValueError, match="away"):
            late.result(WAIT)
        assert shared.get("a") == 4
    assert answers == [2, 2, 2, None]
    assert source.asked == [["a"], ["a", "b", "none"], ["a"], ["a"]]


def double(tx: Connection, keys: Sequence[int]) -> dict[int, int]:
    return {key: tx.scalar(text("SELECT 2 * :key"), {"key": key}) for key in keys if key}


def test_a_store_looks_up_in_a_transaction(store: Store) -> None:
    assert store.look_up(double, 2) == 4
    assert store.look_up(double, 3) == 6
    assert store.look_up(double, 0) is None
    assert len(store._readings) == 1, "kept for the function"
