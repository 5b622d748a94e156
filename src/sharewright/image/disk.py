"""The disk: a partition table, GRUB in the gap before the first partition, one ext4 file system.

With a boot loader the same file boots on any cloud from its firmware, and with ``kernel`` and ``initrd`` beside it
directly. Nothing is mounted to make it. GRUB's part is what its own installer would write: ``boot.img`` in the first
sector expects the core image in the sectors after it.
"""

from __future__ import annotations

import struct
from pathlib import Path

from sharewright.errors import SharewrightError
from sharewright.image.customize import in_chroot
from sharewright.image.recipe import SOURCE_DATE_EPOCH

SECTOR = 512
PARTITION_START = 2048  # sectors; 1 MiB
BOOT_CODE = 440  # bytes of the first sector that are the boot loader's
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "search_fs_uuid", "linux", "echo", "serial", "normal")


def boot_loader(root: Path, work: Path, identity: str, arguments: str) -> bytes:
    """GRUB's first sectors for this image, made by the tree's own grub-mkimage."""
    configuration = (
        f"search.fs_uuid {identity} root\nlinux ($root)/boot/vmlinuz {arguments}\ninitrd ($root)/boot/initrd\nboot\n"
    )
    (root / "boot/grub/embedded.cfg").write_text(configuration, encoding="ascii")
    command = ["grub-mkimage", "-O", "i386-pc", "-o", "/boot/grub/core.img", "-p", "/boot/grub"]
    in_chroot(root, [*command, "-c", "/boot/grub/embedded.cfg", *GRUB_MODULES])
    core = (root / "boot/grub/core.img").read_bytes()
    boot = (root / "usr/lib/grub/i386-pc/boot.img").read_bytes()
    room = (PARTITION_START - 1) * SECTOR
    if len(core) > room or len(boot) != SECTOR:
        raise SharewrightError(f"GRUB's core image has {len(core)} bytes; there is room for {room}.")
    return boot + core


def write_partition_table(raw: Path, size_mib: int, loader: bytes, identity: str) -> None:
    """Create the sparse disk file: boot code, one active Linux partition over all but the first MiB."""
    sectors = size_mib * 2048 - PARTITION_START
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", PARTITION_START, sectors)
    disk_id = bytes.fromhex(identity[:8])
    first = loader[:BOOT_CODE].ljust(BOOT_CODE, b"\0") + disk_id + b"\0\0" + entry + b"\0" * 48 + b"\x55\xaa"
    with raw.open("wb") as file:
        file.truncate(size_mib * 2**20)
        file.write(first)
        file.write(loader[SECTOR:])


def mkfs_command(raw: Path, tree: Path, size_mib: int, identity: str) -> list[str]:
    """mkfs.ext4 into the partition, filled from ``tree``; everything in it determined by its arguments."""
    kilobytes = size_mib * 1024 - PARTITION_START // 2
    extended = [f"offset={PARTITION_START * SECTOR}", f"hash_seed={identity}"]
    extended += ["lazy_itable_init=0", "lazy_journal_init=0", "nodiscard"]
    return [
        "mkfs.ext4", "-q", "-F", "-L", "root", "-U", identity, "-m", "0", "-N", "65536", "-J", "size=16",
        "-O", "^64bit,^metadata_csum_seed,^orphan_file",
        "-E", ",".join(extended),  # only the last -E counts
        "-d", str(tree), str(raw), f"{kilobytes}k",
    ]  # fmt: skip


def change_times_script(raw: Path) -> tuple[list[str], str]:
    """The debugfs command, and its input, that set every file's times of change and of access to the recipe's.
    mkfs.ext4 copies those of the tree, where the former cannot be set, and reading sets the latter. Inodes are given
    out from the first free one on."""
    device = f"{raw}?offset={PARTITION_START * SECTOR}"
    with raw.open("rb") as file:
        file.seek(PARTITION_START * SECTOR + 1024)
        superblock = file.read(1024)
    total, free = struct.unpack_from("<I", superblock, 0)[0], struct.unpack_from("<I", superblock, 16)[0]
    first = struct.unpack_from("<I", superblock, 84)[0]
    inodes = (2, *range(first, total - free + 1))
    fields = ("ctime", "atime")
    script = "".join(
        f"set_inode_field <{inode}> {field} @{SOURCE_DATE_EPOCH}\n" for inode in inodes for field in fields
    )
    return ["debugfs", "-w", "-f", "-", device], script
