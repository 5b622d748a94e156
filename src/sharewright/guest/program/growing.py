"""Growing a mounted file system to the size that the document gives, after its disk has grown. Nothing is unmounted."""

from __future__ import annotations

import os

from .desired import Share
from .filesystems import Disk, is_small, read_superblock
from .host import CommandFailed, Host

GROW_SECONDS = 600.0


def filesystem_size(host: Host, share: Share, disk: Disk) -> int:
    """Bytes of the file system on a disk; 0 when they are not known. The kernel writes ext4's superblock through the
    disk's own cache, where we read it; that of a mounted xfs may come later, so there the mounted one is asked."""
    found = disk.superblock
    if found is None or found.type != "xfs" or found.log_bytes == 0:
        return found.size if found is not None else 0
    try:
        sizes = os.statvfs(host.at(share.path))
        mounted = os.stat(host.at(share.path)).st_dev
    except OSError:
        return found.size
    if f"{os.major(mounted)}:{os.minor(mounted)}" != disk.number:
        return found.size
    return max(found.size, sizes.f_blocks * sizes.f_frsize + found.log_bytes)  # f_blocks is without the log


def grow(host: Host, share: Share, disk: Disk) -> None:
    """Grow a mounted file system; CommandFailed when it is not as large as asked for afterwards. One that was cut short
    is simply begun again: the kernel adds block groups one by one, each in a transaction of the journal."""
    device = host.at(disk.device)
    target = min(share.size, disk.size)
    command: tuple[str, ...]
    if share.filesystem == "ext4":
        command = ("resize2fs", device, f"{target // 1024}K")
    else:
        superblock = disk.superblock
        block = superblock.block_bytes if superblock is not None else 0
        command = ("xfs_growfs", "-D", str(target // (block or 4096)), host.at(share.path))
    host.run(*command, timeout=GROW_SECONDS).check()
    now = Disk(disk.device, disk.number, read_superblock(host, disk.device))
    size = filesystem_size(host, share, now)
    if is_small(size, share.size):
        raise CommandFailed(f"{command[0]} ended well but the file system has {size} of {share.size} bytes")
