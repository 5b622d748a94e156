"""A driver that moves shares: the generic driver with migration, for the simulated cloud only.

All backends of the simulated cloud have their volumes in one place, so nothing is copied: in the second phase the share
server lets go of the volume, another instance's row gets it, with its snapshots, and that one's server serves it. Rows,
servers, volumes, export locations and access rules are as real there as those of any share. Tests of the API use it;
see docs/write-a-driver.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from sqlalchemy import select

from sharewright.drivers.contract import PoolStats, ShareDriver
from sharewright.drivers.generic.driver import GenericDriver
from sharewright.drivers.generic.records import InstanceRecord, find_instance, read_instance, remember
from sharewright.drivers.generic.release import within
from sharewright.drivers.migration import SERVER_DOMAIN, Compatibility
from sharewright.errors import CloudObjectMissing, SharewrightError
from sharewright.identifiers import utcnow
from sharewright.progress import Progress
from sharewright.store.tables import retired_volumes, share_instances, share_snapshot_instances

# What goes with the volume from one instance's row to another's.
_MOVED: Final = (
    "size", "volume_type", "volume_id", "volume_serial", "filesystem_type", "filesystem_uuid", "filesystem_ready",
    "clone_of", "bytes_total", "bytes_used", "inodes_total", "inodes_used",
)  # fmt: skip
_LEFT: Final = {
    "volume_id": None, "volume_serial": None, "volume_attached": False, "filesystem_uuid": None,
    "filesystem_ready": False, "clone_of": None,
}  # fmt: skip


class MigratingDriver(GenericDriver):
    """drivers.migration.ServerMigrationDriver."""

    def pools(self) -> Sequence[PoolStats]:
        reported = {SERVER_DOMAIN: self._cloud.deployment} if self._settings.driver_handles_share_servers else {}
        return [replace(pool, capabilities={**pool.capabilities, **reported}) for pool in super().pools()]

    def check_migration(self, share_instance_id: str, destination_id: str, destination: ShareDriver) -> Compatibility:
        source, target = read_instance(self._store, share_instance_id), read_instance(self._store, destination_id)
        return self._check_move(source, destination, target.volume_type, target.filesystem_type)

    def continue_migration(
        self, share_instance_id: str, destination_id: str, destination: ShareDriver, progress: Progress
    ) -> int:
        return 100

    def complete_migration(
        self, share_instance_id: str, destination_id: str, destination: ShareDriver, progress: Progress
    ) -> None:
        source, target = read_instance(self._store, share_instance_id), read_instance(self._store, destination_id)
        receiver = _mover(destination)
        if target.volume_id is None:
            self._let_go(source, progress)
            self._hand_over(source.id, target.id, receiver.backend, progress)
        receiver._name_volumes(target.id, progress)

    def cancel_migration(
        self, share_instance_id: str, destination_id: str, destination: ShareDriver, progress: Progress
    ) -> None:
        source, target = read_instance(self._store, share_instance_id), find_instance(self._store, destination_id)
        if target is not None and target.volume_id is not None:
            receiver = _mover(destination)
            receiver._let_go(target, progress)
            receiver._hand_over(target.id, source.id, self._backend, progress)
        elif source.volume_id is None or (source.wanted and source.volume_attached):
            return
        else:
            remember(self._store, progress, source.id, wanted=True)
        self._name_volumes(source.id, progress)
        self.create_share(source.id, str(source.server_id), progress)

    def check_server_migration(self, share_instance_id: str, destination: ShareDriver) -> Compatibility:
        source = read_instance(self._store, share_instance_id)
        return self._check_move(source, destination, source.volume_type, source.filesystem_type)

    def release_share(self, share_instance_id: str, progress: Progress) -> None:
        record = find_instance(self._store, share_instance_id)
        if record is not None:
            self._let_go(record, progress)

    def take_over_share(self, share_instance_id: str, progress: Progress) -> None:
        record = find_instance(self._store, share_instance_id)
        if record is None:
            return
        if record.volume_id is None:  # serving it would make an empty one
            raise CloudObjectMissing(f"Share instance {record.id} has no volume, so there is nothing to move.")
        with self._store.begin() as tx:
            progress.fence(tx)
            mine = share_instances.c.id == record.id
            tx.execute(share_instances.update().where(mine).values(wanted=True, updated_at=utcnow()))
            left = retired_volumes.c.share_instance_id == record.id
            tx.execute(retired_volumes.update().where(left).values(backend=self._backend))
        self._name_volumes(record.id, progress)

    # ---- parts ----

    def _check_move(
        self, source: InstanceRecord, destination: ShareDriver, volume_type: str | None, filesystem: str | None
    ) -> Compatibility:
        """Whether a volume can be served as it is by another backend; ``volume_type`` and ``filesystem`` are what is
        asked for there, None: whatever the backend has."""
        if not isinstance(destination, MigratingDriver):
            return Compatibility(compatible=False, reason=f"backend {destination.backend} has another driver")
        wanted = volume_type or destination._settings.volume_type or None
        if wanted != source.volume_type:
            return Compatibility(
                compatible=False, reason=f"its volume is of type {source.volume_type}, and {wanted} is asked for"
            )
        if filesystem not in (None, source.filesystem_type):
            return Compatibility(
                compatible=False, reason=f"its file system is {source.filesystem_type}, and {filesystem} is asked for"
            )
        return Compatibility(compatible=True, writable=True, preserve_metadata=True, preserve_snapshots=True)

    def _let_go(self, record: InstanceRecord, progress: Progress) -> None:
        """Serve a share no more, and its mounted snapshots, and keep what it holds; its volume is attached nowhere."""
        columns = share_snapshot_instances.c
        with self._store.read() as tx:
            snapshots = list(tx.scalars(select(columns.id).where(columns.share_instance_id == record.id)))
        for snapshot in snapshots:
            self._mounter(progress).release(snapshot, progress, force=True)
        if record.wanted:  # which volume has the data is known after these
            self.cancel_shrink(record.id, record.server_id, progress)
            record = read_instance(self._store, record.id)
            self._reverter(record, record.server_id or "", progress).drop_old(record, progress)
        volume = self._volumes.of(record)
        self._release(record, volume, record.server_id, progress, force=False, keep=True)
        self._retired.detach(volume, progress)
        remember(self._store, progress, record.id, volume_attached=False)

    def _hand_over(self, source_id: str, target_id: str, backend: str, progress: Progress) -> None:
        """Make a volume another instance's, with its snapshots and with those that the share has left, at once."""
        columns, now = share_instances.c, utcnow()
        with self._store.begin() as tx:
            progress.fence(tx)
            query = select(*(columns[name] for name in _MOVED)).where(columns.id == source_id)
            moved = dict(tx.execute(query).one()._mapping)
            if moved["volume_id"] is None:  # serving it would make an empty one
                raise CloudObjectMissing(f"Share instance {source_id} has no volume, so there is nothing to move.")
            tx.execute(share_instances.update().where(columns.id == source_id).values(**_LEFT, updated_at=now))
            tx.execute(
                share_instances.update()
                .where(columns.id == target_id)
                .values(**moved, wanted=True, volume_attached=False, updated_at=now)
            )
            snapshots = share_snapshot_instances
            tx.execute(
                snapshots.update()
                .where(snapshots.c.share_instance_id == source_id)
                .values(share_instance_id=target_id, updated_at=now)
            )
            tx.execute(
                retired_volumes.update()
                .where(retired_volumes.c.share_instance_id == source_id)
                .values(share_instance_id=target_id, backend=backend)
            )

    def _name_volumes(self, share_instance_id: str, progress: Progress) -> None:
        """Call an instance's volume, and those that the share has left, by the instance's name, with its tags: nobody
        else takes them for another's, then. They are attached nowhere."""
        record = read_instance(self._store, share_instance_id)
        if record.volume_id is None or record.volume_attached:
            return
        name, left = self._volumes.name(record.id), retired_volumes.c
        with self._store.read() as tx:
            retired = list(tx.scalars(select(left.volume_id).where(left.share_instance_id == record.id)))
        with progress.step("volume"):
            self._name(record, record.volume_id, name, progress)
            for volume_id in retired:
                with suppress(CloudObjectMissing):  # it may be gone
                    self._name(record, volume_id, f"{name}-{volume_id[:8]}", progress)

    def _name(self, record: InstanceRecord, volume_id: str, name: str, progress: Progress) -> None:
        tags, timeout = self._volumes.tags(record), within(self._settings.volume_seconds, progress)
        found = self._cloud.volumes.find_volume(volume_id)
        if found is not None:
            if found.tags.items() >= tags.items():
                return
            self._retired.detach(found, progress)  # a heal that had read the old rows may have attached it
            self._cloud.volumes.disown_volume(volume_id, timeout=timeout)
        self._cloud.volumes.adopt_volume(volume_id, name, tags, timeout=timeout)


def _mover(driver: ShareDriver) -> MigratingDriver:
    if not isinstance(driver, MigratingDriver):
        raise SharewrightError(f"The driver of backend {driver.backend} takes over no volumes of others.")
    return driver
