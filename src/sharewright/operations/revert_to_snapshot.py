"""Story: make a share what it was at the moment of its latest snapshot.

a volume from the snapshot → attached → in the place of the old one, in one guest round trip → the old one detached →
the share ``available`` with the size that it had then, the snapshot ``available`` as before.

When the share was larger at that moment and its share server has no room for that (max_share_server_size), nothing has
happened, and it is what it was. A failure before the share is served from the new volume is undone: ``reverting_error``
with a user message, served as it was; the same may be asked for again.

Replicas are reverted first, each to its own copy of the snapshot. Where one fails, those that were reverted are not in
sync, and the driver brings them back to what their share holds.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import NoValidBackend, SharewrightError
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.extend_share import lock_share, present_size, settle_size
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.scheduler import Scheduler
from sharewright.operations.share_rows import ShareRow, is_delete_queued, read_shares, write_replica, write_status
from sharewright.operations.snapshot_drivers import find_revert_driver
from sharewright.operations.snapshot_rows import write_snapshot_status
from sharewright.progress import PartOfWork, Progress
from sharewright.settings import Settings
from sharewright.states import ReplicaState, ShareStatus, SnapshotStatus
from sharewright.store.database import Store
from sharewright.store.tables import share_instances


class RevertToSnapshot(BaseStory):
    """Payload: ``snapshot_id``, ``size`` (GiB, of the snapshot), ``reserved`` (GiB taken from the quota), ``status``
    (of the share before)."""

    kind = "revert_to_snapshot"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> None:
        self._store = store
        self._drivers = drivers
        self._scheduler = Scheduler(store, drivers, settings)

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            instances = read_shares(tx, operation.resource_id)
            if instances and is_delete_queued(tx, instances[0].id):
                raise SharewrightError("The share was deleted while it was being reverted.")
        if not instances:
            return Done()
        share = instances[0]
        if share.server_id is None or not share.wanted:
            raise SharewrightError("The share is not served by any share server, so it cannot be reverted.")
        size = int(operation.payload["size"])
        # Once: when this is told again the share may have its size already.
        if size > share.size and not progress.recall("has_room"):
            with progress.step("schedule"):
                self._scheduler.check_server(share.id, size - share.size, operation.id)
                progress.record(has_room=True)
        for each in reversed(instances):  # replicas before the share that they follow
            if each.server_id is None:
                raise SharewrightError("A replica is not served by any share server, so it cannot be reverted.")
            find_revert_driver(self._drivers, each.backend).revert_to_snapshot(
                each.instance_id,
                each.server_id,
                str(operation.payload["snapshot_id"]),
                size,
                _part(each, progress),
            )
        return Done(lambda tx: finish(tx, operation))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        with self._store.read() as tx:
            instances = read_shares(tx, operation.resource_id)
        for each in instances:
            if each.server_id is not None:
                find_revert_driver(self._drivers, each.backend).cancel_revert(
                    each.instance_id,
                    each.server_id,
                    _part(each, progress),
                )

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        share = lock_share(tx, operation.resource_id)
        if share is None:
            return
        write_snapshot_status(tx, str(operation.payload["snapshot_id"]), SnapshotStatus.AVAILABLE)
        replicas = [each.instance_id for each in read_shares(tx, share.id)[1:]]
        # Those that were reverted have the size of the snapshot by now, whatever becomes of the share.
        columns = share_instances.c
        query = select(columns.id, columns.size).where(columns.id.in_(replicas))
        sizes = {row.id: row.size for row in tx.execute(query)}
        no_room = isinstance(error, NoValidBackend)
        before = operation.payload.get("status", ShareStatus.AVAILABLE)  # not in what an older version accepted
        write_status(tx, share.id, before if no_room else ShareStatus.REVERTING_ERROR)
        # The snapshot's, where only the old volume could not be taken away any more.
        settle_size(tx, share, present_size(tx, share), reserved=int(operation.payload["reserved"]))
        for replica, size in sizes.items():
            write_replica(tx, replica, replica_state=ReplicaState.OUT_OF_SYNC, size=size)
        write_message(
            tx,
            operation,
            project_id=share.project_id,
            resource_id=share.id,
            action=Action.REVERT_TO_SNAPSHOT,
            detail=Detail.FILTER_CAPACITY if no_room else Detail.UNKNOWN_ERROR,
            error=error,
        )


def _part(instance: ShareRow, progress: Progress) -> Progress:
    """Where the driver keeps what it remembers of reverting an instance."""
    return progress if instance.is_main else PartOfWork(progress, instance.instance_id)


def finish(tx: Connection, operation: Operation) -> None:
    """Write the end of a successful revert."""
    write_snapshot_status(tx, str(operation.payload["snapshot_id"]), SnapshotStatus.AVAILABLE)
    share = lock_share(tx, operation.resource_id)
    if share is None:
        return
    settle_size(tx, share, int(operation.payload["size"]), reserved=int(operation.payload["reserved"]))
    write_status(tx, share.id, ShareStatus.AVAILABLE)
