"""Story: back a share up.

The driver fixes the moment and copies, for as long as that takes, holding no thread → the backup and its share
``available``. A failure removes what was made; the backup ends in ``error`` with a user message, and nothing happens to
the share.
"""

from __future__ import annotations

from sqlalchemy import Connection

from sharewright.errors import SharewrightError
from sharewright.operations.backup_rows import (
    BackupStories,
    find_backup_driver,
    free_share,
    read_backup,
    tell_of_backup,
    write_backup,
)
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, RetryLater
from sharewright.operations.messages import Action
from sharewright.operations.share_rows import is_delete_queued, read_share
from sharewright.progress import Progress
from sharewright.states import BackupStatus, ShareStatus

LOOK_SECONDS = 5.0  # at a backup that is being copied


class CreateBackup(BackupStories, BaseStory):
    kind = "create_backup"

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            backup = read_backup(tx, operation.resource_id)
            if backup is None or backup.status == BackupStatus.AVAILABLE:
                return Done()
            if is_delete_queued(tx, backup.id, "delete_backup"):
                raise SharewrightError("The backup was deleted while it was being made.")
            share = read_share(tx, backup.share_id)
        if share is None or share.server_id is None:
            raise SharewrightError("The share is not served by any share server, so it cannot be backed up.")
        driver = find_backup_driver(self._drivers, backup.backend)
        if not driver.create_backup(backup.id, share.instance_id, share.server_id, progress):
            return RetryLater("The backup is still being copied.", seconds=LOOK_SECONDS)
        return Done(lambda tx: finish(tx, backup.id, share.id))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        with self._store.read() as tx:
            backup = read_backup(tx, operation.resource_id)
        if backup is not None and backup.backend in self._drivers:
            find_backup_driver(self._drivers, backup.backend).delete_backup(backup.id, progress)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        backup = read_backup(tx, operation.resource_id)
        if backup is None:
            return
        free_share(tx, backup.share_id, ShareStatus.BACKUP_CREATING)
        write_backup(tx, backup.id, status=BackupStatus.ERROR, progress="0")
        tell_of_backup(tx, operation, backup, error, action=Action.CREATE)


def finish(tx: Connection, backup_id: str, share_id: str) -> None:
    """Write the end of a successful backup."""
    free_share(tx, share_id, ShareStatus.BACKUP_CREATING)
    write_backup(tx, backup_id, status=BackupStatus.AVAILABLE, progress="100")
