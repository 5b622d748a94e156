"""Story: make what a share holds what a backup holds, of the same share or of another one.

The driver copies, for as long as that takes → both ``available``; the share keeps its size. A failure is undone: the
share is served as it was and ends in ``backup_restoring_error`` with a user message, from where the same may be asked
for again; the backup is what it was.
"""

from __future__ import annotations

from sqlalchemy import Connection

from sharewright.errors import SharewrightError, Unsupported
from sharewright.operations.backup_rows import (
    BackupStories,
    find_backup_driver,
    free_share,
    read_backup,
    write_backup,
)
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, RetryLater
from sharewright.operations.create_backup import LOOK_SECONDS
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.share_rows import is_delete_queued, read_share
from sharewright.progress import Progress
from sharewright.states import BackupStatus, ShareStatus


class RestoreBackup(BackupStories, BaseStory):
    """Payload: ``share_id``, to which it is restored."""

    kind = "restore_backup"

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            backup = read_backup(tx, operation.resource_id)
            share = read_share(tx, str(operation.payload["share_id"]))
            if share is not None and is_delete_queued(tx, share.id):
                raise SharewrightError("The share was deleted while a backup was being restored to it.")
        if backup is None or share is None:
            return Done()
        if share.server_id is None or not share.wanted:
            raise SharewrightError("The share is not served by any share server, so no backup can be restored to it.")
        driver = find_backup_driver(self._drivers, backup.backend)
        if share.id != backup.share_id and not driver.restores_to_any_share:
            raise Unsupported(f"Backend {backup.backend} restores a backup only to the share that it is of.")
        if share.backend != backup.backend:
            raise Unsupported(f"The backup is on backend {backup.backend}, the share on {share.backend}.")
        if not driver.restore_backup(backup.id, share.instance_id, share.server_id, progress):
            return RetryLater("The backup is still being copied.", seconds=LOOK_SECONDS)
        return Done(lambda tx: finish(tx, backup.id, share.id))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        with self._store.read() as tx:
            backup = read_backup(tx, operation.resource_id)
            share = read_share(tx, str(operation.payload["share_id"]))
        if backup is None or share is None or share.server_id is None or share.backend != backup.backend:
            return
        driver = find_backup_driver(self._drivers, backup.backend)
        driver.cancel_restore(backup.id, share.instance_id, share.server_id, progress)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        share = read_share(tx, str(operation.payload["share_id"]))
        if share is not None:
            free_share(tx, share.id, ShareStatus.BACKUP_RESTORING, ShareStatus.BACKUP_RESTORING_ERROR)
            write_message(
                tx,
                operation,
                project_id=share.project_id,
                resource_id=share.id,
                action=Action.RESTORE_BACKUP,
                detail=Detail.TARGETED_RESTORE_UNSUPPORTED if isinstance(error, Unsupported) else Detail.UNKNOWN_ERROR,
                error=error,
            )
        write_backup(tx, operation.resource_id, status=BackupStatus.AVAILABLE, restore_progress="0")


def finish(tx: Connection, backup_id: str, share_id: str) -> None:
    """Write the end of a successful restore."""
    free_share(tx, share_id, ShareStatus.BACKUP_RESTORING)
    write_backup(tx, backup_id, status=BackupStatus.AVAILABLE, restore_progress="100")
