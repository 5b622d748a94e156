"""Stories: take over a snapshot that somebody else took in the cloud, and give one away.

``manage_snapshot`` ends in ``available``, or ``manage_error`` with a user message: then the cloud's snapshot is what it
was. ``unmanage_snapshot`` leaves the cloud's snapshot as it is and removes the rows; or ``unmanage_error``.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ShareDriver
from sharewright.drivers.locations import write_snapshot_locations
from sharewright.errors import SharewrightError
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.delete_snapshot import finish as remove_rows
from sharewright.operations.messages import Action
from sharewright.operations.share_rows import is_delete_queued
from sharewright.operations.snapshot_drivers import Locations, find_locations, find_snapshot_manager
from sharewright.operations.snapshot_rows import (
    deny_everybody,
    fail_snapshot,
    read_snapshot,
    write_snapshot_size,
    write_snapshot_status,
)
from sharewright.progress import Progress
from sharewright.states import SnapshotStatus
from sharewright.store.database import Store
from sharewright.store.tables import share_snapshot_instances, share_snapshots


class ManageSnapshot(BaseStory):
    """Payload: ``reference`` (what the cloud's people call the snapshot)."""

    kind = "manage_snapshot"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            snapshot = read_snapshot(tx, operation.resource_id)
        if snapshot is None or snapshot.taken_over:
            return Done()
        manager = find_snapshot_manager(self._drivers, snapshot.backend)
        size = manager.manage_snapshot(snapshot.instance_id, str(operation.payload["reference"]), progress)
        locations = find_locations(self._drivers, snapshot)
        return Done(lambda tx: finish(tx, operation.resource_id, size, locations))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        """One that was taken over and is not kept is given away again: deleting ours must not delete it."""
        with self._store.read() as tx:
            snapshot = read_snapshot(tx, operation.resource_id)
        if snapshot is not None and snapshot.backend is not None:
            find_snapshot_manager(self._drivers, snapshot.backend).unmanage_snapshot(snapshot.instance_id, progress)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        fail_snapshot(tx, operation, error, status=SnapshotStatus.MANAGE_ERROR, action=Action.CREATE)


class UnmanageSnapshot(BaseStory):
    """Payload: ``status`` after a failure (default ``unmanage_error``)."""

    kind = "unmanage_snapshot"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.begin() as tx:
            progress.fence(tx)
            snapshot = read_snapshot(tx, operation.resource_id)
            deny_everybody(tx, operation.resource_id)
        if snapshot is None:
            return Done()
        manager = find_snapshot_manager(self._drivers, snapshot.backend)
        manager.unmanage_snapshot(snapshot.instance_id, progress)
        return Done(lambda tx: remove_rows(tx, operation.resource_id))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        status = operation.payload.get("status", SnapshotStatus.UNMANAGE_ERROR)
        fail_snapshot(tx, operation, error, status=status, action=Action.DELETE)


def finish(tx: Connection, snapshot_id: str, size: int, locations: Locations) -> None:
    """Write that it is ours and available, with its own size, and where clients will find it. Raises
    SharewrightError, which gives it back, when somebody wants it deleted by now: that must not depend on who came
    first."""
    tx.execute(select(share_snapshots.c.id).where(share_snapshots.c.id == snapshot_id).with_for_update())
    snapshot = read_snapshot(tx, snapshot_id)
    if snapshot is None:
        return
    if is_delete_queued(tx, snapshot_id, "delete_snapshot"):
        raise SharewrightError("The snapshot was deleted while it was being taken over, so it was given back.")
    write_snapshot_size(tx, snapshot, size)
    write_snapshot_locations(tx, snapshot.instance_id, locations)
    tx.execute(
        share_snapshot_instances.update()
        .where(share_snapshot_instances.c.id == snapshot.instance_id)
        .values(taken_over=True)
    )
    write_snapshot_status(tx, snapshot_id, SnapshotStatus.AVAILABLE, progress="100%")
