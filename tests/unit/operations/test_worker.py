"""The worker process in one process: threads, heartbeats, wake-ups, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from engine_help import Told, add, age, change, must_claim, read
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from databases import PostgresCluster
from sharewright.configuration_file import parse
from sharewright.operations.contract import Done, Operation, Outcome, RetryLater, Story, WaitFor
from sharewright.operations.worker import Worker
from sharewright.progress import Progress
from sharewright.settings import Settings
from sharewright.states import OperationState
from sharewright.store.database import Store
from sharewright.store.tables import workers

PATIENCE = 60.0  # seconds


def settings_with(**options: Any) -> Settings:
    defaults = {"threads": 4, "lease_seconds": 3.0, "poll_seconds": 3600.0}  # longer than anybody here waits
    return parse({"node": "n1", "worker": {**defaults, **options}, "backends": {"alpha": {"cloud": "simulated"}}})


@contextmanager
def running(store: Store, *stories: Story, **options: Any) -> Iterator[Worker]:
    worker = Worker(store, {story.kind: story for story in stories}, settings_with(**options))
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout=5)


def eventually(condition: Callable[[], object]) -> None:
    """Wait for the condition."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def ended(store: Store, identifier: str) -> bool:
    return read(store, identifier).state not in OperationState.OPEN


def test_it_runs_what_is_queued_and_what_comes_later_without_polling(store: Store) -> None:
    early = add(store, resource="early")
    with running(store, Told()):
        eventually(lambda: ended(store, early))
        late = [add(store, resource=f"r{number}") for number in range(10)]
        eventually(lambda: all(ended(store, identifier) for identifier in late))


def test_other_processes_ring_the_bell_on_postgresql(
    postgresql_url: str,
) -> None:
    mine, theirs = Store(postgresql_url), Store(postgresql_url)
    try:
        with running(mine, Told()):
            time.sleep(0.5)
            identifier = add(theirs)
            eventually(lambda: ended(theirs, identifier))
    finally:
        mine.close()
        theirs.close()


def test_other_processes_tell_when_on_postgresql(postgresql_url: str) -> None:
    mine, theirs = Store(postgresql_url), Store(postgresql_url)
    try:
        with running(mine, Told()):
            time.sleep(0.5)
            identifier = add(theirs, quiet_seconds=0.3)
            eventually(lambda: ended(theirs, identifier))
    finally:
        mine.close()
        theirs.close()


def test_other_processes_are_found_by_polling_on_sqlite(sqlite_url: str) -> None:
    mine, theirs = Store(sqlite_url), Store(sqlite_url)
    try:
        with running(mine, Told(), poll_seconds=0.2):
            identifier = add(theirs)
            eventually(lambda: ended(theirs, identifier))
    finally:
        mine.close()
        theirs.close()


def test_no_more_than_its_threads_at_once(sqlite_store: Store) -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def run(operation: Operation, progress: Progress) -> Outcome:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        return Done()

    identifiers = [add(sqlite_store, resource=f"r{number}") for number in range(12)]
    with running(sqlite_store, Told(run), threads=3):
        eventually(lambda: all(ended(sqlite_store, identifier) for identifier in identifiers))
    assert most[0] == 3


def test_work_that_nobody_waits_for_leaves_half_of_the_threads(sqlite_store: Store) -> None:
    hold = threading.Event()

    def run(operation: Operation, progress: Progress) -> Outcome:
        if operation.resource_id != "user":
            hold.wait(PATIENCE)
        return Done()

    background = [add(sqlite_store, resource=f"r{number}", priority=-10) for number in range(8)]
    with running(sqlite_store, Told(run), threads=4) as worker:
        eventually(lambda: worker.running == 2)
        asked = add(sqlite_store, resource="user")
        eventually(lambda: ended(sqlite_store, asked))
        eventually(lambda: worker.running == 2)
        hold.set()
        eventually(lambda: all(ended(sqlite_store, identifier) for identifier in background))


def test_work_longer_than_the_lease_is_kept_by_the_heartbeat(store: Store) -> None:
    def run(operation: Operation, progress: Progress) -> Outcome:
        end = time.monotonic() + 4
        while time.monotonic() < end:
            progress.check()
            time.sleep(0.05)
        return Done()

    story = Told(run)
    identifier = add(store)
    with running(store, story, lease_seconds=1.5, poll_seconds=0.1):
        eventually(lambda: ended(store, identifier))
    assert read(store, identifier).epoch == 1
    assert story.calls == ["run"]


def test_a_lease_that_another_took_stops_the_story(store: Store) -> None:
    stopped = threading.Event()
    begun = threading.Event()

    def run(operation: Operation, progress: Progress) -> Outcome:
        begun.set()
        try:
            while True:
                progress.check()
                time.sleep(0.02)
        finally:
            stopped.set()

    identifier = add(store)
    with running(store, Told(run)):
        assert begun.wait(PATIENCE)
        change(store, identifier, worker_id="thief", epoch=99)
        assert stopped.wait(PATIENCE)
    row = read(store, identifier)
    assert (row.state, row.worker_id, row.epoch) == (OperationState.RUNNING, "thief", 99)


def test_it_takes_over_from_a_dead_worker(store: Store) -> None:
    identifier = add(store)
    must_claim(store, "dead")
    age(store, identifier, 29)
    with running(store, Told(), poll_seconds=0.2):
        eventually(lambda: ended(store, identifier))
    row = read(store, identifier)
    assert (row.state, row.epoch, row.crashes) == (OperationState.SUCCEEDED, 2, 1)


def test_parked_operations_hold_no_thread_and_go_on_in_time(sqlite_store: Store) -> None:
    def run(operation: Operation, progress: Progress) -> Outcome:
        return Done() if operation.attempts > 1 else RetryLater("not yet", seconds=0.3)

    identifiers = [add(sqlite_store, resource=f"r{number}") for number in range(6)]
    with running(sqlite_store, Told(run), threads=1):
        eventually(lambda: all(ended(sqlite_store, identifier) for identifier in identifiers))


def test_one_thread_is_enough_for_work_that_waits_for_other_work(sqlite_store: Store) -> None:
    made = add(sqlite_store, "make", resource="server", priority=-1)
    waiting = [add(sqlite_store, resource=f"r{number}") for number in range(3)]

    def run(operation: Operation, progress: Progress) -> Outcome:
        return Done() if operation.waited_for else WaitFor(made)

    with running(sqlite_store, Told(run), Told(kind="make"), threads=1):
        eventually(lambda: all(ended(sqlite_store, identifier) for identifier in waiting))


def test_stopping_hands_back_and_another_worker_goes_on_at_once(store: Store) -> None:
    begun = threading.Event()

    def run(operation: Operation, progress: Progress) -> Outcome:
        progress.record(seen=True)
        begun.set()
        while True:
            progress.check()
            time.sleep(0.02)

    identifier = add(store)
    with running(store, Told(run), lease_seconds=60) as worker:
        assert begun.wait(PATIENCE)
        assert worker.stop(timeout=2), "nothing was left running"
    row = read(store, identifier)
    assert (row.state, row.facts) == (OperationState.QUEUED, {"seen": True})
    with running(store, Told(), lease_seconds=60):
        eventually(lambda: ended(store, identifier))
    assert read(store, identifier).crashes == 0


def test_stopping_lets_short_work_finish_and_claims_no_more(store: Store) -> None:
    begun = threading.Event()

    def run(operation: Operation, progress: Progress) -> Outcome:
        begun.set()
        time.sleep(0.3)
        return Done()

    first, second = add(store), add(store)
    with running(store, Told(run)) as worker:
        assert begun.wait(PATIENCE)
        assert worker.stop(timeout=10)
    assert read(store, first).state == OperationState.SUCCEEDED
    assert read(store, second).state == OperationState.QUEUED


def test_a_database_server_that_breaks_all_connections_is_survived(
    postgresql_url: str, postgres: PostgresCluster
) -> None:
    """In the middle of stories too: nothing is lost, and nothing has to wait for a lease to run out."""
    store = Store(postgresql_url)

    def run(operation: Operation, progress: Progress) -> Outcome:
        for number in range(10):
            with progress.step(f"step {number}"):
                time.sleep(0.02)
            progress.record(last=number)
        return Done()

    identifiers = [add(store, resource=f"r{number}") for number in range(8)]
    with running(store, Told(run), lease_seconds=3600, poll_seconds=0.2):
        for _ in range(5):
            time.sleep(0.3)
            postgres.disconnect_all(postgresql_url)
        eventually(lambda: all(_ended_if_readable(store, identifier) for identifier in identifiers))
    for identifier in identifiers:
        row = read(store, identifier)
        assert (row.state, row.crashes, row.facts) == (OperationState.SUCCEEDED, 0, {"last": 9})
    store.close()


def _ended_if_readable(store: Store, identifier: str) -> bool:
    try:
        return ended(store, identifier)
    except OperationalError:
        return False


def test_a_writer_that_holds_sqlite_for_a_while_is_survived(sqlite_url: str) -> None:
    store, other = Store(sqlite_url), Store(sqlite_url)
    with running(store, Told(), poll_seconds=0.1):
        with other.begin():
            time.sleep(0.5)
        identifier = add(other)
        eventually(lambda: ended(store, identifier))
    store.close()
    other.close()


def test_its_services_are_registered_and_beat(store: Store) -> None:
    share = "manila-share n1@alpha"

    def rows() -> dict[str, Any]:
        with store.read() as tx:
            return {f"{row.binary} {row.host}": row for row in tx.execute(select(workers))}

    with running(store, Told(), lease_seconds=0.6):
        first = rows()
        assert sorted(first) == ["manila-data n1", "manila-scheduler n1", share]
        assert len({row.number for row in first.values()}) == 3
        eventually(lambda: rows()[share].heartbeat_at > first[share].heartbeat_at)
    with store.begin() as tx:
        tx.execute(workers.update().where(workers.c.host == "n1@alpha").values(disabled=True))
    with running(store, Told()):
        again = rows()
    assert {name: row.number for name, row in again.items()} == {name: row.number for name, row in first.items()}
    assert again[share].disabled, "a restart does not enable what an administrator disabled"


@pytest.mark.parametrize("processes", [4])
def test_workers_starting_at_once_get_different_numbers(
    store: Store, open_store: Callable[[], Store], processes: int
) -> None:
    from sharewright.operations.registration import register_worker

    base = settings_with()
    barrier = threading.Barrier(processes)
    failures: list[Exception] = []

    def start(index: int, mine: Store) -> None:
        barrier.wait()
        try:
            register_worker(mine, msgspec.structs.replace(base, node=f"n{index}"))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(index, open_store())) for index in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with store.read() as tx:
        numbers = list(tx.scalars(select(workers.c.number)))
    assert len(numbers) == len(set(numbers)) == 3 * processes
