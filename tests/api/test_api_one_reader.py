"""Reads that have turns, where the database is inside of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sharewright.api import one_reader
from sharewright.api.one_reader import OneReader


class Application:
    """Counts the requests that are in it; each waits until ``enough`` have been there together, or for a while."""

    def __init__(self, enough: int) -> None:
        self.most = 0
        self._now = 0
        self._counting = threading.Lock()
        self._met = threading.Event()
        self._enough = enough

    def __call__(self, environ: dict[str, Any], _start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._counting:
            self._now += 1
            self.most = max(self.most, self._now)
            if self._now >= self._enough:
                self._met.set()
        self._met.wait(environ["seconds"])
        with self._counting:
            self._now -= 1
        if environ.get("fails"):
            raise RuntimeError("it failed")
        return [b"ok"]


def ask(app: OneReader, *methods: str, seconds: float, fails: bool = False) -> list[BaseException | None]:
    with ThreadPoolExecutor(len(methods)) as pool:
        environs = [{"REQUEST_METHOD": method, "seconds": seconds, "fails": fails} for method in methods]
        asked = [pool.submit(app, environ, print) for environ in environs]
        return [each.exception() for each in asked]


def test_reads_have_turns() -> None:
    app = Application(enough=2)
    assert ask(OneReader(app), "GET", "HEAD", "GET", seconds=0.05) == [None] * 3
    assert app.most == 1


def test_writes_come_together_with_each_other_and_with_a_read() -> None:
    app = Application(enough=3)
    assert ask(OneReader(app), "POST", "GET", "DELETE", seconds=60) == [None] * 3
    assert app.most == 3


def test_one_that_waits_for_something_else_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_reader, "_PATIENCE", 0.01)
    app = Application(enough=2)
    assert ask(OneReader(app), "GET", "GET", seconds=60) == [None] * 2
    assert app.most == 2


def test_a_failure_ends_its_turn() -> None:
    app = OneReader(Application(enough=2))
    failures = ask(app, "GET", "GET", "GET", seconds=0.01, fails=True)
    assert [str(each) for each in failures] == ["it failed"] * 3
