"""Volumes: sparse files in libvirt storage pools of the deployment's own, one for each volume type.

Locks, in the order in which they are taken: an instance's (instances.py), a volume's, a domain's jobs, that of volumes'
records and files. The last is held for moments only; copying holds just the volume's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from sharewright.clouds.contract import (
    Capacity,
    SnapshotSpec,
    Tags,
    Volume,
    VolumeSnapshot,
    VolumeSpec,
    cloud_calls,
)
from sharewright.clouds.libvirt import block_jobs, disks, image_files
from sharewright.clouds.libvirt.adoption import Adoption
from sharewright.clouds.libvirt.connection import Connection
from sharewright.clouds.libvirt.layout import Layout
from sharewright.clouds.libvirt.pool import GIBIBYTE, Pools
from sharewright.clouds.libvirt.records import Locks, Record, Records
from sharewright.clouds.libvirt.snapshots import Snapshots
from sharewright.clouds.tags import tags_to_store
from sharewright.errors import CloudError, CloudObjectMissing, CloudUnavailable
from sharewright.identifiers import derived_id

LOCK = "volumes"
METADATA_SHARE = 1 / 64  # of a volume's size: a new file system writes about 1.6 % of it


class LibvirtVolumes:
    """Contract Volumes. A volume's id is derived from its name, and is its serial: 36 characters, all of which
    virtio-scsi shows to the guest.

    ``holds`` tells whether an instance really has a volume among its disks: (instance id, volume id) → bool.
    ``domain`` gives an instance's domain while it runs, else None.
    """

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        locks: Locks,
        pools: Pools,
        format_: Literal["raw", "qcow2"],
        holds: Callable[[str, str], bool],
        domain: Callable[[str], Any],
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._locks = locks
        self._format = format_
        self._holds = holds
        self._domain = domain
        self._pools = pools
        self._records = Records(layout.records / "volumes")
        self._snapshots = Snapshots(connection, layout, locks, pools, self, domain)
        self._adoption = Adoption(layout, pools, self._records, self._snapshots.records)

    # ---- volumes ----

    def ensure_volume(self, spec: VolumeSpec, *, timeout: float) -> Volume:
        cloud_calls.count += 1
        end = time.monotonic() + timeout
        tags = tags_to_store(spec.tags, self._layout.deployment, spec.name)
        if spec.size < 1:
            raise CloudError(f"Volume {spec.name} cannot have {spec.size} GiB.", hint="The smallest has 1 GiB.")
        volume_id = derived_id(self._layout.deployment, "volume", spec.name)
        with self._locks.hold(_lock(volume_id), timeout=timeout):
            record = self._records.get(volume_id)
            if record is not None:
                _check_agreement(record, spec)
            if record is None or not record["ready"]:
                record = self._make(volume_id, record, spec, tags, end)
            elif not self._pools.path(record).exists():
                # Making an empty one in its place would hide the loss.
                raise CloudError(
                    f"The file {self._pools.path(record)} of volume {spec.name} is gone.",
                    hint="Restore it from a backup.",
                )
        return self._volume(volume_id, record)

    def find_volume(self, volume_id: str) -> Volume | None:
        cloud_calls.count += 1
        record = self._records.get(volume_id)
        if record is None or (record["ready"] and not self._pools.path(record).exists()):
            return None
        return self._volume(volume_id, record)

    def list_volumes(self) -> Sequence[Volume]:
        cloud_calls.count += 1
        return [self._volume(key, record) for key, record in self._records.all().items()]

    def delete_volume(self, volume_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        with self.held(volume_id, timeout=timeout), self._locks.hold(LOCK, timeout=timeout):
            record = self._records.get(volume_id)
            if record is None:
                return
            self._check_free(volume_id, record)
            snapshot = self._snapshots.of_volume(volume_id) or self._adoption.snapshot_of(volume_id)
            if snapshot is not None:
                raise CloudError(
                    f"Volume {record['name']} has snapshot {snapshot}.", hint="Delete its snapshots first."
                )
            self._delete(volume_id, record)
            self._locks.forget(_lock(volume_id))

    def extend_volume(self, volume_id: str, size: int, *, timeout: float) -> Volume:
        """The file grows first and the record follows, so the record never promises what is not there; the file says
        how far a call that died has come."""
        cloud_calls.count += 1
        end = time.monotonic() + timeout
        with self.held(volume_id, timeout=timeout):
            record = self.present(volume_id)
            self._await_job(volume_id, record, end)  # and no other one begins while the volume is held
            with self._locks.hold(LOCK, timeout=timeout):
                record = self.present(volume_id)
                self._extend(volume_id, record, size)
                if size != record["size"]:
                    record = {**record, "size": size}
                    self._records.put(volume_id, record)
        return self._volume(volume_id, record)

    def capacity(self, volume_type: str | None = None) -> Capacity:
        cloud_calls.count += 1
        total, free = self._pools.named(volume_type).space()
        records = [*self._records.all().values(), *self._snapshots.records.all().values()]
        provisioned = sum(record["size"] for record in records if record.get("pool") == (volume_type or None))
        return Capacity(total=total / GIBIBYTE, free=free / GIBIBYTE, provisioned=float(provisioned))

    # ---- snapshots ----

    def ensure_snapshot(self, spec: SnapshotSpec, *, timeout: float) -> VolumeSnapshot:
        cloud_calls.count += 1
        return self._snapshots.ensure([spec], timeout=timeout)[0]

    def ensure_snapshots(self, specs: Sequence[SnapshotSpec], *, timeout: float) -> Sequence[VolumeSnapshot]:
        cloud_calls.count += 1
        return self._snapshots.ensure(specs, timeout=timeout)

    def await_snapshot(self, snapshot_id: str, *, timeout: float) -> VolumeSnapshot:
        cloud_calls.count += 1
        return self._snapshots.wait(snapshot_id, timeout=timeout)

    def find_snapshot(self, snapshot_id: str) -> VolumeSnapshot | None:
        cloud_calls.count += 1
        return self._snapshots.find(snapshot_id)

    def list_snapshots(self) -> Sequence[VolumeSnapshot]:
        cloud_calls.count += 1
        return self._snapshots.list()

    def delete_snapshot(self, snapshot_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        self._snapshots.delete(snapshot_id, timeout=timeout)

    # ---- adopting and disowning ----

    def adopt_volume(
        self, reference: str, name: str, tags: Tags, *, timeout: float, holder: str | None = None
    ) -> Volume:
        """No instance of ours can have one that is nobody's, and a file that another VM writes is refused."""
        cloud_calls.count += 1
        stored = tags_to_store(tags, self._layout.deployment, name)
        volume_id = derived_id(self._layout.deployment, "volume", name)
        with self._locks.hold(_lock(volume_id), timeout=timeout), self._locks.hold(LOCK, timeout=timeout):
            record = self._adoption.adopt_volume(reference, volume_id, name, stored)
        return self._volume(volume_id, record)

    def disown_volume(self, volume_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        with self.held(volume_id, timeout=timeout), self._locks.hold(LOCK, timeout=timeout):
            record = self._records.get(volume_id)
            if record is None:
                return
            if not record["ready"]:
                raise CloudError(f"Volume {record['name']} is half made.", hint="Delete it.")
            self._check_free(volume_id, record)
            snapshot = self._snapshots.of_volume(volume_id)
            if snapshot is not None:
                raise CloudError(
                    f"Volume {record['name']} has snapshot {snapshot}.", hint="Delete or disown its snapshots first."
                )
            self._adoption.disown_volume(volume_id, {**record, "instance_id": None})
            self._locks.forget(_lock(volume_id))

    def adopt_snapshot(self, reference: str, name: str, tags: Tags, *, timeout: float) -> VolumeSnapshot:
        cloud_calls.count += 1
        stored = tags_to_store(tags, self._layout.deployment, name)
        snapshot_id = derived_id(self._layout.deployment, "snapshot", name)
        with self._locks.hold(LOCK, timeout=timeout):
            self._adoption.adopt_snapshot(reference, snapshot_id, name, stored)
        return self._snapshots.present(snapshot_id)

    def disown_snapshot(self, snapshot_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        with self._locks.hold(LOCK, timeout=timeout):
            record = self._snapshots.records.get(snapshot_id)
            if record is None:
                return
            if not record["ready"]:
                raise CloudError(f"Snapshot {record['name']} is not ready yet.", hint="Wait for it, or delete it.")
            self._adoption.disown_snapshot(snapshot_id, record)

    # ---- for snapshots, compute and purge ----

    @contextmanager
    def held(self, *volume_ids: str, timeout: float) -> Iterator[None]:
        """Nobody else works on these volumes meanwhile, as far as they are ours."""
        with ExitStack() as stack:
            for volume_id in sorted(set(volume_ids)):
                if self._records.get(volume_id) is not None:
                    stack.enter_context(self._locks.hold(_lock(volume_id), timeout=timeout))
            yield

    def present(self, volume_id: str) -> Record:
        """The record of a volume that can be used; CloudObjectMissing otherwise."""
        record = self._records.get(volume_id)
        if record is None or not record["ready"] or not self._pools.path(record).exists():
            raise CloudObjectMissing(f"There is no volume {volume_id}.", hint="It may have been deleted.")
        return record

    def running(self, volume_id: str, record: Record) -> Any:
        """The running domain that has the volume now, or None."""
        domain = None if record["instance_id"] is None else self._domain(record["instance_id"])
        return domain if domain is not None and disks.has(domain, volume_id) else None

    def claim(self, volume_id: str, instance_id: str) -> Record:
        """Note, before attaching, that the volume is this instance's; CloudError when another one has it."""
        with self._locks.hold(LOCK):
            record = self.present(volume_id)
            holder = self._holder(volume_id, record)
            if holder not in (None, instance_id):
                raise CloudError(
                    f"Volume {record['name']} is attached to instance {holder}.", hint="Detach it there first."
                )
            if record["instance_id"] != instance_id:
                record = {**record, "instance_id": instance_id}
                self._records.put(volume_id, record)
            return record

    def release(self, volume_id: str, instance_id: str) -> None:
        """Forget, after detaching, that the volume was this instance's."""
        with self._locks.hold(LOCK):
            record = self._records.get(volume_id)
            if record is not None and record["instance_id"] == instance_id:
                self._records.put(volume_id, {**record, "instance_id": None})

    def path(self, record: Record) -> str:
        return str(self._pools.path(record))

    def ensure_pools(self) -> None:
        with self._locks.hold(LOCK):
            for pool in self._pools.all():
                pool.open()

    def purge(self) -> None:
        """Delete every volume, every snapshot and the pool. Files that are not ours stay, and are named in the log."""
        with self._locks.hold(LOCK):
            self._snapshots.purge()
            for volume_id, record in self._records.all().items():
                self._delete(volume_id, record)
            self._adoption.report_rest()
            for pool in self._pools.all():
                pool.undefine()
                if pool is not self._pools.default:
                    with suppress(OSError):  # files that are not ours are left in it
                        pool.directory.rmdir()

    # ---- inside ----

    def _make(
        self, volume_id: str, record: Record | None, spec: VolumeSpec, tags: dict[str, str], end: float
    ) -> Record:
        pool = self._pools.named(spec.volume_type)
        with ExitStack() as stack:
            source = None
            format_: str = self._format
            if spec.source_snapshot is not None:
                source, format_ = self._snapshots.open_source(stack, spec)
            file = f"{volume_id}.{format_}"
            with self._locks.hold(LOCK, timeout=max(0.0, end - time.monotonic())):
                if source is None:
                    pool.check_room(spec.size * METADATA_SHARE * GIBIBYTE, f"a volume of {spec.size} GiB")
                self._clear(record, pool.path(file), spec.name)
                record = {
                    "name": spec.name,
                    "size": spec.size,
                    "file": file,
                    "format": format_,
                    "pool": spec.volume_type or None,
                    "tags": tags,
                    "instance_id": None,
                    "source_snapshot": spec.source_snapshot,
                    "ready": False,
                }
                self._records.put(volume_id, record)
                with self._connection.use(f"making volume {spec.name}"):
                    # What a crash left was never given to anybody: begin anew.
                    pool.remove(file)
                    if source is None:
                        pool.create(file, format_, spec.size)
            if source is not None:
                self._copy(source, record, end)
        record = {**record, "ready": True}
        with self._locks.hold(LOCK):
            self._records.put(volume_id, record)
        return record

    def _clear(self, record: Record | None, path: Path, name: str) -> None:
        """Make sure that what is at the file's place is ours to remove: a record is always written before its file."""
        if record is not None:
            if self._pools.path(record) != path:
                with self._connection.use(f"making volume {name}"):
                    self._pools.of(record).remove(record["file"])
        elif path.exists():
            raise CloudError(
                f"{path}, the place for volume {name}, is a file that is not ours.",
                hint="Adopt it (manage) or move it away.",
            )

    def _copy(self, source: int, record: Record, end: float) -> None:
        """The snapshot's content, grown to the volume's size."""
        name, pool, target = record["name"], self._pools.of(record), self._pools.path(record)
        image_files.copy_image(source, target, end=end, check_room=lambda size: pool.check_room(size, f"volume {name}"))
        with self._locks.hold(LOCK), self._connection.use(f"growing volume {name}"):
            if image_files.read_size(source, record["format"]) < record["size"] * GIBIBYTE:
                pool.stored(record["file"]).resize(record["size"] * GIBIBYTE, 0)
        image_files.sync_file(target)

    def _extend(self, volume_id: str, record: Record, size: int) -> None:
        name, pool = record["name"], self._pools.of(record)
        with self._connection.use(f"extending volume {name}"):
            domain = self.running(volume_id, record)
            stored = pool.stored(record["file"])
            actual = disks.size(domain, volume_id) if domain is not None else int(stored.info()[1])
            wanted = size * GIBIBYTE
            if size < record["size"] or wanted < actual:
                present = max(actual / GIBIBYTE, record["size"])
                raise CloudError(
                    f"Volume {name} has {present:g} GiB and is never shrunk to {size}.",
                    hint="Make a smaller one and copy.",
                )
            if wanted > actual:
                pool.check_room((wanted - actual) * METADATA_SHARE, f"{size} GiB for volume {name}")
                if domain is None:
                    stored.resize(wanted, 0)
                    domain = self.running(volume_id, record)  # started meanwhile, with the old size in mind
                if domain is not None:
                    disks.resize(domain, volume_id, wanted)

    def _await_job(self, volume_id: str, record: Record, end: float) -> None:
        """QEMU does not resize a disk of which it copies a snapshot."""
        with self._connection.use(f"looking at the jobs of volume {record['name']}"):
            for _ in block_jobs.pauses(end):
                domain = self.running(volume_id, record)
                if domain is None or not block_jobs.copies(domain, volume_id):
                    return
        raise CloudUnavailable(
            f"A snapshot of volume {record['name']} is still being copied.", hint="Try again when it is ready."
        )

    def _delete(self, volume_id: str, record: Record) -> None:
        # Who dies after this leaves a volume that is still found and can still be deleted.
        self._records.put(volume_id, {**record, "ready": False})
        with self._connection.use(f"deleting volume {record['name']}"):
            self._pools.of(record).remove(record["file"])
        self._records.remove(volume_id)

    def _check_free(self, volume_id: str, record: Record) -> None:
        instance = self._holder(volume_id, record)
        if instance is not None:
            raise CloudError(f"Volume {record['name']} is attached to instance {instance}.", hint="Detach it first.")

    def _holder(self, volume_id: str, record: Record) -> str | None:
        """Who has it: the instance noted, if it still has it."""
        noted: str | None = record["instance_id"]
        return noted if noted is not None and self._holds(noted, volume_id) else None

    def _volume(self, volume_id: str, record: Record) -> Volume:
        return Volume(
            id=volume_id,
            name=record["name"],
            size=record["size"],
            serial=volume_id,
            tags=record["tags"],
            instance_id=self._holder(volume_id, record),
        )


def _lock(volume_id: str) -> str:
    return f"volume-{volume_id}"


def _check_agreement(record: Record, spec: VolumeSpec) -> None:
    if record["size"] != spec.size:
        raise CloudError(
            f"Volume {spec.name} exists with {record['size']} GiB, not {spec.size}.", hint="Delete it first."
        )
    if record.get("pool") != (spec.volume_type or None):
        raise CloudError(
            f"Volume {spec.name} exists with volume type {record.get('pool')}, not {spec.volume_type}.",
            hint="Delete it first.",
        )
    source = record.get("source_snapshot")
    if source != spec.source_snapshot:
        described = f"from snapshot {source}" if source else "blank"
        wanted = f"from snapshot {spec.source_snapshot}" if spec.source_snapshot else "blank"
        raise CloudError(f"Volume {spec.name} exists {described}, not {wanted}.", hint="Delete it first.")
