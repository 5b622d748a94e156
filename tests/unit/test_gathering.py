"""Rounds that follow each other wait a moment for more; nobody else does."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sharewright import gathering
from sharewright.gathering import Gathering


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept."""
    times: list[float] = []
    monkeypatch.setattr(time, "sleep", times.append)
    return times


@pytest.fixture
def rounds() -> Gathering:
    """After a round of the kind "busy" that another thread led."""
    made = Gathering(0.5)
    with ThreadPoolExecutor(1) as other:
        other.submit(made.end, "busy").result()
    return made


def test_a_round_that_follows_another_one_waits(rounds: Gathering, slept: list[float]) -> None:
    rounds.wait("busy")
    assert slept == [0.5]


def test_who_comes_alone_does_not_wait(rounds: Gathering, slept: list[float]) -> None:
    rounds.wait("quiet")
    rounds.end("quiet")
    rounds.wait("quiet")  # the same thread again: it cannot be one of several
    assert slept == []


def test_nor_who_comes_long_after(rounds: Gathering, slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic() + gathering.BUSY_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rounds.wait("busy")
    assert slept == []


def test_kinds_of_long_ago_are_forgotten(rounds: Gathering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_MANY", 3)
    for kind in "abc":
        rounds.end(kind)
    assert len(rounds._ended) == 4, "all of them are of this moment"
    now = time.monotonic() + gathering.BUSY_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rounds.end("d")
    assert set(rounds._ended) == {"d"}
