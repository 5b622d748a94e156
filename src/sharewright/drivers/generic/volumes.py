"""The cloud's volumes of share instances: their names and tags, how they are made, found and removed."""

from __future__ import annotations

from collections.abc import Callable

from sharewright.clouds.contract import TAG_BACKEND, TAG_DEPLOYMENT, TAG_OWNER, Cloud, Volume, VolumeSpec
from sharewright.drivers.generic.records import InstanceRecord, note, remember
from sharewright.drivers.generic.release import remove_volume, within
from sharewright.drivers.generic.snapshots import Source, VolumeSnapshots
from sharewright.identifiers import derived_id
from sharewright.progress import Progress
from sharewright.settings import Backend
from sharewright.store.database import Store


class ShareVolumes:
    """Those of one backend. Holds no state; any number of threads may use it."""

    def __init__(
        self, backend: str, settings: Backend, *, store: Store, cloud: Cloud, snapshots: VolumeSnapshots
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._store = store
        self._cloud = cloud
        self._snapshots = snapshots

    def name(self, share_instance_id: str) -> str:
        return self._settings.volume_name_template % share_instance_id

    def tags(self, record: InstanceRecord) -> dict[str, str]:
        return {
            TAG_DEPLOYMENT: self._cloud.deployment,
            TAG_BACKEND: self._backend,
            TAG_OWNER: f"share_instance:{record.id}",
        }

    def ensure(self, record: InstanceRecord, progress: Progress, *, write: Callable[..., None] = remember) -> Volume:
        """The volume that a share instance is to have, made if need be and recorded by ``write`` (remember or note)."""
        volume_type = record.volume_type or self._settings.volume_type or None
        source = self._snapshots.source_of(record)
        with progress.step("volume", brief=True):
            # As large as the snapshot's at least, which may be more than its share's: volumes do not shrink.
            size = max(record.size, source.size) if source is not None else record.size
            volume = self.make(record, self.name(record.id), size, volume_type, progress, source)
            write(
                self._store,
                progress,
                record.id,
                volume_id=volume.id,
                volume_serial=volume.serial,
                volume_type=volume_type,
                filesystem_type=source.filesystem_type
                if source is not None
                else record.filesystem_type or self._settings.filesystem,
                clone_of=source.filesystem_uuid if source is not None else None,
                # Known before the volume is formatted: after a crash in between, the guest finds this UUID and stops.
                filesystem_uuid=derived_id("filesystem", record.id),
            )
        return volume

    def make(
        self,
        record: InstanceRecord,
        name: str,
        size: int,
        volume_type: str | None,
        progress: Progress,
        source: Source | None = None,
        *,
        owner: str = "",
    ) -> Volume:
        """A volume of ``size`` GiB in the zone of a share instance, or the one that has that name; nothing is recorded.
        ``owner``: the tag, where it is not the share instance."""
        return self._cloud.volumes.ensure_volume(
            VolumeSpec(
                name=name,
                size=size,
                tags=self.tags(record) | ({TAG_OWNER: owner} if owner else {}),
                volume_type=volume_type,
                availability_zone=record.availability_zone,
                source_snapshot=source.snapshot_id if source is not None else None,
            ),
            # Some clouds copy within this call, and that takes the time that it takes.
            timeout=within(self._settings.volume_seconds, progress) if source is None else progress.remaining,
        )

    def find(self, name: str) -> Volume | None:
        return next((volume for volume in self._cloud.volumes.list_volumes() if volume.name == name), None)

    def of(self, record: InstanceRecord) -> Volume | None:
        """The volume as the cloud knows it. One that was made and not yet recorded is found by its owner tag. One that
        was given away may be another share's by now."""
        owner = f"share_instance:{record.id}"
        if record.volume_id is not None:
            volume = self._cloud.volumes.find_volume(record.volume_id)
            return volume if volume is not None and volume.tags.get(TAG_OWNER, owner) == owner else None
        return next(
            (volume for volume in self._cloud.volumes.list_volumes() if volume.tags.get(TAG_OWNER) == owner), None
        )

    def remove_of(self, record: InstanceRecord, volume: Volume | None, progress: Progress) -> None:
        """Delete the volume of a share instance and forget it."""
        self.remove(volume, progress)
        note(
            self._store,
            progress,
            record.id,
            volume_id=None,
            volume_serial=None,
            volume_attached=False,
            clone_of=None,
        )

    def remove(self, volume: Volume | None, progress: Progress) -> None:
        options = self._settings
        remove_volume(
            self._cloud,
            volume,
            progress,
            attach_seconds=options.attach_seconds,
            volume_seconds=options.volume_seconds,
        )
