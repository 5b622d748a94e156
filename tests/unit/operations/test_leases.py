"""Who may work on what: claims, their order, take-over, fencing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from engine_help import add, age, change, claim, journal_of, must_claim, read
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from sharewright.errors import LeaseLost
from sharewright.identifiers import utcnow
from sharewright.operations import leases
from sharewright.operations.journal import read_steps
from sharewright.operations.leases import Usage
from sharewright.states import OperationState
from sharewright.store.database import Store
from sharewright.store.tables import operations


def finish(store: Store, claimed: leases.Claim, error: str | None = None) -> None:
    with store.begin() as tx:
        leases.finish(tx, claimed.operation, Usage(), error=error)


def test_the_most_urgent_first_then_the_oldest(store: Store) -> None:
    low = add(store, resource="a", priority=-1)
    first = add(store, resource="b")
    second = add(store, resource="c")
    high = add(store, resource="d", priority=5)
    assert [must_claim(store).operation.id for _ in range(4)] == [high, first, second, low]
    assert claim(store) is None


def test_one_operation_of_a_key_at_a_time_in_order_whatever_the_priority(store: Store) -> None:
    first = add(store, priority=-5)
    second = add(store, priority=5)
    claimed = must_claim(store)
    assert claimed.operation.id == first
    assert claim(store, "w2") is None
    finish(store, claimed)
    assert must_claim(store, "w2").operation.id == second


def test_a_parked_operation_keeps_its_place_in_its_key(store: Store) -> None:
    first, second = add(store), add(store)
    claimed = must_claim(store)
    with store.begin() as tx:
        leases.park(tx, claimed.operation, Usage(), seconds=60)
    assert claim(store) is None
    age(store, first, 61)
    assert must_claim(store).operation.id == first
    assert read(store, second).state == OperationState.QUEUED


def test_not_before_and_unknown_kinds_are_left(store: Store) -> None:
    add(store, resource="a", not_before=utcnow() + timedelta(seconds=60))
    add(store, "other", resource="b")
    assert claim(store) is None
    assert claim(store, kinds=("other",)) is not None


def test_what_waits_for_another_operation_is_released_by_its_end(store: Store) -> None:
    awaited = add(store, "other", resource="a")
    waiting = add(store, resource="b", waits_for=awaited)
    assert claim(store) is None
    claimed = must_claim(store, kinds=("other",))
    assert claim(store) is None
    finish(store, claimed, error="no room")
    released = must_claim(store)
    assert released.operation.id == waiting
    assert released.operation.waited_for is not None
    assert not released.operation.waited_for.succeeded
    assert released.operation.waited_for.error == "no room"


def test_an_awaited_operation_that_is_gone_counts_as_finished(store: Store) -> None:
    add(store, waits_for="00000000-0000-0000-0000-000000000000")
    claimed = must_claim(store)
    assert claimed.operation.waited_for is not None
    assert claimed.operation.waited_for.state == "missing"


def test_a_lease_that_ran_out_is_taken_over_with_facts_and_a_higher_epoch(store: Store) -> None:
    identifier = add(store, payload={"size": 1})
    dead = must_claim(store, "dead")
    journal_of(store, dead).record(volume="v1")
    assert claim(store, "w2") is None
    age(store, identifier, 31)
    taken = must_claim(store, "w2")
    assert taken.operation.epoch == dead.operation.epoch + 1
    assert taken.operation.facts == {"volume": "v1"}
    assert taken.operation.payload == {"size": 1}
    assert taken.crashes == 1
    assert taken.operation.attempts == 2


def test_take_over_happens_even_when_an_older_operation_of_the_key_became_visible(store: Store) -> None:
    older, newer = add(store), add(store)
    change(store, older, state="succeeded")  # as if its transaction were not committed yet
    must_claim(store, "dead")
    change(store, older, state="queued")
    assert claim(store, "w2") is None, "the newer one runs"
    age(store, newer, 31)
    assert must_claim(store, "w2").operation.id == newer


def test_a_stale_worker_can_write_nothing(store: Store) -> None:
    identifier = add(store)
    stale = must_claim(store, "stale")
    journal = journal_of(store, stale)
    age(store, identifier, 31)
    taken = must_claim(store, "w2")
    for write in (
        lambda: journal.record(volume="wrong"),
        lambda: journal.step("late").__enter__(),
        lambda: finish(store, stale),
    ):
        with pytest.raises(LeaseLost):
            write()
    with store.begin() as tx, pytest.raises(LeaseLost):
        leases.fenced(tx, stale.operation)
    with store.begin() as tx, pytest.raises(LeaseLost):
        leases.park(tx, stale.operation, Usage())
    row = read(store, identifier)
    assert (row.state, row.worker_id, row.facts) == (OperationState.RUNNING, "w2", {})
    finish(store, taken)


def test_a_worker_is_fenced_from_its_own_earlier_claim(store: Store) -> None:
    identifier = add(store)
    before = must_claim(store, "w1")
    age(store, identifier, 31)
    must_claim(store, "w1")
    with store.begin() as tx, pytest.raises(LeaseLost):
        leases.fenced(tx, before.operation)


def test_no_take_over_while_a_fenced_transaction_is_open(store: Store, open_store: Callable[[], Store]) -> None:
    identifier = add(store)
    claimed = must_claim(store, "w1")
    age(store, identifier, 31)
    other, found = open_store(), []
    with store.begin() as tx:
        leases.fenced(tx, claimed.operation)
        thread = threading.Thread(target=lambda: found.append(claim(other, "w2")))
        thread.start()
        thread.join(0.5)
        # PostgreSQL skips the locked row; SQLite's second writer waits for the first.
        assert found in ([], [None])
        assert tx.scalar(select(operations.c.worker_id).where(operations.c.id == identifier)) == "w1"
    thread.join(30)
    assert not thread.is_alive()


def test_the_database_itself_refuses_a_second_running_operation_of_a_key(store: Store) -> None:
    add(store)
    second = add(store)
    must_claim(store)
    with pytest.raises(IntegrityError), store.begin() as tx:
        tx.execute(update(operations).where(operations.c.id == second).values(state="running"))


def test_renewing_keeps_what_is_ours_and_tells_what_is_not(store: Store) -> None:
    kept, lost = add(store, resource="a"), add(store, resource="b")
    first, second = must_claim(store), must_claim(store)
    age(store, lost, 31)
    must_claim(store, "thief")
    before = read(store, kept).lease_expires
    held = leases.renew(
        store,
        "w1",
        {kept: first.operation.epoch, lost: second.operation.epoch},
        lease_seconds=90,
    )
    assert held == {kept}
    assert read(store, kept).lease_expires > before + timedelta(seconds=30)
    assert read(store, lost).worker_id == "thief"


def test_waiting_for_a_worker_does_not_count_against_the_deadline(store: Store) -> None:
    identifier = add(store, seconds=100)
    age(store, identifier, 3600)  # no worker for an hour
    claimed = must_claim(store)
    assert 40 < (claimed.operation.deadline - utcnow()).total_seconds() <= 101
    age(store, identifier, 60)  # worked for 60 s, the last 30 of them with no living worker
    taken = must_claim(store, "w2")
    assert 40 < (taken.operation.deadline - utcnow()).total_seconds() < 75


def test_a_back_off_counts_against_the_deadline_and_waiting_for_another_does_not(store: Store) -> None:
    awaited = add(store, "other", resource="x")
    identifier = add(store, seconds=100)
    claimed = must_claim(store)
    with store.begin() as tx:
        leases.park(tx, claimed.operation, Usage(), seconds=40)
    age(store, identifier, 40)
    claimed = must_claim(store)
    assert 55 < (claimed.operation.deadline - utcnow()).total_seconds() < 61
    with store.begin() as tx:
        leases.park(tx, claimed.operation, Usage(), waits_for=awaited)
    finish(store, must_claim(store, kinds=("other",)))
    age(store, identifier, 1000)
    claimed = must_claim(store)
    assert 55 < (claimed.operation.deadline - utcnow()).total_seconds() < 61


def test_steps_are_journaled_in_order_over_all_attempts(store: Store) -> None:
    identifier = add(store)
    first = journal_of(store, must_claim(store, "w1"))
    with first.step("volume"):
        first.record(volume="v1")
    with pytest.raises(RuntimeError), first.step("attach"):
        raise RuntimeError
    age(store, identifier, 31)
    claimed = must_claim(store, "w2")
    second = journal_of(store, claimed)
    assert second.recall("volume") == "v1"
    with second.step("attach"):
        pass
    with store.begin() as tx:
        leases.finish(tx, claimed.operation, Usage())
        second.flush(tx)
    with store.read() as tx:
        steps = read_steps(tx, identifier)
    assert [(step["position"], step["name"], step["epoch"]) for step in steps] == [
        (0, "volume", 1),
        (1, "attach", 1),
        (2, "attach", 2),
    ]
    assert [step["finished_at"] is not None for step in steps] == [True, False, True]


def test_a_fact_that_is_known_already_costs_nothing(store: Store) -> None:
    add(store)
    journal = journal_of(store, must_claim(store))
    journal.record(volume="v1", nothing=None)
    from sharewright.store.statements import statements

    before = statements.count
    journal.record(volume="v1", nothing=None)
    assert statements.count == before


def test_many_claimers_share_the_work_without_overlap(store: Store, open_store: Callable[[], Store]) -> None:
    """Four claimers as in four processes; 60 operations over 7 keys. Each runs once, and in the order of its key."""
    keys = [f"key{number % 7}" for number in range(60)]
    order = {add(store, resource=f"r{number}", key=key): (key, number) for number, key in enumerate(keys)}
    done: list[tuple[str, int]] = []
    busy: set[str] = set()
    overlaps: list[str] = []
    lock = threading.Lock()

    def work(mine: Store, name: str) -> None:
        while True:
            claimed = claim(mine, name)
            if claimed is None:
                with lock:
                    if len(done) == len(order):
                        return
                time.sleep(0.02)
                continue
            key, number = order[claimed.operation.id]
            with lock:
                if key in busy:
                    overlaps.append(key)
                busy.add(key)
            with lock:
                busy.discard(key)
                done.append((key, number))
            finish(mine, claimed)

    threads = [threading.Thread(target=work, args=(open_store(), f"w{index}")) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not overlaps
    assert len(done) == len(set(done)) == len(order)
    for key in set(keys):
        numbers = [number for name, number in done if name == key]
        assert numbers == sorted(numbers)


def test_a_named_lease_has_one_holder(store: Store) -> None:
    assert leases.hold(store, "maintenance", "a", seconds=60)
    assert leases.hold(store, "maintenance", "a", seconds=60)
    assert not leases.hold(store, "maintenance", "b", seconds=60)
    leases.release(store, "maintenance", "b")
    assert not leases.hold(store, "maintenance", "b", seconds=60)
    leases.release(store, "maintenance", "a")
    assert leases.hold(store, "maintenance", "b", seconds=0.0)
    assert leases.hold(store, "maintenance", "a", seconds=60), "b's has run out"


def test_the_back_off_grows_and_is_bounded() -> None:
    for retries in range(40):
        delay = leases.back_off(retries)
        longest = min(leases.LAST_BACK_OFF, leases.FIRST_BACK_OFF * 2 ** min(retries, 10))
        assert longest / 2 <= delay <= longest
