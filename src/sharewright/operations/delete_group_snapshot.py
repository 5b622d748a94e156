"""Story: delete a share group snapshot. Works from every state, whatever is left of it and of the shares' servers.

The cloud's snapshots, one after the other → the rows and the quota in one transaction. A failure leaves
``error_deleting`` with a user message; deleting may be asked for again. What was made from it lives on.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import SharewrightError
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.group_snapshot_rows import fail_group_snapshot, read_group_snapshot
from sharewright.operations.messages import Action
from sharewright.operations.snapshot_drivers import find_snapshot_driver
from sharewright.progress import Progress
from sharewright.states import ShareGroupSnapshotStatus
from sharewright.store.database import Store
from sharewright.store.quotas import release
from sharewright.store.tables import share_group_snapshots


class DeleteGroupSnapshot(BaseStory):
    kind = "delete_group_snapshot"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            snapshot = read_group_snapshot(tx, operation.resource_id)
        if snapshot is None:
            return Done()
        for member in snapshot.members:
            if member.backend is not None:
                find_snapshot_driver(self._drivers, member.backend).delete_snapshot(member.id, progress)
        return Done(lambda tx: finish(tx, operation.resource_id))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        fail_group_snapshot(tx, operation, error, status=ShareGroupSnapshotStatus.ERROR_DELETING, action=Action.DELETE)


def finish(tx: Connection, identifier: str) -> None:
    """Remove the rows and give back the quota; both or neither, and only once."""
    snapshot = read_group_snapshot(tx, identifier)
    if snapshot is None:
        return
    tx.execute(share_group_snapshots.delete().where(share_group_snapshots.c.id == identifier))  # members go with it
    release(tx, project_id=snapshot.project_id, user_id=snapshot.user_id, amounts={"share_group_snapshots": 1})
