"""Story: delete a backup. Works from every state, whatever is left of it; its share is not touched.

What the driver keeps of it → the row and the quota in one transaction. A failure leaves ``error_deleting`` with a user
message; deleting may be asked for again. What was restored from it lives on.
"""

from __future__ import annotations

from sqlalchemy import Connection

from sharewright.errors import SharewrightError
from sharewright.operations.backup_rows import (
    BackupStories,
    find_backup_driver,
    read_backup,
    tell_of_backup,
    write_backup,
)
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, WaitFor
from sharewright.operations.messages import Action
from sharewright.operations.snapshot_rows import find_older
from sharewright.progress import Progress
from sharewright.states import BackupStatus
from sharewright.store.quotas import backup_amounts, release
from sharewright.store.tables import operations, share_backups


class DeleteBackup(BackupStories, BaseStory):
    kind = "delete_backup"

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            backup = read_backup(tx, operation.resource_id)
            if backup is None:
                return Done()
            mine = operations.c.resource_id == backup.id
            before = find_older(tx, operation, ("create_backup", "restore_backup"), mine)
        if before is not None:  # only where an administrator has reset the status
            return WaitFor(before)
        find_backup_driver(self._drivers, backup.backend).delete_backup(backup.id, progress)
        return Done(lambda tx: finish(tx, operation.resource_id))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        backup = read_backup(tx, operation.resource_id)
        if backup is not None:
            write_backup(tx, backup.id, status=BackupStatus.ERROR_DELETING)
            tell_of_backup(tx, operation, backup, error, action=Action.DELETE)


def finish(tx: Connection, backup_id: str) -> None:
    """Remove the row and give back the quota; both or neither, and only once."""
    backup = read_backup(tx, backup_id)
    if backup is None:
        return
    tx.execute(share_backups.delete().where(share_backups.c.id == backup_id))
    release(tx, project_id=backup.project_id, user_id=backup.user_id, amounts=backup_amounts(backup.size))
