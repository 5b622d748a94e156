"""The store's transactions and its bell."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import func, select, text

from sharewright.context import RequestContext
from sharewright.errors import ConfigurationError
from sharewright.operations.queue import enqueue
from sharewright.store.database import Store
from sharewright.store.statements import statements
from sharewright.store.tables import operations


def count(store: Store) -> int:
    with store.read() as tx:
        return tx.scalar(select(func.count()).select_from(operations)) or 0


def add(store: Store) -> None:
    with store.begin() as tx:
        enqueue(tx, "work", resource_type="thing", resource_id="r")


def test_a_transaction_that_raises_leaves_nothing_and_rings_nobody(store: Store) -> None:
    rings = store.bell.rings
    with pytest.raises(RuntimeError, match="stop"), store.begin() as tx:  # noqa: PT012
        enqueue(tx, "work", resource_type="thing", resource_id="r")
        raise RuntimeError("stop")
    assert count(store) == 0
    assert store.bell.rings == rings


def test_the_bell_rings_after_the_commit_once(store: Store) -> None:
    rings = store.bell.rings
    with store.begin() as tx:
        enqueue(tx, "work", resource_type="thing", resource_id="a")
        enqueue(tx, "work", resource_type="thing", resource_id="b")
        assert store.bell.rings == rings
    assert store.bell.rings == rings + 1
    with store.begin() as tx:
        tx.execute(text("SELECT 1"))
    assert store.bell.rings == rings + 1


def test_waiting_for_the_bell(store: Store) -> None:
    assert not store.bell.wait(store.bell.rings, 0.01)
    rings = store.bell.rings
    threading.Timer(0.05, add, [store]).start()
    assert store.bell.wait(rings, 30)
    assert store.bell.wait(rings, 0), "a ring between looking and waiting is not missed"


def test_the_bell_rings_at_a_time_that_was_set(store: Store) -> None:
    rings = store.bell.rings
    store.bell.ring_later("far", 3600)
    with store.begin() as tx:
        enqueue(tx, "work", resource_type="thing", resource_id="r", quiet_seconds=0.05)
    assert store.bell.rings == rings
    assert store.bell.wait(rings, 30)
    rings = store.bell.rings
    store.bell.ring_later("far", 0.01)  # instead of the hour
    assert store.bell.wait(rings, 30)
    assert not store.bell.wait(store.bell.rings, 0.02), "each rings once"


def test_an_alarm_set_while_somebody_waits_is_heard(store: Store) -> None:
    rings = store.bell.rings
    threading.Timer(0.05, store.bell.ring_later, ["soon", 0.05]).start()
    assert store.bell.wait(rings, 30)


def test_a_transaction_inside_another_is_a_programming_error(store: Store) -> None:
    with store.begin(), pytest.raises(RuntimeError, match="inside another"), store.begin():
        pass
    add(store)
    assert count(store) == 1


def test_readers_see_only_what_is_committed_and_do_not_wait(store: Store) -> None:
    with store.begin() as tx:
        enqueue(tx, "work", resource_type="thing", resource_id="r")
        assert count(store) == 0
    assert count(store) == 1


def test_many_writers_in_many_processes_lose_nothing(store: Store, open_store: Callable[[], Store]) -> None:
    def write(mine: Store) -> None:
        for _ in range(10):
            add(mine)

    threads = [threading.Thread(target=write, args=(open_store(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert count(store) == 60


def test_statements_are_counted_per_thread(store: Store) -> None:
    before = statements.count
    thread = threading.Thread(target=add, args=[store])
    thread.start()
    thread.join()
    assert statements.count == before
    add(store)
    assert statements.count > before


def test_an_operation_keeps_who_asked(store: Store) -> None:
    context = RequestContext(project_id="p", user_id="u")
    with store.begin() as tx:
        enqueue(tx, "work", resource_type="share", resource_id="r", context=context, payload={"force": True})
    with store.read() as tx:
        row = tx.execute(select(operations)).one()
    assert (row.project_id, row.user_id, row.request_id) == ("p", "u", context.request_id)
    assert (row.key, row.payload, row.state) == ("share:r", {"force": True}, "queued")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db"])
def test_databases_that_cannot_work_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Store(url)


def test_foreign_keys_hold_on_both(store: Store) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key"), store.begin() as tx:
        tx.execute(
            text(
                "INSERT INTO operation_steps (operation_id, position, name, epoch, started_at)"
                " VALUES ('none', 0, 'x', 1, '2026-01-01 00:00:00')"
            )
        )
