"""A copy of another share's file system becomes one of its own: it gets another UUID before it is ever mounted in its
place. Its content is the tenant's and stays as it is.

ext4: the checksums of its metadata begin with the UUID; a seed that is written down first (metadata_csum_seed) keeps
them valid, so nothing has to be read or written but superblocks. xfs: what its log holds is replayed by mounting it
once, where nobody sees it; with ``nouuid``, because its parent may be mounted.
"""

from __future__ import annotations

import os

from .desired import Share
from .filesystems import Disk, read_superblock
from .host import RUN, CommandFailed, Host

SECONDS = 300.0


def give_identity(host: Host, share: Share, disk: Disk) -> None:
    """CommandFailed when the disk does not carry the share's UUID afterwards. One that was cut short is begun again."""
    device = host.at(disk.device)
    if share.filesystem == "ext4":
        found = disk.superblock
        seed = ("-O", "metadata_csum_seed") if found is not None and found.sums_by_uuid else ()
        host.run("tune2fs", *seed, "-U", share.uuid, device, timeout=SECONDS).check()
    else:
        _replay(host, share, device)
        host.run("xfs_admin", "-U", share.uuid, device, timeout=SECONDS).check()
    now = read_superblock(host, disk.device)
    if now is None or now.uuid != share.uuid:
        raise CommandFailed(f"{disk.device} still carries {now.uuid if now else 'nothing'}, not {share.uuid}")


def _replay(host: Host, share: Share, device: str) -> None:
    place = host.at(f"{RUN}/clones/{share.id}")
    os.makedirs(place, mode=0o700, exist_ok=True)
    host.run("umount", place, timeout=60.0)  # of an attempt that was cut short
    options = "rw,nouuid,nosuid,nodev,noexec"
    host.run("mount", "-t", "xfs", "-o", options, device, place, timeout=SECONDS).check()
    host.run("umount", place, timeout=SECONDS).check()
    os.rmdir(place)
