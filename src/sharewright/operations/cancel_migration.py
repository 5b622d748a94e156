"""Story: give up moving a share ("migration_cancel"), in its first phase or when that is done.

the driver sees to it that the share is served as it was → what was made of the second instance → its row; the share and
its snapshots are ``available``, the task state is ``migration_cancelled``.

A failure leaves the share as the driver left it, with the task state ``migration_error`` and a user message; the next
migration takes away what is left of the second instance, and so does deleting the share.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from sharewright.drivers.contract import ShareDriver
from sharewright.drivers.migration import MigrationDriver
from sharewright.errors import Conflict, SharewrightError
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.create_share import find_driver
from sharewright.operations.migrate_share import CANCEL, remove_left
from sharewright.operations.migration_rows import (
    fail_half_moved,
    read_migrating,
    restore_snapshots,
    write_task_state,
)
from sharewright.operations.share_rows import write_status
from sharewright.progress import Progress
from sharewright.states import ShareStatus, TaskState
from sharewright.store.database import Store


class CancelShareMigration(BaseStory):
    kind = CANCEL

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            found = read_migrating(tx, operation.resource_id)
        if found is None:
            return Done()
        if found.is_exchanged:
            raise Conflict(
                "The share is in its new place already, so its migration cannot be cancelled.",
                hint="Reset its task state to migration_driver_phase1_done and complete it.",
            )
        share, other = found.share, found.other
        if other is not None:
            source = find_driver(self._drivers, str(share.backend))
            if isinstance(source, MigrationDriver) and other.backend is not None:
                destination = find_driver(self._drivers, other.backend)
                source.cancel_migration(share.instance_id, other.instance_id, destination, progress)
            remove_left(self._store, self._drivers, found, progress)
        return Done(lambda tx: _finish(tx, operation))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        fail_half_moved(tx, operation, error)


def _finish(tx: Connection, operation: Operation) -> None:
    found = read_migrating(tx, operation.resource_id, lock=True)
    if found is None:
        return
    restore_snapshots(tx, operation, found.share.id)
    if found.share.status in (ShareStatus.MIGRATING, ShareStatus.ERROR):  # in error: from a completion that failed
        write_status(tx, found.share.id, ShareStatus.AVAILABLE)
    if found.task_state == TaskState.CANCELLING:
        write_task_state(tx, found.share.id, TaskState.CANCELLED)
