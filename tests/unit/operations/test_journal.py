"""What the journal writes, when, and in how many statements."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from engine_help import add, age, claim, journal_of, must_claim
from sqlalchemy import Connection

from sharewright.errors import LeaseLost
from sharewright.identifiers import utcnow
from sharewright.operations import journal as journals
from sharewright.operations import leases
from sharewright.operations.journal import read_steps
from sharewright.operations.leases import Usage
from sharewright.store.database import Store
from sharewright.store.statements import statements
from sharewright.store.tables import operations, share_servers


def steps(store: Store, identifier: str) -> list[tuple[int, str, bool]]:
    """Position, name, whether it has ended."""
    with store.read() as tx:
        rows = read_steps(tx, identifier)
    return [(row["position"], row["name"], row["finished_at"] is not None) for row in rows]


def test_a_brief_step_is_written_with_what_comes_next(store: Store) -> None:
    identifier = add(store)
    journal = journal_of(store, must_claim(store))
    before = statements.count
    with journal.step("volume", brief=True):
        pass
    with journal.step("attach", brief=True):
        pass
    assert statements.count == before
    with journal.step("guest"):
        assert statements.count == before + 1, "all three in one statement, which is also the fence"
        assert steps(store, identifier) == [(0, "volume", True), (1, "attach", True), (2, "guest", False)]


def test_a_brief_step_that_fails_is_written_without_an_end(store: Store) -> None:
    identifier = add(store)
    claimed = must_claim(store)
    journal = journal_of(store, claimed)
    with pytest.raises(RuntimeError), journal.step("volume", brief=True):
        raise RuntimeError
    with store.begin() as tx:
        leases.finish(tx, claimed.operation, Usage(), error="It failed.")
        journal.flush(tx)
    assert steps(store, identifier) == [(0, "volume", False)]


def test_a_brief_step_that_takes_long_is_shown_and_keeps_its_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    identifier = add(store)
    journal = journal_of(store, must_claim(store))
    with journal.step("volume", brief=True):
        journal.show()
        assert steps(store, identifier) == [], "it has only just begun"
        monkeypatch.setattr(journals, "LONG", timedelta(0))
        time.sleep(0.001)
        journal.show()
        assert steps(store, identifier) == [(0, "volume", False)]
        before = statements.count
        journal.show()
        assert statements.count == before, "once"
    journal.show()
    journal.record(done=True)
    assert steps(store, identifier) == [(0, "volume", True)]


def test_what_a_lost_claim_has_pending_is_never_written(store: Store) -> None:
    identifier = add(store)
    journal = journal_of(store, must_claim(store))
    with journal.step("volume", brief=True):
        pass
    age(store, identifier, 31)
    must_claim(store, "w2")
    with pytest.raises(LeaseLost), journal.step("guest"):
        raise AssertionError("a step was begun without a lease")
    with pytest.raises(LeaseLost), store.begin() as tx:
        journal.fence(tx)
    assert steps(store, identifier) == []


def test_steps_are_written_once_while_the_lease_is_renewed(store: Store) -> None:
    """On PostgreSQL the statement waits for the renewal, and then looks at the operation's row again."""
    identifier = add(store)
    claimed = must_claim(store)
    journal = journal_of(store, claimed)
    with journal.step("volume", brief=True):
        pass

    def go_on() -> None:
        with journal.step("guest"):
            pass

    story = threading.Thread(target=go_on)
    with store.begin() as tx:
        leases.write(tx, claimed.operation, {operations.c.lease_expires: utcnow() + timedelta(seconds=60)})
        story.start()
        time.sleep(0.3)
    story.join(30)
    assert steps(store, identifier) == [(0, "volume", True), (1, "guest", False)]


def test_what_is_learned_of_a_row_is_one_statement(store: Store) -> None:
    add(store)
    journal = journal_of(store, must_claim(store))
    server: dict[str, Any] = {"id": "s1", "project_id": "", "backend": "b", "host": "h", "status": "active"}
    with store.begin() as tx:
        tx.execute(share_servers.insert().values(**server, created_at=utcnow()))
    journal.later(store, share_servers, "s1", {"status": "error", "healthy": False})
    journal.later(store, share_servers, "s1", {"status": "creating"})
    with store.read() as tx:
        assert tx.execute(share_servers.select()).one().status == "active"
    before = statements.count
    with store.begin() as tx:
        journal.fence(tx)
    assert statements.count == before + 2
    with store.read() as tx:
        row = tx.execute(share_servers.select()).one()
    assert (row.status, row.healthy) == ("creating", False)
    with store.begin() as tx:
        journal.fence(tx)
    assert statements.count == before + 4, "once: a fence and the read above"


def test_what_is_rolled_back_is_written_again(store: Store) -> None:
    identifier = add(store)
    journal = journal_of(store, must_claim(store))
    with journal.step("volume", brief=True):
        pass

    def write_and_break() -> None:
        with store.begin() as tx:
            journal.fence(tx)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_break()
    assert steps(store, identifier) == []
    with store.begin() as tx:
        journal.fence(tx)
    assert steps(store, identifier) == [(0, "volume", True)]


def test_what_comes_before_the_commit_is_written_with_the_next(store: Store) -> None:
    """A story has several threads: one of them goes on while another one's transaction is not yet at its end."""
    identifier = add(store)
    journal = journal_of(store, must_claim(store))
    server: dict[str, Any] = {"id": "s1", "project_id": "", "backend": "b", "host": "h", "status": "creating"}
    with store.begin() as tx:
        tx.execute(share_servers.insert().values(**server, created_at=utcnow()))
    journal.later(store, share_servers, "s1", {"status": "active"})
    step = journal.step("volume", brief=True)
    step.__enter__()
    with store.begin() as tx:
        journal.fence(tx)
        step.__exit__(None, None, None)
        journal.later(store, share_servers, "s1", {"healthy": False})
    assert steps(store, identifier) == [(0, "volume", False)]
    with store.begin() as tx:
        journal.fence(tx)
    assert steps(store, identifier) == [(0, "volume", True)]
    with store.read() as tx:
        row = tx.execute(share_servers.select()).one()
    assert (row.status, row.healthy) == ("active", False)


def test_abandoned_and_queued_operations_are_claimed_together(store: Store) -> None:
    left = add(store, resource="a")
    must_claim(store, "dead")
    age(store, left, 31)
    queued = [add(store, resource=name) for name in "bc"]
    options: dict[str, Any] = {"lease_seconds": 30, "kinds": ["work"]}
    found = leases.claim_several(store, "w", 2, **options)
    assert [each.operation.id for each in found] == [left, queued[0]]
    assert claim(store) is not None
    assert claim(store) is None


def test_what_dead_workers_left_is_claimed_only_where_it_is_asked_for(store: Store) -> None:
    left = add(store)
    must_claim(store, "dead")
    age(store, left, 31)
    options: dict[str, Any] = {"lease_seconds": 30, "kinds": ["work"]}
    assert leases.claim_several(store, "w", 5, **options, abandoned=False) == []
    assert [each.operation.id for each in leases.claim_several(store, "w", 5, **options)] == [left]


def test_of_several_steps_that_begin_together_one_may_have_lost_its_lease(
    postgresql_url: str,
) -> None:
    """In one transaction, in which the one that lost it writes nothing and the other two what is theirs."""
    with closing(Store(postgresql_url)) as store, ThreadPoolExecutor(4) as threads:
        begun_by = {}
        for resource in ("a", "b", "c"):
            add(store, resource=resource)
            begun_by[resource] = journal_of(store, must_claim(store))
        with store.begin() as tx:
            tx.execute(operations.update().where(operations.c.id == begun_by["b"].operation.id).values(epoch=99))
        begun, go = threading.Event(), threading.Event()

        def lead(tx: Connection) -> None:
            begun.set()
            assert go.wait(30)

        def begin(resource: str) -> None:
            with begun_by[resource].step("volume"):
                pass

        leader = threads.submit(store.together, "step", lead)
        assert begun.wait(30)
        started = {resource: threads.submit(begin, resource) for resource in begun_by}
        waiting = store._together._waiting["step"]  # type: ignore[union-attr]
        while len(waiting) < 3:
            time.sleep(0.005)
        go.set()
        leader.result(30)
        with pytest.raises(LeaseLost):
            started["b"].result(30)
        for resource in ("a", "c"):
            started[resource].result(30)
        with store.read() as tx:
            written = {each: read_steps(tx, begun_by[each].operation.id) for each in begun_by}
    assert [len(written[each]) for each in ("a", "b", "c")] == [1, 0, 1]
