"""/etc/fstab: what is mounted at a boot with no controller."""

from __future__ import annotations

import os
from functools import lru_cache

from .desired import Share, share_of
from .filesystems import mount_options
from .host import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINKS = "/dev/disk/by-id"


def fstab_line(share: Share, source: str = "") -> str:
    """``source`` names the disk; the file system's UUID when it is not given.

    nofail keeps a missing volume from stopping the boot, and the server of the share's protocol waits for those that
    are there. No fsck: replaying the journal is enough, and repairs are for people."""
    server = "smbd.service" if share.protocol == "CIFS" else "nfs-server.service"
    boot = f"nofail,x-systemd.device-timeout=30s,x-systemd.before={server}"
    return f"{source or f'UUID={share.uuid}'} {share.path} {share.filesystem} {mount_options(share)},{boot} 0 0"


@lru_cache(maxsize=2)
def split_fstab(text: str) -> tuple[Sequence[str], Mapping[str, str]]:
    """Foreign lines as they are, and share id → our line. Ours are those whose mount point is a share's."""
    foreign, ours = [], {}
    for line in text.splitlines():
        fields = line.split()
        share_id = share_of(fields[1]) if len(fields) >= 2 and not line.lstrip().startswith("#") else None
        if share_id is None:
            foreign.append(line)
        else:
            ours[share_id] = line
    return foreign, ours


def fstab_text(before: str, shares: list[Share], links: dict[str, str]) -> str:
    """The whole file. ``links``: share id → a name of its disk that holds its serial, for those that need one."""
    foreign, ours = split_fstab(before)
    lines = []
    for share in shares:
        source = _source(share, ours.get(share.id, ""), links.get(share.id, ""))
        if source:
            lines.append(fstab_line(share, source))
    return "".join(f"{line}\n" for line in [*foreign, *lines])


def _source(share: Share, line: str, link: str) -> str:
    """By what name a share's disk is found: the UUID, by the image's convention. While another disk may carry the same
    one: by the serial, or not at all, so that never the other is mounted in its place. A line by serial stays."""
    source = line.split()[0] if line else ""
    if holds_serial(source, share.serial):
        return source
    if share.by_serial:
        return f"{LINKS}/{link}" if link else ""
    return f"UUID={share.uuid}"


def is_line_of(line: str, share: Share) -> bool:
    """Whether a line mounts a share's disk and no other."""
    source = line.split()[0] if line else ""
    return source == f"UUID={share.uuid}" or holds_serial(source, share.serial)


def holds_serial(source: str, serial: str) -> bool:
    """Whether a name in :data:`LINKS` is that of the disk; of virtio-blk's it has the first 20 characters."""
    return source.startswith(f"{LINKS}/") and (serial in source or source.endswith(serial[:20]))


def find_link(host: Host, device: str, serial: str) -> str:
    """udev's name for a disk in :data:`LINKS` that holds the serial; "" when it has made none."""
    for name in host.listing(LINKS):
        try:
            target = os.readlink(host.at(f"{LINKS}/{name}"))
        except OSError:
            continue
        if holds_serial(f"{LINKS}/{name}", serial) and os.path.basename(target) == os.path.basename(device):
            return name
    return ""
