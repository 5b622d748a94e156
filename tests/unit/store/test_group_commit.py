"""Transactions on SQLite that share a commit: each is there whole or not at all, and its caller knows which."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.exc import OperationalError

from sharewright.identifiers import utcnow
from sharewright.store.database import Store
from sharewright.store.kept import add_row
from sharewright.store.migrations import migrate
from sharewright.store.tables import leases


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(f"sqlite:///{tmp_path}/store.db")
    migrate(store)
    return store


def write(store: Store, name: str) -> None:
    with store.begin() as tx:
        add_row(tx, leases, name=name, holder="test", expires=utcnow())


def names(store: Store) -> set[str]:
    with store.read() as tx:
        return set(tx.scalars(select(leases.c.name)))


class Several:
    """Transactions that queue behind one that is held open until :meth:`let` is called. Their errors by name."""

    def __init__(self, store: Store) -> None:
        self.errors: dict[str, BaseException | None] = {}
        self.commits = 0
        self._store = store
        self._go = threading.Event()
        self._inside = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=("first", self._hold))]
        self._threads[0].start()
        assert self._inside.wait(30)
        event.listen(store.engine, "commit", self._count)

    def add(self, name: str, act: Callable[[], None] | None = None) -> None:
        """Queue one more; returns when it queues."""
        queued = self._store._begin.__self__._queued  # type: ignore[attr-defined]
        thread = threading.Thread(target=self._run, args=(name, act or (lambda: write(self._store, name))))
        self._threads.append(thread)
        thread.start()
        while self._store._begin.__self__._queued == queued:  # type: ignore[attr-defined]
            threading.Event().wait(0.001)

    def let(self) -> None:
        """Let the first go on, and wait until all have ended."""
        self._go.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _hold(self) -> None:
        with self._store.begin() as tx:
            add_row(tx, leases, name="first", holder="test", expires=utcnow())
            self._inside.set()
            assert self._go.wait(30)

    def _run(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self.errors[name] = error
        else:
            self.errors[name] = None

    def _count(self, _connection: object) -> None:
        self.commits += 1


def test_those_that_queue_share_one_commit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharewright.store.group_commit.LONGEST", 60.0)
    several = Several(store)
    for number in range(5):
        several.add(f"number {number}")
    assert names(store) == set(), "nobody sees what is not committed"
    several.let()
    assert several.commits == 1
    assert names(store) == {"first", *(f"number {number}" for number in range(5))}
    assert set(several.errors.values()) == {None}


def test_one_that_fails_is_undone_alone(store: Store) -> None:
    several = Several(store)

    def fail() -> None:
        with store.begin() as tx:
            add_row(tx, leases, name="half", holder="test", expires=utcnow())
            add_row(tx, leases, name="first", holder="again", expires=utcnow())  # the name is taken

    several.add("before")
    several.add("failing", fail)
    several.add("after")
    several.let()
    assert names(store) == {"first", "before", "after"}
    assert [name for name, error in several.errors.items() if error is not None] == ["failing"]


def test_all_are_told_when_their_commit_fails(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharewright.store.group_commit.LONGEST", 60.0)

    def full(_connection: object) -> None:
        raise OperationalError("COMMIT", None, Exception("database or disk is full"))

    several = Several(store)
    several.add("second")
    event.listen(store.engine, "commit", full)
    several.let()
    event.remove(store.engine, "commit", full)
    assert all(isinstance(error, OperationalError) for error in several.errors.values()), several.errors
    assert names(store) == set()
    write(store, "next")
    assert names(store) == {"next"}


def test_all_are_told_when_sqlite_gives_the_transaction_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does by itself when the disk is full: then no savepoint is left to return to."""
    monkeypatch.setattr("sharewright.store.group_commit.LONGEST", 60.0)

    def lose() -> None:
        with store.begin() as tx:
            tx.exec_driver_sql("ROLLBACK")
            raise OperationalError("INSERT", None, Exception("database or disk is full"))

    several = Several(store)
    several.add("losing", lose)
    several.let()
    assert all(isinstance(error, OperationalError) for error in several.errors.values()), several.errors
    assert names(store) == set()
    write(store, "next")
    assert names(store) == {"next"}


def test_a_group_that_nobody_goes_on_with_is_committed(store: Store) -> None:
    """Whoever was to do so was interrupted while it queued."""
    group_commit = store._begin.__self__  # type: ignore[attr-defined]
    group_commit._queued += 1
    thread = threading.Thread(target=write, args=(store, "left"))
    thread.start()
    threading.Event().wait(0.1)
    assert names(store) == set()
    group_commit._queued -= 1
    thread.join(30)
    assert names(store) == {"left"}


def test_other_processes_get_their_turn(store: Store) -> None:
    """A group ends, however many queue for it."""
    other = Store(store.url)
    ended = threading.Event()

    def keep_writing(mine: int) -> None:
        for number in range(10_000):
            if ended.is_set():
                return
            write(store, f"{mine}-{number}")

    threads = [threading.Thread(target=keep_writing, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(3):
            write(other, f"other {number}")
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)
    with store.read() as tx:
        found = tx.scalar(select(func.count()).select_from(leases).where(leases.c.name.startswith("other")))
    assert found == 3
