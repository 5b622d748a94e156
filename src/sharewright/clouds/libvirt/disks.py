"""What QEMU does to a disk that a running domain has. Errors are libvirt's own: callers say what they were doing."""

from __future__ import annotations

from typing import Any

import libvirt

from sharewright.clouds.libvirt.domain import find_disk
from sharewright.clouds.libvirt.xml import attribute, parse


def target(domain: Any, serial: str) -> str | None:
    """The disk's name in the domain ("sda"), or None when it has no such disk now."""
    disk = find_disk(parse(domain.XMLDesc(0)), serial)
    return None if disk is None else attribute(disk, "target", "dev")


def has(domain: Any, serial: str) -> bool:
    return target(domain, serial) is not None


def size(domain: Any, serial: str) -> int:
    """Bytes, as the guest sees the disk."""
    return int(domain.blockInfo(target(domain, serial))[0])


def resize(domain: Any, serial: str, size: int) -> None:
    """QEMU grows the image to ``size`` bytes and tells the guest."""
    domain.blockResize(target(domain, serial), size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
