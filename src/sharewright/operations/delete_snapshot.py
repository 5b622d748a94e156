"""Story: delete a snapshot. Works from every state, whatever is left of it and of its share's server.

Its access rules → what mounting it took → the cloud's snapshot, also those of the share's replicas → the rows and the
quota in one transaction. A failure leaves ``error_deleting`` with a user message; deleting may be asked for again.
Shares that were made from it live on.
One that was to be taken over and was not is the property of somebody else: it is given back.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from sharewright.drivers.contract import ShareDriver, SnapshotManager
from sharewright.errors import SharewrightError
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, WaitFor
from sharewright.operations.messages import Action
from sharewright.operations.replica_rows import key_of
from sharewright.operations.snapshot_drivers import find_snapshot_driver
from sharewright.operations.snapshot_rows import (
    SnapshotRow,
    deny_everybody,
    fail_snapshot,
    find_older,
    read_snapshot,
    read_snapshots,
)
from sharewright.progress import Progress
from sharewright.states import SnapshotStatus
from sharewright.store.database import Store
from sharewright.store.quotas import release
from sharewright.store.tables import operations, share_snapshots


class DeleteSnapshot(BaseStory):
    kind = "delete_snapshot"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.begin() as tx:
            progress.fence(tx)
            instances = read_snapshots(tx, share_snapshots.c.id == operation.resource_id)
            deny_everybody(tx, operation.resource_id)
            if not instances:
                return Done()
            on_share = operations.c.key == key_of(instances[0].share_id)
            before = find_older(tx, operation, ("create_replica", "update_replica"), on_share)
        if before is not None:  # it may be making one of a replica's just now
            return WaitFor(before)
        for each in instances:
            self._delete(each, progress)
        return Done(lambda tx: finish(tx, operation.resource_id))

    def _delete(self, snapshot: SnapshotRow, progress: Progress) -> None:
        if snapshot.backend is None:
            return
        driver = find_snapshot_driver(self._drivers, snapshot.backend)
        if snapshot.taken_over:
            driver.delete_snapshot(snapshot.instance_id, progress)
        elif isinstance(driver, SnapshotManager):  # any other has never touched it
            driver.unmanage_snapshot(snapshot.instance_id, progress)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        fail_snapshot(tx, operation, error, status=SnapshotStatus.ERROR_DELETING, action=Action.DELETE)


def finish(tx: Connection, snapshot_id: str) -> None:
    """Remove the rows and give back the quota; both or neither, and only once."""
    snapshot = read_snapshot(tx, snapshot_id)
    if snapshot is None:
        return
    tx.execute(share_snapshots.delete().where(share_snapshots.c.id == snapshot_id))  # its instance goes with it
    release(
        tx,
        project_id=snapshot.project_id,
        user_id=snapshot.user_id,
        amounts={"snapshots": 1, "snapshot_gigabytes": snapshot.size},
        share_type_id=snapshot.share_type_id,
    )
