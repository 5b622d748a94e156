"""SQLite written by several processes of one ``serve``: in turn, and with a bell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from sharewright.store.database import Store, ring_after_commit
from sharewright.store.distant_bell import DistantBell
from sharewright.store.turns import Turns


def in_children(number: int, act: Callable[[int], None]) -> list[int]:
    """Let so many forked processes act, and return their exit codes: 0 where nothing was raised."""
    pids = []
    for child in range(number):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                act(child)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def test_one_process_at_a_time_has_the_turn(tmp_path: Path) -> None:
    turns, counter = Turns(), tmp_path / "counter"
    counter.write_text("0")

    def count(_: int) -> None:
        turns.join()
        for _ in range(50):
            turns.take()
            seen = int(counter.read_text())
            time.sleep(0.0005)
            counter.write_text(str(seen + 1))
            turns.give_up()

    assert in_children(3, count) == [0, 0, 0]
    assert counter.read_text() == "150"


def test_whoever_waits_comes_before_whoever_has_just_had_a_turn(tmp_path: Path) -> None:
    """Without that, a process that has always something to write would keep the others out."""
    turns, mark = Turns(), tmp_path / "mark"
    pid = os.fork()
    if pid == 0:
        try:
            turns.join()
            while not mark.exists():  # until the other one has the turn
                time.sleep(0.01)
            turns.take()
            mark.write_text("had it")
            turns.give_up()
        finally:
            os._exit(0)
    turns.join()
    turns.take()
    mark.write_text("")
    while not waits_for_a_lock(pid):
        time.sleep(0.01)
    turns.give_up()
    turns.take()
    assert mark.read_text() == "had it"
    turns.give_up()
    os.waitpid(pid, 0)


def waits_for_a_lock(pid: int) -> bool:
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and "FLOCK" in line and f" {pid} " in line for line in lines)


def test_the_turn_of_a_process_that_dies_is_over() -> None:
    turns = Turns()

    def die(_: int) -> None:
        turns.join()
        turns.take()
        os._exit(3)

    assert in_children(1, die) == [3]
    turns.join()
    turns.take()
    turns.give_up()


def test_transactions_of_several_processes(tmp_path: Path) -> None:
    """All that were committed are there, once each; those that failed are not, and keep nobody out."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with closing(Store(url)) as store, store.begin() as tx:
        tx.execute(text("CREATE TABLE notes (child INTEGER, number INTEGER, UNIQUE (child, number))"))
    turns = Turns()

    def write(child: int) -> None:
        turns.join()
        with closing(Store(url, turns=turns)) as store:
            for number in range(30):
                with store.begin() as tx:
                    tx.execute(text("INSERT INTO notes VALUES (:child, :number)"), {"child": child, "number": number})
                with pytest.raises(IntegrityError), store.begin() as tx:
                    tx.execute(text("INSERT INTO notes VALUES (:child, :number)"), {"child": child, "number": number})

    assert in_children(3, write) == [0, 0, 0]
    with closing(Store(url)) as store, store.read() as tx:
        found = tx.execute(text("SELECT child, number FROM notes ORDER BY child, number")).all()
    assert [tuple(row) for row in found] == [(child, number) for child in range(3) for number in range(30)]


def ring_and_fail(store: Store) -> None:
    with store.begin() as tx:
        ring_after_commit(tx)
        tx.execute(text("INSERT INTO notes VALUES (NULL)"))


def test_the_bell_is_heard_in_another_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with closing(Store(url)) as store, store.begin() as tx:
        tx.execute(text("CREATE TABLE notes (number INTEGER NOT NULL)"))
    distant = DistantBell()

    def write(_: int) -> None:
        with closing(Store(url, ring_elsewhere=distant.ring)) as store:
            with store.begin() as tx:
                ring_after_commit(tx)
            with pytest.raises(IntegrityError):
                ring_and_fail(store)
            with store.begin() as tx:
                ring_after_commit(tx, name="later", seconds=0.01)

    with closing(Store(url)) as store:
        before = store.bell.rings
        assert in_children(1, write) == [0]
        distant.listen(store.bell)  # what was rung before waits for it
        assert store.bell.wait(before, 60)
        assert store.bell.wait(before + 1, 60)
        assert not store.bell.wait(before + 2, 0.2), "what was rolled back rings for nobody"


def test_more_than_anybody_hears_keeps_nobody_waiting() -> None:
    distant = DistantBell()
    for _ in range(100_000):
        distant.ring("")
    distant.close()
