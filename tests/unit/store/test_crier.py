"""How processes on PostgreSQL are told of work: after the commit, many times at once, and not by themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from sharewright.store.crier import CHANNEL
from sharewright.store.database import Store, ring_after_commit


class Listener:
    """Another process, as PostgreSQL sees it."""

    def __init__(self, store: Store) -> None:
        address = store.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self.connection = psycopg.connect(address, autocommit=True)
        self.connection.execute(f"LISTEN {CHANNEL}".encode())

    def hear(self, number: int, seconds: float = 30.0) -> list[psycopg.Notify]:
        return list(self.connection.notifies(timeout=seconds, stop_after=number))


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Store]:
    with closing(Store(postgresql_url)) as store:
        yield store


def test_others_are_told_after_the_commit(postgresql: Store) -> None:
    listener = Listener(postgresql)
    with postgresql.begin() as tx:
        ring_after_commit(tx)
        ring_after_commit(tx, name="later", seconds=5)
        assert listener.hear(1, 0.2) == []
    assert sorted(each.payload for each in listener.hear(2)) == ["", "5 later"]


def test_nobody_is_told_of_what_is_rolled_back(postgresql: Store) -> None:
    listener = Listener(postgresql)

    def break_off() -> None:
        with postgresql.begin() as tx:
            ring_after_commit(tx)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert listener.hear(1, 0.2) == []


def test_a_store_does_not_hear_itself(postgresql: Store) -> None:
    listener = Listener(postgresql)
    with postgresql.begin() as tx:
        ring_after_commit(tx)
    (heard,) = listener.hear(1)
    with closing(Store(postgresql.url)) as other:
        before = postgresql.bell.rings, other.bell.rings
        for store in (postgresql, other):
            store.hear(heard.payload, heard.pid)
    assert (postgresql.bell.rings, other.bell.rings) == (before[0], before[1] + 1)


def test_what_comes_from_many_threads_reaches_others_and_closing_leaves_nothing(postgresql: Store) -> None:
    listener = Listener(postgresql)

    def ring(number: int) -> None:
        with postgresql.begin() as tx:
            ring_after_commit(tx, name=f"n{number}", seconds=60)

    threads = [threading.Thread(target=ring, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    postgresql.close()
    assert {each.payload for each in listener.hear(20)} == {f"60 n{number}" for number in range(20)}
