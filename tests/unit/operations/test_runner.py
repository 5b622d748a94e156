"""What each outcome of a story means for the rows: success, parking, failure, compensation, poison."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from engine_help import Told, add, age, change, journal_of, must_claim, read, run_one
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import OperationalError

from sharewright.clouds.contract import cloud_calls
from sharewright.errors import (
    CloudCapacityExceeded,
    CloudUnavailable,
    DeadlineExceeded,
    GuestUnreachable,
    NoValidBackend,
    SharewrightError,
    StaleDocument,
)
from sharewright.guest.contract import round_trips
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, RetryLater, WaitFor
from sharewright.operations.messages import Action, write_message
from sharewright.operations.runner import Runner
from sharewright.progress import Progress
from sharewright.states import OperationState
from sharewright.store.database import Store
from sharewright.store.tables import messages


def say(tx: Connection, text: str) -> None:
    """A resource row of these tests: a message."""
    write_message(tx, None, project_id="p", resource_id="r", action=Action.CREATE, error=text)


def said(store: Store) -> list[str]:
    with store.read() as tx:
        return list(tx.scalars(select(messages.c.detail).order_by(messages.c.created_at)))


def raising(error: Exception) -> Any:
    def run(*_: object) -> Outcome:
        raise error

    return run


def test_success_and_the_resource_change_together(store: Store) -> None:
    identifier = add(store)
    story = Told(lambda operation, progress: Done(lambda tx: say(tx, "made")))
    result = run_one(store, story)
    assert result is not None
    assert result.state == OperationState.SUCCEEDED
    row = read(store, identifier)
    assert (row.state, row.error, row.lease_expires) == (OperationState.SUCCEEDED, None, None)
    assert row.finished_at is not None
    assert said(store) == ["made"]
    assert run_one(store, story) is None


def test_what_an_attempt_cost_is_added_up(store: Store) -> None:
    identifier = add(store)

    def run(operation: Operation, progress: Progress) -> Outcome:
        cloud_calls.count += 3
        round_trips.count += 1
        with progress.step("a"):
            pass
        return Done() if operation.attempts > 1 else RetryLater("once more", seconds=0)

    story = Told(run)
    run_one(store, story)
    first = read(store, identifier)
    assert (first.cloud_calls, first.guest_round_trips) == (3, 1)
    run_one(store, story)
    row = read(store, identifier)
    assert (row.cloud_calls, row.guest_round_trips) == (6, 2)
    assert row.sql_statements > first.sql_statements > 0
    assert row.seconds > 0


@pytest.mark.parametrize(
    "fault",
    [
        CloudUnavailable("The cloud does not answer.", hint="Wait."),
        GuestUnreachable("No answer."),
        StaleDocument("Newer."),
        OperationalError("SELECT", {}, Exception("gone")),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_passing_fault_parks_the_operation_and_holds_nothing(sqlite_store: Store, fault: Exception) -> None:
    store = sqlite_store
    identifier = add(store)
    story = Told(lambda operation, progress: raising(fault)() if operation.attempts == 1 else Done())
    result = run_one(store, story)
    assert result is not None
    assert result.delay is not None
    assert 0 < result.delay <= 0.5
    row = read(store, identifier)
    assert (row.state, row.worker_id, row.retries) == (OperationState.QUEUED, None, 1)
    assert row.error
    assert row.not_before > row.updated_at
    assert run_one(store, story) is None, "not before its time"
    age(store, identifier, 1)
    assert run_one(store, story) is not None
    assert read(store, identifier).state == OperationState.SUCCEEDED
    assert story.calls == ["run", "run"]


def test_a_fault_that_does_not_pass_ends_with_the_deadline_and_its_reason(store: Store) -> None:
    identifier = add(store, seconds=10)
    story = Told(
        raising(CloudUnavailable("The cloud is on fire.")), fail=lambda tx, operation, error: say(tx, str(error))
    )
    for _ in range(50):
        age(store, identifier, 3)
        change(store, identifier, retries=0)
        if run_one(store, story) is None:
            break
    row = read(store, identifier)
    assert row.state == OperationState.FAILED
    assert isinstance(story.errors[-1], DeadlineExceeded)
    assert "on fire" in row.error
    assert "on fire" in said(store)[0]
    assert story.calls[-2:] == ["compensate", "fail"]


def test_a_final_error_compensates_then_fails_in_one_transaction(store: Store) -> None:
    identifier = add(store)
    deadlines: list[float] = []

    def compensate(operation: Operation, progress: Progress, error: SharewrightError) -> None:
        assert operation.facts == {"volume": "v1"}
        assert read(store, identifier).failure["type"] == "CloudCapacityExceeded"
        deadlines.append(progress.remaining)

    def run(operation: Operation, progress: Progress) -> Outcome:
        progress.record(volume="v1")
        raise CloudCapacityExceeded("The disk is full.", hint="Make room.")

    story = Told(run, compensate=compensate, fail=lambda tx, operation, error: say(tx, str(error)))
    result = run_one(store, story, grace_seconds=77)
    assert result is not None
    assert result.state == OperationState.FAILED
    assert story.calls == ["run", "compensate", "fail"]
    assert all(isinstance(error, CloudCapacityExceeded) for error in story.errors)
    assert 70 < deadlines[0] <= 77, "compensation has a time of its own"
    assert read(store, identifier).error == "The disk is full. Make room."
    assert said(store) == ["The disk is full. Make room."]


def test_a_crash_during_compensation_goes_on_with_compensating(store: Store) -> None:
    """The process dies inside compensate; the next worker does not run the story again."""

    class Died(BaseException):
        pass

    identifier = add(store)

    def compensate(operation: Operation, progress: Progress, error: SharewrightError) -> None:
        if operation.attempts == 1:
            raise Died

    story = Told(raising(NoValidBackend("a: no room.")), compensate=compensate)
    with pytest.raises(Died):
        run_one(store, story)
    assert read(store, identifier).state == OperationState.RUNNING
    age(store, identifier, 31)
    run_one(store, story, "w2")
    assert story.calls == ["run", "compensate", "compensate", "fail"]
    assert isinstance(story.errors[-1], NoValidBackend), "the class survives the crash"
    assert read(store, identifier).state == OperationState.FAILED


def test_passing_faults_in_compensation_are_tried_until_the_grace_ends(store: Store) -> None:
    identifier = add(store)
    story = Told(raising(NoValidBackend("No.")), compensate=raising(CloudUnavailable("Away.")))
    for _ in range(6):
        run_one(store, story)
        assert read(store, identifier).state == OperationState.QUEUED
        age(store, identifier, 35)
        change(store, identifier, retries=0)
    age(store, identifier, 300)
    change(store, identifier, not_before=utcnow())
    run_one(store, story)
    row = read(store, identifier)
    assert row.state == OperationState.FAILED
    assert "clean-up is not complete (Away.)" in row.error
    assert story.calls.count("run") == 1


def test_other_faults_in_compensation_get_three_tries(store: Store) -> None:
    identifier = add(store)
    story = Told(raising(NoValidBackend("No.")), compensate=raising(ValueError("secret text")))
    for _ in range(3):
        run_one(store, story)
        if read(store, identifier).state == OperationState.QUEUED:
            age(store, identifier, 31)
    assert story.calls == ["run", "compensate", "compensate", "compensate", "fail"]
    row = read(store, identifier)
    assert row.state == OperationState.FAILED
    assert "ValueError" in row.error
    assert "secret text" not in row.error


def test_an_end_that_cannot_be_written_is_a_failure_and_leaves_nothing(store: Store) -> None:
    identifier = add(store)

    def write(tx: Connection) -> None:
        say(tx, "half")
        raise SharewrightError("The share network is gone.")

    story = Told(lambda operation, progress: Done(write))
    run_one(store, story)
    row = read(store, identifier)
    assert (row.state, row.error) == (OperationState.FAILED, "The share network is gone.")
    assert said(store) == []
    assert story.calls == ["run", "compensate", "fail"]


def test_unforeseen_errors_do_not_show_their_text(store: Store) -> None:
    identifier = add(store)
    run_one(store, Told(raising(KeyError("password=hunter2"))))
    row = read(store, identifier)
    assert row.state == OperationState.FAILED
    assert "hunter2" not in row.error
    assert identifier in row.error


def test_an_error_state_that_cannot_be_written_gets_more_chances_then_ends_alone(store: Store) -> None:
    identifier = add(store)
    story = Told(raising(NoValidBackend("No.")), fail=raising(ZeroDivisionError()))
    while read(store, identifier).state == OperationState.QUEUED:
        run_one(store, story)
        age(store, identifier, 31)
    assert read(store, identifier).state == OperationState.FAILED
    assert 3 <= story.calls.count("fail") < 10


def test_waiting_for_another_operation_and_seeing_how_it_ended(store: Store) -> None:
    other = add(store, "other", resource="s")
    identifier = add(store)

    def run(operation: Operation, progress: Progress) -> Outcome:
        if operation.waited_for is None:
            return WaitFor(other)
        return Done(lambda tx: say(tx, f"{operation.waited_for.state}: {operation.waited_for.error}"))

    story = Told(run)
    run_one(store, story)
    assert read(store, identifier).waits_for == other
    assert run_one(store, story) is None
    run_one(store, Told(raising(CloudCapacityExceeded("No host.")), kind="other"))
    run_one(store, story)
    assert said(store) == ["failed: No host."]


def test_waiting_for_the_own_key_would_never_end_and_is_refused(store: Store) -> None:
    identifier = add(store)
    later = add(store)
    run_one(store, Told(lambda operation, progress: WaitFor(later)))
    assert read(store, identifier).state == OperationState.FAILED


def test_waiting_for_an_unknown_operation_goes_on_at_once(store: Store) -> None:
    add(store)
    story = Told(lambda operation, progress: Done() if operation.waited_for else WaitFor(new_id()))
    run_one(store, story)
    result = run_one(store, story)
    assert result is not None
    assert result.state == OperationState.SUCCEEDED


def test_an_operation_that_takes_down_its_workers_is_failed(store: Store) -> None:
    identifier = add(store)
    story = Told(fail=lambda tx, operation, error: say(tx, str(error)))
    for worker in range(3):
        must_claim(store, f"dead{worker}")
        age(store, identifier, 31)
    run_one(store, story, "w", crash_limit=3)
    assert story.calls == ["compensate", "fail"], "it is not run again"
    assert read(store, identifier).state == OperationState.FAILED
    assert "stopped 3 times" in said(store)[0]


def test_a_compensation_that_takes_down_its_workers_is_given_up(store: Store) -> None:
    identifier = add(store)
    change(store, identifier, crashes=6)
    change(store, identifier, failure={"type": "CloudError", "message": "Broken.", "hint": "", "tries": 0})
    story = Told()
    run_one(store, story, crash_limit=3)
    assert story.calls == ["fail"]
    assert "clean-up is not complete" in read(store, identifier).error


def test_a_stale_run_ends_without_a_trace(store: Store) -> None:
    identifier = add(store)

    def run(operation: Operation, progress: Progress) -> Outcome:
        age(store, identifier, 31)
        must_claim(store, "thief")
        return Done(lambda tx: say(tx, "wrong"))

    story = Told(run)
    result = run_one(store, story)
    assert result is not None
    assert result.state == "lost"
    assert said(store) == []
    row = read(store, identifier)
    assert (row.state, row.worker_id) == (OperationState.RUNNING, "thief")
    assert story.calls == ["run"]


def test_a_lease_that_was_not_renewed_in_time_stops_the_story_at_its_next_step(store: Store) -> None:
    identifier = add(store)
    claimed = must_claim(store)
    journal = journal_of(store, claimed, lease=-1)

    def run(operation: Operation, progress: Progress) -> Outcome:
        with progress.step("never"):
            raise AssertionError("a step was begun without a lease")

    result = Runner(store, {"work": Told(run)}).run(claimed, journal)
    assert result.state == "lost"
    assert read(store, identifier).state == OperationState.RUNNING


def test_a_stopping_worker_hands_back_at_the_next_step(store: Store) -> None:
    identifier = add(store)
    claimed = must_claim(store)
    journal = journal_of(store, claimed)

    def run(operation: Operation, progress: Progress) -> Outcome:
        with progress.step("first"):
            pass
        journal.stop()
        with progress.step("second"):
            pass
        raise AssertionError("the worker should have stopped")

    story = Told(run)
    assert Runner(store, {"work": story}).run(claimed, journal).state == "handed back"
    row = read(store, identifier)
    assert (row.state, row.worker_id, row.crashes) == (OperationState.QUEUED, None, 0)
    assert story.calls == ["run"]
    other = Told()
    assert run_one(store, other, "w2") is not None, "at once, with no wait for the lease"


def test_a_deadline_that_passed_ends_the_operation_without_running_it(store: Store) -> None:
    identifier = add(store)
    must_claim(store)
    change(
        store, identifier, deadline=utcnow() - timedelta(seconds=1), lease_expires=utcnow() - timedelta(seconds=0.01)
    )
    story = Told()
    run_one(store, story)
    assert story.calls == ["compensate", "fail"]
    assert isinstance(story.errors[0], DeadlineExceeded)


def test_errors_of_foreign_classes_keep_their_nearest_known_class(store: Store) -> None:
    class Special(CloudCapacityExceeded):
        def __init__(self, host: str) -> None:
            super().__init__(f"{host} is full.")

    add(store)
    story = Told(raising(Special("node1")))
    run_one(store, story)
    assert type(story.errors[0]) is CloudCapacityExceeded
    assert story.errors[0].message == "node1 is full."


def test_a_story_needs_only_run(store: Store) -> None:
    class Plain(BaseStory):
        kind = "work"

        def run(self, operation: Operation, progress: Progress) -> Outcome:
            raise NoValidBackend("No.")

    identifier = add(store)
    run_one(store, Plain())
    assert read(store, identifier).state == OperationState.FAILED


def test_follow_up_work_is_enqueued_with_the_end(store: Store) -> None:
    from engine_help import enqueue

    add(store)
    story = Told(
        lambda operation, progress: Done(lambda tx: enqueue(tx, "next", resource_type="t", resource_id="x") and None)
    )
    run_one(store, story)
    assert run_one(store, Told(kind="next")) is not None
    with store.read() as tx:
        from sharewright.store.tables import operations

        assert tx.scalar(select(func.count()).select_from(operations)) == 2
