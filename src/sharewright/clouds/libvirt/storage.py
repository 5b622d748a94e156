"""Volumes: sparse files in a libvirt storage pool of the deployment's own."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import libvirt

from sharewright.clouds.contract import Capacity, Volume, VolumeSpec, cloud_calls
from sharewright.clouds.libvirt import disks
from sharewright.clouds.libvirt.connection import Connection, missing_is_fine
from sharewright.clouds.libvirt.layout import Layout
from sharewright.clouds.libvirt.records import Locks, Record, Records
from sharewright.clouds.libvirt.xml import add, parse, render
from sharewright.clouds.tags import tags_to_store
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing
from sharewright.identifiers import derived_id

LOCK = "volumes"
GIBIBYTE = 2**30
# A new file system writes about 1.6 % of its size; below this the host's file system must not be filled any further.
RESERVE_BYTES = 256 * 2**20
METADATA_SHARE = 1 / 64


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
        self._records = Records(layout.records / "volumes")

    def ensure_volume(self, spec: VolumeSpec, *, timeout: float) -> Volume:
        cloud_calls.count += 1
        tags = tags_to_store(spec.tags, self._layout.deployment, spec.name)
        if spec.size < 1:
            raise CloudError(f"Volume {spec.name} cannot have {spec.size} GiB.", hint="The smallest has 1 GiB.")
        volume_id = derived_id(self._layout.deployment, "volume", spec.name)
        with self._locks.hold(LOCK, timeout=timeout):
            record = self._records.get(volume_id)
            if record is not None and record["size"] != spec.size:
                raise CloudError(
                    f"Volume {spec.name} exists with {record['size']} GiB, not {spec.size}.", hint="Delete it first."
                )
            if record is None or not record["ready"]:
                record = self._make(volume_id, spec, tags)
            elif not self._path(record).exists():
                # Making an empty one in its place would hide the loss.
                raise CloudError(
                    f"The file {self._path(record)} of volume {spec.name} is gone.", hint="Restore it from a backup."
                )
        return self._volume(volume_id, record)

    def find_volume(self, volume_id: str) -> Volume | None:
        cloud_calls.count += 1
        record = self._records.get(volume_id)
        if record is None or (record["ready"] and not self._path(record).exists()):
            return None
        return self._volume(volume_id, record)

    def list_volumes(self) -> Sequence[Volume]:
        cloud_calls.count += 1
        return [self._volume(key, record) for key, record in self._records.all().items()]

    def delete_volume(self, volume_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        with self._locks.hold(LOCK, timeout=timeout):
            record = self._records.get(volume_id)
            if record is None:
                return
            instance = self._holder(volume_id, record)
            if instance is not None:
                raise CloudError(
                    f"Volume {record['name']} is attached to instance {instance}.", hint="Detach it first."
                )
            self._delete(volume_id, record)

    def extend_volume(self, volume_id: str, size: int, *, timeout: float) -> Volume:
        """The file grows first and the record follows, so the record never promises what is not there; the file says
        how far a call that died has come."""
        cloud_calls.count += 1
        with self._locks.hold(LOCK, timeout=timeout):
            record = self._records.get(volume_id)
            if record is None or not record["ready"] or not self._path(record).exists():
                raise CloudObjectMissing(f"There is no volume {volume_id}.", hint="It may have been deleted.")
            name = record["name"]
            with self._connection.use(f"extending volume {name}"):
                domain = self._running(volume_id, record)
                stored = self._stored(record)
                actual = disks.size(domain, volume_id) if domain is not None else int(stored.info()[1])
                wanted = size * GIBIBYTE
                if size < record["size"] or wanted < actual:
                    present = max(actual / GIBIBYTE, record["size"])
                    raise CloudError(
                        f"Volume {name} has {present:g} GiB and is never shrunk to {size}.",
                        hint="Make a smaller one and copy.",
                    )
                if wanted > actual:
                    self._check_room(size - actual / GIBIBYTE, f"{size} GiB for volume {name}")
                    if domain is None:
                        stored.resize(wanted, 0)
                        domain = self._running(volume_id, record)  # started meanwhile, with the old size in mind
                    if domain is not None:
                        disks.resize(domain, volume_id, wanted)
            if size != record["size"]:
                record = {**record, "size": size}
                self._records.put(volume_id, record)
        return self._volume(volume_id, record)

    def capacity(self) -> Capacity:
        cloud_calls.count += 1
        total, free = self._space()
        provisioned = sum(record["size"] for record in self._records.all().values())
        return Capacity(total=total / GIBIBYTE, free=free / GIBIBYTE, provisioned=float(provisioned))

    # ---- for compute and purge ----

    def claim(self, volume_id: str, instance_id: str) -> Record:
        """Note, before attaching, that the volume is this instance's; CloudError when another one has it."""
        with self._locks.hold(LOCK):
            record = self._records.get(volume_id)
            if record is None or not record["ready"] or not self._path(record).exists():
                raise CloudObjectMissing(f"There is no volume {volume_id}.", hint="It may have been deleted.")
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
        return str(self._path(record))

    def ensure_pool(self) -> None:
        with self._locks.hold(LOCK):
            self._pool()

    def purge(self) -> None:
        """Delete every volume and the pool."""
        with self._locks.hold(LOCK):
            for volume_id, record in self._records.all().items():
                self._delete(volume_id, record)
            with self._connection.use("deleting the storage pool") as connection, missing_is_fine():
                pool = connection.storagePoolLookupByName(self._layout.pool)
                if self._is_ours(pool):
                    if pool.isActive():
                        pool.destroy()
                    pool.undefine()

    # ---- files ----

    def _path(self, record: Record) -> Path:
        return self._layout.volumes / str(record["file"])

    def _space(self) -> tuple[float, float]:
        state = os.statvfs(self._layout.volumes)
        return float(state.f_blocks * state.f_frsize), float(state.f_bavail * state.f_frsize)

    def _check_room(self, more: float, what: str) -> None:
        """CloudCapacityExceeded when there is no room for ``more`` GiB to begin with."""
        _, free = self._space()
        needed = RESERVE_BYTES + more * GIBIBYTE * METADATA_SHARE
        if free < needed:
            raise CloudCapacityExceeded(
                f"No room for {what}: {self._layout.volumes} has {free / GIBIBYTE:.2f} GiB free,"
                f" and {needed / GIBIBYTE:.2f} are needed to begin with.",
                hint="Free space on the host or delete shares.",
            )

    def _running(self, volume_id: str, record: Record) -> Any:
        """The running domain that has the volume now, or None."""
        domain = None if record["instance_id"] is None else self._domain(record["instance_id"])
        return domain if domain is not None and disks.has(domain, volume_id) else None

    def _stored(self, record: Record) -> Any:
        pool = self._pool()
        try:
            return pool.storageVolLookupByName(record["file"])
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                raise
            pool.refresh(0)  # made while libvirtd was down
            return pool.storageVolLookupByName(record["file"])

    def _make(self, volume_id: str, spec: VolumeSpec, tags: dict[str, str]) -> Record:
        self._check_room(spec.size, f"a volume of {spec.size} GiB")
        record: Record = {
            "name": spec.name,
            "size": spec.size,
            "file": f"{volume_id}.{self._format}",
            "format": self._format,
            "tags": tags,
            "instance_id": None,
            "ready": False,
        }
        self._records.put(volume_id, record)
        pool = self._pool()
        with self._connection.use(f"making volume {spec.name}"):
            # What a crash left was never given to anybody: begin anew.
            self._remove_file(pool, record["file"])
            pool.createXML(render(_definition(record)), 0)
        record = {**record, "ready": True}
        self._records.put(volume_id, record)
        return record

    def _delete(self, volume_id: str, record: Record) -> None:
        # Who dies after this leaves a volume that is still found and can still be deleted.
        self._records.put(volume_id, {**record, "ready": False})
        with self._connection.use(f"deleting volume {record['name']}"):
            self._remove_file(self._pool(), record["file"])
        self._records.remove(volume_id)

    def _remove_file(self, pool: Any, file: str) -> None:
        try:
            pool.storageVolLookupByName(file).delete(0)
        except libvirt.libvirtError as error:
            # The pool does not know files that were made while libvirtd was down; absent files are fine.
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL and (self._layout.volumes / file).exists():
                raise
        with suppress(FileNotFoundError):
            (self._layout.volumes / file).unlink()

    # ---- pool ----

    def _pool(self) -> Any:
        with self._connection.use("preparing the storage pool") as connection:
            try:
                pool = connection.storagePoolLookupByName(self._layout.pool)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
                    raise
                root = ET.Element("pool", {"type": "dir"})
                add(root, "name", self._layout.pool)
                add(add(root, "target"), "path", str(self._layout.volumes))
                pool = connection.storagePoolDefineXML(render(root), 0)
                pool.setAutostart(True)
            if not self._is_ours(pool):
                raise CloudError(
                    f"libvirt's storage pool {self._layout.pool} belongs to another directory.",
                    hint="Choose another name for this deployment.",
                )
            if not pool.isActive():
                pool.create(0)
            return pool

    def _is_ours(self, pool: Any) -> bool:
        return parse(pool.XMLDesc(0)).findtext("target/path") == str(self._layout.volumes)

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


def _definition(record: Record) -> ET.Element:
    root = ET.Element("volume")
    add(root, "name", record["file"])
    add(root, "capacity", str(record["size"]), unit="GiB")
    add(root, "allocation", "0", unit="B")
    target = add(root, "target")
    add(target, "format", type=record["format"])
    add(add(target, "permissions"), "mode", "0600")
    return root
