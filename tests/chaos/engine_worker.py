"""A worker process for test_engine_kills.py: runs a story whose every write leaves a trace in the database.

usage: engine_worker.py DATABASE_URL NAME LEASE_SECONDS
"""

from __future__ import annotations

import random
import sys
import time

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table

from sharewright.configuration_file import parse
from sharewright.errors import CloudCapacityExceeded, CloudUnavailable, SharewrightError
from sharewright.operations.contract import Done, Operation, Outcome, RetryLater, WaitFor
from sharewright.operations.worker import Worker
from sharewright.progress import Progress
from sharewright.store.database import Store

traces = Table(
    "test_traces",
    MetaData(),
    Column("serial", Integer, primary_key=True, autoincrement=True),
    Column("operation_id", String(36), nullable=False),
    Column("key", String(64), nullable=False),
    Column("what", String(32), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("worker", String(64), nullable=False),
)
STEPS = 4


def leave(tx: Connection, operation: Operation, what: str) -> None:
    tx.execute(
        traces.insert().values(
            operation_id=operation.id,
            key=operation.key,
            what=what,
            epoch=operation.epoch,
            worker=operation.worker_id,
        )
    )


class Tracing:
    """Works in steps, each with a write of its own; the payload says how it should go."""

    kind = "trace"
    ends_together = True

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        plan = operation.payload
        if plan.get("waits_for") and operation.waited_for is None:
            return WaitFor(plan["waits_for"])
        for number in range(STEPS):
            if progress.recall(f"step {number}"):
                continue
            with progress.step(f"step {number}"):
                time.sleep(random.uniform(0.02, 0.12))
                with self._store.begin() as tx:
                    progress.fence(tx)
                    leave(tx, operation, f"step {number}")
            progress.record(**{f"step {number}": True})
            if plan["way"] == "fault" and number == 1 and not progress.recall("fault"):
                progress.record(fault=True)
                raise CloudUnavailable("The cloud does not answer.")
            if plan["way"] == "later" and number == 2 and not progress.recall("later"):
                progress.record(later=True)
                return RetryLater("not yet", seconds=0.1)
        if plan["way"] == "fail":
            raise CloudCapacityExceeded("No room.")
        return Done(lambda tx: leave(tx, operation, "succeeded"))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        for number in reversed(range(STEPS)):
            with progress.step(f"undo {number}"), self._store.begin() as tx:
                progress.fence(tx)
                leave(tx, operation, f"undo {number}")
            time.sleep(random.uniform(0.01, 0.03))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        leave(tx, operation, "failed" if isinstance(error, CloudCapacityExceeded) else f"wrong: {error}"[:32])


def main(url: str, name: str, lease_seconds: float) -> None:
    store = Store(url)
    settings = parse(
        {"node": name, "worker": {"threads": 4, "lease_seconds": lease_seconds, "poll_seconds": 0.1}, "backends": {}}
    )
    with Worker(store, {"trace": Tracing(store)}, settings, crash_limit=10_000):
        print("ready", flush=True)
        sys.stdin.read()  # the end of standard input is the order to stop


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
