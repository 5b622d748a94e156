"""A story that does what a test tells it, and shortcuts through the engine without threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, select, update

from sharewright.errors import SharewrightError
from sharewright.operations import leases
from sharewright.operations.contract import Done, Operation, Outcome, Story
from sharewright.operations.journal import Journal, clock
from sharewright.operations.leases import Claim
from sharewright.operations.queue import enqueue
from sharewright.operations.runner import Result, Runner
from sharewright.progress import Progress
from sharewright.store.database import Store
from sharewright.store.tables import operations

LEASE = 30.0


class Told:
    """A story whose parts are functions; what it was asked is kept in ``calls``."""

    ends_together = True

    def __init__(
        self,
        run: Callable[[Operation, Progress], Outcome] = lambda operation, progress: Done(),
        *,
        compensate: Callable[[Operation, Progress, SharewrightError], None] = lambda operation, progress, error: None,
        fail: Callable[[Connection, Operation, SharewrightError], None] = lambda tx, operation, error: None,
        kind: str = "work",
    ) -> None:
        self._kind = kind
        self._run, self._compensate, self._fail = run, compensate, fail
        self.calls: list[str] = []
        self.operations: list[Operation] = []
        self.errors: list[SharewrightError] = []

    @property
    def kind(self) -> str:
        return self._kind

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        self.calls.append("run")
        self.operations.append(operation)
        return self._run(operation, progress)

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        self.calls.append("compensate")
        self.errors.append(error)
        self._compensate(operation, progress, error)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        self.calls.append("fail")
        self.errors.append(error)
        self._fail(tx, operation, error)


def add(store: Store, kind: str = "work", *, resource: str = "r", **options: Any) -> str:
    """Enqueue in a transaction of its own."""
    with store.begin() as tx:
        return enqueue(tx, kind, resource_type="thing", resource_id=resource, **options)


def claim(
    store: Store, worker: str = "w1", *, kinds: tuple[str, ...] = ("work",), lease: float = LEASE
) -> Claim | None:
    return leases.claim(store, worker, lease_seconds=lease, kinds=kinds)


def must_claim(store: Store, worker: str = "w1", **options: Any) -> Claim:
    claimed = claim(store, worker, **options)
    assert claimed is not None
    return claimed


def journal_of(store: Store, claimed: Claim, *, lease: float = LEASE) -> Journal:
    return Journal(store, claimed.operation, valid_until=clock() + lease, steps=claimed.steps)


def run_one(store: Store, story: Story, worker: str = "w1", **options: Any) -> Result | None:
    """Claim and run one attempt on this thread; None when nothing can be claimed."""
    stories: Mapping[str, Story] = {story.kind: story}
    claimed = claim(store, worker, kinds=(story.kind,))
    if claimed is None:
        return None
    return Runner(store, stories, **options).run(claimed, journal_of(store, claimed))


def read(store: Store, identifier: str) -> Any:
    with store.read() as tx:
        return tx.execute(select(operations).where(operations.c.id == identifier)).one()


def change(store: Store, identifier: str, **values: Any) -> None:
    """What only time or a defect would do to a row."""
    with store.begin() as tx:
        tx.execute(update(operations).where(operations.c.id == identifier).values(**values))


def age(store: Store, identifier: str, seconds: float) -> None:
    """Let time pass for one operation: its lease and its back-off are that much older."""
    from datetime import timedelta

    row = read(store, identifier)
    shift = timedelta(seconds=seconds)
    change(
        store,
        identifier,
        not_before=row.not_before - shift,
        lease_expires=row.lease_expires - shift if row.lease_expires else None,
        updated_at=row.updated_at - shift if row.updated_at else None,
        deadline=row.deadline - shift,
    )
