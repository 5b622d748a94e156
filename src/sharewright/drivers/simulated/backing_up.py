"""Backups by volumes: what a share's volume holds at one moment is copied to a volume that no share has.

Made of parts of the generic driver, for drivers of the simulated cloud only (replicating.py): a backup that is on the
same storage as its share survives the share, not the storage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from sharewright.clouds.contract import TAG_OWNER, SnapshotSpec
from sharewright.drivers.generic.driver import GenericDriver
from sharewright.drivers.generic.records import find_instance, read_instance
from sharewright.drivers.generic.release import within
from sharewright.drivers.generic.snapshots import Source
from sharewright.errors import CloudObjectMissing, CloudUnavailable, NotFound
from sharewright.identifiers import utcnow
from sharewright.progress import Progress
from sharewright.store.tables import share_backups


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRecord:
    """The driver's memory of one backup: the columns of that name."""

    id: str
    size: int
    consistent: bool
    snapshot_id: str | None
    volume_id: str | None
    filesystem_type: str | None
    filesystem_uuid: str | None


class BackingUp(GenericDriver):
    """drivers.contract.BackupDriver."""

    @property
    def restores_to_any_share(self) -> bool:
        return True

    def create_backup(self, backup_id: str, share_instance_id: str, server_id: str, progress: Progress) -> bool:
        backup = self._read_backup(backup_id)
        share = read_instance(self._store, share_instance_id)
        if share.volume_id is None or not share.volume_attached:
            raise CloudObjectMissing(f"Share instance {share_instance_id} has no volume in service.")
        if not backup.consistent:
            self._take_moment(backup, share_instance_id, str(share.volume_id), server_id, progress)
            self._remember_backup(
                progress,
                backup_id,
                consistent=True,
                filesystem_type=share.filesystem_type,
                filesystem_uuid=share.filesystem_uuid,
            )
            backup = self._read_backup(backup_id)
        if backup.volume_id is None:
            source = self._source_of(backup, str(backup.snapshot_id), progress)
            with progress.step("copy"):
                volume = self._volumes.make(
                    share,
                    self._backup_name(backup_id),
                    source.size,
                    share.volume_type,
                    progress,
                    source,
                    owner=_owner(backup_id),
                )
                self._remember_backup(progress, backup_id, volume_id=volume.id)
        self._drop_snapshots(backup_id, progress)
        return True

    def restore_backup(self, backup_id: str, share_instance_id: str, server_id: str, progress: Progress) -> bool:
        self.cancel_shrink(share_instance_id, server_id, progress)  # what one that failed may have left
        record = read_instance(self._store, share_instance_id)
        self._reverter(record, server_id, progress).revert(
            record, lambda: self._restore_source(backup_id, progress), record.size, progress
        )
        self._drop_snapshots(backup_id, progress)
        return True

    def cancel_restore(self, backup_id: str, share_instance_id: str, server_id: str, progress: Progress) -> None:
        record = find_instance(self._store, share_instance_id)
        if record is not None:
            self._reverter(record, server_id, progress).undo(record, progress)
        self._drop_snapshots(backup_id, progress)

    def delete_backup(self, backup_id: str, progress: Progress) -> None:
        self._drop_snapshots(backup_id, progress)
        for volume in self._cloud.volumes.list_volumes():  # also one that was made and not yet recorded
            if volume.tags.get(TAG_OWNER) == _owner(backup_id):
                self._volumes.remove(volume, progress)
        self._remember_backup(progress, backup_id, volume_id=None, consistent=False)

    # ---- parts ----

    def _take_moment(
        self, backup: BackupRecord, share_instance_id: str, volume_id: str, server_id: str, progress: Progress
    ) -> None:
        """The cloud's snapshot of a share that stands still. One that an earlier attempt took may be of one that did
        not."""
        self._drop_snapshots(backup.id, progress)
        options = self._settings
        with progress.step("snapshot"):
            seconds = options.snapshot_freeze_seconds
            with self._instances.frozen(server_id, [share_instance_id], seconds=seconds) as freeze:
                taken = self._cloud.volumes.ensure_snapshot(
                    self._snapshot_spec(backup.id, volume_id), timeout=within(seconds, progress)
                )
            if not freeze.held:
                raise CloudUnavailable(
                    f"The cloud needed longer than {seconds:g} s to fix the moment of the backup, so that clients went "
                    "on before.",
                    hint="It is tried again. The backend's snapshot_freeze_seconds can be raised.",
                )
            self._remember_backup(progress, backup.id, snapshot_id=taken.id)

    def _restore_source(self, backup_id: str, progress: Progress) -> Source:
        backup = self._read_backup(backup_id)
        volume = self._cloud.volumes.find_volume(backup.volume_id) if backup.volume_id is not None else None
        if volume is None:
            raise CloudObjectMissing(
                f"The cloud has lost the volume of backup {backup_id}.", hint="Use another backup."
            )
        with progress.step("snapshot"):  # nothing is written to it, so it stands still
            taken = self._cloud.volumes.ensure_snapshot(
                self._snapshot_spec(backup_id, volume.id), timeout=within(self._settings.volume_seconds, progress)
            )
        return self._source_of(backup, taken.id, progress)

    def _source_of(self, backup: BackupRecord, snapshot_id: str, progress: Progress) -> Source:
        ready = self._cloud.volumes.await_snapshot(snapshot_id, timeout=progress.remaining)
        return Source(
            snapshot_id=ready.id,
            size=ready.size,
            filesystem_type=str(backup.filesystem_type),
            filesystem_uuid=str(backup.filesystem_uuid),
        )

    def _snapshot_spec(self, backup_id: str, volume_id: str) -> SnapshotSpec:
        return SnapshotSpec(
            name=self._backup_name(backup_id),
            volume_id=volume_id,
            tags={**self._snapshots.tags, TAG_OWNER: _owner(backup_id)},
        )

    def _drop_snapshots(self, backup_id: str, progress: Progress) -> None:
        """Those that were taken only to be copied. What was made of them lives on."""
        left = [each for each in self._cloud.volumes.list_snapshots() if each.tags.get(TAG_OWNER) == _owner(backup_id)]
        for each in left:
            with progress.step("delete snapshot"):
                self._cloud.volumes.delete_snapshot(each.id, timeout=within(self._settings.volume_seconds, progress))
        self._remember_backup(progress, backup_id, snapshot_id=None)

    def _backup_name(self, backup_id: str) -> str:
        return f"backup-{backup_id}"

    def _read_backup(self, backup_id: str) -> BackupRecord:
        fields = [share_backups.c[name] for name in BackupRecord.__dataclass_fields__]
        with self._store.read() as tx:
            row = tx.execute(select(*fields).where(share_backups.c.id == backup_id)).one_or_none()
        if row is None:
            raise NotFound(f"Backup {backup_id} does not exist any more.")
        return BackupRecord(**row._mapping)

    def _remember_backup(self, progress: Progress, backup_id: str, **values: Any) -> None:
        with self._store.begin() as tx:
            progress.fence(tx)
            tx.execute(
                share_backups.update().where(share_backups.c.id == backup_id).values(**values, updated_at=utcnow())
            )


def _owner(backup_id: str) -> str:
    return f"share_backup:{backup_id}"
