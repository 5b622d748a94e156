"""Snapshots of a share's volume, taken while its file system stands still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from sharewright.clouds.contract import TAG_OWNER, Cloud, SnapshotSpec, Tags
from sharewright.drivers.generic.moves import TOLD, find_move
from sharewright.drivers.generic.records import read_instance
from sharewright.drivers.generic.retired import RetiredVolumes, has_snapshots, is_used
from sharewright.errors import CloudError, CloudObjectMissing, CloudUnavailable, DeadlineExceeded, NotFound
from sharewright.identifiers import utcnow
from sharewright.progress import Progress
from sharewright.service_instance.contract import ServiceInstances
from sharewright.store.database import Store
from sharewright.store.tables import share_snapshot_instances

LOOK_SECONDS = 1.0  # at a snapshot that is being copied


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRecord:
    """The driver's memory of one snapshot instance: the columns of that name."""

    id: str
    snapshot_id: str
    share_instance_id: str
    provider_location: str | None
    consistent: bool
    volume_id: str | None
    volume_size: int | None
    filesystem_type: str | None
    filesystem_uuid: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a share is made from: the cloud's snapshot, the size of its volume in GiB, and the file system in it."""

    snapshot_id: str
    size: int
    filesystem_type: str
    filesystem_uuid: str


class VolumeSnapshots:
    """One backend's. ``within`` bounds a number of seconds by the work's deadline; ``freeze_seconds`` is the longest
    that a file system stands still."""

    def __init__(
        self,
        store: Store,
        cloud: Cloud,
        instances: ServiceInstances,
        *,
        tags: Tags,
        name_template: str,
        seconds: float,
        freeze_seconds: float,
        retired: RetiredVolumes,
        within: Callable[[float, Progress], float],
    ) -> None:
        self._store = store
        self._cloud = cloud
        self._instances = instances
        self._tags = tags
        self._name_template = name_template
        self._seconds = seconds
        self._freeze_seconds = freeze_seconds
        self._retired = retired
        self._within = within

    def create(self, snapshot_instance_id: str, server_id: str, progress: Progress) -> bool:
        """Fix the moment; whether the snapshot is whole already."""
        record = self.read(snapshot_instance_id)
        if record.consistent:
            return self.is_whole(snapshot_instance_id, progress)
        self._discard(record, progress)
        return self._take(record, server_id, progress)

    def is_whole(self, snapshot_instance_id: str, progress: Progress) -> bool:
        record = self.read(snapshot_instance_id)
        found = None
        if record.provider_location is not None and record.consistent:
            found = self._cloud.volumes.find_snapshot(record.provider_location)
        if found is not None and not found.ready:
            # Some clouds find out that copying has ended, or failed, only when somebody waits for it.
            try:
                found = self._cloud.volumes.await_snapshot(found.id, timeout=self._within(LOOK_SECONDS, progress))
            except DeadlineExceeded:
                return False
        if found is None:
            raise CloudObjectMissing(
                f"The cloud has lost snapshot {record.provider_location} of share instance {record.share_instance_id}.",
                hint="Take another one.",
            )
        return found.ready

    def delete(self, snapshot_instance_id: str, progress: Progress) -> None:
        record = self._find(snapshot_instance_id)
        if record is not None:
            self._discard(record, progress, thorough=True)
            self._drop_former(record, progress)

    def manage(self, snapshot_instance_id: str, reference: str, progress: Progress) -> int:
        """Take over a snapshot of the share's volume; its size in GiB."""
        record = self.read(snapshot_instance_id)
        share = read_instance(self._store, record.share_instance_id)
        with progress.step("adopt snapshot"):
            taken = self._cloud.volumes.adopt_snapshot(
                reference,
                self._name_template % record.id,
                {**self._tags, TAG_OWNER: f"share_snapshot_instance:{record.id}"},
                timeout=self._within(self._seconds, progress),
            )
            if taken.volume_id != share.volume_id:
                self._cloud.volumes.disown_snapshot(taken.id, timeout=self._within(self._seconds, progress))
                raise CloudError(
                    f"Snapshot {reference} is of volume {taken.volume_id}, not of the share's, which is "
                    f"{share.volume_id}.",
                    hint="Manage it as one of the share that it is of.",
                )
            # Whoever took it may not have let the share stand still; the journal makes a copy of it whole.
            self._remember(
                progress,
                record.id,
                provider_location=taken.id,
                volume_id=taken.volume_id,
                volume_size=taken.size,
                filesystem_type=share.filesystem_type,
                filesystem_uuid=share.filesystem_uuid,
                consistent=True,
            )
        return taken.size

    def unmanage(self, snapshot_instance_id: str, progress: Progress) -> None:
        record = self._find(snapshot_instance_id)
        location = self._location(record) if record is not None else None
        if record is None or location is None:
            return
        with progress.step("disown snapshot"):
            self._cloud.volumes.disown_snapshot(location, timeout=self._within(self._seconds, progress))
            self._remember(progress, record.id, provider_location=None, consistent=False)

    def source(self, snapshot_id: str) -> Source:
        """Raises NotFound when a snapshot is gone, or is not to be had."""
        columns = share_snapshot_instances.c
        with self._store.read() as tx:
            row = tx.execute(
                select(
                    columns.provider_location,
                    columns.volume_size,
                    columns.filesystem_type,
                    columns.filesystem_uuid,
                ).where(columns.snapshot_id == snapshot_id, columns.consistent.is_(True))
            ).one_or_none()
        if row is None or row.provider_location is None:
            raise NotFound(f"Snapshot {snapshot_id}, of which a volume was to be made, does not exist any more.")
        return Source(
            snapshot_id=row.provider_location,
            size=row.volume_size,
            filesystem_type=row.filesystem_type,
            filesystem_uuid=row.filesystem_uuid,
        )

    # ---- parts ----

    def _take(self, record: SnapshotRecord, server_id: str, progress: Progress) -> bool:
        share = read_instance(self._store, record.share_instance_id)
        move = find_move(self._store, share.id)
        if move is not None and move.step in TOLD:  # only the guest knows which of the two volumes has the data
            raise CloudError(
                f"Share instance {share.id} has not ended moving to a smaller volume, so no snapshot can be taken.",
                hint="Shrink or extend the share first; that ends what an earlier shrinking has left.",
            )
        volume = self._cloud.volumes.find_volume(share.volume_id) if share.volume_id is not None else None
        if volume is None:
            raise CloudObjectMissing(f"The volume of share instance {share.id} does not exist any more.")
        spec = SnapshotSpec(
            name=self._name_template % record.id,
            volume_id=volume.id,
            tags={**self._tags, TAG_OWNER: f"share_snapshot_instance:{record.id}"},
        )
        with progress.step("snapshot"):
            # What is begun now may be found later without anybody knowing whether the share was frozen.
            progress.record(begun=True)
            with self._instances.frozen(server_id, share.id, seconds=self._freeze_seconds) as freeze:
                taken = self._cloud.volumes.ensure_snapshot(spec, timeout=self._within(self._freeze_seconds, progress))
                # Before the thaw: who looks for unfinished snapshots of this server must see it from then on.
                self._remember(
                    progress,
                    record.id,
                    provider_location=taken.id,
                    volume_id=volume.id,
                    volume_size=taken.size,
                    filesystem_type=share.filesystem_type,
                    filesystem_uuid=share.filesystem_uuid,
                )
            if not freeze.held:
                raise CloudUnavailable(
                    f"The cloud needed longer than {self._freeze_seconds:g} s to fix the moment of the snapshot, so "
                    "the share went on before.",
                    hint="It is tried again. The backend's snapshot_freeze_seconds can be raised.",
                )
            progress.record(frozen_seconds=freeze.seconds)
            self._remember(progress, record.id, consistent=True)
        return taken.ready

    def _drop_former(self, record: SnapshotRecord, progress: Progress) -> None:
        """Delete the volume that the share had when the snapshot was taken, if it has another now and this was the last
        snapshot of the former. One that the share is leaving just now is retired by whoever does that; if he saw this
        snapshot still, it is taken away later."""
        if record.volume_id is None:
            return
        with self._store.begin() as tx:
            progress.fence(tx)
            mine = record.share_instance_id, record.volume_id
            if has_snapshots(tx, *mine, besides=record.id) or is_used(tx, *mine):
                return
            self._retired.add(tx, record.share_instance_id, record.volume_id)
        with progress.step("former volume"):
            self._retired.take_away(record.share_instance_id, progress, besides=record.id)

    def _discard(self, record: SnapshotRecord, progress: Progress, *, thorough: bool = False) -> None:
        """Remove the cloud's snapshot. One that was made and not yet recorded is found by its owner tag; ``thorough``
        looks for it in any case."""
        known = record.provider_location is not None
        location = self._location(record) if known or thorough or progress.recall("begun") else None
        if location is None:
            return
        with progress.step("delete snapshot"):
            self._cloud.volumes.delete_snapshot(location, timeout=self._within(self._seconds, progress))
            self._remember(progress, record.id, provider_location=None, consistent=False)

    def _location(self, record: SnapshotRecord) -> str | None:
        """The cloud's snapshot. One that was made and not yet recorded is found by its owner tag."""
        owner = f"share_snapshot_instance:{record.id}"
        return record.provider_location or next(
            (each.id for each in self._cloud.volumes.list_snapshots() if each.tags.get(TAG_OWNER) == owner), None
        )

    def read(self, snapshot_instance_id: str) -> SnapshotRecord:
        """Raises NotFound."""
        record = self._find(snapshot_instance_id)
        if record is None:
            raise NotFound(f"Snapshot instance {snapshot_instance_id} does not exist any more.")
        return record

    def _find(self, snapshot_instance_id: str) -> SnapshotRecord | None:
        columns = share_snapshot_instances.c
        fields = [columns[name] for name in SnapshotRecord.__dataclass_fields__]
        with self._store.read() as tx:
            row = tx.execute(select(*fields).where(columns.id == snapshot_instance_id)).one_or_none()
        return None if row is None else SnapshotRecord(**row._mapping)

    def _remember(self, progress: Progress, snapshot_instance_id: str, **values: Any) -> None:
        with self._store.begin() as tx:
            progress.fence(tx)
            tx.execute(
                share_snapshot_instances.update()
                .where(share_snapshot_instances.c.id == snapshot_instance_id)
                .values(**values, updated_at=utcnow())
            )
