"""Runs one claimed operation: the story, what its outcome means for the row, and the way through a failure.

Everything that ends an attempt is one fenced transaction. Between two of them the process may die at any point; the
next claim then starts here again with what the last transaction left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sharewright import errors
from sharewright.clouds.contract import cloud_calls
from sharewright.errors import (
    CloudUnavailable,
    DeadlineExceeded,
    GuestUnreachable,
    LeaseLost,
    SharewrightError,
    StaleDocument,
)
from sharewright.guest.contract import round_trips
from sharewright.identifiers import utcnow
from sharewright.instruments import operation_failures
from sharewright.operations import leases
from sharewright.operations.contract import Done, Outcome, RetryLater, Story, WaitFor
from sharewright.operations.journal import HandBack, Journal
from sharewright.operations.leases import Claim, Usage
from sharewright.states import OperationState
from sharewright.store.database import Store
from sharewright.store.statements import statements
from sharewright.store.tables import operations

log = structlog.get_logger()

DATABASE_FAULTS = (OperationalError, InterfaceError, PoolTimeout)
PASSING_FAULTS = (CloudUnavailable, GuestUnreachable, StaleDocument, *DATABASE_FAULTS)

GRACE_SECONDS = 300.0  # for compensation, from the moment of the failure
CRASH_LIMIT = 5  # workers that one operation may take down before it is failed
COMPENSATION_TRIES = 3  # for faults that do not look passing
_LONGEST_TEXT = 4000


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended: a state of the row, or "lost" or "handed back". ``delay``: seconds until it may go on."""

    state: str
    delay: float | None = None


class Meter:
    """Counts what this thread does from now on; ``sql_statements`` were sent for the attempt before."""

    def __init__(self, sql_statements: int = 0) -> None:
        self._start = (time.monotonic(), cloud_calls.count, round_trips.count, statements.count - sql_statements)

    def read(self) -> Usage:
        seconds, calls, trips, sql = self._start
        return Usage(
            seconds=time.monotonic() - seconds,
            cloud_calls=cloud_calls.count - calls,
            guest_round_trips=round_trips.count - trips,
            sql_statements=statements.count - sql,
        )


class Runner:
    """Runs claims of the given stories. ``grace_seconds`` bounds compensation; see the constants above."""

    def __init__(
        self,
        store: Store,
        stories: Mapping[str, Story],
        *,
        grace_seconds: float = GRACE_SECONDS,
        crash_limit: int = CRASH_LIMIT,
    ) -> None:
        self._store = store
        self._stories = stories
        self._grace_seconds = grace_seconds
        self._crash_limit = crash_limit

    def run(self, claim: Claim, journal: Journal) -> Result:
        """Run one attempt to its end. Raises nothing but what stops the process."""
        attempt = _Attempt(self._store, self._stories[claim.operation.kind], claim, journal)
        try:
            return attempt.run(self._grace_seconds, self._crash_limit)
        except HandBack:
            return attempt.hand_back()
        except LeaseLost as lost:
            log.warning("lease lost", operation=claim.operation.id, kind=claim.operation.kind, reason=lost.message)
            return Result("lost")


class _Attempt:
    def __init__(self, store: Store, story: Story, claim: Claim, journal: Journal) -> None:
        self._store = store
        self._story = story
        self._claim = claim
        self._journal = journal
        self._operation = claim.operation
        self._meter = Meter(claim.sql_statements)

    def run(self, grace_seconds: float, crash_limit: int) -> Result:
        claim = self._claim
        self._grace_seconds = grace_seconds
        if claim.failure is not None:
            return self._compensate(claim.failure, skip=claim.crashes >= 2 * crash_limit)
        if claim.crashes >= crash_limit:
            return self._fail(
                SharewrightError(
                    f"The worker stopped {claim.crashes} times while it ran this operation, so it was given up.",
                    hint=f"Operators find the reason in the workers' logs under operation {self._operation.id}.",
                )
            )
        try:
            self._journal.check()
            outcome = self._story.run(self._operation, self._journal)
        except LeaseLost:
            raise
        except PASSING_FAULTS as fault:
            outcome = RetryLater(_text(fault))
        except DeadlineExceeded as error:
            return self._fail(self._with_last_obstacle(error))
        except SharewrightError as error:
            return self._fail(error)
        except Exception as error:
            return self._fail(self._internal(error))
        return self._end(outcome)

    def hand_back(self) -> Result:
        """The worker stops: back into the queue, with no wait for the lease to run out."""
        claim = self._claim
        try:
            self._write(lambda tx: self._park(tx, retries=claim.retries, error=claim.last_error))
        except LeaseLost:
            return Result("lost")
        return Result("handed back", 0.0)

    # ---- outcomes ----

    def _end(self, outcome: Outcome) -> Result:
        if isinstance(outcome, WaitFor):
            with self._store.read() as tx:
                key = tx.scalar(select(operations.c.key).where(operations.c.id == outcome.operation_id))
            if key == self._operation.key:
                return self._fail(self._internal(ValueError(f"waits for {outcome.operation_id} of its own key")))
            self._write(lambda tx: self._park(tx, waits_for=outcome.operation_id))
            return Result(OperationState.QUEUED, 0.0)
        if isinstance(outcome, RetryLater):
            return self._retry(outcome)
        return self._succeed(outcome)

    def _succeed(self, outcome: Done) -> Result:
        usage = self._meter.read()

        def write(tx: Connection) -> None:
            leases.finish(tx, self._operation, usage)
            if outcome.write is not None:
                outcome.write(tx)
            self._journal.flush(tx)  # after it: rows are locked in one order, and a share's before its instances'

        group = ("end", self._operation.kind, self._operation.project_id) if self._story.ends_together else None
        try:
            self._write(write, group=group)
        except LeaseLost:
            raise
        except SharewrightError as error:
            return self._fail(error)
        except Exception as error:
            return self._fail(self._internal(error))
        return Result(OperationState.SUCCEEDED)

    def _retry(self, outcome: RetryLater) -> Result:
        reason = outcome.reason[:_LONGEST_TEXT]
        if self._journal.remaining <= 0:
            return self._fail(
                DeadlineExceeded(
                    f"The operation {self._operation.kind} did not finish within its time. Last obstacle: {reason}"
                )
            )
        retries = self._claim.retries
        delay = leases.back_off(retries) if outcome.seconds is None else outcome.seconds
        delay = max(0.0, min(delay, self._journal.remaining))
        self._write(lambda tx: self._park(tx, seconds=delay, retries=retries + 1, error=reason))
        log.info("operation waits", operation=self._operation.id, seconds=round(delay, 2), reason=reason)
        return Result(OperationState.QUEUED, delay)

    def _park(self, tx: Connection, **values: Any) -> None:
        leases.park(tx, self._operation, self._meter.read(), **values)
        self._journal.flush(tx)

    # ---- failure ----

    def _fail(self, error: SharewrightError) -> Result:
        """The failure is final. Say so durably, then undo: a crash from here on goes on with undoing."""
        failure = {"type": _known_type(error), "message": error.message, "hint": error.hint, "tries": 0}
        log.warning("operation failed", operation=self._operation.id, kind=self._operation.kind, error=str(error))
        deadline = utcnow() + timedelta(seconds=self._grace_seconds)
        values = {
            operations.c.failure: failure,
            operations.c.error: str(error)[:_LONGEST_TEXT],
            operations.c.deadline: deadline,
        }

        def write(tx: Connection) -> None:
            leases.write(tx, self._operation, values)
            self._journal.flush(tx)

        self._write(write)
        self._journal.restart(deadline)
        self._operation = replace(self._operation, deadline=deadline, facts=self._journal.facts)
        return self._compensate(failure, skip=False)

    def _compensate(self, failure: Mapping[str, Any], *, skip: bool) -> Result:
        error = _revived(failure)
        left_over = "the worker stopped again and again" if skip else ""
        if not skip:
            try:
                self._story.compensate(self._operation, self._journal, error)
            except LeaseLost:
                raise
            except Exception as fault:
                tries = failure["tries"] + (0 if isinstance(fault, PASSING_FAULTS) else 1)
                log.warning("compensation failed", operation=self._operation.id, tries=tries, exc_info=fault)
                if self._journal.remaining > 0 and tries < COMPENSATION_TRIES:
                    return self._compensate_later({**failure, "tries": tries})
                left_over = _text(fault)
        if left_over:
            error = type(error)(f"{error.message} The clean-up is not complete ({left_over}).", hint=error.hint)
        return self._end_failed(error, failure)

    def _compensate_later(self, failure: Mapping[str, Any]) -> Result:
        delay = min(leases.back_off(self._claim.retries), max(0.0, self._journal.remaining))

        def write(tx: Connection) -> None:
            leases.write(tx, self._operation, {operations.c.failure: dict(failure)})
            self._park(tx, seconds=delay, retries=self._claim.retries + 1, error=_revived(failure).message)

        self._write(write)
        return Result(OperationState.QUEUED, delay)

    def _end_failed(self, error: SharewrightError, failure: Mapping[str, Any]) -> Result:
        def write(tx: Connection) -> None:
            leases.finish(tx, self._operation, self._meter.read(), error=str(error)[:_LONGEST_TEXT])
            self._journal.flush(tx)
            self._story.fail(tx, self._operation, error)

        try:
            self._write(write)
        except LeaseLost:
            raise
        except Exception as fault:
            # A defect in the story. Without its writes the resource would stay in a state of passage, so it gets
            # some more chances (a fixed worker may come up) before the operation ends alone.
            log.error("error state not written", operation=self._operation.id, exc_info=fault)
            tries = failure["tries"] + 1
            if tries < 2 * COMPENSATION_TRIES and self._journal.remaining > 0:
                return self._compensate_later({**failure, "tries": tries})
            self._write(
                lambda tx: leases.finish(tx, self._operation, self._meter.read(), error=str(error)[:_LONGEST_TEXT])
            )
        operation_failures.labels(self._operation.kind, failure["type"]).inc()
        return Result(OperationState.FAILED)

    # ---- writing ----

    def _write(self, action: Callable[[Connection], None], *, group: Hashable = None) -> None:
        """Run ``action`` in a transaction, again and again while the database is away and the lease may still hold;
        with those of the same ``group`` (Store.together).

        When it does not, LeaseLost: the outcome is forgotten and the story told again by the next claim.
        """
        pause = 0.1
        while True:
            try:
                self._store.together(group, action)
                return
            except DATABASE_FAULTS as fault:
                if not self._journal.valid:
                    raise leases.lease_lost(self._operation) from fault
                log.warning("database fault", operation=self._operation.id, fault=_text(fault))
                time.sleep(pause)
                pause = min(2.0, 2 * pause)

    def _internal(self, error: Exception) -> SharewrightError:
        log.error("defect", operation=self._operation.id, kind=self._operation.kind, exc_info=error)
        return SharewrightError(
            "An internal error stopped the operation.",
            hint=f"Operators find it in the worker's log under operation {self._operation.id}.",
        )

    def _with_last_obstacle(self, error: DeadlineExceeded) -> DeadlineExceeded:
        if not self._claim.last_error:
            return error
        return DeadlineExceeded(f"{error.message} Last obstacle: {self._claim.last_error}", hint=error.hint)


def _text(fault: BaseException) -> str:
    if isinstance(fault, SharewrightError):
        return str(fault)
    if isinstance(fault, DATABASE_FAULTS):
        return f"The database did not answer ({type(getattr(fault, 'orig', None) or fault).__name__})."
    return type(fault).__name__  # the text of an unforeseen error may hold anything, so it stays in the log


def _known_type(error: SharewrightError) -> str:
    """The nearest class that errors.py defines: it can be made again from message and hint after a crash."""
    names = (kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    return next(names, SharewrightError.__name__)


def _revived(failure: Mapping[str, Any]) -> SharewrightError:
    kind = getattr(errors, str(failure["type"]), SharewrightError)
    if not (isinstance(kind, type) and issubclass(kind, SharewrightError)):
        kind = SharewrightError
    error: SharewrightError = kind(failure["message"], hint=failure["hint"])
    return error
