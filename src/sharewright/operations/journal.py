"""The journal of one claimed operation: its steps and facts in the store, every write fenced by the claim's epoch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, select, update

from sharewright.errors import DeadlineExceeded, LeaseLost
from sharewright.identifiers import utcnow
from sharewright.operations import leases
from sharewright.operations.contract import Operation
from sharewright.store.database import Store
from sharewright.store.tables import operation_steps, operations


class HandBack(LeaseLost):
    """The worker is stopping: leave the work here, another worker goes on with it at once."""


def clock() -> float:
    """Seconds on a clock that also runs while the machine sleeps: a lease does not stop for a suspended laptop."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Journal:
    """:class:`sharewright.progress.Progress` for one claim. May be used from several threads, but never inside a
    transaction: ``step`` and ``record`` have their own, and SQLite has one writer.

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
        self._ended: list[tuple[int, datetime, float]] = []
        self._lock = threading.RLock()
        self._lost = threading.Event()
        self._stopping = threading.Event()

    # ---- what stories see ----

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.check()
        with self._lock, self._store.begin() as tx:
            leases.fenced(tx, self.operation)
            self._write_ended(tx)
            position = self._position
            tx.execute(
                operation_steps.insert().values(
                    operation_id=self.operation.id,
                    position=position,
                    name=name,
                    epoch=self.operation.epoch,
                    started_at=utcnow(),
                )
            )
            self._position += 1
            self._ended.clear()
        started = time.monotonic()
        yield
        # A step's end goes into the next transaction: the end only informs, while the start is a promise kept before
        # the first side effect. A step without an end failed, or its worker died, or it was the last one before that.
        with self._lock:
            self._ended.append((position, utcnow(), time.monotonic() - started))

    def record(self, **facts: Any) -> None:
        with self._lock:
            if all(key in self._facts and self._facts[key] == value for key, value in facts.items()):
                return
            merged = {**self._facts, **facts}
            with self._store.begin() as tx:
                leases.write(tx, self.operation, {operations.c.facts: merged})
                self._write_ended(tx)
            self._ended.clear()
            self._facts = merged

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

    def fence(self, transaction: Any) -> None:
        leases.fenced(transaction, self.operation)

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
        """Go on under another deadline (compensation)."""
        self._end = clock() + (deadline - utcnow()).total_seconds()

    def lose(self) -> None:
        """The lease is another worker's now: the next check stops the work."""
        self._lost.set()

    def stop(self) -> None:
        """The worker stops: the next check hands the operation back."""
        self._stopping.set()

    def flush(self, tx: Connection) -> None:
        """Write the ends of steps that are still pending, in the transaction that ends the attempt."""
        with self._lock:
            self._write_ended(tx)

    def _write_ended(self, tx: Connection) -> None:
        # Only called in transactions that are fenced already. What is pending is forgotten after the commit.
        for position, finished_at, seconds in self._ended:
            tx.execute(
                update(operation_steps)
                .where(
                    and_(
                        operation_steps.c.operation_id == self.operation.id,
                        operation_steps.c.position == position,
                    )
                )
                .values(finished_at=finished_at, seconds=seconds)
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
