"""Where things of one deployment are: directories below the state directory, and names in libvirt and the kernel."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sharewright.identifiers import short_hash

RECORD_KINDS = ("networks", "ports", "volumes", "snapshots", "jobs", "disowned")


@dataclass(frozen=True, slots=True)
class Layout:
    deployment: str
    state_dir: Path

    @property
    def root(self) -> Path:
        return self.state_dir / "libvirt"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def instances(self) -> Path:
        return self.root / "instances"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def consoles(self) -> Path:
        return self.root / "consoles"

    @property
    def accelerator(self) -> Path:
        return self.root / "accelerator.json"

    @property
    def daemons(self) -> Path:
        return self.root / "daemons.json"

    @property
    def default_image(self) -> Path:
        return self.state_dir / "images" / "service"

    @property
    def pool(self) -> str:
        """The storage pool's name in libvirt."""
        return self.deployment

    @property
    def table(self) -> str:
        """The name of both nftables tables."""
        return f"sharewright_{short_hash(self.deployment)}"

    def bridge(self, network_id: str) -> str:
        return f"swbr{short_hash(self.deployment, network_id)}"

    def tap(self, port_id: str) -> str:
        """The host's end of a NIC. libvirt renames devices that begin with "vnet"."""
        return f"swp{short_hash(self.deployment, port_id)}"

    def make(self) -> None:
        """QEMU's user may pass through these directories and list none of them; records and locks are root's alone."""
        self.state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        for directory in (self.root, self.volumes, self.instances, self.images):
            directory.mkdir(mode=0o711, exist_ok=True)
        kinds = [self.records / kind for kind in RECORD_KINDS]
        for directory in (self.records, *kinds, self.locks, self.consoles):
            directory.mkdir(mode=0o700, exist_ok=True)
        for directory in (self.state_dir, self.root):
            mode = directory.stat().st_mode
            if not mode & 0o001:
                directory.chmod((mode & 0o7777) | 0o011)

    def remove(self) -> None:
        """Remove our directories, but for the note of the daemons that we started and for files that are not ours."""
        for directory in (self.records, self.instances, self.images, self.consoles, self.locks):
            shutil.rmtree(directory, ignore_errors=True)
        with suppress(OSError):  # disowned volumes are left in it
            self.volumes.rmdir()
        self.accelerator.unlink(missing_ok=True)
