"""Stories: create a share group snapshot, and wait until the cloud has all of it.

``create_group_snapshot``: wait for other snapshots on the servers of the group → freeze all shares, fix their moments,
thaw, in one step of the driver → ``available``, or, when the cloud goes on copying, a ``finish_group_snapshot`` of its
own, as of a single snapshot (create_snapshot.py).

The snapshot is available only as a whole. When one share did not stand still from the first moment to the last one,
everything that was taken is removed and taken again; after some tries, and for any other failure, the group snapshot
ends in ``error`` with a user message, and nothing is left of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import SharewrightError
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, RetryLater, WaitFor
from sharewright.operations.create_snapshot import COPY_SECONDS
from sharewright.operations.group_snapshot_rows import (
    GroupSnapshotRow,
    fail_group_snapshot,
    read_group_snapshot,
    write_group_snapshot_status,
    write_member_sizes,
)
from sharewright.operations.messages import Action
from sharewright.operations.queue import enqueue
from sharewright.operations.share_rows import is_delete_queued
from sharewright.operations.snapshot_drivers import find_group_snapshot_driver, find_snapshot_driver
from sharewright.operations.snapshot_rows import find_copying
from sharewright.progress import Progress
from sharewright.states import ShareGroupSnapshotStatus
from sharewright.store.database import Store


class _Creation(BaseStory):
    """What both stories have in common."""

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        with self._store.read() as tx:
            snapshot = read_group_snapshot(tx, operation.resource_id)
        for member in snapshot.members if snapshot is not None else ():
            if member.backend is not None:
                find_snapshot_driver(self._drivers, member.backend).delete_snapshot(member.id, progress)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        fail_group_snapshot(tx, operation, error, status=ShareGroupSnapshotStatus.ERROR, action=Action.CREATE)

    def _read(self, tx: Connection, operation: Operation) -> GroupSnapshotRow | None:
        """The group snapshot, if there is still something to do for it."""
        snapshot = read_group_snapshot(tx, operation.resource_id)
        if snapshot is not None and is_delete_queued(tx, snapshot.id, "delete_group_snapshot"):
            raise SharewrightError("The share group snapshot was deleted while it was being taken.")
        done = snapshot is None or snapshot.status == ShareGroupSnapshotStatus.AVAILABLE
        return None if done else snapshot


class CreateGroupSnapshot(_Creation):
    kind = "create_group_snapshot"

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            snapshot = self._read(tx, operation)
            if snapshot is None:
                return Done()
            servers = {member.id: member.server_id for member in snapshot.members if member.server_id is not None}
            copying = find_copying(tx, servers, operation.id)
        if not snapshot.members:  # of a group without shares
            return Done(lambda tx: finish(tx, operation, whole=True))
        driver = find_group_snapshot_driver(self._drivers, snapshot.backend)
        if copying is not None:
            return WaitFor(copying)
        if len(servers) < len(snapshot.members):
            raise SharewrightError(
                "A share of the group is not served by any share server, so it has no state to keep.",
                hint="Delete that share, or have the group without it.",
            )
        whole = driver.create_group_snapshot(servers, progress)
        return Done(lambda tx: fix_moment(tx, operation, whole=whole))


class FinishGroupSnapshot(_Creation):
    kind = "finish_group_snapshot"

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            snapshot = self._read(tx, operation)
        if snapshot is None:
            return Done()
        driver = find_group_snapshot_driver(self._drivers, snapshot.backend)
        if not all(driver.is_snapshot_whole(member.id, progress) for member in snapshot.members):
            return RetryLater("The cloud is still copying the snapshots of the group's shares.")
        return Done(lambda tx: finish(tx, operation, whole=True))


def fix_moment(tx: Connection, operation: Operation, *, whole: bool) -> None:
    snapshot = read_group_snapshot(tx, operation.resource_id)
    if snapshot is not None:
        write_member_sizes(tx, snapshot)
    finish(tx, operation, whole=whole)


def finish(tx: Connection, operation: Operation, *, whole: bool) -> None:
    """Write that the group snapshot is available, or is going to be."""
    if whole:
        write_group_snapshot_status(tx, operation.resource_id, ShareGroupSnapshotStatus.AVAILABLE)
        return
    enqueue(
        tx,
        FinishGroupSnapshot.kind,
        resource_type="share_group_snapshot",
        resource_id=operation.resource_id,
        context=operation.context,
        seconds=COPY_SECONDS,
    )
