"""Stories: create a snapshot, and wait until the cloud has it whole.

``create_snapshot``: wait for other snapshots on the server → freeze, fix the moment, thaw, in one step of the driver →
``available``, or, when the cloud goes on copying, a ``finish_snapshot`` of its own. Copying takes the time that it
takes and holds no thread; clients notice nothing of it. Replicas of the share get theirs afterwards
(replica_snapshots.py).

A failure removes what was made; the snapshot ends in ``error`` with a user message. One whose moment may not have been
that of a frozen file system never becomes available.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from sharewright.drivers.contract import ShareDriver
from sharewright.drivers.locations import write_snapshot_locations
from sharewright.errors import SharewrightError
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, RetryLater, WaitFor
from sharewright.operations.messages import Action
from sharewright.operations.queue import enqueue
from sharewright.operations.replica_rows import key_of
from sharewright.operations.replica_snapshots import ask_replicas
from sharewright.operations.share_rows import is_delete_queued
from sharewright.operations.snapshot_drivers import Locations, find_locations, find_snapshot_driver
from sharewright.operations.snapshot_rows import (
    SnapshotRow,
    fail_snapshot,
    find_copying,
    find_older,
    read_snapshot,
    read_snapshots,
    write_snapshot_size,
    write_snapshot_status,
)
from sharewright.progress import Progress
from sharewright.states import SnapshotStatus
from sharewright.store.database import Store
from sharewright.store.tables import operations, share_snapshots

COPY_SECONDS = 24 * 3600.0  # the deadline of the copying; a cloud that has lost a copy says so before


class _Creation(BaseStory):
    """What both stories have in common."""

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        with self._store.read() as tx:
            instances = read_snapshots(tx, share_snapshots.c.id == operation.resource_id)
        for each in instances:
            if each.backend is not None:
                find_snapshot_driver(self._drivers, each.backend).delete_snapshot(each.instance_id, progress)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        fail_snapshot(tx, operation, error, status=SnapshotStatus.ERROR, action=Action.CREATE)

    def _read(self, tx: Connection, operation: Operation) -> SnapshotRow | None:
        """The snapshot, if there is still something to do for it."""
        snapshot = read_snapshot(tx, operation.resource_id)
        if snapshot is not None and is_delete_queued(tx, snapshot.id, "delete_snapshot"):
            raise SharewrightError("The snapshot was deleted while it was being taken.")
        return None if snapshot is None or snapshot.status == SnapshotStatus.AVAILABLE else snapshot


class CreateSnapshot(_Creation):
    kind = "create_snapshot"

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            snapshot = self._read(tx, operation)
            if snapshot is None:
                return Done()
            server = snapshot.server_id
            on_share = operations.c.key == key_of(snapshot.share_id)
            before = find_older(tx, operation, ("promote_replica",), on_share)  # or it would be of the former one
            if before is None and server is not None:
                before = find_copying(tx, {snapshot.instance_id: server}, operation.id)
        driver = find_snapshot_driver(self._drivers, snapshot.backend)
        if before is not None:
            return WaitFor(before)
        if server is None:
            raise SharewrightError("The share is not served by any share server, so it has no state to keep.")
        whole = driver.create_snapshot(snapshot.instance_id, server, progress)
        locations = find_locations(self._drivers, snapshot)
        return Done(lambda tx: fix_moment(tx, operation, locations, whole=whole))


class FinishSnapshot(_Creation):
    kind = "finish_snapshot"

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            snapshot = self._read(tx, operation)
        if snapshot is None:
            return Done()
        driver = find_snapshot_driver(self._drivers, snapshot.backend)
        if not driver.is_snapshot_whole(snapshot.instance_id, progress):
            return RetryLater("The cloud is still copying the snapshot.")
        return Done(lambda tx: finish(tx, operation, whole=True))


def fix_moment(tx: Connection, operation: Operation, locations: Locations, *, whole: bool) -> None:
    """Write that the moment is fixed, and where clients will find it. The share may have grown since the request; a
    revert gives the share the size that the snapshot counts, so that must be no less than what is in it."""
    snapshot = read_snapshot(tx, operation.resource_id)
    if snapshot is not None and snapshot.share_size > snapshot.size:
        write_snapshot_size(tx, snapshot, snapshot.share_size)
    if snapshot is not None:
        write_snapshot_locations(tx, snapshot.instance_id, locations)
    finish(tx, operation, whole=whole)


def finish(tx: Connection, operation: Operation, *, whole: bool) -> None:
    """Write that the snapshot is available, or is going to be."""
    if whole:
        write_snapshot_status(tx, operation.resource_id, SnapshotStatus.AVAILABLE, progress="100%")
        ask_replicas(tx, operation)
        return
    enqueue(
        tx,
        FinishSnapshot.kind,
        resource_type="share_snapshot",
        resource_id=operation.resource_id,
        context=operation.context,
        seconds=COPY_SECONDS,
    )
