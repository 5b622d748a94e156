"""The directories with the files of volumes and snapshots, and the storage pools that libvirt has on them.

A pool knows volumes only; libvirt forgets, until a refresh, what is put into the directory by others, QEMU included.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import libvirt

from sharewright.clouds.libvirt.connection import Connection, missing_is_fine
from sharewright.clouds.libvirt.layout import Layout
from sharewright.clouds.libvirt.records import Record
from sharewright.clouds.libvirt.xml import add, parse, render
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing

GIBIBYTE = 2**30
RESERVE_BYTES = 256 * 2**20  # below this the host's file system must not be filled any further


class Pool:
    """Used under the lock of volumes, except for what only looks at files."""

    def __init__(self, connection: Connection, name: str, directory: Path) -> None:
        self._connection = connection
        self._name = name
        self.directory = directory

    def path(self, file: str) -> Path:
        return self.directory / file

    def files(self) -> list[Path]:
        return sorted(self.directory.iterdir()) if self.directory.is_dir() else []

    def make_directory(self) -> None:
        """As Layout.make, but not what the configuration says is there: CloudError when that is missing."""
        try:
            self.directory.mkdir(mode=0o711, exist_ok=True)
        except OSError as error:
            raise CloudError(
                f"The directory {self.directory} for volumes cannot be made: {error.strerror}.",
                hint="Make the directory that [libvirt.volume_types] names, or mount what belongs there.",
            ) from error

    def space(self) -> tuple[float, float]:
        """Bytes of the host's file system: all, and free."""
        self.make_directory()
        state = os.statvfs(self.directory)
        return float(state.f_blocks * state.f_frsize), float(state.f_bavail * state.f_frsize)

    def check_room(self, more: float, what: str) -> None:
        """CloudCapacityExceeded when ``more`` bytes cannot be written now with something left."""
        _, free = self.space()
        needed = RESERVE_BYTES + more
        if free < needed:
            raise CloudCapacityExceeded(
                f"No room for {what}: {self.directory} has {free / GIBIBYTE:.2f} GiB free,"
                f" and {needed / GIBIBYTE:.2f} are needed to begin with.",
                hint="Free space on the host or delete shares.",
            )

    def open(self) -> Any:
        """libvirt's pool, defined and active."""
        self.make_directory()
        with self._connection.use("preparing the storage pool") as connection:
            try:
                pool = connection.storagePoolLookupByName(self._name)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
                    raise
                root = ET.Element("pool", {"type": "dir"})
                add(root, "name", self._name)
                add(add(root, "target"), "path", str(self.directory))
                pool = connection.storagePoolDefineXML(render(root), 0)
                pool.setAutostart(True)
            if not self._is_ours(pool):
                raise CloudError(
                    f"libvirt's storage pool {self._name} belongs to another directory.",
                    hint="Choose another name for this deployment.",
                )
            if not pool.isActive():
                pool.create(0)
            return pool

    def refresh(self) -> None:
        """After files were renamed: libvirt would refuse to make one of a name that it believes is there."""
        with self._connection.use("refreshing the storage pool"):
            self.open().refresh(0)

    def stored(self, file: str) -> Any:
        """libvirt's volume of that file."""
        pool = self.open()
        try:
            return pool.storageVolLookupByName(file)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                raise
            pool.refresh(0)  # made while libvirtd was down, or not by libvirt
            return pool.storageVolLookupByName(file)

    def create(self, file: str, format_: str, size: int) -> None:
        """A blank sparse file of ``size`` GiB."""
        root = ET.Element("volume")
        add(root, "name", file)
        add(root, "capacity", str(size), unit="GiB")
        add(root, "allocation", "0", unit="B")
        target = add(root, "target")
        add(target, "format", type=format_)
        add(add(target, "permissions"), "mode", "0600")
        self.open().createXML(render(root), 0)

    def remove(self, file: str) -> None:
        try:
            self.open().storageVolLookupByName(file).delete(0)
        except libvirt.libvirtError as error:
            # The pool does not know files that were made while libvirtd was down; absent files are fine.
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL and self.path(file).exists():
                raise
        with suppress(FileNotFoundError):
            self.path(file).unlink()

    def undefine(self) -> None:
        """Files stay."""
        with self._connection.use("deleting the storage pool") as connection, missing_is_fine():
            pool = connection.storagePoolLookupByName(self._name)
            if self._is_ours(pool):
                if pool.isActive():
                    pool.destroy()
                pool.undefine()

    def _is_ours(self, pool: Any) -> bool:
        return parse(pool.XMLDesc(0)).findtext("target/path") == str(self.directory)


class Pools:
    """The pools of a deployment: one in the state directory, and one for each volume type of the configuration."""

    def __init__(self, connection: Connection, layout: Layout, directories: Mapping[str, str]) -> None:
        self.default = Pool(connection, layout.pool, layout.volumes)
        self._named = {
            name: Pool(connection, f"{layout.pool}-{name}", Path(directory) / layout.deployment)
            for name, directory in directories.items()
        }

    def all(self) -> tuple[Pool, ...]:
        return (self.default, *self._named.values())

    def named(self, volume_type: str | None) -> Pool:
        """The pool of a volume type; None: the one in the state directory. CloudObjectMissing."""
        if not volume_type:
            return self.default
        if volume_type not in self._named:
            raise CloudObjectMissing(
                f"There is no volume type {volume_type}: it has no directory on this host.",
                hint=f"Name one in the configuration: [libvirt.volume_types.{volume_type}].",
            )
        return self._named[volume_type]

    def of(self, record: Record) -> Pool:
        """The pool with a volume's or snapshot's file."""
        return self.named(record.get("pool"))

    def path(self, record: Record) -> Path:
        return self.of(record).path(record["file"])
