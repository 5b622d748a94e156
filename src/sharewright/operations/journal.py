"""The journal of one claimed operation: its steps and facts in the store, every write fenced by the claim's epoch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, select, update

from sharewright.errors import DeadlineExceeded, LeaseLost
from sharewright.identifiers import utcnow
from sharewright.operations import leases
from sharewright.operations.contract import Operation
from sharewright.operations.steps import Step, write_steps
from sharewright.store.database import Store, after_commit
from sharewright.store.kept import change_row
from sharewright.store.tables import operation_steps, operations
from sharewright.store.transaction import change_row_at_end, write_at_end

LONG: Final = timedelta(seconds=1)  # of a step whose start is not written yet; then the worker's heartbeat does that


class HandBack(LeaseLost):
    """The worker is stopping: leave the work here, another worker goes on with it at once."""


def clock() -> float:
    """Seconds on a clock that also runs while the machine sleeps: a lease does not stop for a suspended laptop."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Journal:
    """:class:`sharewright.progress.Progress` for one claim. One thread, the story's, writes to it, and never inside a
    transaction: ``step`` and ``record`` have their own, and SQLite has one writer. Others may read, extend and stop it.
    The lock is taken inside of transactions, never around them.

    ``valid_until`` is on :func:`clock`; the worker's heartbeat moves it on, and when nobody does, the lease is taken
    to be lost. ``steps`` is the number of steps journaled by earlier claims.
    """

    def __init__(
        self,
        store: Store,
        operation: Operation,
        *,
        valid_until: float,
        steps: int = 0,
    ) -> None:
        self.operation = operation
        self._store = store
        self._valid_until = valid_until
        self._end = clock() + (operation.deadline - utcnow()).total_seconds()
        self._facts = dict(operation.facts)
        self._position = steps
        self._begun: list[Step] = []  # those that are not written yet, ended or not
        self._ended: list[Step] = []  # those that are, without their end
        self._shown: set[int] = set()  # positions
        self._notes: dict[tuple[Table, str], dict[str, Any]] = {}
        self._at_once = False
        self._lock = threading.RLock()
        self._lost = threading.Event()
        self._stopping = threading.Event()

    # ---- what stories see ----

    @contextmanager
    def step(self, name: str, *, brief: bool = False) -> Iterator[None]:
        self.check()
        with self._lock:
            step = Step(position=self._position, name=name, started_at=utcnow())
            self._position += 1
            self._begun.append(step)
        if not brief or self._at_once:
            self._store.together("step", self._begin_step)
        started = time.monotonic()
        yield
        # A step's end goes into the next transaction: the end only informs, while the start is a promise kept before
        # the first side effect. A step without an end failed, or its worker died, or it was the last one before that.
        with self._lock:
            step.finished_at, step.seconds = utcnow(), time.monotonic() - started
            if step not in self._begun:
                self._ended.append(step)

    def later(self, store: Store, table: Table, identifier: str, values: Mapping[str, Any]) -> None:
        with self._lock:
            self._notes[table, identifier] = {**self._notes.get((table, identifier), {}), **values}
        if self._at_once:
            with store.begin() as tx:
                self.fence(tx)

    def record(self, **facts: Any) -> None:
        with self._lock:
            if all(key in self._facts and self._facts[key] == value for key, value in facts.items()):
                return
        with self._store.begin() as tx, self._lock:
            self._facts = {**self._facts, **facts}  # a commit that fails ends the attempt, and this with it
            leases.write(tx, self.operation, {operations.c.facts: self._facts})
            self.flush(tx)

    def recall(self, key: str) -> Any:
        with self._lock:
            return self._facts.get(key)

    def check(self) -> None:
        if self._lost.is_set() or clock() > self._valid_until:
            raise leases.lease_lost(self.operation)
        if self._stopping.is_set():
            raise HandBack(f"The worker is stopping; operation {self.operation.id} goes on elsewhere.")
        if self.remaining <= 0:
            raise DeadlineExceeded(
                f"The operation {self.operation.kind} did not finish within its time.",
                hint="Try again; if it happens again, an operator finds the slow step in the operation's journal.",
            )

    def fence(self, transaction: Any, *, at_end: bool = False) -> None:
        with self._lock:
            if self._begun:
                write_steps(transaction, self.operation, self._begun, at_end=at_end)
            else:
                leases.fenced(transaction, self.operation)
            # What is noted of a row goes before what the transaction itself says of it.
            self._flush_rest(transaction, change_row)

    def _begin_step(self, tx: Connection) -> None:
        """Write the start of the step that has just begun, and what is pending."""
        with self._lock:
            write_steps(tx, self.operation, self._begun, at_end=True)
            self._flush_rest(tx, change_row_at_end)

    @property
    def remaining(self) -> float:
        return self._end - clock()

    # ---- what the worker and the runner do ----

    @property
    def facts(self) -> dict[str, Any]:
        """A copy of all facts."""
        with self._lock:
            return dict(self._facts)

    @property
    def steps(self) -> int:
        """How many steps have been journaled, over all attempts."""
        return self._position

    @property
    def valid(self) -> bool:
        """Whether the lease can still be believed to be ours."""
        return not self._lost.is_set() and clock() <= self._valid_until

    def extend(self, valid_until: float) -> None:
        """The lease was renewed."""
        self._valid_until = valid_until

    def restart(self, deadline: datetime) -> None:
        """Go on under another deadline (compensation). Nothing is written later from now on: what comes is written
        down by the story itself, which must find everything in the rows."""
        self._end = clock() + (deadline - utcnow()).total_seconds()
        self._at_once = True

    def lose(self) -> None:
        """The lease is another worker's now: the next check stops the work."""
        self._lost.set()

    def stop(self) -> None:
        """The worker stops: the next check hands the operation back."""
        self._stopping.set()

    def show(self) -> None:
        """Write the start of a step that goes on for long, for those who look; from any thread."""
        with self._lock:
            long = utcnow() - LONG
            steps = [replace(each) for each in self._begun if each.finished_at is None and each.started_at < long]
            steps = [each for each in steps if each.position not in self._shown]
        if steps:
            with self._store.begin() as tx:
                write_steps(tx, self.operation, steps)
            self._shown.update(each.position for each in steps)

    def flush(self, tx: Connection) -> None:
        """Write what is still pending, last of all in a transaction that is fenced already. It is forgotten after the
        commit."""
        with self._lock:
            if self._begun:
                write_steps(tx, self.operation, self._begun, is_ours=True, at_end=True)
            self._flush_rest(tx, change_row_at_end)

    def _flush_rest(self, tx: Connection, change: Callable[..., object]) -> None:
        """``change``: how the rows of ``later`` are written (change_row or change_row_at_end)."""
        begun = {each.position: each.finished_at is not None for each in self._begun}
        ended, notes = len(self._ended), dict(self._notes)
        for each in self._ended:
            end = {"operation": self.operation.id, "step": each.position}
            write_at_end(tx, _END, {**end, "finished_at": each.finished_at, "seconds": each.seconds})
        for (table, identifier), values in notes.items():
            change(tx, table, identifier, **values)
        if begun or ended or notes:
            after_commit(tx, lambda: self._forget(begun, ended, notes))

    def _forget(
        self, begun: Mapping[int, bool], ended: int, notes: Mapping[tuple[Table, str], Mapping[str, Any]]
    ) -> None:
        """What a transaction wrote; not what another thread of the story has added since. ``begun``: whether each step
        was written with its end."""
        with self._lock:
            del self._ended[:ended]
            self._ended += [each for each in self._begun if each.finished_at and not begun.get(each.position, True)]
            self._begun = [each for each in self._begun if each.position not in begun]
            for row, values in notes.items():
                if self._notes.get(row) is values:
                    del self._notes[row]


_END: Final = (
    update(operation_steps)
    .where(operation_steps.c.operation_id == bindparam("operation"), operation_steps.c.position == bindparam("step"))
    .values(finished_at=bindparam("finished_at"), seconds=bindparam("seconds"))
)


def read_steps(tx: Connection, operation_id: str) -> list[dict[str, Any]]:
    """The journal of an operation in order, for people and tests."""
    rows = tx.execute(
        select(operation_steps)
        .where(operation_steps.c.operation_id == operation_id)
        .order_by(operation_steps.c.position)
    )
    return [dict(row) for row in rows.mappings()]


def fenced(tx: Connection, operation: Operation) -> None:
    """Raise LeaseLost unless this claim of ``operation`` is the last one; no take-over happens until ``tx`` ends."""
    leases.fenced(tx, operation)
