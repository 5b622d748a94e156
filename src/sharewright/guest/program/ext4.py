"""ext4 from outside, by its own tools: what a copy with the same inode numbers needs, and what only an unmounted file
system can be given."""

from __future__ import annotations

import os

from .host import CommandFailed, Host

CHECKSUMS = 0x400  # feature metadata_csum, in the superblock's ro_compat
_64BIT, _META_BG = 0x80, 0x10  # features in the superblock's incompat
_INODES_PER_GROUP = 32768  # as many bits as a block of 4 KiB has
_GROUP_BYTES = 32768 * 4096
_INODES_AT_ONCE = 50_000  # whose lines debugfs gets in one go
_SECONDS = 900.0


class DoesNotFit(CommandFailed):
    """The smaller file system cannot hold what is in the larger one."""


class Geometry:
    """``inodes``: how many there are; ``highest``: no inode with a higher number is in use; ``seed``: of the hashes by
    which directories are sorted, hence of clients' places in them."""

    __slots__ = ("block_bytes", "checksums", "highest", "inodes", "seed")

    def __init__(self, block_bytes: int, inodes: int, highest: int, seed: str, *, checksums: bool) -> None:
        self.block_bytes = block_bytes
        self.inodes = inodes
        self.highest = highest
        self.seed = seed
        self.checksums = checksums


def read_geometry(host: Host, device: str) -> Geometry:
    """From the superblock and the group descriptors on the disk, which the kernel keeps there while it is mounted."""
    with open(host.at(device), "rb") as disk:
        disk.seek(1024)
        head = disk.read(1024)
        if head[56:58] != b"\x53\xef":
            raise CommandFailed(f"{device} carries no ext4")
        block = 1024 << _number(head, 24, 4)
        blocks = _number(head, 4, 4)
        size = 32
        if _number(head, 0x60, 4) & _META_BG:
            raise DoesNotFit("its group descriptors are spread over the disk, as it has grown very much")
        if _number(head, 0x60, 4) & _64BIT:
            blocks += _number(head, 0x150, 4) << 32
            size = _number(head, 0xFE, 2)
        first, group_blocks, per_group = _number(head, 20, 4), _number(head, 32, 4), _number(head, 40, 4)
        groups = -(-(blocks - first) // group_blocks)
        disk.seek((first + 1) * block)
        table = disk.read(groups * size)
    highest = 0
    for group in range(groups):
        descriptor = table[group * size : (group + 1) * size]
        free, unused = _number(descriptor, 14, 2), _number(descriptor, 28, 2)
        if size >= 64:
            free += _number(descriptor, 0x2E, 2) << 16
            unused += _number(descriptor, 0x32, 2) << 16
        if free < per_group:
            highest = (group + 1) * per_group - unused
    seed = head[0xEC:0xFC].hex()
    return Geometry(
        block,
        _number(head, 0, 4),
        highest,
        "-".join((seed[:8], seed[8:12], seed[12:16], seed[16:20], seed[20:])),
        checksums=bool(_number(head, 0x64, 4) & CHECKSUMS),
    )


def inodes_of_copy(original: Geometry, size: int) -> int:
    """How many inodes the copy of ``size`` bytes gets: as many as the original if they fit, and one more, else as many
    as fit. DoesNotFit when a number is in use that it would not have."""
    if original.block_bytes != 4096:
        raise DoesNotFit(f"its blocks have {original.block_bytes} bytes, not 4096")
    most = size // _GROUP_BYTES * _INODES_PER_GROUP
    if original.highest + 1 >= most:
        least = -(-(original.highest + 2) // _INODES_PER_GROUP) * _GROUP_BYTES
        raise DoesNotFit(f"the inode numbers in use, up to {original.highest}, need {-(-least // 2**30)} GiB at least")
    return min(original.inodes + 1, most)


def make_copy(host: Host, device: str, uuid: str, original: Geometry, inodes: int) -> None:
    """Format for a copy. It gets checksums last: they are made from the generations, which are written before."""
    features = "^metadata_csum,uninit_bg"
    extended = f"lazy_itable_init=0,nodiscard,hash_seed={original.seed}"
    command = ("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-U", uuid, "-N", str(inodes))
    host.run(*command, "-O", features, "-E", extended, host.at(device), timeout=_SECONDS).check()


class Identity:
    """What the copy of an inode still has to get: ``changed`` and ``born`` are times in ns, None: leave it."""

    __slots__ = ("born", "changed", "generation")

    def __init__(self, generation: int, changed: int | None = None, born: int | None = None) -> None:
        self.generation = generation
        self.changed = changed
        self.born = born


def write_identities(host: Host, device: str, fix: dict[int, Identity], *, seconds: float) -> None:
    """Write generations, and times of change and of creation, into inodes of an unmounted file system without
    checksums."""
    check_free(host, device)
    wanted = list(fix.items())
    for start in range(0, len(wanted), _INODES_AT_ONCE):
        lines = []
        for inode, identity in wanted[start : start + _INODES_AT_ONCE]:
            lines.append(f"sif <{inode}> generation {identity.generation}")
            lines += _time_lines(inode, "ctime", identity.changed)
            lines += _time_lines(inode, "crtime", identity.born)
        text = "".join(f"{line}\n" for line in lines)
        done = host.run("debugfs", "-w", "-f", "/dev/stdin", host.at(device), data=text, timeout=seconds).check()
        said = done.output.splitlines()
        if said != [f"debugfs: {line}" for line in lines]:  # its status tells nothing
            wrong = next((line for line in said if not line.startswith("debugfs: sif ")), "too few lines")
            raise CommandFailed(f"debugfs did not write all inodes: {wrong[:200]}")


def _time_lines(inode: int, field: str, moment: int | None) -> list[str]:
    if moment is None:
        return []
    whole, part = divmod(moment, 10**9)
    epoch = (whole - ((whole & 0xFFFFFFFF ^ 0x80000000) - 0x80000000)) >> 32 & 3
    return [f"sif <{inode}> {field} @{whole & 0xFFFFFFFF}", f"sif <{inode}> {field}_extra {part << 2 | epoch}"]


def finish(host: Host, device: str, *, seconds: float) -> None:
    """Check a finished copy as a whole and give it the checksums that every file system of ours has."""
    check_free(host, device)
    host.run("e2fsck", "-f", "-p", host.at(device), timeout=seconds).check()
    # The seed is kept beside the identity, so that the identity can change at once.
    host.run("tune2fs", "-O", "metadata_csum,metadata_csum_seed", host.at(device), timeout=seconds).check()


def write_uuid(host: Host, device: str, uuid: str, *, seconds: float) -> None:
    """Give an unmounted file system another identity: one write of its superblock."""
    host.run("tune2fs", "-U", uuid, host.at(device), timeout=seconds).check()
    descriptor = os.open(host.at(device), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_free(host: Host, device: str) -> None:
    """CommandFailed when something holds the disk: a mount in any namespace would write over what we write."""
    try:
        os.close(os.open(host.at(device), os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        raise CommandFailed(f"{device} is in use: {error.strerror}") from error


def _number(data: bytes, offset: int, length: int) -> int:
    return int.from_bytes(data[offset : offset + length], "little")
