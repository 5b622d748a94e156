"""What many threads write at once is one transaction, and nobody notices but for the time it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Connection, text

from sharewright.store import together
from sharewright.store.database import Store, after_commit
from sharewright.store.statements import statements
from sharewright.store.transaction import once

WAIT = 30.0
_NUMBERS = count(1)  # of transactions


@contextmanager
def with_table(store: Store) -> Iterator[Store]:
    """A store with a table of names."""
    with store.begin() as tx:
        tx.execute(text("DROP TABLE IF EXISTS kept"))
        tx.execute(text("CREATE TABLE kept (name text PRIMARY KEY)"))
    yield store
    with store.begin() as tx:
        tx.execute(text("DROP TABLE kept"))


@pytest.fixture
def table(store: Store) -> Iterator[Store]:
    with with_table(store):
        yield store


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Store]:
    """Where one may write while another does not come to an end."""
    with closing(Store(postgresql_url)) as store, with_table(store):
        yield store


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def keep(name: str) -> Callable[[Connection], int]:
    """An action: it keeps a name and answers which transaction it was."""

    def action(tx: Connection) -> int:
        tx.execute(text("INSERT INTO kept VALUES (:name)"), {"name": name})
        return once(tx, "number", lambda: next(_NUMBERS))

    return action


def kept(store: Store) -> list[str]:
    with store.read() as tx:
        return sorted(tx.execute(text("SELECT name FROM kept")).scalars())


class Leader:
    """Writes, and does not come to an end before it is told to: others have to wait."""

    def __init__(self, store: Store, threads: ThreadPoolExecutor, group: str = "group") -> None:
        self._store = store
        self._begun, self._end = threading.Event(), threading.Event()
        self._done = threads.submit(store.together, group, self._act)
        assert self._begun.wait(WAIT)

    def _act(self, tx: Connection) -> None:
        self._begun.set()
        assert self._end.wait(WAIT)

    def wait_for_others(self, number: int) -> None:
        waiting = self._store._together._waiting
        end = time.monotonic() + WAIT
        while sum(len(each) for each in waiting.values()) < number:
            assert time.monotonic() < end
            time.sleep(0.005)

    def end(self) -> None:
        self._end.set()
        self._done.result(WAIT)


def begin_several(
    store: Store, threads: ThreadPoolExecutor, actions: list[Callable[[Connection], Any]]
) -> list[Future[Any]]:
    """Actions that come to be in one transaction."""
    leader = Leader(store, threads)
    futures = []
    for action in actions:
        futures.append(threads.submit(store.together, "group", action))
        leader.wait_for_others(len(futures))
    leader.end()
    return futures


def test_one_by_itself_is_written_at_once(table: Store) -> None:
    assert table.together("group", keep("one")) > 0
    assert kept(table) == ["one"]


def test_those_who_waited_are_in_one_transaction(table: Store, threads: ThreadPoolExecutor) -> None:
    futures = begin_several(table, threads, [keep("a"), keep("b"), keep("c")])
    assert len({future.result(WAIT) for future in futures}) == 1
    assert kept(table) == ["a", "b", "c"]


def test_without_a_group_nobody_waits(postgresql: Store, threads: ThreadPoolExecutor) -> None:
    leader = Leader(postgresql, threads)
    assert postgresql.together(None, keep("one")) > 0
    assert postgresql.together("another", keep("two")) > 0
    leader.end()


def test_no_more_than_the_largest_number_are_in_one(
    table: Store, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "LARGEST", 2)
    futures = begin_several(table, threads, [keep("a"), keep("b"), keep("c")])
    first, second, third = (future.result(WAIT) for future in futures)
    assert first == second != third


def test_an_action_that_fails_fails_alone(table: Store, threads: ThreadPoolExecutor) -> None:
    def refuse(tx: Connection) -> None:
        keep("refused")(tx)
        raise ValueError("no")

    def twice(tx: Connection) -> None:
        keep("a")(tx)

    first, second, third, fourth = begin_several(table, threads, [keep("a"), refuse, twice, keep("b")])
    with pytest.raises(ValueError, match="no"):
        second.result(WAIT)
    # Of the two that keep the same name either may be the first when each is by itself.
    errors = [future.exception(WAIT) for future in (first, third)]
    assert [error is None for error in errors].count(True) == 1
    assert fourth.result(WAIT) > 0
    assert kept(table) == ["a", "b"]


def test_one_that_waits_for_a_lock_keeps_nobody_and_is_no_deadlock_for_others(
    postgresql: Store, threads: ThreadPoolExecutor
) -> None:
    with postgresql.begin() as tx:
        keep("locked")(tx)

    def change(name: str) -> Callable[[Connection], None]:
        return lambda tx: tx.execute(text("UPDATE kept SET name = name WHERE name = :name"), {"name": name}) and None

    with postgresql._writer.connect() as other, other.begin():
        change("locked")(other)
        free, blocked = begin_several(postgresql, threads, [keep("a"), change("locked")])
        assert free.result(WAIT) > 0  # while the row is locked still
        assert not blocked.done()
        # What the other one needs now is not held by those who wait for it.
        change("a")(other)
    blocked.result(WAIT)


def test_who_waits_too_long_goes_by_himself(
    postgresql: Store, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "PATIENCE", 0.05)
    leader = Leader(postgresql, threads)
    assert postgresql.together("group", keep("one")) > 0
    leader.end()
    assert kept(postgresql) == ["one"]
    assert not postgresql._together._waiting


def test_what_comes_after_the_commit_comes_once_for_each(table: Store, threads: ThreadPoolExecutor) -> None:
    told: list[str] = []

    def act(name: str) -> Callable[[Connection], None]:
        return lambda tx: after_commit(tx, lambda: told.append(name))

    for future in begin_several(table, threads, [act("a"), act("b")]):
        future.result(WAIT)
    assert told == ["a", "b"]


def test_statements_and_logs_are_the_callers(table: Store, threads: ThreadPoolExecutor) -> None:
    whose: ContextVar[str] = ContextVar("whose")
    seen: list[str] = []

    def call(name: str, number: int) -> int:
        whose.set(name)
        before = statements.count

        def act(tx: Connection) -> None:
            seen.append(whose.get())
            for _ in range(number):
                tx.execute(text("SELECT 1"))

        table.together("group", act)
        return statements.count - before

    leader = Leader(table, threads)
    one, two = threads.submit(call, "one", 1), threads.submit(call, "two", 2)
    leader.wait_for_others(2)
    leader.end()
    counts = [one.result(WAIT), two.result(WAIT)]
    # On PostgreSQL whoever led has also sent what makes it give up early.
    assert counts in ([[1, 2]] if table.is_sqlite else [[2, 2], [1, 3]])
    assert sorted(seen) == ["one", "two"]
